"""A raw client that can be cancelled, by itself or by whoever has its key."""

from __future__ import annotations

from pgambassador.wire import build
from tests.harness.wire import Answer, Wire


class Cancellable(Wire):
    """`pid` and `secret` are what BackendKeyData said."""

    pid = 0
    secret = b""

    def login(self, **parameters: str) -> Answer:
        answer = super().login(**parameters)
        (key,) = (message.payload for message in answer if message.kind == "K")
        self.pid, self.secret = int.from_bytes(key[:4], "big"), key[4:]
        return answer

    def begin_cancel(self) -> Wire:
        """The request is sent; what comes of it is not waited for."""
        wire = Wire(self.socket.getpeername())
        wire.send(build.cancel_request(self.pid, self.secret))
        return wire

    def cancel(self) -> None:
        """Returns when the other end has closed, and so has done what it does about it."""
        with self.begin_cancel() as wire:
            assert wire.rest() == []
