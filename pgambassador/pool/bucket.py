"""A token bucket: so many in a second, and so many at once after a pause.

1. In any span of t seconds no more than `burst + rate * t` are taken.
2. Whoever finds it empty is told when there will be one again, and there is one then if nobody else has come.
3. A clock that goes back gives nothing.
"""

from __future__ import annotations


class TokenBucket:
    """`rate` tokens a second, at most `burst` of them at once; it is full at the start."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None

    def lacks(self, now: float) -> float:
        """Seconds until there is a token; 0: there is one."""
        if self._at is None:
            self._at = now
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        # What is short of one by the way that numbers are rounded counts as one.
        return 0.0 if self._tokens >= 1 - 1e-9 else (1 - self._tokens) / self.rate

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if self.lacks(now):
            return False
        self._tokens = max(0.0, self._tokens - 1)
        return True

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:.1f} of {self.burst:g}, {self.rate:g}/s>"
