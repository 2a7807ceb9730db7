"""What routing costs for a statement whose shape is known: microseconds of CPU, the best of many, no sockets.

Here Python calls it, which is a part of what is measured; in a session it is called from compiled code.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from pgambassador.net.choice import Choice
from pgambassador.net.lane import Lane
from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.routing.catalog import NOTHING_KNOWN
from pgambassador.routing.decision import Overrides, decide

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = 2000
TIMES = 50
TEXT = "SELECT abalance FROM pgbench_accounts WHERE aid = {:08d}"
"""pgbench's: 56 bytes, of which the last eight are another number each time."""


def known() -> float:
    """Finding what is known of a statement by its shape."""
    verdicts = Verdicts(lambda text: Verdict(decide(text.decode(), NOTHING_KNOWN, Overrides())))
    texts = [TEXT.format(number).encode() for number in range(CALLS)]
    verdicts.of(texts[0])
    micros = _best(lambda: [verdicts.of(text) for text in texts]) - _best(
        lambda: [bool(text) for text in texts]
    )
    assert verdicts.misses == 1
    return micros


def replica() -> float:
    """Finding which of two replicas answers."""
    lanes = []
    for _ in range(2):
        lane = Lane(cast(Any, None), (1.0,), 1, False, 1)
        lane.fresh_until = 100.0
        lanes.append(lane)
    choice = Choice(cast(Any, None), max_lag=10.0)
    choice.lanes = tuple(lanes)
    calls = range(CALLS)
    return _best(lambda: [choice.which(1.0, 100.0) for _ in calls]) - _best(lambda: [None for _ in calls])


def _best(work: Callable[[], object]) -> float:
    """Of CALLS calls, for one of them."""
    best = float("inf")
    for _ in range(TIMES):
        before = time.process_time_ns()
        work()
        best = min(best, time.process_time_ns() - before)
    return best / CALLS / 1000
