"""What a connection tells of who is at its other end, before anything was said."""

from __future__ import annotations

import socket
import struct

from pgambassador.auth.peer import Peer

# sys/un.h and sys/ucred.h of macOS: the option, and version and user of a struct xucred.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED = 0, 1, 76


def peer_of(sock: socket.socket, address: str) -> Peer:
    """`address` is what the listener calls it."""
    return Peer.at(address, uid_of(sock) if address == "unix" else None)


def uid_of(sock: socket.socket) -> int | None:
    """The user at the other end of a Unix socket; None if the system does not tell."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
            return int(struct.unpack("iII", found)[1])
        found = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED)
        return int(struct.unpack_from("II", found)[1])
    except (OSError, struct.error):
        return None
