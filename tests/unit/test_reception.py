"""Clients as they come, and the tasks that take them in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from pgambassador.net import tasks
from pgambassador.net.reception import IDLE, Reception
from tests.loop import Loop


class Hall:
    """Each client stays until it is told to go."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.reception = Reception(self.welcomes)
        self.inside: dict[str, asyncio.Future[None]] = {}
        self.tasks: dict[str, asyncio.Task[Any] | None] = {}

    async def welcomes(self, newcomer: Any, task: asyncio.Task[Any]) -> None:
        address = newcomer
        self.inside[address] = self.loop.create_future()
        assert task is asyncio.current_task()
        self.tasks[address] = task
        try:
            await self.inside[address]
        finally:
            del self.inside[address]

    def comes(self, address: str) -> bool:
        """Whether it was begun with at once."""
        newcomer: Any = address
        self.loop.within(lambda: self.reception.take(newcomer))
        begun = address in self.inside
        self.loop.run()
        return begun

    def goes(self, address: str, error: Exception | None = None) -> None:
        if error is None:
            self.inside[address].set_result(None)
        else:
            self.inside[address].set_exception(error)
        self.loop.run()

    @property
    def idle(self) -> int:
        return len(self.reception._idle)


@pytest.fixture
def hall() -> Iterator[Hall]:
    subject = Hall()
    before = set(tasks._running)
    yield subject
    for task in tasks._running - before:
        subject.loop.within(task.cancel)
    subject.loop.run()
    assert subject.idle == 0 and tasks._running == before


def test_who_is_done_with_one_takes_the_next_at_once(hall: Hall) -> None:
    assert not hall.comes("one")
    assert repr(hall.reception) == "<Reception with 0 idle>"
    hall.goes("one")
    assert hall.idle == 1
    assert hall.comes("two")
    assert not hall.comes("three")
    assert hall.tasks["two"] is hall.tasks["one"] is not hall.tasks["three"]
    hall.goes("three")
    assert hall.comes("four")
    assert set(hall.inside) == {"two", "four"}
    hall.goes("two")
    hall.goes("four")


def test_a_mistake_ends_one_task(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    hall.comes("one")
    hall.comes("two")
    hall.goes("one", RuntimeError("ours"))
    assert "login failed" in caplog.text
    hall.goes("two")
    assert hall.idle == 1
    assert hall.comes("three")
    hall.goes("three")


def test_few_wait_for_nobody(hall: Hall) -> None:
    for number in range(IDLE + 5):
        hall.comes(str(number))
    for number in range(IDLE + 5):
        hall.goes(str(number))
    assert hall.idle == IDLE


def test_an_idle_one_that_is_ended_takes_nobody(hall: Hall) -> None:
    hall.comes("one")
    task = hall.tasks["one"]
    hall.goes("one")
    assert task is not None
    hall.loop.within(task.cancel)
    hall.loop.run()
    assert hall.idle == 0
    assert not hall.comes("two")
    hall.goes("two")
