"""Listening sockets: TCP and Unix, bound together or not at all."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable

from pgambassador.config import Address
from pgambassador.errors import ConfigError
from pgambassador.net.herald import Herald, Newcomer
from pgambassador.net.sockets import Sockets

BACKLOG = 1024

# Running out of these says nothing about the next connection; asking again at once would only spin.
_SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Listener:
    """`accepted` is called for each connection, which the herald takes in. `sockets` hear the clients too."""

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        accepted: Callable[[Newcomer], None],
        sockets: Sockets,
        herald: Herald,
    ) -> None:
        self.sock = sock
        self.address = address
        self._accepted = accepted
        self._sockets = sockets
        self._herald = herald
        self._is_unix = address.is_unix
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        self._sockets.add_reader(self.sock.fileno(), self._on_readable)

    def _on_readable(self) -> None:
        # One at a time: whether there are more is known by the event loop, which looks anyway.
        try:
            newcomer = self._herald.accept(self.sock.fileno(), self._is_unix, self._loop, self._sockets)
        except OSError as error:
            if error.errno in _SHORT_OF:
                self._pause()
            return
        self._accepted(newcomer)

    def _pause(self) -> None:
        self._sockets.remove_reader(self.sock.fileno())
        self._loop.call_later(0.1, self._resume)

    def _resume(self) -> None:
        if self.sock.fileno() >= 0:
            self.start()

    def close(self) -> None:
        if self.sock.fileno() < 0:
            return
        self._sockets.remove_reader(self.sock.fileno())
        self.sock.close()
        if self.address.is_unix:
            try:
                os.unlink(self.address.path)
            except OSError:
                pass  # somebody has removed it already

    def __repr__(self) -> str:
        return f"<Listener {self.address}>"


def bind(address: Address) -> list[socket.socket]:
    """The sockets of one address; a host name may stand for several. ConfigError says why not."""
    try:
        if address.is_unix:
            return [_bind_unix(address)]
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror}.", hint="Check listen.") from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            sockets.append(_bind_tcp(family, kind, protocol, where))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise _cannot(address, error) from None
    return sockets


def _bind_tcp(family: int, kind: int, protocol: int, where: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Those that it accepts have these two from it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(where)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_unix(address: Address) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.makedirs(address.host, exist_ok=True)
        _remove_stale(address.path)
        sock.setblocking(False)
        sock.bind(address.path)
        os.chmod(address.path, 0o777)  # as PostgreSQL does; the directory says who may come
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise _cannot(address, error) from None
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that a process left behind; one that answers belongs to somebody."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _cannot(address: Address, error: OSError) -> ConfigError:
    hints = {
        errno.EADDRINUSE: "Another program listens there (perhaps PostgreSQL itself): stop it, or choose"
        " another address with --listen.",
        errno.EACCES: "Choose a port above 1023 or a directory that this user may write to.",
        errno.EADDRNOTAVAIL: "No interface of this machine has that address.",
    }
    why = error.strerror or str(error)
    return ConfigError(
        f"cannot listen on {address}: {why}.", hint=hints.get(error.errno or 0, "Check listen.")
    )
