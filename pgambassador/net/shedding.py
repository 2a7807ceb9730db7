"""Who goes when too many wait for a server connection: the newest of the lowest priority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgambassador.errors import Refused
from pgambassador.net.patience import as_error
from pgambassador.net.session import Session

if TYPE_CHECKING:
    from pgambassador.net.keeper import Keeper
    from pgambassador.net.lane import Lane


def overflow(keeper: Keeper, session: Session, lane: Lane) -> bytes | None:
    """A session would have to wait in a lane where as many wait as may. What it is told instead; None if it
    may wait, because another one was told so."""
    while lane.waiting >= lane.most_waiting:
        keeper.shed += 1
        victim = lane.newest_below(session.priority)
        if victim is None:
            return as_error(_full(lane))
        if isinstance(victim, Session):
            victim.refuse(as_error(_full(lane, "A client of higher priority was given its place.")))
        else:
            keeper.turn_away(victim, b"")
    return None


def _full(lane: Lane, why: str = "") -> Refused:
    waiting = f"{lane.most_waiting} clients wait for the pool's {lane.limit} connections."
    return Refused(
        "too many clients wait for a server connection",
        sqlstate="53300",
        detail=f"{waiting} {why}".strip(),
        hint="Try again later, or raise pool.max_waiting or pool.size.",
    )
