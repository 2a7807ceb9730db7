"""A connection to the console: the client's messages to an Exchange, and its answers back.

1. Who does not read its answers is not read any more, nor is who sends much while it has to wait for one.
2. It ends with its client, with a message that cannot be understood, and when this process ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pgambassador.admin.exchange import Exchange
from pgambassador.errors import AmbassadorError, ProtocolViolation, Refused
from pgambassador.net.channel import Channel
from pgambassador.net.sockets import Sockets
from pgambassador.pool.census import Stay
from pgambassador.wire import build
from pgambassador.wire.frames import take_frame

log = logging.getLogger(__name__)

MESSAGE_MOST = 256 * 1024
UNREAD_MOST = 256 * 1024
_ROUNDS = 4
_LOOK_AGAIN = 0.02


class Console:
    """`ended(console)` is called once. `waits` tells whether what was asked last is not done yet, and
    raises what became of it if it failed."""

    def __init__(
        self,
        sockets: Sockets,
        client: Channel,
        exchange: Exchange,
        *,
        stay: Stay,
        ended: Callable[[Console], None],
        waits: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stay = stay
        self.pid = 0
        self.closed = False
        self._sockets = sockets
        self._client = client
        self._exchange = exchange
        self._received = bytearray()
        self._ended = ended
        self._waits = waits
        self._held: bytes | None = None
        client.on_readable = self._on_readable
        client.on_drained = self._on_drained

    def start(self, greeting: bytes, early: bytes) -> None:
        """Begin: `greeting` is for the client, `early` is what it has sent behind its login."""
        self._client.write(greeting)
        self._client.resume_reading()
        self._received += early
        self._answer()

    def close(self) -> None:
        """This process ends."""
        if not self.closed:
            self._fail(
                Refused(
                    "terminating connection because pgambassador is shutting down",
                    sqlstate="57P01",
                    hint="Connect again.",
                )
            )

    def _on_readable(self) -> None:
        for _ in range(_ROUNDS):
            try:
                data = self._client.read()
            except ConnectionError:
                data = b""
            if data is None or self.closed:
                return
            if not data:
                self._end()
                return
            self._received += data
            if not self._answer():
                return
        self._sockets.call_soon(self._on_readable)

    def _on_drained(self) -> None:
        self._client.resume_reading()
        self._answer()

    def _answer(self) -> bool:
        """Whatever is complete, as long as the answers are read; whether to read on."""
        try:
            while not self.closed:
                if self._held is not None:
                    if len(self._received) > MESSAGE_MOST:
                        self._client.pause_reading()
                        return False
                    break
                if (frame := take_frame(self._received, MESSAGE_MOST)) is None:
                    break
                answer = self._exchange.take(*frame)
                if self._waits():
                    self._held = answer
                    self._look_later()
                    continue
                self._client.write(answer)
                if self._exchange.ended:
                    self._end()
                elif self._client.pending > UNREAD_MOST:
                    self._client.pause_reading()
                    return False
        except ProtocolViolation as error:
            self._fail(error)
        except Exception:
            log.exception("internal error on the console")
            self._fail(
                AmbassadorError(
                    "internal error of pgambassador", hint="Connect again, and report what its log says."
                )
            )
        return not self.closed

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look)

    def _look(self) -> None:
        """Whether what was asked is done."""
        if self.closed or self._held is None:
            return
        answer = self._held
        try:
            if self._waits():
                self._look_later()
                return
        except AmbassadorError as error:
            answer = self._exchange.late(answer, error)
        self._held = None
        self._client.write(answer)
        self._client.resume_reading()
        self._answer()

    def _fail(self, error: AmbassadorError) -> None:
        self._client.write(
            build.error_response("FATAL", error.sqlstate, error.message, error.detail, error.hint)
        )
        self._end()

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            self._client.close(linger=True)
            self._ended(self)

    def __repr__(self) -> str:
        return f"<Console{' closed' if self.closed else ''}>"
