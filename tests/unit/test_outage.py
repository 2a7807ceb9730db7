"""How long those who wait are held while the server is away."""

from __future__ import annotations

from pgambassador.pool.outage import Outage


def test_while_all_is_well_nobody_is_held() -> None:
    outage = Outage(10.0)
    assert not outage.holds(5.0) and not outage.overdue(5.0)


def test_it_counts_from_when_the_first_failed_attempt_began() -> None:
    outage = Outage(10.0)
    outage.failed(100.0)
    outage.failed(104.0)
    assert outage.holds(109.9) and not outage.overdue(109.9)
    assert outage.overdue(110.0) and not outage.holds(110.0)
    outage.over()
    assert not outage.overdue(111.0)
    outage.failed(112.0)
    assert outage.holds(113.0)


def test_attempts_that_overtook_one_another() -> None:
    outage = Outage(10.0)
    outage.failed(104.0)
    outage.failed(100.0)
    assert outage.overdue(110.0)


def test_after_so_many_attempts_nobody_is_held() -> None:
    outage = Outage(10.0, attempts=2)
    outage.failed(0.0)
    assert outage.holds(1.0)
    outage.failed(1.0)
    assert outage.overdue(1.0)
    outage.over()
    outage.failed(2.0)
    assert outage.holds(2.0)


def test_held_by_nothing() -> None:
    outage = Outage(None)
    outage.failed(0.0)
    assert outage.overdue(0.0)
