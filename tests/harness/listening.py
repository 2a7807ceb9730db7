"""A listener of this machine whose connections are served by threads, all of which end with it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Self

from pgambassador.embedded.ports import HOST


class Listening:
    """Listens on `port`; `accepted` is called with each connection, in the one thread that accepts."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.start(self._accept)

    def accepted(self, end: socket.socket) -> None:
        raise NotImplementedError

    def start(self, serve: Callable[..., None], *arguments: object) -> None:
        """In a thread of its own."""
        thread = threading.Thread(target=serve, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def owns(self, *ends: socket.socket) -> None:
        """They are closed with it."""
        self._ends += ends

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._ends):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                self.owns(end)
                self.accepted(end)
