"""Which databases are paused by hand: their pools give connections to nobody, until they are resumed.

1. A pool that is made meanwhile is paused as well.
2. Who pauses may wait until all connections are free; what runs is not ended for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pgambassador.errors import Refused

if TYPE_CHECKING:
    from pgambassador.net.keeper import Keeper

Place = tuple[str, str]
"""A cluster, and the name of a database there."""


class Pausing:
    """`keepers` are the pools of the process: keys begin with their place."""

    def __init__(self, keepers: Mapping[tuple[str, str, str, Any], Keeper]) -> None:
        self.all = False
        self._places: set[Place] = set()
        self._keepers = keepers

    def covers(self, place: Place) -> bool:
        return self.all or place in self._places

    def pause(self, place: Place | None) -> None:
        """A database, or all."""
        if place is None:
            self.all = True
        else:
            self._places.add(place)
        for pool in self._pools(place):
            pool.pause()

    def resume(self, place: Place | None) -> None:
        """A database, or all, those that were paused by name too."""
        if place is None:
            self.all = False
            self._places.clear()
        elif self.all:
            raise Refused("all databases are paused", sqlstate="55000", hint="RESUME lets all of them go.")
        else:
            self._places.discard(place)
        for pool in self._pools(place):
            if pool.paused:
                pool.resume()

    def reconnect(self, place: Place | None) -> None:
        """Replace the connections to a database, or all."""
        for pool in self._pools(place):
            pool.reconnect()

    def unfinished(self, place: Place | None) -> bool:
        """Whether connections of pools that are paused are still in use."""
        return any(pool.paused and pool.lane.total for pool in self._pools(place))

    def note(self) -> str:
        """For people, or "": what is paused."""
        if self.all:
            return "all databases are paused by hand"
        names = ", ".join(sorted(database for _, database in self._places))
        return f"paused by hand: {names}" if names else ""

    def _pools(self, place: Place | None) -> Iterator[Keeper]:
        for key, keeper in list(self._keepers.items()):
            if place is None or key[:2] == place:
                yield from keeper.all()

    def __repr__(self) -> str:
        return f"<Pausing {self.note() or 'nothing'}>"
