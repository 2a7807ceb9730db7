"""How those are slowed who fail to log in, by where they come from.

1. The answer to a failure waits. The wait doubles with each failure up to a bound, and is forgotten after a
   while without one.
2. A failure takes one of the `TURNS` of its address until that time has come, whether anybody still waits for
   the answer or not. What is being tried at a server takes one too, whether its address has failed before or
   not. The next password is looked at only when there is a turn.
3. However many addresses fail, `size` are remembered at most; the one that failed longest ago goes first.

Why turns: were every password looked at as it comes, then whoever hangs up on what is not a success at once
would guess as fast as it connects, since a right one is told at once. So one address makes `TURNS` guesses in
`LONGEST`, however many connections it has. A right password waits only beside somebody at its own address who
guesses just now, and no longer than it takes a turn to become free; from any other address never. Turns are
not of a user: then who guesses one name could lock it out everywhere, and who tries many would not be slowed.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

FREE: Final = 1
"""So many failures do not wait: people mistype."""
FIRST: Final = 0.1
LONGEST: Final = 3.0
MEMORY: Final = 60.0
SIZE: Final = 10_000
TURNS: Final = 5


@dataclass(slots=True)
class _Failures:
    """`until` are the last times at which one was or will be told."""

    last: float
    count: int = 0
    until: deque[float] = field(default_factory=lambda: deque(maxlen=TURNS))


class Throttle:
    """`now` is any clock in seconds that does not go back."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._failures: dict[str, _Failures] = {}
        self._trying: Counter[str] = Counter()

    def failed(self, site: str, now: float) -> float:
        """Take note of a failure; how many seconds to wait before it is told."""
        self.forget(now)
        found = self._failures.pop(site, None) or _Failures(now)
        found.last, found.count = now, min(found.count + 1, 64)
        self._failures[site] = found
        if len(self._failures) > self._size:
            del self._failures[next(iter(self._failures))]
        delay = min(FIRST * 2 ** (found.count - 1 - FREE), LONGEST) if found.count > FREE else 0.0
        found.until.append(now + delay)
        return delay

    def wait(self, site: str, now: float) -> float:
        """Seconds until it is worth asking again; 0: the next password from there may be looked at."""
        if site not in self._failures and site not in self._trying:
            return 0.0
        found = self._failures.get(site)
        slowed = found is not None and found.count > FREE
        pending = [until for until in found.until if until > now] if found is not None and slowed else []
        if len(pending) + self._trying[site] < TURNS:
            return 0.0
        return min((until - now for until in pending), default=FIRST)

    def begins(self, site: str) -> None:
        """A server is asked about a password from there; `ends` follows."""
        self._trying[site] += 1

    def ends(self, site: str) -> None:
        self._trying[site] -= 1
        if not self._trying[site]:
            del self._trying[site]

    def forget(self, now: float) -> None:
        """Drop those who have not failed for a while: they stand in the order of their last failures."""
        while self._failures:
            site = next(iter(self._failures))
            if now - self._failures[site].last < MEMORY:
                return
            del self._failures[site]

    def __len__(self) -> int:
        return len(self._failures)

    def __repr__(self) -> str:
        return f"<Throttle {len(self)} of {self._size}>"
