"""A pool whose server is away: since when, and whether those who wait are still held.

1. It begins when an attempt began that failed because the server is away, and ends with the next connection.
2. Clients are held for `hold` seconds from its beginning, and for `attempts` failures at most; who comes
   later is held for what is left of that. Then it is `overdue`, until it ends.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Outage:
    """`hold` in seconds, None for not at all; `attempts` None for any number. `since` is None while all is
    well."""

    hold: float | None = None
    attempts: int | None = None
    since: float | None = None
    failures: int = 0

    def failed(self, began: float) -> None:
        """An attempt that began then has failed."""
        self.since = began if self.since is None else min(self.since, began)
        self.failures += 1

    def over(self) -> None:
        self.since, self.failures = None, 0

    def holds(self, now: float) -> bool:
        """Whether clients wait for its end."""
        return self.since is not None and not self.overdue(now)

    def overdue(self, now: float) -> bool:
        """Whether it has lasted too long for anybody to wait."""
        if self.since is None:
            return False
        if self.attempts is not None and self.failures >= self.attempts:
            return True
        return self.hold is None or now >= self.since + self.hold
