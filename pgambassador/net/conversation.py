"""A dialogue held over a transport: sends what it yields, resumes it with the frames that come back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pgambassador.errors import Unreachable
from pgambassador.net.transport import Transport
from pgambassador.protocol.startup import MAX_LOGIN_FRAME
from pgambassador.wire.frames import Dialogue, Frame, take_frame

T = TypeVar("T")


class HungUp(Unreachable):
    """The other side has closed the connection."""


class Conversation:
    """Several dialogues one after the other; what was received and not yet used is kept between them."""

    def __init__(self, transport: Transport, received: bytes = b"") -> None:
        """`received`: what the server has said already and nobody has read."""
        self._transport = transport
        self._received = bytearray(received)

    async def hold(self, dialogue: Dialogue[T], ahead: Callable[[Frame], Awaitable[None]] | None = None) -> T:
        """`ahead` is given each frame first, to do what must not hold up the event loop."""
        try:
            data = next(dialogue)
            while True:
                if data:
                    await self._transport.send(data)
                frame = await self._frame()
                if ahead is not None:
                    await ahead(frame)
                data = dialogue.send(frame)
        except StopIteration as end:
            result: T = end.value
            return result

    def remainder(self) -> bytes:
        """What the server has said beyond the last frame."""
        rest = bytes(self._received) + self._transport.remainder()
        self._received.clear()
        return rest

    async def _frame(self) -> Frame:
        while True:
            frame = take_frame(self._received, 4 + MAX_LOGIN_FRAME)
            if frame is not None:
                return frame
            data = await self._transport.receive()
            if not data:
                raise HungUp(
                    "it closed the connection during the login",
                    hint="Look into the server's log for the reason.",
                    passing=True,
                )
            self._received += data
