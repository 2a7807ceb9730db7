"""What was lost with its server connection before anybody knew whether it only reads.

1. It waits until the catalog of its database is known, and what functions do to their session, and is asked
   again if it proves to read. Else, or if that takes too long, its client is told that nobody knows what
   became of it.
2. Only what may prove to be a read waits: of what certainly writes its client is told at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from pgambassador.net.statements import statement_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgambassador.net.keeper import Keeper
    from pgambassador.net.session import Session

LOOK_EVERY: Final = 0.02
_SOLVED_WITHIN: Final = 5.0


class _Riddle(NamedTuple):
    asked: list[object]
    until: float
    error: bytes


class Riddles:
    """Belongs to an aftermath. `again(session, asked)`: whether that is asked again, as it is known now;
    `asked` is what is known of each statement."""

    def __init__(self, keeper: Keeper, again: Callable[[Session, list[object]], bool]) -> None:
        self._keeper = keeper
        self._again = again
        self._posed: dict[Session, _Riddle] = {}

    def pose(self, session: Session, asked: list[object], error: bytes) -> bool:
        """Whether it may be a read once the catalog is known: then `look_later` at it. In the end its answer
        may be this error."""
        routes, now = self._keeper.routes, time.monotonic()
        circle = routes.circle(session)
        for note in asked:
            decision = None if note is None else circle.verdicts.of(statement_text(note)).decision
            if decision is None or not decision.seems_to_read:
                return False
        if not self._puzzled:
            return False
        self._posed[session] = _Riddle(asked, now + _SOLVED_WITHIN, error)
        routes.needed(now)
        return True

    @property
    def _puzzled(self) -> bool:
        """Whether it is not known what functions do, and soon will be."""
        return not self._keeper.routes.catalog.known or self._keeper.lookout.wonders

    def forget(self, session: Session) -> None:
        """It is told something else, or has gone."""
        self._posed.pop(session, None)

    def look_later(self, session: Session) -> None:
        asyncio.get_running_loop().call_later(LOOK_EVERY, self._look, session)

    def _look(self, session: Session) -> None:
        """Is it known by now?"""
        riddle, now, routes = self._posed.get(session), time.monotonic(), self._keeper.routes
        if riddle is None:
            return
        if self._puzzled and now < riddle.until:
            routes.needed(now)
            self.look_later(session)
            return
        self.forget(session)
        if routes.catalog.known and self._again(session, riddle.asked):
            session.try_again()
        else:
            session.not_again(riddle.error)

    def __contains__(self, session: object) -> bool:
        return session in self._posed

    def __len__(self) -> int:
        return len(self._posed)

    def __repr__(self) -> str:
        return f"<Riddles {len(self)}>"
