"""How long a pool's clients wait for a server connection, and what those are told who wait too long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, takewhile
from typing import TYPE_CHECKING

from pgambassador.errors import AmbassadorError, Refused, ServerRefused
from pgambassador.net.lane import Waiter
from pgambassador.net.session import Session
from pgambassador.wire import build

if TYPE_CHECKING:
    from pgambassador.net.keeper import Keeper
    from pgambassador.net.lane import Waiter
    from pgambassador.pool.commons import Cap

_WAIT = "pool.wait_timeout"


def look(keeper: Keeper, now: float) -> None:
    """Tell those who have waited for a while, and turn away those who have waited too long."""
    timeout = keeper.config.wait_timeout
    for waiter in keeper.lane.overdue(now):
        if waiter.waiting:
            keeper.wait_timeouts += 1
            error = keeper.last_error or crowded(keeper, waiter.patience, _option(waiter))
            keeper.turn_away(waiter, as_error(error))
    if timeout is not None:
        login = keeper.greeting
        late = login.waiting and now - login.since >= timeout
        if late and not keeper.opening and _obstacle(keeper) is not None:
            login.despair(crowded(keeper, timeout))
    if keeper.config.wait_notice is not None:
        _notify(keeper, now - keeper.config.wait_notice)


def _notify(keeper: Keeper, before: float) -> None:
    for waiter in chain.from_iterable(_before(queue, before) for queue in keeper.lane.queues()):
        if waiter.waiting and isinstance(waiter, Session) and not waiter.facts.told_of_waiting:
            waiter.facts.told_of_waiting = True
            message, hint = _why(keeper)
            waiter.tell(build.notice_response("NOTICE", "00000", message, hint=hint))


def _why(keeper: Keeper) -> tuple[str, str]:
    """What it is that clients wait for, and more about it."""
    if keeper.paused:
        return "the database is paused; waiting until it is resumed", "RESUME on the console does it."
    if not keeper.lane.total and keeper.last_error is not None:
        return "the server is away; waiting for it", keeper.last_error.message
    cap = _obstacle(keeper)
    if cap is not None:
        hint = f"All pools of {cap.what} have {cap.most} ({cap.option})."
    else:
        hint = f"The pool has {keeper.config.size} (pool.size)."
    return "all server connections of the pool are in use; waiting for one", hint


def _option(waiter: Waiter) -> str:
    """Where it is written how long it waits."""
    if waiter.patience != waiter.wait_most:
        return "the statement's hint wait_timeout"
    option: str = waiter.facts.allowance.wait_option if isinstance(waiter, Session) else _WAIT
    return option


def _before(queue: Iterable[Waiter], moment: float) -> Iterator[Waiter]:
    """Who has waited since then."""
    return takewhile(lambda waiter: not (waiter.waiting and waiter.waiting_since > moment), queue)


def crowded(keeper: Keeper, seconds: float, wait_option: str = _WAIT) -> Refused:
    """What is said to who has waited for so long."""
    cap, lane = _obstacle(keeper), keeper.lane
    option = limit(keeper)
    if cap is None:
        waiting = lane.clients_waiting
        detail = f"{lane.total} of {keeper.config.size} are open and in use, {waiting} clients wait."
    else:
        detail = f"All {cap.most} of {cap.what} are in use by its pools."
    return Refused(
        f"no server connection became free within {seconds:g} s",
        sqlstate="53300",
        detail=detail,
        hint=f"Raise {option} or {wait_option}, or look for transactions that stay open.",
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
