"""When a pool opens a server connection, and when it closes one: decisions over numbers.

1. Never more than `size` connections, those being opened counted.
2. One opening for each client that waits, all in parallel; `min_size` are kept open without any client
   waiting.
3. After a failed opening the next one waits, longer each time, and until one succeeds they begin one by one.
4. Lifetimes are staggered, so that connections opened together are not replaced together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from pgambassador.pool.backoff import pause

REFUSED_MOST = 5.0
"""Seconds between attempts at a server that refuses us, at most: each may be a failed login there."""
STAGGER = 0.2


@dataclass(slots=True)
class Plan:
    """The limits of one pool (seconds, counts), and the history of its failures."""

    size: int
    min_size: int = 0
    idle_timeout: float | None = None
    lifetime: float | None = None
    first_pause: float = 0.05
    longest_pause: float = 2.0
    failures: int = 0
    retry_at: float = field(default=0.0, repr=False)

    def openings(self, *, waiting: int, total: int, opening: int, now: float) -> int:
        """How many connections to begin to open now."""
        wanted = max(waiting - opening, self.min_size - total - opening)
        room = self.size - total - opening
        if self.failures:
            wanted = min(wanted, 1 - opening)
        if wanted <= 0 or room <= 0 or now < self.retry_at:
            return 0
        return min(wanted, room)

    def failed(self, now: float, *, passing: bool = True, chance: float | None = None) -> float:
        """An opening failed; when the next may begin. `passing`: the server is away, and refuses nobody."""
        self.postpone(now, passing=passing, chance=chance)
        self.failures += 1
        return self.retry_at

    def postpone(self, now: float, *, passing: bool = True, chance: float | None = None) -> None:
        """The next opening has to wait as after a failure; `chance` is in [0, 1]."""
        if chance is None:
            chance = random.random()
        most = self.longest_pause if passing else REFUSED_MOST
        delay = pause(self.failures, first=self.first_pause, most=most, chance=chance if passing else 1.0)
        self.retry_at = now + delay

    def soon(self) -> None:
        """Something has changed: the next may begin at once."""
        self.retry_at = 0.0

    def succeeded(self) -> None:
        self.failures = 0
        self.retry_at = 0.0

    def expiry(self, opened: float, chance: float | None = None) -> float:
        """When a connection opened then has lived long enough; `chance` is in [0, 1)."""
        if self.lifetime is None:
            return float("inf")
        if chance is None:
            chance = random.random()
        return opened + self.lifetime * (1 - STAGGER * chance)

    def too_idle(self, *, freed_at: float, total: int, now: float) -> bool:
        """Whether an idle connection is one too many."""
        return self.idle_timeout is not None and total > self.min_size and now - freed_at > self.idle_timeout
