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

    def work() -> None:
        if answer.done():
            return  # nobody waits any more
        result, error = None, None
        try:
            result = question()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # the loop has ended

    _crowds.setdefault(whom, _Crowd(whom)).put(work)
    return await answer


class _Crowd:
    """The threads for one kind of source; those that have nothing to do wait for more."""

    def __init__(self, whom: str) -> None:
        self._name = f"ask {whom}"
        self._questions: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._count = 0

    def put(self, work: Callable[[], None]) -> None:
        self._questions.put(work)
        if not self._idle.acquire(blocking=False) and self._count < MOST:
            self._count += 1
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._questions.get()()
            self._idle.release()


_crowds: dict[str, _Crowd] = {}
