"""Pauses between attempts: exponential, bounded, and a chance's share of that."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgambassador.pool.backoff import pause


def test_the_longest_pauses_double_up_to_the_most() -> None:
    pauses = [pause(n, first=0.05, most=2.0, chance=1.0) for n in range(8)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0.001, 10), st.floats(0.001, 100))
def test_a_pause_is_between_nothing_and_the_longest(
    failures: int, chance: float, first: float, most: float
) -> None:
    found = pause(failures, first=first, most=most, chance=chance)
    assert 0 <= found <= min(most, pause(failures, first=first, most=most, chance=1.0))
