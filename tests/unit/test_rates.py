"""Rules of how often clients may ask: whom they concern, and what a statement counts for."""

from __future__ import annotations

from pgambassador.config.limits import RateRule
from pgambassador.pool.rates import Rates, charge


def never() -> str:
    raise AssertionError("the fingerprint was asked for")


def test_a_rule_is_for_those_that_it_names() -> None:
    rates = Rates(
        [
            RateRule(user=("batch",), rate=1),
            RateRule(database=("shop", "stock"), rate=1),
            RateRule(application_name=("cron",), database=("shop",), rate=1),
            RateRule(rate=1),
        ]
    )
    numbers = [each.number for each in rates.concerning("batch", "shop", "x")]
    assert numbers == [0, 1, 3]
    assert [each.number for each in rates.concerning("a", "shop", "cron")] == [1, 2, 3]
    assert [each.number for each in rates.concerning("a", "b", "c")] == [3]


def test_all_whom_a_rule_concerns_share_it() -> None:
    rates = Rates([RateRule(rate=1, burst=2)])
    one, other = rates.concerning("a", "x", ""), rates.concerning("b", "x", "")
    assert charge(one, never, 0.0) is None
    assert charge(other, never, 0.0) is None
    found = charge(one, never, 0.0)
    assert found == (rates.rates[0], 1.0)
    assert rates.rates[0].option == "limits.rates[0]"
    assert rates.rates[0].refused == 1


def test_what_is_refused_takes_nothing_from_anybody() -> None:
    rates = Rates([RateRule(rate=1, burst=5), RateRule(user=("a",), rate=0.1, burst=1)])
    mine, others = rates.concerning("a", "x", ""), rates.concerning("b", "x", "")
    assert charge(mine, never, 0.0) is None
    for _ in range(10):
        assert charge(mine, never, 0.0) == (rates.rates[1], 10.0)
    assert [charge(others, never, 0.0) for _ in range(4)] == [None] * 4
    assert charge(others, never, 0.0) is not None


def test_a_rule_for_a_fingerprint_looks_at_it() -> None:
    rates = Rates([RateRule(fingerprint=("ABC",), rate=1, burst=1)])
    all_of_them = rates.concerning("a", "x", "")
    assert charge(all_of_them, lambda: "abc", 0.0) is None
    assert charge(all_of_them, lambda: "abd", 0.0) is None
    assert charge(all_of_them, lambda: "", 0.0) is None
    assert charge(all_of_them, lambda: "abc", 0.0) is not None


def test_without_a_burst_there_is_room_for_one() -> None:
    rates = Rates([RateRule(rate=0.5), RateRule(rate=20)])
    assert [each.bucket.burst for each in rates.rates] == [1, 20]


def test_a_rule_that_stays_goes_on_as_it_was() -> None:
    slow, fast = RateRule(rate=0.1, burst=1), RateRule(rate=100)
    rates = Rates([slow])
    assert charge(rates.rates, never, 0.0) is None
    rates.reload([fast, slow])
    assert [each.option for each in rates.rates] == ["limits.rates[0]", "limits.rates[1]"]
    assert charge(rates.rates, never, 0.0) is not None
    rates.reload([])
    assert charge(rates.concerning("a", "b", "c"), never, 0.0) is None
