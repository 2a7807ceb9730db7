"""Packets that are lost: nothing arrives and nobody is told, as when a cable is pulled."""

from __future__ import annotations

import array
import ctypes
import fcntl
import socket
import struct
import sys
import termios
import time

from tests.harness.link import Link, reset

SO_ATTACH_FILTER = 26  # linux/socket.h; the socket module has no name for it
_RETURN = 0x06  # BPF_RET | BPF_K
PATIENCE = 2.0


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


def lose(end: socket.socket) -> None:
    """No packet reaches this socket any more, so that none is acknowledged. It may take a privilege."""
    program = (_Instruction * 1)(_Instruction(_RETURN, 0, 0, 0))  # of every packet keep 0 bytes
    end.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(program))
    )


def _unacknowledged(end: socket.socket) -> int:
    """Bytes that were sent and may have to be sent again."""
    size = array.array("i", [0])
    fcntl.ioctl(end, termios.TIOCOUTQ, size)
    return size[0]


def _can_lose() -> bool:
    if sys.platform != "linux":
        return False
    with socket.socket() as end:
        try:
            lose(end)
        except PermissionError:
            return False
    return True


class Cable(Link):
    """`pull` makes the connections that exist lose every packet; new ones are as before, unless the cable is
    unplugged as well, until it is plugged in.

    Packets that we send are not lost: nothing must be left to be sent, nor to be sent again. A connection of
    which that cannot be had within `PATIENCE` is cut.
    """

    possible = _can_lose()

    def pull(self) -> None:
        def pull() -> None:
            quiet = time.monotonic() + PATIENCE
            for pair in list(self._pairs):
                while any(map(_unacknowledged, pair.pending)) and time.monotonic() < quiet:
                    time.sleep(0.001)
                if any(map(_unacknowledged, pair.pending)):
                    self._drop(pair, reset)
                for end in pair.pending:
                    if end.fileno() >= 0:
                        lose(end)

        self._order(pull)

    def unplug(self) -> None:
        """Nobody who tries to connect gets an answer."""

        def unplug() -> None:
            assert self._listener is not None
            lose(self._listener)

        self._order(unplug)

    def plug(self) -> None:
        self.refuse()
        self.allow()
