"""A server that does not speak the protocol, or stops in the middle of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from pgambassador.embedded.ports import HOST

Speech = Callable[[socket.socket], None]
"""What is said to whoever has sent its first message; the connection ends when it returns."""


class Mumbler:
    """Listens on `port`; `heard` are first messages."""

    def __init__(self, speech: Speech) -> None:
        self.heard: list[bytes] = []
        self._speech = speech
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

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
                end.settimeout(20)
                self._ends.append(end)
                thread = threading.Thread(target=self._serve, args=(end,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            self.heard.append(end.recv(65536))
            self._speech(end)


def says(*parts: bytes) -> Speech:
    def speech(end: socket.socket) -> None:
        for part in parts:
            end.sendall(part)

    return speech


def hesitates(*parts: bytes) -> Speech:
    """It says that, and then nothing, and stays."""

    def speech(end: socket.socket) -> None:
        says(*parts)(end)
        while end.recv(65536):
            pass

    return speech


def rambles(part: bytes, pause: float = 0.0) -> Speech:
    """The same again and again; `pause` seconds between them."""

    def speech(end: socket.socket) -> None:
        while True:
            end.sendall(part)
            time.sleep(pause)

    return speech
