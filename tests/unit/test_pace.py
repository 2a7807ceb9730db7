"""How often a server is asked, over invented time."""

from __future__ import annotations

from itertools import pairwise

import pytest

from pgambassador.routing.pace import QUICKEST, Pace


def asked(pace: Pace, *, pressing: bool, until: float) -> list[float]:
    """When, from 100 on."""
    times: list[float] = []
    now = 100.0
    while now < 100 + until:
        pace.asks(now, pressing=pressing)
        times.append(now)
        now = pace.due(pressing=pressing)
    return times


def test_at_once_then_now_and_then() -> None:
    pace = Pace(1.0)
    assert pace.due(pressing=False) < 0
    assert asked(pace, pressing=False, until=3.5) == [100, 101, 102, 103]


def test_in_vain_less_and_less_often() -> None:
    times = asked(Pace(1.0), pressing=True, until=10)
    gaps = [after - before for before, after in pairwise(times)]
    assert gaps[0] == pytest.approx(QUICKEST)
    assert gaps == sorted(gaps) and gaps[-1] == pytest.approx(1.0)
    assert len(times) < 25


def test_what_helps_makes_quick_again() -> None:
    pace = Pace(1.0)
    times = asked(pace, pressing=True, until=5)
    pace.helped()
    assert pace.due(pressing=True) == pytest.approx(times[-1] + QUICKEST)
    assert pace.due(pressing=False) == pytest.approx(times[-1] + 1.0)


def test_somebody_always_waits() -> None:
    pace = Pace(1.0, slowest=0.025)
    assert 40 <= len(asked(pace, pressing=True, until=1.0)) <= 45
    # After a quiet while the next ones are quick.
    pace.asks(102.0, pressing=True)
    assert pace.due(pressing=True) == pytest.approx(102.0 + QUICKEST)


def test_nobody_home() -> None:
    pace = Pace(1.0)
    gaps = []
    for _ in range(7):
        pace.asks(100.0, pressing=True)
        pace.failed()
        gaps.append(pace.due(pressing=True) - 100.0)
    assert gaps == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0])
    pace.answered()
    assert pace.due(pressing=False) == 101.0
