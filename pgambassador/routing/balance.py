"""Which of several standbys gets the next statement.

1. Those in pgambassador's own zone come first, if there are any; what has no weight gets nothing.
2. A share is in proportion to weights, whatever else counts. Where all is equal they take turns.
3. A slow answer is forgotten in time: who was slow once is tried again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

HALF_LIFE: Final = 5.0
SHARE: Final = 0.2
"""What the newest answer counts in the average."""
REMEMBERED: Final = 100


@dataclass(slots=True)
class Candidate:
    """A standby that would do. `outstanding`: statements that it has or that wait for it; `seconds`: how long
    its answers take, by its `Pulse`."""

    key: Hashable
    weight: float = 1.0
    near: bool = False
    outstanding: int = 0
    seconds: float = 0.0


class Balancer(Protocol):
    def pick(self, candidates: Sequence[Candidate]) -> int:
        """The index of one; -1 if nobody has any weight."""
        ...


class Pulse:
    """How long answers take of late, in seconds."""

    def __init__(self) -> None:
        self._mean = 0.0
        self._at = 0.0

    def seen(self, seconds: float, now: float) -> None:
        mean = self.seconds(now)
        # What is slow counts at once, what is quick by and by.
        self._mean = seconds if seconds > mean else mean + SHARE * (seconds - mean)
        self._at = now

    def seconds(self, now: float) -> float:
        return self._mean * 0.5 ** ((now - self._at) / HALF_LIFE) if self._mean else 0.0


class _Least:
    """The least of a cost; those that cost the same take turns, in whatever order they are told."""

    def __init__(self) -> None:
        self._turn = 0
        self._chosen: dict[Hashable, int] = {}

    def pick(self, candidates: Sequence[Candidate]) -> int:
        able = _able(candidates)
        if not able:
            return -1
        costs = [(self.cost(candidates[index]), index) for index in able]
        least = min(cost for cost, _ in costs)
        cheapest = [index for cost, index in costs if cost <= least]
        best = min(cheapest, key=lambda index: self._chosen.get(candidates[index].key, 0))
        if len(self._chosen) > REMEMBERED:
            self._chosen.clear()  # of those that are gone
        self._turn += 1
        self._chosen[candidates[best].key] = self._turn
        return best

    def cost(self, candidate: Candidate) -> float:
        raise NotImplementedError


class ResponseTime(_Least):
    """Who has not been asked yet costs nothing."""

    def cost(self, candidate: Candidate) -> float:
        return candidate.seconds * (candidate.outstanding + 1) / candidate.weight


class RoundRobin(_Least):
    """By turns, whatever the weights above 0 are."""

    def cost(self, candidate: Candidate) -> float:
        return 0.0


class Weighted:
    """By weights alone, evenly mixed: each gains its weight, and who has most pays for all. Who would not do
    for a statement keeps what it has, or a small share would never come to its turn."""

    def __init__(self) -> None:
        self._credit: dict[Hashable, float] = {}

    def gain(self, candidate: Candidate) -> float:
        return candidate.weight

    def pick(self, candidates: Sequence[Candidate]) -> int:
        able = _able(candidates)
        if not able:
            return -1
        if len(self._credit) > REMEMBERED:
            self._credit.clear()  # of those that are gone
        gains = {candidates[index].key: self.gain(candidates[index]) for index in able}
        for key, gain in gains.items():
            self._credit[key] = self._credit.get(key, 0.0) + gain
        best = max(able, key=lambda index: self._credit[candidates[index].key])
        self._credit[candidates[best].key] -= sum(gains.values())
        return best


class LeastOutstanding(Weighted):
    """Where weights differ. The least for its weight would never be a small one while little is under way."""

    def gain(self, candidate: Candidate) -> float:
        return candidate.weight / (candidate.outstanding + 1)


def _able(candidates: Sequence[Candidate]) -> list[int]:
    able = [index for index, candidate in enumerate(candidates) if candidate.weight > 0]
    near = [index for index in able if candidates[index].near]
    return near or able


def balancer(name: str) -> Balancer:
    """By its name in the configuration."""
    kinds: dict[str, type[Balancer]] = {
        "least-outstanding": LeastOutstanding,
        "round-robin": RoundRobin,
        "weighted": Weighted,
        "response-time": ResponseTime,
    }
    return kinds[name]()
