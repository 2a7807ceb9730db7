"""Which pool a client belongs to, and what it may take of it: found once for all that give the same names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pgambassador.config import Allowance

if TYPE_CHECKING:
    from pgambassador.net.keeper import Keeper

Given = tuple[tuple[str, str], ...]
Lodging = tuple["Keeper", Allowance]
SIZE = 1000


class Lodger(NamedTuple):
    """`name` is what it calls itself, `user` who it is on the server; `given`: see `Settings.divided`."""

    database: str
    name: str
    user: str
    given: Given


class Lodgings:
    """`find` may make a pool; `clear` when what it finds may be another."""

    def __init__(self, find: Callable[[Lodger], Lodging]) -> None:
        self._find = find
        self._known: dict[Lodger, Lodging] = {}
        self.last: Lodging | None = None
        """Somebody's: who is not known can be given as much work as who is."""

    def known(self, lodger: Lodger) -> Lodging | None:
        """If such a client has been here: nothing is made for who has shown nothing yet."""
        return self._known.get(lodger)

    def of(self, lodger: Lodger) -> Lodging:
        """For one who has shown who it is."""
        found = self._known.get(lodger)
        if found is None:
            found = self._find(lodger)
            if len(self._known) >= SIZE:
                self._known.clear()
            self._known[lodger] = found
        self.last = found
        return found

    def clear(self) -> None:
        self._known.clear()
        self.last = None

    def __repr__(self) -> str:
        return f"<Lodgings {len(self._known)}>"
