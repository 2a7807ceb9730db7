"""When a pool opens and closes connections: years of it in a loop over numbers."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pgambassador.pool.plan import REFUSED_MOST, STAGGER, Plan

NOW = 1000.0


@pytest.mark.parametrize(
    ("waiting", "total", "opening", "openings"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 1),
        (3, 0, 0, 3),  # all in parallel
        (3, 0, 2, 1),  # two of them will be served by those under way
        (3, 0, 3, 0),
        (9, 2, 0, 3),  # the limit is 5
        (9, 2, 3, 0),
        (9, 5, 0, 0),
    ],
)
def test_one_opening_for_each_who_waits(waiting, total, opening, openings):
    assert Plan(5).openings(waiting=waiting, total=total, opening=opening, now=NOW) == openings


@pytest.mark.parametrize(
    ("waiting", "total", "opening", "openings"),
    [(0, 0, 0, 2), (0, 1, 0, 1), (0, 1, 1, 0), (0, 2, 0, 0), (1, 2, 0, 1), (3, 1, 0, 3)],
)
def test_the_least_is_kept_open(waiting, total, opening, openings):
    plan = Plan(5, min_size=2)
    assert plan.openings(waiting=waiting, total=total, opening=opening, now=NOW) == openings


@given(
    size=st.integers(1, 20),
    least=st.integers(0, 20),
    waiting=st.integers(0, 100),
    total=st.integers(0, 30),
    opening=st.integers(0, 30),
)
def test_never_more_than_the_limit(size, least, waiting, total, opening):
    plan = Plan(size, min_size=min(least, size))
    openings = plan.openings(waiting=waiting, total=total, opening=opening, now=NOW)
    assert openings >= 0
    assert openings == 0 or total + opening + openings <= size
    if waiting and total + opening == 0:
        assert openings > 0


def test_after_a_failure_the_next_waits_longer_and_longer():
    plan, now, delays = Plan(5), NOW, []
    for _ in range(20):
        after = plan.failed(now, chance=1.0)
        assert plan.openings(waiting=1, total=0, opening=0, now=math.nextafter(after, 0)) == 0
        assert plan.openings(waiting=1, total=0, opening=0, now=after) == 1
        delays.append(after - now)
        now = after
    assert delays[0] == pytest.approx(plan.first_pause)
    assert all(later > earlier - 1e-9 for earlier, later in itertools.pairwise(delays))
    assert delays[-1] == pytest.approx(plan.longest_pause)
    assert plan.failed(now, passing=False, chance=0.0) - now == pytest.approx(REFUSED_MOST)


def test_a_success_ends_the_waiting():
    plan = Plan(5)
    for _ in range(8):
        plan.failed(NOW)
    plan.succeeded()
    assert plan.openings(waiting=1, total=0, opening=0, now=NOW) == 1
    assert plan.failed(NOW, chance=1.0) == pytest.approx(NOW + plan.first_pause)


@given(st.floats(0, 1), st.integers(0, 60))
def test_pauses_are_a_chances_share_of_the_longest(chance, failures):
    plan = Plan(5, first_pause=0.05, longest_pause=2.0)
    for _ in range(failures):
        plan.failed(NOW, chance=0.0)
    assert plan.retry_at == (NOW if failures else 0.0)
    assert plan.failed(NOW, chance=chance) - NOW == pytest.approx(chance * min(2.0, 0.05 * 2**failures))


def test_after_a_failure_one_at_a_time_until_one_succeeds():
    plan = Plan(5)
    plan.failed(NOW, chance=0.0)
    assert plan.openings(waiting=4, total=0, opening=0, now=NOW) == 1
    assert plan.openings(waiting=4, total=0, opening=1, now=NOW) == 0
    plan.postpone(NOW, chance=1.0)
    assert plan.openings(waiting=4, total=0, opening=0, now=NOW) == 0
    plan.soon()
    assert plan.openings(waiting=4, total=0, opening=0, now=NOW) == 1
    plan.succeeded()
    assert plan.openings(waiting=4, total=0, opening=0, now=NOW) == 4


@given(st.floats(0, 1, exclude_max=True))
def test_lifetimes_are_staggered_and_never_exceeded(chance):
    expiry = Plan(5, lifetime=100.0).expiry(NOW, chance)
    assert 100.0 * (1 - STAGGER) <= expiry - NOW <= 100.0


def test_lifetimes_differ():
    plan = Plan(5, lifetime=100.0)
    assert len({plan.expiry(NOW) for _ in range(20)}) > 1


def test_without_a_lifetime_they_live_for_ever():
    assert Plan(5).expiry(NOW) == math.inf


def test_one_too_many_is_idle():
    plan = Plan(5, min_size=1, idle_timeout=10.0)
    assert plan.too_idle(freed_at=NOW, total=2, now=NOW + 10.1)
    assert not plan.too_idle(freed_at=NOW, total=2, now=NOW + 10)
    assert not plan.too_idle(freed_at=NOW, total=1, now=NOW + 9999)
    assert not Plan(5).too_idle(freed_at=NOW, total=5, now=NOW + 9999)


class PoolOverTime(RuleBasedStateMachine):
    """A pool that obeys its plan, in a world where anything may happen next; time is a number."""

    @initialize(size=st.integers(1, 6), least=st.integers(0, 6))
    def begins(self, size: int, least: int) -> None:
        self.plan = Plan(size, min(least, size), idle_timeout=60.0)
        self.now = NOW
        self.waiting = self.opening = 0
        self.idle: list[float] = []  # since when
        self.busy = 0
        self.asks()

    def asks(self) -> None:
        while self.waiting and self.idle:
            self.idle.pop()
            self.waiting -= 1
            self.busy += 1
        begun = self.plan.openings(
            waiting=self.waiting, total=len(self.idle) + self.busy, opening=self.opening, now=self.now
        )
        assert begun == 0 or self.now >= self.plan.retry_at, "a storm"
        self.opening += begun

    @rule(clients=st.integers(1, 10))
    def clients_come(self, clients: int) -> None:
        self.waiting += clients
        self.asks()

    @rule()
    def a_client_gives_up(self) -> None:
        self.waiting = max(self.waiting - 1, 0)
        self.asks()

    @rule()
    def an_opening_succeeds(self) -> None:
        if self.opening:
            self.opening -= 1
            self.plan.succeeded()
            self.idle.append(self.now)
            self.asks()

    @rule(chance=st.floats(0, 1))
    def an_opening_fails(self, chance: float) -> None:
        if self.opening:
            self.opening -= 1
            delay = self.plan.failed(self.now, chance=chance) - self.now
            assert 0 <= delay <= self.plan.longest_pause + 1e-6
            self.asks()

    @rule()
    def a_client_is_done(self) -> None:
        if self.busy:
            self.busy -= 1
            self.idle.append(self.now)
            self.asks()

    @rule()
    def a_connection_dies(self) -> None:
        if self.busy:
            self.busy -= 1
        elif self.idle:
            self.idle.pop()
        self.asks()

    @rule(seconds=st.floats(0.01, 120.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        while self.idle and self.plan.too_idle(
            freed_at=self.idle[0], total=len(self.idle) + self.busy, now=self.now
        ):
            assert len(self.idle) + self.busy > self.plan.min_size
            del self.idle[0]
        self.asks()

    @invariant()
    def never_above_its_size(self) -> None:
        assert len(self.idle) + self.busy + self.opening <= self.plan.size

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Unless the pool is full or has just failed, something is under way for those who wait."""
        if self.now >= self.plan.retry_at:
            room = self.plan.size - len(self.idle) - self.busy
            total = len(self.idle) + self.busy
            lacking = max(min(self.waiting, room), self.plan.min_size - total)
            assert self.opening >= (min(lacking, 1) if self.plan.failures else lacking)


PoolOverTime.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_pool_over_time = PoolOverTime.TestCase
