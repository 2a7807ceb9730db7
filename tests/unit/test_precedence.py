"""Whose turn it is, checked against what must hold for any queue."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pgambassador.pool.precedence import OVERDUE, SHARE, Precedence


@dataclass(eq=False)
class Waiter:
    rank: int
    waiting_since: float
    stays: bool = True


class Queue:
    def __init__(self) -> None:
        self.normal: deque[Waiter] = deque()
        self.order = Precedence(self.normal, lambda waiter: waiter.stays)

    def comes(self, rank: int, now: float = 0.0) -> Waiter:
        waiter = Waiter(rank, now)
        if rank:
            self.order.put(waiter, rank)
        else:
            self.normal.append(waiter)
        return waiter

    def everybody(self) -> list[Waiter]:
        return [waiter for waiter in self.order if waiter.stays]


def test_high_before_normal_before_low() -> None:
    queue = Queue()
    low, normal, high, later = (queue.comes(rank) for rank in (-1, 0, 1, 1))
    assert queue.order.first(0.0) is high
    assert [queue.order.take(0.0) for _ in range(5)] == [high, later, normal, low, None]
    assert not queue.order.needed


def test_who_gave_up_is_passed_by() -> None:
    queue = Queue()
    first, second, low = queue.comes(1), queue.comes(1), queue.comes(-1)
    first.stays = False
    assert queue.order.first(0.0) is second
    second.stays = False
    assert queue.order.take(0.0) is low


def test_the_newest_of_the_lowest_goes_first() -> None:
    queue = Queue()
    assert queue.order.newest_below(1) is None
    old, new, normal = queue.comes(-1), queue.comes(-1), queue.comes(0)
    assert queue.order.newest_below(0) is new
    assert queue.order.newest_below(-1) is None
    new.stays = False
    assert queue.order.newest_below(1) is old
    old.stays = False
    assert queue.order.newest_below(0) is None
    assert queue.order.newest_below(1) is normal


def test_who_had_its_turn_comes_first_again() -> None:
    queue = Queue()
    queue.comes(-1)
    again = Waiter(-1, 5.0)
    queue.order.put(again, -1, first=True)
    assert queue.order.take(5.0) is again


COME = st.tuples(st.just("comes"), st.integers(-1, 1))
STEPS = st.lists(
    st.one_of(COME, st.tuples(st.sampled_from(["served", "gives up", "time"]), st.integers(0, 30))),
    max_size=150,
)


@given(STEPS)
def test_what_always_holds(steps: list[tuple[str, int]]) -> None:
    queue, now, passed_by = Queue(), 0.0, 0
    for step, number in steps:
        there = queue.everybody()
        if step == "comes":
            queue.comes(number, now)
        elif step == "time":
            now += number / 10
        elif step == "gives up" and there:
            there[number % len(there)].stays = False
        elif step == "served":
            expected = queue.order.first(now)
            served = queue.order.take(now)
            assert served is expected
            if not there:
                assert served is None
                continue
            assert served is not None
            assert served.stays
            served.stays = False
            same = [each for each in there if each.rank == served.rank]
            assert served is same[0], "who came first within a priority is served first"
            oldest = min(each.waiting_since for each in there)
            if any(each.rank > served.rank for each in there):
                assert served.waiting_since == oldest
                assert now - oldest > OVERDUE
            overdue = now - oldest > OVERDUE
            passed_by = passed_by + 1 if overdue and served.waiting_since > oldest else 0
            assert passed_by < SHARE, "who has waited longest waits for a few turns at most"
        assert queue.order.needed >= any(each.rank for each in queue.everybody())
        longest = queue.order.oldest()
        assert (longest is None) == (not queue.everybody())
        if longest is not None:
            assert longest.waiting_since == min(each.waiting_since for each in queue.everybody())
