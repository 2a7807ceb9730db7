"""Asking what blocks (a library, a file, the operating system) in threads, and not for ever.

1. The threads are daemons: a source that does not answer never delays the end of this process, as a thread of
   asyncio's own would.
2. Who has stopped waiting never hears what the thread finds out later.
3. One kind of source has at most `MOST` threads, however many questions are never answered; further ones wait
   for their turn, as far as those who ask do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from pgambassador.errors import Unreachable

MOST = 8
HINT = "Check the network on the way there, or raise credentials.timeout."

T = TypeVar("T")

# What a thread does: it finds something out, and then tells.
Work = Callable[[], Callable[[], None]]


async def ask(question: Callable[[], T], *, seconds: float, whom: str, hint: str = HINT) -> T:
    """The answer, or what the question raises; Unreachable if it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await run(question, whom)
    except TimeoutError:
        raise Unreachable(
            f"{whom} did not answer within {seconds:g} s",
            hint=hint,
        ) from None


async def run(question: Callable[[], T], whom: str) -> T:
    """The answer, or what the question raises, however long it takes. `whom` is the kind of source."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def work() -> Callable[[], None]:
        result, error = None, None
        if not answer.done():  # or nobody waits any more
            try:
                result = question()
            except BaseException as raised:
                error = raised

        def tell() -> None:
            try:
                loop.call_soon_threadsafe(settle, result, error)
            except RuntimeError:
                pass  # the loop has ended

        return tell

    _crowds.setdefault(whom, _Crowd(whom)).put(work)
    return await answer


class _Crowd:
    """The threads for one kind of source; those that have nothing to do wait for more."""

    def __init__(self, whom: str) -> None:
        self._name = f"ask {whom}"
        self._questions: SimpleQueue[Work] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def put(self, work: Work) -> None:
        self._questions.put(work)
        if not self._idle.acquire(blocking=False) and self._count < MOST:
            self._count += 1
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            tell = self._questions.get()()
            # First this: whoever is told may ask again at once.
            self._idle.release()
            tell()


_crowds: dict[str, _Crowd] = {}
