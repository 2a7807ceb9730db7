"""How servers are approached: turns, what counts against one, and what its breaker says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.failover import Breaker, Failover
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.net.approach import MOST, NOT_WANTED, Approach, Approaches
from tests.loop import Loop

SERVER = Endpoint("db.example")
AWAY = Unreachable("it refused the connection", passing=True)


@pytest.fixture
def recovered() -> list[int]:
    return []


@pytest.fixture
def servers(recovered: list[int]) -> Approaches:
    return Approaches("main", Failover(max_opening=2), Breaker(failures=2), lambda: recovered.append(1))


def run(*works: Coroutine[Any, Any, Any]) -> list[Any]:
    """As far as they come."""
    loop = Loop()
    tasks = [loop.create_task(each) for each in works]
    loop.run()
    return [task.result() if task.done() and not task.cancelled() else task for task in tasks]


async def tried(approach: Approach, error: AmbassadorError | None) -> None:
    async with approach.turn() as told:
        told(error)


def refused(sqlstate: str) -> ServerRefused:
    return ServerRefused({"C": sqlstate, "M": "no"})


@pytest.mark.parametrize("error", [AWAY, refused("57P03"), refused("58000")])
def test_what_counts_against_a_server(servers: Approaches, error: AmbassadorError) -> None:
    approach = servers.at(SERVER)
    run(*(tried(approach, error) for _ in range(2)))
    assert approach.breaker.state == "open"
    assert approach.breaker.why == error.message


@pytest.mark.parametrize(
    "error",
    [
        refused("53300"),
        refused("28P01"),
        refused("3D000"),
        Unreachable("its certificate has expired"),
        Unreachable("the session is read-only", sqlstate=NOT_WANTED, passing=True),
    ],
)
def test_what_does_not(servers: Approaches, error: AmbassadorError) -> None:
    approach = servers.at(SERVER)
    run(*(tried(approach, error) for _ in range(20)))
    assert approach.breaker.state == "closed"


def test_all_hear_that_it_answers_again(servers: Approaches, recovered: list[int]) -> None:
    approach = servers.at(SERVER)
    run(tried(approach, AWAY), tried(approach, AWAY))
    assert recovered == []
    run(tried(approach, refused("28P01")))
    assert recovered == [1]
    assert approach.breaker.state == "half-open"


def test_so_many_at_a_time(servers: Approaches) -> None:
    approach = servers.at(SERVER)
    order: list[int] = []
    loop = Loop()
    doors = [loop.create_future() for _ in range(3)]

    async def visit(index: int) -> None:
        async with approach.turn():
            order.append(index)
            await doors[index]

    for index in range(3):
        loop.create_task(visit(index))
    loop.run()
    assert (order, approach.opening) == ([0, 1], 2)
    doors[0].set_result(None)
    loop.run()
    assert order == [0, 1, 2]
    for door in doors[1:]:
        door.set_result(None)
    loop.run()
    assert approach.opening == 0


def test_those_who_watch_do_not_wait(servers: Approaches) -> None:
    approach = servers.at(SERVER)

    async def watch() -> int:
        async with approach.aside() as told:
            told(AWAY)
            return approach.opening

    assert run(watch(), watch(), watch()) == [0, 0, 0]
    assert approach.breaker.state == "open"


def test_what_is_said_of_an_open_one(servers: Approaches) -> None:
    approach = servers.at(SERVER)
    run(tried(approach, AWAY), tried(approach, AWAY))
    error = approach.refusal(approach.breaker.until - 0.4)
    assert error.sqlstate == "57P03"
    assert error.sentence() == (
        "server db.example:5432 is not asked for connections now: its breaker is open. The last failure: it"
        " refused the connection. The next attempt is made within 0.4 s, or as soon as it answers in the"
        " background. Ask again, or let connections through: BREAKER 'db.example:5432' CLOSE on the console."
    )


def test_attempts_that_hang_are_made_anew_when_it_answers(
    servers: Approaches,
) -> None:
    approach, loop = servers.at(SERVER), Loop()
    run(tried(approach, AWAY), tried(approach, AWAY))
    ends: list[str] = []

    async def hang() -> None:
        async with approach.renewed() as limit:
            try:
                await loop.create_future()
            finally:
                ends.append("expired" if limit.expired() else "cancelled")

    async def succeed() -> None:
        async with approach.renewed():
            await tried(approach, None)
            await asyncio.sleep(0)
        ends.append("served")

    hanging = loop.create_task(hang())
    loop.run()
    loop.complete(succeed())
    loop.run()
    loop.pass_time(0)
    assert isinstance(hanging.exception(), TimeoutError)
    assert "served" in ends, "who has found out is not begun anew"


def test_by_hand(servers: Approaches, recovered: list[int]) -> None:
    approach = servers.at(SERVER)
    assert list(servers) == [approach]
    servers.force(approach, "open")
    assert "by hand" in approach.refusal(0.0).sentence()
    assert not approach.breaker.admits(0.0, held=True)
    servers.force(approach, "auto")
    assert approach.breaker.admits(0.0, held=False)
    assert recovered == [1, 1]


def test_a_dry_run_is_what_letting_go_leads_back_to() -> None:
    servers = Approaches("main", Failover(), Breaker(failures=1, dry_run=True), lambda: None)
    approach = servers.at(SERVER)
    servers.force(approach, "open")
    servers.force(approach, "auto")
    run(tried(approach, AWAY))
    assert (approach.breaker.mode, approach.breaker.state, approach.breaker.shut) == ("dry", "open", False)


def test_what_is_known_is_bounded(servers: Approaches) -> None:
    first = servers.at(SERVER)
    run(tried(first, AWAY), tried(first, AWAY))
    for index in range(2 * MOST):
        servers.at(Endpoint(f"host{index}"))
    assert len(list(servers)) <= MOST
    assert servers.at(SERVER) is first  # which is sick


def test_a_reload_reaches_those_that_are_known(servers: Approaches, recovered: list[int]) -> None:
    approach = servers.at(SERVER)
    servers.reload(Failover(), Breaker(failures=1, dry_run=True))
    assert recovered == [1], "what waits looks again"
    run(tried(approach, AWAY))
    assert (approach.breaker.mode, approach.breaker.state) == ("dry", "open")
    servers.reload(Failover(), Breaker(failures=1))
    assert (approach.breaker.mode, approach.breaker.state) == ("auto", "open")
    assert servers.at(Endpoint("other")).breaker.rules.failures == 1


@pytest.mark.parametrize("mode", ["open", "closed", "dry"])
def test_a_reload_leaves_what_was_set_by_hand(mode: Any, servers: Approaches) -> None:
    approach = servers.at(SERVER)
    servers.force(approach, mode)
    servers.reload(Failover(), Breaker(dry_run=mode != "dry"))
    assert approach.breaker.mode == mode
    servers.force(approach, "auto")
    assert approach.breaker.mode == ("auto" if mode == "dry" else "dry")


@pytest.mark.parametrize("most", [1, 2, 5])
def test_places_follow_a_reload(most: int, servers: Approaches) -> None:
    approach, loop = servers.at(SERVER), Loop()
    doors = []

    async def visit() -> None:
        async with approach.turn():
            doors.append(loop.create_future())
            await doors[-1]

    loop.create_task(visit())
    loop.run()
    loop.within(lambda: servers.reload(Failover(max_opening=most), Breaker()))
    loop.run()
    for _ in range(9):
        loop.create_task(visit())
    loop.run()
    assert approach.opening == most
    for _ in range(10):
        for door in doors:
            if not door.done():
                door.set_result(None)
        loop.run()
        assert approach.opening <= most
    assert approach.opening == 0
