"""Which standby answers: the least busy one that is fresh enough."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pgambassador.net.choice import Choice, Writes
from pgambassador.net.lane import Borrower, Lane
from tests.policies import Routed


def lanes(count: int = 2, fresh_until: float = 100.0) -> tuple[Lane, ...]:
    made = []
    for _ in range(count):
        lane = Lane(Routed(), (1.0,), 1, False, 10)
        lane.fresh_until = fresh_until
        made.append(lane)
    return tuple(made)


def choice(*among: Lane, max_lag: float = 10.0, **options: Any) -> Choice:
    made = Choice(Routed(), max_lag=max_lag, **options)
    made.lanes = among
    return made


def test_without_standbys_it_is_the_primary() -> None:
    none = choice()
    assert none.which(-1, 1.0) is None
    assert (none.none, none.stale, cast(Any, none.policy).wants_fresher) == (1, 0, 0)


def test_of_equals_each_has_its_turn() -> None:
    among = lanes(3)
    which = choice(*among).which
    assert {which(-1, 100.0) for _ in range(3)} == set(among)


def test_the_least_busy_by_its_weight() -> None:
    first, second = lanes()
    some = choice(first, second)
    first.borrow(Borrower(lambda backend: None))
    assert {some.which(-1, 100.0) for _ in range(4)} == {second}
    first.weight = 4
    assert {some.which(-1, 100.0) for _ in range(4)} == {first}
    first.weight = 0
    assert {some.which(-1, 100.0) for _ in range(4)} == {second}


def test_nearer_ones_first() -> None:
    first, second = lanes()
    first.rank = 1
    second.borrow(Borrower(lambda backend: None))
    some = choice(first, second)
    assert {some.which(-1, 100.0) for _ in range(4)} == {second}
    second.fresh_until = 0
    assert some.which(5, 100.0, max_lag=1000) is first


@pytest.mark.parametrize(("written_at", "fits"), [(99.9, True), (100.0, False), (100.1, False)])
def test_what_was_written_must_be_there(written_at: float, fits: bool) -> None:
    (lane,) = lanes(1)
    some = choice(lane)
    assert (some.which(written_at, 101.0) is lane) == fits
    assert cast(Any, some.policy).wants_fresher == (not fits) == some.stale
    assert choice(lane, eventual=True).which(written_at, 101.0) is lane


def test_it_may_lag_so_far_and_a_hint_may_say_how_far() -> None:
    (lane,) = lanes(1)
    some = choice(lane, eventual=True)
    assert some.which(-1, 110.0) is lane
    assert some.which(-1, 110.1) is None
    assert some.which(-1, 110.1, max_lag=20.0) is lane
    assert some.which(-1, 102.0, max_lag=1.0) is None


def test_what_others_have_written_through_other_pools_may_count() -> None:
    (lane,) = lanes(1)
    writes = Writes()
    one, other = (choice(lane, writes=writes, everybody=True) for _ in range(2))
    assert one.which(-1, 101.0) is lane
    other.writes.at = 100.5
    assert one.which(-1, 101.0) is None
    assert choice(lane, writes=writes).which(-1, 101.0) is lane


def test_another_way_to_choose_is_asked_with_those_that_fit() -> None:
    among = lanes(3)
    among[1].fresh_until = 0
    seen: list[list[Lane]] = []

    def last(fit: list[Lane]) -> Lane:
        seen.append(fit)
        return fit[-1]

    some = choice(*among, choose=last)
    assert some.which(50, 101.0) in (among[0], among[2])
    assert set(seen[0]) == {among[0], among[2]}
    among[0].fresh_until = among[2].fresh_until = 0
    assert some.which(50, 101.0) is None and len(seen) == 1
