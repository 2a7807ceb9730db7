"""Who is logging in, over a loop without a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest

from pgambassador.net.guests import Guest, Guests
from tests.loop import Loop


class Inn:
    """Guests who sleep until they are told to go."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.patience = 60.0
        self.guests = Guests(lambda: self.patience)
        self.gone: list[tuple[str, float]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def comes(self, name: str, *, crowds: Guest | None = None) -> Guest:
        found: list[Guest] = []

        async def stay() -> None:
            task = asyncio.current_task()
            assert task is not None
            guest = self.guests.enter(task)
            found.append(guest)
            try:
                await self.loop.create_future()
            except asyncio.CancelledError:
                if not guest.leaves:
                    raise
                guest.stays()
                self.gone.append((name, self.loop.now - 1000))
            finally:
                self.guests.leave(guest)

        self.tasks.append(self.loop.create_task(stay()))
        self.loop.run()
        return found[0]


@pytest.fixture
def inn() -> Iterator[Inn]:
    subject = Inn()
    yield subject
    for task in subject.tasks:
        subject.loop.within(task.cancel)
    subject.loop.run()
    assert len(subject.guests) == 0
    assert all(task.done() for task in subject.tasks)


def test_each_has_the_same_time(inn: Inn) -> None:
    inn.comes("one")
    inn.loop.pass_time(20)
    inn.comes("two")
    early = inn.comes("early")
    assert repr(inn.guests) == "<Guests 3>"
    inn.loop.within(lambda: inn.guests.leave(early))
    inn.loop.pass_time(39.9)
    assert inn.gone == []
    inn.loop.pass_time(0.2)
    assert inn.gone == [("one", 60)]
    inn.loop.pass_time(100)
    assert inn.gone == [("one", 60), ("two", 80)]
    inn.comes("three")
    inn.loop.pass_time(100)
    assert [name for name, _ in inn.gone] == ["one", "two", "three"]


def test_a_shorter_patience_is_for_who_is_there_too(inn: Inn) -> None:
    inn.comes("one")
    inn.loop.pass_time(5)
    inn.comes("two")
    inn.patience = 7.0
    inn.loop.within(inn.guests.look)
    inn.loop.pass_time(10)
    assert inn.gone == [("one", 7), ("two", 12)]


def test_who_makes_room_goes_at_once_and_once(inn: Inn) -> None:
    guest = inn.comes("one")
    assert (guest.crowded, repr(guest)) == (False, "<Guest>")
    inn.loop.within(guest.make_room)
    inn.loop.within(guest.go)
    assert repr(guest) == "<Guest leaving>"
    inn.loop.run()
    assert guest.crowded and inn.gone == [("one", 0)]
    assert inn.tasks[0].done() and not inn.tasks[0].cancelled()


def test_being_cancelled_by_others_is_no_leaving(inn: Inn) -> None:
    inn.comes("one")
    inn.loop.within(inn.tasks[0].cancel)
    inn.loop.run()
    assert inn.tasks[0].cancelled() and inn.gone == []


def test_who_has_another_time_than_the_others(inn: Inn) -> None:
    """Shorter or longer, from when it came; and who is done is left alone."""
    quick, slow, done = inn.comes("quick"), inn.comes("slow"), inn.comes("done")
    inn.comes("usual")
    inn.loop.pass_time(5)
    for guest, seconds in ((quick, 10.0), (slow, 90.0), (done, 20.0)):
        inn.loop.within(partial(inn.guests.allow, guest, (seconds, "where")))
    inn.loop.within(lambda: inn.guests.leave(done))
    inn.loop.within(lambda: inn.guests.allow(done, (1.0, "too late to matter")))
    inn.loop.pass_time(200)
    assert inn.gone == [("quick", 10), ("usual", 60), ("slow", 90)]
    assert quick.limit == (10.0, "where")
