"""When a pool opens a server connection, and when it closes one: decisions over numbers.

1. Never more than `size` connections, those being opened counted.
2. One opening for each client that waits, all in parallel; `min_size` are kept open without any client
   waiting.
3. After a failed opening the next one waits, longer each time up to `RETRY_MOST`.
4. Lifetimes are staggered, so that connections opened together are not replaced together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

RETRY_FIRST = 0.1
RETRY_MOST = 5.0
STAGGER = 0.2


@dataclass(slots=True)
class Plan:
    """The limits of one pool (seconds, counts), and the history of its failures."""

    size: int
    min_size: int = 0
    idle_timeout: float | None = None
    lifetime: float | None = None
    failures: int = 0
    retry_at: float = field(default=0.0, repr=False)

    def openings(self, *, waiting: int, total: int, opening: int, now: float) -> int:
        """How many connections to begin to open now."""
        wanted = max(waiting - opening, self.min_size - total - opening)
        room = self.size - total - opening
        if wanted <= 0 or room <= 0 or now < self.retry_at:
            return 0
        return min(wanted, room)

    def failed(self, now: float) -> float:
        """An opening failed; when the next may begin."""
        delay = min(RETRY_FIRST * 2 ** min(self.failures, 10), RETRY_MOST)
        self.failures += 1
        self.retry_at = now + delay
        return self.retry_at

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
