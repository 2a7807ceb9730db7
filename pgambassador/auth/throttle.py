"""How long those wait who have failed to log in, by where they come from.

1. Only the answer to a failure waits. A right password is never held up, from wherever it comes.
2. The wait doubles with each failure up to a bound, and is forgotten after a while without one.
3. However many addresses fail, `size` are remembered at most; the one that failed longest ago goes first.
"""

from __future__ import annotations

from typing import Final

FREE: Final = 1
"""So many failures do not wait: people mistype."""
FIRST: Final = 0.1
LONGEST: Final = 3.0
MEMORY: Final = 60.0
SIZE: Final = 10_000


class Throttle:
    """`now` is any clock in seconds that does not go back."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._failures: dict[str, tuple[int, float]] = {}

    def failed(self, site: str, now: float) -> float:
        """Take note of a failure; how many seconds to wait before it is told."""
        self.forget(now)
        count, _ = self._failures.pop(site, (0, now))
        count = min(count + 1, 64)
        self._failures[site] = count, now
        if len(self._failures) > self._size:
            del self._failures[next(iter(self._failures))]
        return min(FIRST * 2 ** (count - 1 - FREE), LONGEST) if count > FREE else 0.0

    def forget(self, now: float) -> None:
        """Drop those who have not failed for a while: they stand in the order of their last failures."""
        while self._failures:
            site = next(iter(self._failures))
            if now - self._failures[site][1] < MEMORY:
                return
            del self._failures[site]

    def __len__(self) -> int:
        return len(self._failures)

    def __repr__(self) -> str:
        return f"<Throttle {len(self)} of {self._size}>"
