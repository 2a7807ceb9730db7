"""Standbys chosen by what the configuration names."""

from __future__ import annotations

from collections import Counter

from pgambassador.net.balancing import Pace, chooser
from pgambassador.net.lane import Borrower, Lane
from tests.policies import Policy


def lanes(*weights: float) -> list[Lane]:
    made = [Lane(Policy(), (1.0,), 5, False, 10) for _ in weights]
    for lane, weight in zip(made, weights, strict=True):
        lane.weight = weight
    return made


def test_the_least_busy_needs_no_help() -> None:
    assert chooser("least-outstanding") is None


def test_the_least_busy_by_their_shares() -> None:
    light, heavy = some = lanes(1, 3)
    choose = chooser("least-outstanding", uneven=True)
    assert choose is not None
    assert Counter(choose(some) for _ in range(40)) == {light: 10, heavy: 30}
    for _ in range(2):
        heavy.borrow(Borrower(lambda backend: None))
    assert Counter(choose(some) for _ in range(40)) == {light: 20, heavy: 20}


def test_by_weight_alone() -> None:
    light, heavy = some = lanes(1, 3)
    choose = chooser("weighted")
    assert choose is not None
    for _ in range(5):
        heavy.borrow(Borrower(lambda backend: None))
    chosen = Counter(choose(some) for _ in range(40))
    assert chosen == {light: 10, heavy: 30}


def test_by_turns_whatever_waits() -> None:
    first, second = some = lanes(1, 9)
    first.borrow(Borrower(lambda backend: None))
    choose = chooser("round-robin")
    assert choose is not None
    assert Counter(choose(some) for _ in range(40)) == {first: 20, second: 20}


def test_nearer_ones_first() -> None:
    far, near = some = lanes(9, 1)
    far.rank = 1
    choose = chooser("weighted")
    assert choose is not None
    assert {choose(some) for _ in range(10)} == {near}


def test_by_response_time_those_who_have_not_been_asked_take_turns() -> None:
    some = lanes(1, 1)
    choose = chooser("response-time", lambda: 1.0)
    assert choose is not None
    assert {choose(some) for _ in range(4)} == set(some)


def test_a_pace_is_what_was_counted_since() -> None:
    pace = Pace()
    assert pace.look(0, 0.0, 1.0) == 0
    assert pace.look(10, 5.0, 1.0) == 0.5
    assert pace.look(10, 5.0, 1.0) == 0.5
    assert pace.look(20, 5.0, 1.0) < 0.5
    assert pace.look(21, 8.0, 1.0) == 3.0
