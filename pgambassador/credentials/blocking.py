"""Asking a library that blocks: in a thread of its own, and not for ever.

1. The thread is a daemon: a cloud that does not answer never delays the end of this process.
2. Who has stopped waiting never hears what the thread finds out later.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from pgambassador.errors import Unreachable

T = TypeVar("T")


async def ask(question: Callable[[], T], *, seconds: float, whom: str) -> T:
    """The answer, or what the question raises; Unreachable if it takes longer than `seconds`."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = question()
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(settle, result, error)
        except RuntimeError:
            pass  # the loop has ended: nobody waits any more

    threading.Thread(target=run, name=f"ask {whom}", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError:
        raise Unreachable(
            f"{whom} did not answer within {seconds:g} s",
            hint="Check the network on the way there, or raise credentials.timeout.",
        ) from None
