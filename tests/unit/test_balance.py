"""Who gets the next statement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.config.routing import Balance
from pgambassador.routing.balance import HALF_LIFE, Candidate, Pulse, balancer

NAMES = get_args(Balance)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        key=st.integers(0, 10**6),
        weight=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        near=st.booleans(),
        outstanding=st.integers(0, 5),
        seconds=st.sampled_from([0.0, 0.001, 0.1]),
    ),
    max_size=6,
    unique_by=lambda each: each.key,
)


@pytest.mark.parametrize("name", NAMES)
@given(CANDIDATES)
def test_only_who_may(name: str, candidates: list[Candidate]) -> None:
    chosen = balancer(name).pick(candidates)
    able = [each for each in candidates if each.weight]
    if not able:
        assert chosen == -1
    else:
        assert candidates[chosen] in able
        assert candidates[chosen].near or not any(each.near for each in able)


@pytest.mark.parametrize("name", NAMES)
def test_equals_take_turns(name: str) -> None:
    choose = balancer(name)
    chosen = Counter(choose.pick([Candidate("a"), Candidate("b"), Candidate("c")]) for _ in range(300))
    assert chosen == {0: 100, 1: 100, 2: 100}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_equals_take_turns_in_whatever_order_they_are_told(name: str, count: int) -> None:
    """The relay begins with another one each time."""
    choose = balancer(name)
    chosen: Counter[Hashable] = Counter()
    candidates = [Candidate(key) for key in range(count)]
    for _ in range(120):
        candidates = [*candidates[1:], candidates[0]]
        chosen[candidates[choose.pick(candidates)].key] += 1
    assert chosen == dict.fromkeys(range(count), 120 // count)


def shares(name: str, *weights: float) -> list[int]:
    """How statements spread that all stay."""
    choose = balancer(name)
    candidates = [Candidate(index, weight, seconds=0.01) for index, weight in enumerate(weights)]
    for _ in range(600):
        candidates[choose.pick(candidates)].outstanding += 1
    return [each.outstanding for each in candidates]


@pytest.mark.parametrize("name", ["weighted", "response-time"])
def test_shares_go_by_weights(name: str) -> None:
    assert shares(name, 1, 2, 3) == pytest.approx([100, 200, 300], abs=3)
    assert shares(name, 0.01, 1)[0] <= 8  # a canary
    assert shares(name, 0, 1) == [0, 600]


@pytest.mark.parametrize("name", ["least-outstanding", "weighted"])
def test_a_small_share_comes_to_its_turn_though_little_is_under_way(name: str) -> None:
    choose = balancer(name)
    canary, other = Candidate("canary", 0.01), Candidate("other")
    chosen: Counter[Hashable] = Counter()
    for turn in range(1000):
        # What some clients have written only the other one shows for a while.
        among = [canary, other] if turn % 4 else [other]
        chosen[among[choose.pick(among)].key] += 1
    assert 6 <= chosen["canary"] <= 8


def test_who_does_not_come_to_an_end_gets_less_than_its_share() -> None:
    choose = balancer("least-outstanding")
    chosen = Counter(choose.pick([Candidate("a", 1, outstanding=9), Candidate("b", 2)]) for _ in range(210))
    assert chosen == {0: 10, 1: 200}


def test_round_robin_is_blind_to_weights() -> None:
    assert shares("round-robin", 1, 5) == [300, 300]


def test_the_least_has_least_to_do() -> None:
    assert balancer("least-outstanding").pick([Candidate("a", outstanding=2), Candidate("b")]) == 1
    near = Candidate("a", outstanding=2, near=True)
    assert balancer("least-outstanding").pick([near, Candidate("b")]) == 0


def test_who_answers_sooner() -> None:
    choose = balancer("response-time")
    assert choose.pick([Candidate("a", seconds=0.002), Candidate("b", seconds=0.001)]) == 1
    assert choose.pick([Candidate("a", seconds=0.002), Candidate("b", seconds=0.001, outstanding=5)]) == 0
    assert choose.pick([Candidate("a", seconds=0.002), Candidate("new")]) == 1


def test_weighted_follows_those_that_come_and_go() -> None:
    choose = balancer("weighted")
    for _ in range(100):
        choose.pick([Candidate("a"), Candidate("b", 3)])
    chosen = Counter(choose.pick([Candidate("b", 3), Candidate("c")]) for _ in range(100))
    assert chosen[0] == pytest.approx(75, abs=2)


def test_a_pulse() -> None:
    pulse = Pulse()
    assert pulse.seconds(100.0) == 0.0
    pulse.seen(0.1, 100.0)
    assert pulse.seconds(100.0) == 0.1
    assert pulse.seconds(100.0 + HALF_LIFE) == pytest.approx(0.05)
    pulse.seen(0.01, 100.0)
    assert 0.01 < pulse.seconds(100.0) < 0.1
    pulse.seen(0.5, 100.0)
    assert pulse.seconds(100.0) == 0.5
