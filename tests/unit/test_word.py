"""A wait that goes on where it is heard."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pgambassador.net.word import Word
from tests.loop import Loop


class Waiter:
    """A task that waits for three words."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.word = Word(cast(Any, self.loop))
        self.heard = 0
        self.task = self.loop.create_task(self.waits())

    async def waits(self) -> None:
        for _ in range(3):
            await self.word
            self.heard += 1

    def hear(self) -> bool:
        return self.loop.within(self.word.heard)


@pytest.fixture
def waiter() -> Waiter:
    subject = Waiter()
    subject.loop.run()
    return subject


def test_who_waits_goes_on_at_once(waiter: Waiter) -> None:
    assert repr(waiter.word) == "<Word awaited>"
    for number in range(1, 4):
        assert waiter.hear()
        assert waiter.heard == number  # without a turn of the loop
    assert waiter.task.done()
    assert not waiter.hear()
    assert repr(waiter.word) == "<Word idle>"


def test_who_is_cancelled_hears_of_it_in_the_loops_time(waiter: Waiter) -> None:
    waiter.hear()
    waiter.loop.within(waiter.task.cancel)
    assert not waiter.task.done()
    waiter.loop.run()
    assert waiter.task.cancelled()
    assert waiter.heard == 1
    assert not waiter.word.cancel()


def test_a_word_that_comes_behind_a_cancel_is_not_taken(waiter: Waiter) -> None:
    waiter.loop.within(waiter.task.cancel)
    waiter.hear()
    waiter.loop.run()
    assert waiter.task.cancelled()
    assert waiter.heard == 0


def test_who_went_on_in_spite_of_a_cancel_can_wait_again() -> None:
    loop = Loop()
    word = Word(cast(Any, loop))
    heard = []

    async def waits() -> None:
        with pytest.raises(asyncio.CancelledError):
            await word
        await word
        heard.append("again")

    task = loop.create_task(waits())
    loop.run()
    loop.within(task.cancel)
    loop.run()
    assert not task.done()
    loop.within(word.heard)
    assert heard == ["again"]


def test_a_timeout_ends_the_wait() -> None:
    async def run() -> None:
        word = Word(asyncio.get_running_loop())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await word

    asyncio.run(run())
