"""A bucket of tokens, over hours of made-up time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.pool.bucket import TokenBucket

RATES = st.floats(0.001, 1000)
STEPS = st.lists(st.floats(0, 100), max_size=60)


def test_a_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(10, 3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.lacks(0.0) == pytest.approx(0.1)
    assert not bucket.take(0.05)
    assert bucket.take(0.1)
    assert not bucket.take(0.1)
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(1, 1)
    assert bucket.take(100.0)
    assert not bucket.take(0.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


@given(RATES, st.integers(1, 50), STEPS)
def test_no_span_of_time_has_more_than_its_share(rate: float, burst: int, steps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 0.0, list[float]()
    for step in steps:
        now += step
        while bucket.take(now):
            taken.append(now)
    for i, begin in enumerate(taken):
        for j in range(i, len(taken)):
            assert j - i + 1 <= burst + rate * (taken[j] - begin) + 1e-6 * (j - i + 1)


@given(RATES, st.integers(1, 50), STEPS)
def test_who_comes_when_it_was_told_gets_one(rate: float, burst: int, steps: list[float]) -> None:
    bucket, now = TokenBucket(rate, burst), 0.0
    for step in steps:
        now += step
        seconds = bucket.lacks(now)
        assert seconds >= 0
        if seconds:
            assert not bucket.take(now)
            now += seconds
        assert bucket.take(now)


@given(RATES, st.integers(1, 50), STEPS)
def test_asking_takes_nothing(rate: float, burst: int, steps: list[float]) -> None:
    asked, other, now = TokenBucket(rate, burst), TokenBucket(rate, burst), 0.0
    for step in steps:
        now += step
        for _ in range(3):
            asked.lacks(now)
        assert asked.take(now) == other.take(now)
