"""How many may stand at the door, connected and not logged in: in total, and from one place.

1. Who is on this machine is bounded by the total alone: behind one loopback address are all its programs.
2. A few may always come, however small the configuration makes the house.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

FEW: Final = 100
SHARE: Final = 10
"""One place may take up this part of the door."""


class Doorway:
    """`most`: how many clients there may be at all."""

    def __init__(self, most: int) -> None:
        self.most = max(most, FEW)
        self.each = max(most // SHARE, FEW)
        self._from: Counter[str] = Counter()

    def enter(self, site: str, *, local: bool) -> bool:
        """Count somebody who has come, unless there are too many from there."""
        if local:
            return True
        if self._from[site] >= self.each:
            return False
        self._from[site] += 1
        return True

    def leave(self, site: str) -> None:
        """Somebody has been let in, or has gone."""
        if self._from[site] > 1:
            self._from[site] -= 1
        else:
            del self._from[site]

    def __repr__(self) -> str:
        return f"<Doorway {self._from.total()} from {len(self._from)} places>"
