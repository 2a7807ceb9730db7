"""A server that does not speak the protocol, or stops in the middle of it."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from tests.harness.listening import Listening

Speech = Callable[[socket.socket], None]
"""What is said to whoever has sent its first message; the connection ends when it returns."""


class Mumbler(Listening):
    """`heard` are first messages."""

    def __init__(self, speech: Speech) -> None:
        self.heard: list[bytes] = []
        self._speech = speech
        super().__init__()

    def accepted(self, end: socket.socket) -> None:
        end.settimeout(20)
        self.start(self._serve, end)

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
