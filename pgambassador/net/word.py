"""A task's wait for its own socket, which goes on where the socket is heard.

1. It is to a task what a future is (asyncio: "future-like"), but wakes it at once: by way of a future each
   step is a turn of the event loop more, with a handle, and one more look at all sockets.
2. `heard` is called by the event loop or a reactor, never within a task: two cannot run one in the other.
3. One task waits at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Self

Wake = Callable[[Any], object]


class Word:
    """Await it as often as needed."""

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wake: Wake | None = None
        self._cancelled = False
        self._asyncio_future_blocking = False

    def heard(self) -> bool:
        """Whether somebody waited, who has gone on now."""
        wake, self._wake = self._wake, None
        if wake is None:
            return False
        wake(self)
        return True

    def __await__(self) -> Generator[Self, None, None]:
        self._cancelled = False
        self._asyncio_future_blocking = True
        yield self

    # What a task asks of what it waits for.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, wake: Wake, *, context: object = None) -> None:
        self._wake = wake

    def cancel(self, msg: object = None) -> bool:
        if self._wake is None:
            return False
        self._cancelled = True
        self._loop.call_soon(self.heard)
        return True

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError

    def __repr__(self) -> str:
        return f"<Word {'awaited' if self._wake is not None else 'idle'}>"
