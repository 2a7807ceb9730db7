"""The numbers of one run, by load, target and metric, and what is derived from them: medians and ratios."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.scenarios import Numbers


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians, and the smallest and largest ratio that single rounds gave."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"**{self.value:.2f}**"
        return f"**{self.value:.2f}** ({self.low:.2f}–{self.high:.2f})"


class Results:
    def __init__(self) -> None:
        self._samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def __repr__(self) -> str:
        return f"<Results: {len(self._samples)} series>"

    def add(self, load: str, target: str, numbers: Numbers) -> None:
        for metric, value in numbers.items():
            self._samples[load, target, metric].append(value)

    def loads(self, metric: str) -> list[str]:
        """Those that have this metric, in the order in which they were measured."""
        return list(dict.fromkeys(load for load, _, name in self._samples if name == metric))

    def median(self, load: str, target: str, metric: str) -> float | None:
        samples = self._samples.get((load, target, metric))
        return median(samples) if samples else None

    def ratio(self, load: str, target: str, to: str, metric: str) -> Ratio | None:
        return self._ratio(load, target, to, metric, None)

    def added(self, load: str, target: str, to: str, over: str, metric: str) -> Ratio | None:
        """The ratio of what two targets add to a third one's figure."""
        return self._ratio(load, target, to, metric, over)

    def between(self, load: str, other: str, target: str, metric: str) -> Ratio | None:
        """The ratio of one load to another on the same target."""
        return self._of([(load, target, metric), (other, target, metric)])

    def _ratio(self, load: str, target: str, to: str, metric: str, over: str | None) -> Ratio | None:
        return self._of([(load, name, metric) for name in (target, to, *([over] if over else []))])

    def _of(self, keys: list[tuple[str, str, str]]) -> Ratio | None:
        series = [self._samples.get(key, []) for key in keys]
        rounds = [_divide(*row) for row in zip(*series, strict=True)] if all(series) else []
        value = _divide(*map(median, series)) if rounds else None
        single = [ratio for ratio in rounds if ratio is not None]
        return None if value is None else Ratio(value, min(single, default=value), max(single, default=value))


def _divide(top: float, bottom: float, base: float = 0.0) -> float | None:
    """None where a ratio says nothing."""
    return (top - base) / (bottom - base) if bottom > base else None
