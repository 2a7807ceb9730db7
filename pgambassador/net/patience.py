"""How long a pool's clients wait for a server connection, and what those are told who wait too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgambassador.errors import AmbassadorError, Refused, ServerRefused
from pgambassador.net.session import Session
from pgambassador.wire import build

if TYPE_CHECKING:
    from pgambassador.net.keeper import Keeper
    from pgambassador.pool.commons import Cap


def look(keeper: Keeper, now: float) -> None:
    """Tell those who have waited for a while, and turn away those who have waited too long."""
    lane, timeout = keeper.lane, keeper.config.wait_timeout
    if timeout is not None:
        while (waiter := lane.first_waiting()) is not None:
            if now - waiter.waiting_since < timeout:
                break
            keeper.wait_timeouts += 1
            keeper.turn_away(waiter, as_error(keeper.last_error or crowded(keeper, timeout)))
        login = keeper.greeting
        late = login.waiting and now - login.since >= timeout
        if late and not keeper.opening and _obstacle(keeper) is not None:
            login.despair(crowded(keeper, timeout))
    if keeper.config.wait_notice is not None:
        _notify(keeper, now - keeper.config.wait_notice)


def _notify(keeper: Keeper, before: float) -> None:
    for waiter in keeper.lane.waiters:
        if waiter.waiting and waiter.waiting_since > before:
            break
        if waiter.waiting and isinstance(waiter, Session) and not waiter.facts.told_of_waiting:
            waiter.facts.told_of_waiting = True
            cap = _obstacle(keeper)
            pool = f"The pool has {keeper.config.size} (pool.size)."
            waiter.tell(
                build.notice_response(
                    "NOTICE",
                    "00000",
                    "all server connections of the pool are in use; waiting for one",
                    hint=pool if cap is None else f"All pools of {cap.what} have {cap.most} ({cap.option}).",
                )
            )


def crowded(keeper: Keeper, seconds: float) -> Refused:
    """What is said to who has waited for so long."""
    cap, lane = _obstacle(keeper), keeper.lane
    option = limit(keeper)
    if cap is None:
        detail = f"{lane.total} of {keeper.config.size} are open and in use, {lane.waiting} clients wait."
    else:
        detail = f"All {cap.most} of {cap.what} are in use by its pools."
    return Refused(
        f"no server connection became free within {seconds:g} s",
        sqlstate="53300",
        detail=detail,
        hint=f"Raise {option} or pool.wait_timeout, or look for transactions that stay open.",
    )


def limit(keeper: Keeper) -> str:
    """The option that keeps the pool from growing."""
    cap = _obstacle(keeper)
    return "pool.size" if cap is None else cap.option


def shares(keeper: Keeper) -> bool:
    """Whether it is other pools that it waits for."""
    return _obstacle(keeper) is not None


def _obstacle(keeper: Keeper) -> Cap | None:
    if keeper.lease is None or keeper.lane.total + keeper.opening >= keeper.config.size:
        return None
    return keeper.lease.obstacle


def as_error(error: AmbassadorError) -> bytes:
    """An ErrorResponse that ends a statement, not the session."""
    if isinstance(error, ServerRefused):
        return build.error_response_from({**error.fields, "S": "ERROR", "V": "ERROR"})
    return build.error_response("ERROR", error.sqlstate, error.message, error.detail, error.hint)
