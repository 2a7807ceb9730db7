"""Servers that are asked in the background whether they are back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.failover import Breaker, Failover
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.net import vigil
from pgambassador.net.approach import Approach, Approaches
from pgambassador.net.vigil import EVERY, MOST, PATIENCE
from tests.loop import Loop

SERVER = Endpoint("db.example")
AWAY = Unreachable("it refused the connection", passing=True)
FOREVER = Breaker(failures=1, first_pause=3600.0, longest_pause=3600.0)


class Road:
    """A way that notes who goes it, and ends as `outcome` says; None in `outcome`: it is silent."""

    def __init__(self, loop: Loop, outcome: Callable[[], AmbassadorError | None] | None) -> None:
        self.loop, self.outcome, self.calls = loop, outcome, 0

    async def call(self, server: Endpoint, seconds: int) -> AmbassadorError | None:
        assert (server, seconds) == (SERVER, PATIENCE)
        self.calls += 1
        if self.outcome is None:
            await self.loop.create_future()
            raise AssertionError("never")
        return self.outcome()


def away() -> AmbassadorError | None:
    return AWAY


def well() -> AmbassadorError | None:
    return None


@pytest.fixture
def recovered() -> list[int]:
    return []


def sick(recovered: list[int], failover: Failover = Failover(), breaker: Breaker = FOREVER) -> Approach:  # noqa: B008
    approach = Approaches("main", failover, breaker, lambda: recovered.append(1)).at(SERVER)
    approach.unwell("gone")
    assert approach.breaker.state == "open"
    return approach


def watched(approach: Approach, loop: Loop, road: Road) -> None:
    loop.within(lambda: approach.vigil.wanted(road, time.monotonic()))
    loop.run()


def test_what_answers_ends_the_pause(recovered: list[int]) -> None:
    approach, loop = sick(recovered), Loop()
    road = Road(loop, away)
    watched(approach, loop, road)
    assert (road.calls, approach.breaker.state) == (1, "open")
    road.outcome = well
    loop.pass_time(EVERY)
    assert (approach.breaker.state, recovered) == ("half-open", [1])
    asked = road.calls
    loop.pass_time(60.0)
    assert road.calls == asked, "nobody asks any more"


def test_what_fails_is_no_news(recovered: list[int]) -> None:
    approach, loop = sick(recovered), Loop()
    before = approach.breaker.until, approach.breaker.failures
    watched(approach, loop, Road(loop, away))
    loop.pass_time(20 * EVERY)
    assert (approach.breaker.until, approach.breaker.failures) == before
    assert recovered == []


@pytest.mark.parametrize(
    ("sqlstate", "state"), [("28P01", "half-open"), ("53300", "half-open"), ("57P03", "open")]
)
def test_a_refusal_is_an_answer_unless_the_server_is_unwell(
    sqlstate: str, state: str, recovered: list[int]
) -> None:
    approach, loop = sick(recovered), Loop()
    watched(approach, loop, Road(loop, lambda: ServerRefused({"C": sqlstate, "M": "no"})))
    assert approach.breaker.state == state


def test_only_so_many_at_a_time_where_nothing_answers(recovered: list[int]) -> None:
    approach, loop = sick(recovered), Loop()
    road = Road(loop, None)
    watched(approach, loop, road)
    loop.pass_time(20 * EVERY)
    assert road.calls == MOST


def test_within_the_budget_of_the_server(recovered: list[int]) -> None:
    approach, loop = sick(recovered, Failover(retry_share=0.0, retry_floor=0.3)), Loop()
    road = Road(loop, away)
    watched(approach, loop, road)
    loop.pass_time(20 * EVERY)
    assert road.calls == 3, "which is that of 10 seconds"


def test_it_ends_when_nobody_wants_the_server(recovered: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    approach, loop = sick(recovered), Loop()
    road = Road(loop, away)
    monkeypatch.setattr(vigil, "INTEREST", 0.0)
    watched(approach, loop, road)
    loop.pass_time(20 * EVERY)
    assert road.calls == 0
    monkeypatch.setattr(vigil, "INTEREST", 60.0)
    watched(approach, loop, road)
    assert road.calls == 1, "and begins anew"


def test_there_is_one_for_all_who_want_it(recovered: list[int]) -> None:
    approach, loop = sick(recovered), Loop()
    road = Road(loop, away)
    for _ in range(100):
        watched(approach, loop, road)
    assert road.calls == 1


@pytest.mark.parametrize("mode", ["open", "closed", "dry"])
def test_what_is_set_by_hand_is_left_to_hands(mode: str, recovered: list[int]) -> None:
    approach, loop = sick(recovered), Loop()
    approach.breaker.mode = mode  # type: ignore[assignment]
    road = Road(loop, well)
    watched(approach, loop, road)
    loop.pass_time(20 * EVERY)
    assert road.calls == 0


def test_a_closed_one_is_not_asked(recovered: list[int]) -> None:
    loop = Loop()
    approach = Approaches("main", Failover(), FOREVER, lambda: None).at(SERVER)
    road = Road(loop, well)
    watched(approach, loop, road)
    assert road.calls == 0


def test_slow_answers_are_none(recovered: list[int]) -> None:
    """Where slow logins count as failures."""
    approach, loop = sick(recovered, breaker=Breaker(failures=1, slow=1e-9, first_pause=9.0)), Loop()
    until = approach.breaker.until
    watched(approach, loop, Road(loop, well))
    assert (approach.breaker.state, approach.breaker.until) == ("open", until)
