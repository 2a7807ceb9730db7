"""Which of several lanes of standbys `routing.balance` picks; the least busy is found in compiled code where
all weights are the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgambassador.routing.balance import REMEMBERED, Candidate, Pulse, balancer

if TYPE_CHECKING:
    from pgambassador.config.routing import Balance
    from pgambassador.net.lane import Lane


class Pace:
    """How long a lane's answers take of late, by what it has counted since it was looked at last."""

    def __init__(self) -> None:
        self._pulse = Pulse()
        self._queries = 0
        self._seconds = 0.0

    def look(self, queries: int, seconds: float, now: float) -> float:
        if queries > self._queries:
            self._pulse.seen((seconds - self._seconds) / (queries - self._queries), now)
            self._queries, self._seconds = queries, seconds
        return self._pulse.seconds(now)


def chooser(
    balance: Balance, clock: Callable[[], float] = time.monotonic, *, uneven: bool = False
) -> Callable[[list[Lane]], Lane] | None:
    """Picks one of several lanes, all of which would do and have some weight; None: the least busy one.
    `uneven`: their weights differ."""
    if balance == "least-outstanding" and not uneven:
        return None
    kind = balancer(balance)
    paces: dict[Lane, Pace] = {}

    def choose(lanes: list[Lane]) -> Lane:
        now = clock()
        if len(paces) > REMEMBERED:
            paces.clear()  # of standbys that are gone
        candidates = [
            Candidate(
                lane,
                lane.weight,
                lane.rank == 0,
                lane.active + lane.waiting,
                paces.setdefault(lane, Pace()).look(lane.queries, lane.query_seconds, now),
            )
            for lane in lanes
        ]
        return lanes[kind.pick(candidates)]

    return choose
