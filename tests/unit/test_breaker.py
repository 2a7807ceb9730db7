"""One server's breaker, by how attempts went and what time it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.cluster.breaker import Breaker, Rules, unwell

RULES = Rules(failures=3, share=0.5, volume=10, window=10.0, first=1.0, most=8.0, trials=2)


def state(breaker: Breaker) -> str:
    return breaker.state


def broken(breaker: Breaker, now: float = 0.0, times: int = 3) -> Breaker:
    for _ in range(times):
        breaker.fails(now, "refused", chance=1.0)
    return breaker


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(RULES)
    assert not breaker.fails(0.0, "a", chance=1.0)
    assert not breaker.fails(0.0, "b", chance=1.0)
    assert state(breaker) == "closed"
    assert breaker.fails(0.0, "c", chance=1.0)
    assert (state(breaker), breaker.why, breaker.until, breaker.opened) == ("open", "c", 1.0, 1)
    assert breaker.shut


def test_a_success_between_them_ends_the_row() -> None:
    breaker = broken(Breaker(RULES), times=2)
    breaker.succeeded(0.0)
    broken(breaker, times=2)
    assert state(breaker) == "closed"


def test_a_share_of_failures_opens_it_with_enough_of_them() -> None:
    breaker = Breaker(Rules(failures=100, share=0.5, volume=10))
    for index in range(9):
        (breaker.succeeded if index % 2 else lambda now: breaker.fails(now, "x", chance=1.0))(float(index))
    assert state(breaker) == "closed"
    breaker.fails(9.0, "x", chance=1.0)
    assert state(breaker) == "open"


def test_what_is_older_than_the_window_counts_no_more() -> None:
    breaker = Breaker(Rules(failures=100, share=0.5, volume=3, window=10.0))
    breaker.fails(0.0, "x", chance=1.0)
    breaker.fails(1.0, "x", chance=1.0)
    breaker.fails(20.0, "x", chance=1.0)
    assert state(breaker) == "closed"


def test_what_broke_at_work_does_not_open_it_alone() -> None:
    breaker = Breaker(RULES)
    for _ in range(50):
        assert not breaker.fails(0.0, "cut", chance=1.0, attempt=False)
    assert state(breaker) == "closed"
    assert breaker.fails(0.0, "refused", chance=1.0)


def test_while_it_is_open_one_attempt_at_a_time_for_those_who_are_held() -> None:
    breaker = broken(Breaker(RULES))
    assert not breaker.admits(0.5, held=False)
    assert breaker.admits(0.5, held=True)
    breaker.begins()
    assert not breaker.admits(0.5, held=True)
    breaker.ends()
    breaker.fails(0.5, "still", chance=1.0)
    assert breaker.until == 1.0  # it says nothing new
    assert breaker.admits(1.0, held=False)


def test_pauses_grow_by_chance_up_to_the_most() -> None:
    breaker, now, pauses = broken(Breaker(RULES)), 0.0, []
    for _ in range(6):
        pauses.append(breaker.until - now)
        now = breaker.until
        breaker.fails(now, "still", chance=1.0)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    breaker = Breaker(RULES)
    for _ in range(3):
        breaker.fails(0.0, "x", chance=0.0)
    assert breaker.until == 0.5


def test_half_open_a_few_at_a_time_and_closed_by_their_success() -> None:
    breaker = broken(Breaker(RULES))
    assert breaker.succeeded(1.0)
    assert state(breaker) == "half-open" and not breaker.shut
    for _ in range(2):
        assert breaker.admits(1.0, held=False)
        breaker.begins()
    assert not breaker.admits(1.0, held=True)
    breaker.ends()
    assert breaker.succeeded(1.1)
    assert state(breaker) == "closed"
    assert not breaker.succeeded(1.2)


def test_half_open_a_failure_opens_it_for_longer() -> None:
    breaker = broken(Breaker(RULES))
    breaker.succeeded(1.0)
    assert breaker.fails(2.0, "again", chance=1.0)
    assert (state(breaker), breaker.until, breaker.opened) == ("open", 4.0, 2)


def test_half_open_it_closes_with_time() -> None:
    breaker = broken(Breaker(RULES))
    breaker.succeeded(1.0)
    breaker.settle(10.9)
    assert state(breaker) == "half-open"
    breaker.settle(11.0)
    assert state(breaker) == "closed"


def test_what_is_slow_counts_as_a_failure() -> None:
    breaker = Breaker(Rules(failures=2, slow=1.0))
    breaker.succeeded(0.0, 0.9)
    breaker.succeeded(0.0, 1.1)
    assert state(breaker) == "closed"
    breaker.succeeded(0.0, 5.0)
    assert state(breaker) == "open" and "5.0 s" in breaker.why


@pytest.mark.parametrize(("mode", "admits", "shut"), [("open", False, True), ("closed", True, False)])
def test_forced_it_stays_so_whatever_happens(mode: str, admits: bool, shut: bool) -> None:
    for breaker in (Breaker(RULES), broken(Breaker(RULES))):
        breaker.force(mode)  # type: ignore[arg-type]
        for _ in range(5):
            assert breaker.admits(0.0, held=True) is admits
            assert breaker.shut is shut
            breaker.fails(0.0, "x", chance=1.0)
        breaker.force("auto")
        assert state(breaker) == "closed" and not breaker.shut


def test_a_dry_run_counts_and_stops_nobody() -> None:
    breaker = broken(Breaker(RULES, "dry"))
    assert state(breaker) == "open" and not breaker.shut
    for _ in range(5):
        breaker.begins()
    assert breaker.admits(0.0, held=False)


@pytest.mark.parametrize("sqlstate", ["57P01", "57P02", "57P03", "08001", "08006", "58000", "58030", "58P01"])
def test_what_says_that_a_server_is_unwell(sqlstate: str) -> None:
    assert unwell(sqlstate)


@pytest.mark.parametrize(
    "sqlstate", ["53300", "53400", "08004", "08P01", "28P01", "28000", "3D000", "57014", "40001", "22012", ""]
)
def test_what_does_not(sqlstate: str) -> None:
    assert not unwell(sqlstate)


@given(st.lists(st.tuples(st.sampled_from("sfwt"), st.floats(0, 3), st.floats(0, 1)), max_size=80))
def test_it_always_opens_again(steps: list[tuple[str, float, float]]) -> None:
    """Whatever happened, after the longest pause an attempt is let through, and successes close it."""
    breaker, now = Breaker(RULES), 0.0
    for what, later, chance in steps:
        now += later
        if what == "s":
            breaker.succeeded(now)
        elif what != "t":
            breaker.fails(now, "x", chance=chance, attempt=what == "f")
        breaker.settle(now)
        assert breaker.until <= now + max(RULES.most, RULES.window)
    now += RULES.most
    assert breaker.admits(now, held=False)
    for _ in range(RULES.trials):
        breaker.succeeded(now)
    assert state(breaker) == "closed"


def test_an_open_one_is_asked_in_the_background_at_once_but_after_relapses() -> None:
    breaker = broken(Breaker(RULES))
    assert breaker.asks(0.0)
    rests = []
    now = 0.0
    for _ in range(5):
        breaker.succeeded(now)
        assert not breaker.asks(now), "half-open it has its trials"
        now += 0.5
        breaker.fails(now, "again", chance=0.0)
        assert not breaker.asks(now)
        rests.append(breaker.rests - now)
        now = breaker.rests
        assert breaker.asks(now)
    assert rests == [1.0, 2.0, 4.0, 8.0, 8.0]
    for _ in range(2):
        breaker.succeeded(now)
    assert state(breaker) == "closed"
    broken(breaker, now)
    assert breaker.asks(now), "what was before it closed counts no more"


@pytest.mark.parametrize("mode", ["open", "closed", "dry"])
def test_one_that_is_set_by_hand_is_not_asked(mode: str) -> None:
    breaker = broken(Breaker(RULES))
    breaker.mode = mode  # type: ignore[assignment]
    assert not breaker.asks(100.0)


def test_other_rules_hold_from_now_on() -> None:
    breaker = broken(Breaker(Rules(failures=3, first=3600.0, most=3600.0)))
    breaker.succeeded(1.0)
    breaker.fails(1.0, "again", chance=1.0)
    assert (breaker.until, breaker.rests) == (3601.0, 3601.0)
    breaker.refit(RULES, 2.0)
    assert (state(breaker), breaker.until, breaker.rests) == ("open", 10.0, 10.0)
    breaker.succeeded(3.0)
    breaker.refit(Rules(window=4.0), 3.0)
    assert (state(breaker), breaker.until) == ("half-open", 7.0)
