"""The life of one secret: whether it may be used, and when its source is asked again. Decisions over numbers.

1. Times are the wall clock's, in seconds since 1970: that is what an expiry means, and the clock that goes on
   while a machine sleeps. It may jump; no jump makes a secret usable for longer than it says.
2. A secret is used until shortly before its end; one without an end, or that is over when it comes because
   clocks differ, only by those who waited for it.
3. It is renewed when between half and four fifths of its life are over, so that many are not renewed at once.
4. A renewal that failed changes nothing about the secret. The next one waits, longer each time.
5. After a refusal a source is asked once more, unless the refused secret came from it only just now; for as
   long as `window` says, if the source changes its secrets behind the server's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MARGIN = 30.0
MARGIN_SHARE = 0.1
EARLIEST, LATEST = 0.5, 0.8
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
JUST_NOW = 10.0
PAUSE_FIRST, PAUSE_MOST = 0.5, 4.0


@dataclass(slots=True)
class Life:
    """Without `not_after` there is nothing to keep; each `chance` is in [0, 1)."""

    born: float = 0.0
    not_after: float | None = None
    refresh_at: float = math.inf
    failures: int = 0

    @property
    def length(self) -> float:
        return 0.0 if self.not_after is None else max(self.not_after - self.born, 0.0)

    @property
    def margin(self) -> float:
        """So much is taken off its end: a login takes time, and clocks differ."""
        return min(MARGIN, self.length * MARGIN_SHARE)

    def begin(self, now: float, not_after: float | None, chance: float) -> None:
        """A secret has been fetched."""
        self.born, self.not_after, self.failures = now, not_after, 0
        self.refresh_at = math.inf
        if self.length > 0:
            self.refresh_at = now + self.length * (EARLIEST + (LATEST - EARLIEST) * chance)

    def hurry(self, at: float) -> None:
        """Renew it at that time, if not before."""
        self.refresh_at = min(self.refresh_at, at)

    def failed(self, now: float, chance: float) -> None:
        """A fetch has failed."""
        delay = min(RETRY_FIRST * 2 ** min(self.failures, 10), RETRY_MOST)
        self.failures += 1
        self.born = min(self.born, now)
        if self.not_after is not None:
            self.refresh_at = now + delay * (0.5 + 0.5 * chance)

    def usable(self, now: float) -> bool:
        """Whether one that was fetched before may open a connection now."""
        return self.not_after is not None and now < self.not_after - self.margin

    def valid(self, now: float) -> bool:
        """Whether it may be used at least if there is no other."""
        return self.not_after is not None and now < self.not_after

    def due(self, now: float) -> bool:
        """Whether to renew it now, although nobody waits for it."""
        if self.not_after is None:
            return False
        # Set back behind the fetch, or while a retry was waited for: what was planned means nothing any more.
        astray = now < self.born or (self.failures > 0 and self.refresh_at - now > RETRY_MOST)
        return now >= self.refresh_at or astray

    def just_now(self, now: float) -> bool:
        """Whether it is so new that its source would hardly say anything else."""
        return 0 <= now - self.born < min(JUST_NOW, self.length * MARGIN_SHARE)

    def retire_at(self, chance: float) -> float:
        """When connections that it opened should be replaced, if they end with it; not all in one moment."""
        assert self.not_after is not None
        return self.not_after - self.margin * (1 + chance)


def pause(
    *, fresh: bool, newer: bool, tries: int, waited: float, window: float, chance: float
) -> float | None:
    """After a refusal: how many seconds until another secret is tried; None for "give up".

    `fresh`: the refused one came from its source for this connection, or only just now. `newer`: meanwhile
    another has come. `tries` were made before the refused one. `waited`: seconds since the first refusal.
    """
    if tries == 0 and (newer or not fresh):
        return 0.0
    if waited >= window:
        return None
    delay: float = min(PAUSE_FIRST * 2 ** min(tries, 10), PAUSE_MOST)
    return min(delay * (0.5 + 0.5 * chance), window - waited)
