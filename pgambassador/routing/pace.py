"""When a server is asked next: now and then, quickly while somebody waits, and never in a rush.

1. Normally one question every `interval`. While it presses, `QUICKEST` apart at first, then ever slower down
   to `slowest`, until an answer was of use or it has been quiet for a while.
2. A server that does not answer is asked again soon, then less and less often, down to every `interval`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

QUICKEST: Final = 0.005
GROWTH: Final = 1.5
QUIET: Final = 0.015


@dataclass(slots=True)
class Pace:
    """Seconds, of the clock that `now` is of."""

    interval: float
    slowest: float = field(default=float("inf"), kw_only=True)
    sent: float = field(default=float("-inf"), kw_only=True)
    failures: int = field(default=0, init=False)
    _step: float = field(default=QUICKEST, init=False)

    def due(self, *, pressing: bool) -> float:
        """When to ask."""
        if self.failures:
            return self.sent + min(self.interval, 0.1 * float(1 << min(self.failures - 1, 10)))
        return self.sent + (min(self._step, self.interval) if pressing else self.interval)

    def asks(self, now: float, *, pressing: bool) -> None:
        """A question is sent."""
        if now - self.sent > QUIET + self._step:
            self._step = QUICKEST
        elif pressing:
            self._step = min(self._step * GROWTH, self.slowest, self.interval)
        self.sent = now

    def helped(self) -> None:
        """The answer was what somebody waited for."""
        self._step = QUICKEST

    def failed(self) -> None:
        self.failures += 1

    def answered(self) -> None:
        self.failures = 0
