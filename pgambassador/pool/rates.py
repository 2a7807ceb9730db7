"""Limits of how often clients ask: one bucket for each rule, which all whom it concerns share.

1. A statement counts for each rule that it matches, or for none of them: one that is refused takes nothing.
2. After a reload a rule that is still there goes on as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pgambassador.config.limits import RateRule
from pgambassador.pool.bucket import TokenBucket


class Rate:
    """One rule at work, `number` in the configuration; `refused` counts."""

    def __init__(self, number: int, rule: RateRule) -> None:
        self.number = number
        self.rule = rule
        self.refused = 0
        self.bucket = TokenBucket(rule.rate, max(1.0, rule.rate if rule.burst is None else rule.burst))

    @property
    def option(self) -> str:
        return f"limits.rates[{self.number}]"

    def __repr__(self) -> str:
        return f"<Rate {self.option} {self.bucket!r}>"


class Rates:
    """Those of the configuration, in its order."""

    def __init__(self, rules: Sequence[RateRule] = ()) -> None:
        self.rates: tuple[Rate, ...] = ()
        self.reload(rules)

    def reload(self, rules: Sequence[RateRule]) -> None:
        old = list(self.rates)
        found = []
        for number, rule in enumerate(rules):
            rate = next((each for each in old if each.rule == rule), None)
            if rate is None:
                rate = Rate(number, rule)
            else:
                old.remove(rate)
                rate.number = number
            found.append(rate)
        self.rates = tuple(found)

    def concerning(self, user: str, database: str, application_name: str) -> tuple[Rate, ...]:
        """Those that may matter to such a client."""
        return tuple(each for each in self.rates if each.rule.concerns(user, database, application_name))

    def __repr__(self) -> str:
        return f"<Rates {len(self.rates)}>"


def charge(rates: Iterable[Rate], mark: Callable[[], str], now: float) -> tuple[Rate, float] | None:
    """Count a statement, whose fingerprint is `mark()`; or the rule that has none left for it, and in how
    many seconds it has."""
    meant = [each for each in rates if not each.rule.picks or each.rule.means(mark())]
    late = [(each.bucket.lacks(now), each) for each in meant]
    seconds, rate = max(late, key=lambda each: each[0], default=(0.0, None))
    if rate is not None and seconds > 0:
        rate.refused += 1
        return rate, seconds
    for each in meant:
        each.bucket.take(now)
    return None
