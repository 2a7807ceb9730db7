"""Who stands at the door, connected and not logged in: how many there may be, in total and from one place.

1. Nobody is turned away because others stand there: they have shown nothing yet, and who can log in is
   through in a moment. Where it is full, the one who has stood longest makes room, of the same place if that
   has its share, else of the place that has most at the door.
2. Who is on this machine is bounded by the total alone: behind one loopback address are all its programs.
3. A few may always stand there, however small the configuration makes the house.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

FEW: Final = 100
SHARE: Final = 10
"""One place may take up this part of the door."""

Guest = TypeVar("Guest", bound=Hashable)


class Doorway(Generic[Guest]):
    """`most`: how many clients there may be at all."""

    def __init__(self, most: int) -> None:
        self.resize(most)
        self._sites: dict[Guest, str] = {}
        self._crowds: dict[str, dict[Guest, None]] = {}  # in the order in which they came

    def resize(self, most: int) -> None:
        """Nobody has to go at once where it becomes less."""
        self.most = max(most, FEW)
        self.each = max(most // SHARE, FEW)

    def enter(self, guest: Guest, site: str, *, local: bool) -> Guest | None:
        """Somebody has come; who has to go for that, if anybody. That one is not counted any more."""
        crowd = self._crowds.get(site, {})
        full = not local and len(crowd) >= self.each
        if not full and len(self._sites) >= self.most:
            full, crowd = True, max(self._crowds.values(), key=len)
        leaving = next(iter(crowd)) if full else None
        if leaving is not None:
            self.leave(leaving)
        self._sites[guest] = site
        self._crowds.setdefault(site, {})[guest] = None
        return leaving

    def leave(self, guest: Guest) -> None:
        """Somebody has been let in, or has gone; may be said twice."""
        site = self._sites.pop(guest, None)
        if site is None:
            return
        crowd = self._crowds[site]
        del crowd[guest]
        if not crowd:
            del self._crowds[site]

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"<Doorway {len(self)} from {len(self._crowds)} places>"
