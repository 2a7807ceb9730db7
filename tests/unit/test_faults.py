"""Faults on purpose: whom they strike, how often, and that they end."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.config.limits import What
from pgambassador.errors import Refused
from pgambassador.pool.faults import DELAY_MOST, LONGEST, MOST, Faults

ALL = What()


def never() -> Any:
    raise AssertionError("nobody should ask")


def ordered(faults: Faults, kind: Any = "error", **more: Any) -> Any:
    return faults.add(
        kind, **{"whom": ALL, "percent": 100.0, "seconds": 60.0, "now": 0.0, "by": "op", **more}
    )


def test_one_strikes_whom_it_is_for_until_its_time_is_up() -> None:
    faults = Faults()
    fault: Any = ordered(faults, whom=What(user=("app",)))
    assert faults.concerning("else", "shop", "") == ()
    mine = faults.concerning("app", "shop", "")
    assert faults.strike(mine, never, lambda: 0.99, 59.9) is fault
    assert faults.strike(mine, never, never, 60.0) is None
    assert faults.injected == {"error": 1}
    assert faults.hits == {1: 1}
    assert faults.expire(59.0) == []
    assert faults.expire(60.0) == [fault]
    assert faults.active == ()
    assert faults.hits == {}
    assert faults.injected == {"error": 1}


def test_one_for_a_statement_leaves_others_alone() -> None:
    faults = Faults()
    fault = ordered(faults, whom=What(fingerprint=("abc",)))
    assert faults.strike(faults.active, lambda: "abd", never, 0.0) is None
    assert faults.strike(faults.active, lambda: "ABC", lambda: 0.5, 0.0) is fault


def test_the_first_that_strikes_counts() -> None:
    faults = Faults()
    rare, other = ordered(faults, percent=10.0), ordered(faults, "cut")
    assert faults.strike(faults.active, never, lambda: 0.05, 0.0) is rare
    assert faults.strike(faults.active, never, lambda: 0.10, 0.0) is other


def test_some_are_cleared_or_all() -> None:
    faults = Faults()
    one, two, three = (ordered(faults) for _ in range(3))
    assert faults.clear(two.number) == [two]
    assert faults.clear(two.number) == []
    assert faults.clear() == [one, three]
    assert ordered(faults).number == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"percent": 0.0},
        {"percent": 101.0},
        {"percent": float("nan")},
        {"seconds": 0.0},
        {"seconds": LONGEST + 1},
        {"kind": "delay", "delay": 0.0},
        {"kind": "delay", "delay": DELAY_MOST + 1},
    ],
)
def test_what_is_out_of_bounds(wrong: dict[str, Any]) -> None:
    with pytest.raises(Refused) as caught:
        ordered(Faults(), **wrong)
    assert caught.value.sqlstate == "22023"
    assert caught.value.hint


def test_there_are_not_any_number() -> None:
    faults = Faults()
    for _ in range(MOST):
        ordered(faults)
    with pytest.raises(Refused) as caught:
        ordered(faults)
    assert caught.value.sqlstate == "53400"


def test_it_says_what_it_is() -> None:
    faults = Faults()
    whom = What(user=("app",), fingerprint=("abc",))
    assert str(ordered(faults, "delay", delay=0.2, percent=10.0)) == "fault 1: delay 0.2 s, 10 % of all"
    assert str(ordered(faults, "error", sqlstate="40001", whom=whom)) == (
        "fault 2: error 40001, 100 % of user=app, fingerprint=abc"
    )
    assert str(ordered(faults, "cut", after=True)) == "fault 3: cut after sending, 100 % of all"
    assert ordered(faults, "cut").what == "cut before sending"


@given(st.floats(0.1, 100), st.integers(1, 200))
def test_the_percentage_is_kept(percent: float, count: int) -> None:
    faults = Faults()
    ordered(faults, percent=percent)
    rolls = itertools.cycle((number + 0.5) / count for number in range(count))
    hits = sum(
        faults.strike(faults.active, never, lambda: next(rolls), 0.0) is not None for _ in range(count)
    )
    assert abs(hits - count * percent / 100) <= 1
