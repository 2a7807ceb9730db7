"""How much may be asked again: a share of what is asked, and some for nothing, so that it never is the load.

1. What was not used fades within `WINDOW`; at most what that long has earned is there at once.
2. Time does not go backwards here, whatever the clock says.
"""

from __future__ import annotations

from math import exp
from typing import Final

WINDOW: Final = 10.0
"""Seconds."""
_MOMENT: Final = 1e-6


class Budget:
    """`share` of the statements, and `floor` a second, from `now` on. `granted` and `denied` count."""

    def __init__(self, now: float, share: float = 0.2, floor: float = 10.0) -> None:
        self._share, self._floor = share, floor
        self._left = floor * WINDOW
        self._asked = 0
        self._at = now
        self.granted = self.denied = 0

    def resize(self, share: float, floor: float) -> None:
        """From now on so much; of what is left no more than that earns."""
        self._share, self._floor = share, floor
        self._left = min(self._left, floor * WINDOW)

    def grant(self, now: float, asked: int) -> bool:
        """Take one. `asked`: how many statements there have been in all."""
        seconds = max(now - self._at, 0.0)
        earned = self._floor * seconds + self._share * max(asked - self._asked, 0)
        age = seconds / WINDOW
        fresh = (1 - exp(-age)) / age if age > _MOMENT else 1.0
        self._left = self._left * exp(-age) + earned * fresh
        self._at, self._asked = max(now, self._at), asked
        if self._left < 1:
            self.denied += 1
            return False
        self._left -= 1
        self.granted += 1
        return True

    def __repr__(self) -> str:
        return f"<Budget {self._left:.0f} left, {self.denied} denied>"
