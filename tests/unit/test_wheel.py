"""Whose time may be up, compared with looking through all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgambassador.pool.wheel import Wheel

WIDTH = 0.25
moments = st.floats(0, 1000, allow_nan=False)
members = st.integers(0, 8)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), members, moments),
        st.tuples(st.just("discard"), members, st.just(0.0)),
        st.tuples(st.just("due"), st.just(0), st.floats(0, 300, allow_nan=False)),
        st.tuples(st.just("due"), st.just(0), st.floats(0, 0.5, allow_nan=False)),
    ),
    max_size=60,
)


@given(steps)
def test_as_if_all_were_looked_through(steps: list[tuple[str, int, float]]) -> None:
    """Nobody comes out before its moment; everybody does who has been due for `width`."""
    wheel: Wheel[int] = Wheel(WIDTH)
    all_of_them: dict[int, float] = {}
    now = 0.0
    for what, who, number in steps:
        if what == "put":
            wheel.put(who, number)
            all_of_them[who] = max(number, now)
        elif what == "discard":
            wheel.discard(who)
            all_of_them.pop(who, None)
        else:
            now += number
            found = wheel.due(now)
            assert len(found) == len(set(found))
            for each in found:
                assert all_of_them.pop(each) <= now
            assert all(at > now - WIDTH for at in all_of_them.values())
        assert len(wheel) == len(all_of_them)


def test_looking_costs_what_has_come_due() -> None:
    """Of many members only those that are due are touched, also after a long time without a look."""
    wheel: Wheel[int] = Wheel(WIDTH)
    for number in range(10_000):
        wheel.put(number, 1000.0 + number)
    assert wheel.due(999.0) == []
    assert wheel.due(1002.0) == [0, 1, 2]
    assert len(wheel) == 9_997
    assert sorted(wheel.due(1e9)) == list(range(3, 10_000))
    assert repr(wheel) == "<Wheel 0 in 0 slots>"


def test_a_moment_that_is_over_is_the_next() -> None:
    wheel: Wheel[str] = Wheel(WIDTH)
    wheel.due(100.0)
    wheel.put("late", 1.0)
    assert wheel.due(100.0) == []
    assert wheel.due(100.25) == ["late"]
