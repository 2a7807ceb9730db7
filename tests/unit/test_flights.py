import asyncio

import pytest

from pgambassador.errors import Unreachable
from pgambassador.net.flights import Flights
from tests.loop import Loop


class Work:
    """Done when the test says so."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.under_way: list[asyncio.Future[str]] = []
        self.flights: Flights[str] = Flights("work")

    async def do(self) -> str:
        self.under_way.append(self.loop.create_future())
        return await self.under_way[-1]

    def ask(self, key: str) -> asyncio.Task[str]:
        task = self.loop.create_task(self.flights.join(key, self.do))
        self.loop.run()
        return task


@pytest.fixture
def work() -> Work:
    return Work(Loop())


def test_many_ask_and_it_is_done_once(work: Work) -> None:
    tasks = [work.ask("a") for _ in range(1000)]
    (one,) = work.under_way
    one.set_result("done")
    work.loop.run()
    assert {task.result() for task in tasks} == {"done"}
    assert len(work.flights) == 0


def test_who_asks_later_asks_anew(work: Work) -> None:
    work.ask("a")
    work.under_way[0].set_result("old")
    work.loop.run()
    task = work.ask("a")
    work.under_way[1].set_result("new")
    work.loop.run()
    assert task.result() == "new"


def test_other_keys_are_other_work(work: Work) -> None:
    tasks = [work.ask("a"), work.ask("b")]
    for number, each in enumerate(work.under_way):
        each.set_result(str(number))
    work.loop.run()
    assert [task.result() for task in tasks] == ["0", "1"]


def test_a_failure_reaches_everybody(work: Work) -> None:
    tasks = [work.ask("a") for _ in range(3)]
    work.under_way[0].set_exception(Unreachable("no way"))
    work.loop.run()
    for task in tasks:
        with pytest.raises(Unreachable, match="no way"):
            task.result()
    assert len(work.flights) == 0


def test_who_goes_away_stops_nobody(work: Work) -> None:
    first, second = work.ask("a"), work.ask("a")
    first.cancel()
    work.loop.run()
    work.under_way[0].set_result("done")
    work.loop.run()
    assert first.cancelled()
    assert second.result() == "done"
