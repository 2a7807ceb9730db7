"""Who is not read any more, and who has to go, when all clients together hold too much.

1. Up to `soft` everybody is read. Above it nobody who holds much is, until there is room again.
2. Above `hard` clients go, those of the lowest priority first, of these the newest, until there is room.
3. What somebody holds who is not read may never become less: who has waited for `PATIENCE` goes too, in that
   order, and only as many as make as much room again.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

PATIENCE: Final = 10.0
SOFT: Final = 0.75
"""Of the hard bound."""

K = TypeVar("K", bound=Hashable)


class Load(NamedTuple, Generic[K]):
    """What one client holds, in bytes; `since` is when it came."""

    who: K
    weight: int
    priority: int
    since: float


class Relief(NamedTuple, Generic[K]):
    """What to do about it."""

    stop: list[K]
    go: list[K]
    end: list[K]


class Pressure(Generic[K]):
    """`hard` is the bound."""

    def __init__(self, hard: int) -> None:
        self._stopped: dict[K, float] = {}
        self.resize(hard)

    def resize(self, hard: int) -> None:
        self.hard = hard
        self.soft = int(hard * SOFT)

    def relieve(self, held: int, loads: Sequence[Load[K]], now: float) -> Relief[K]:
        """`loads` are those who hold much."""
        there = {load.who for load in loads}
        gone = [who for who in self._stopped if who not in there]
        for who in gone:
            del self._stopped[who]
        if held <= self.soft:
            go = [*gone, *self._stopped]
            self._stopped.clear()
            return Relief([], go, [])
        waited = {who for who, at in self._stopped.items() if now - at >= PATIENCE}
        end = []
        for load in sorted(loads, key=lambda load: (load.priority, -load.since)):
            if held > self.hard or (held > self.soft // 2 and load.who in waited):
                held -= load.weight
                end.append(load.who)
                self._stopped.pop(load.who, None)
        stop = [who for who in there if who not in self._stopped and who not in end]
        self._stopped.update(dict.fromkeys(stop, now))
        return Relief(stop, gone, end)

    def __repr__(self) -> str:
        return f"<Pressure {len(self._stopped)} stopped>"
