"""What of a pool's clients takes too long, and what becomes of it.

1. A statement's time runs from when a server has it. It is ended by a cancel request, and its session goes
   on; until that has arrived nothing that its client sends follows. A server that does not react within
   `GRACE` loses the connection.
2. A transaction or a silence that lasts too long costs the client its session, as PostgreSQL has it. The
   server connection is rolled back and goes to others. A COMMIT, or a write by itself, that is under way then
   may be done all the same, which is said: 08007.
3. Connections at work are looked at a few times a second, clients at rest when their time may be up.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from pgambassador.config import Allowance
from pgambassador.config.timeouts import PREFIX
from pgambassador.errors import Refused
from pgambassador.net.session import Session
from pgambassador.net.statements import statement_text
from pgambassador.net.tasks import spawn
from pgambassador.pool.wheel import Wheel
from pgambassador.protocol.settings import Settings
from pgambassador.routing.decision import said
from pgambassador.wire import build, parse

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.keeper import Keeper

log = logging.getLogger(__name__)

GRACE = 10.0
FORSAKEN_MOST: Final = 0.25
"""Seconds that a read goes on which nobody awaits any more, since all who shared its connection have left."""
_WIDTH: Final = 0.25
_FOR_EVER: Final = 1e300
_WORDS: Final = {
    "transaction": ("25P04", "terminating connection due to transaction timeout"),
    "idle_in_transaction": ("25P03", "terminating connection due to idle-in-transaction timeout"),
    "idle_client": ("57P05", "terminating connection due to idle-session timeout"),
}


class _GivenUp(NamedTuple):
    """What was cancelled: whose it was, which of all that was ever asked there ends it, and when."""

    session: Session | None
    number: int
    at: float


class Timekeeper:
    """Belongs to a keeper; `counts` is what was ended, by the timeout's name, and `unanswered` requests."""

    def __init__(self, keeper: Keeper) -> None:
        self.counts: Counter[str] = Counter({"statement": 0, **dict.fromkeys(_WORDS, 0), "unanswered": 0})
        self._keeper = keeper
        self._resting: Wheel[Session] = Wheel(_WIDTH)
        self._given_up: dict[Backend, _GivenUp] = {}

    def allow(self, session: Session, allowance: Allowance, now: float) -> None:
        """So much a session may take, from now on, unless it has set otherwise."""
        session.facts.granted = allowance
        self.heed(session, now)

    def heed(self, session: Session, now: float) -> None:
        """It may have set how long it may take."""
        allowance = _asked(session.facts.granted, session.state)
        session.facts.allowance = allowance
        session.wait_most = _FOR_EVER if allowance.wait is None else allowance.wait
        limit = allowance.timeouts.idle_client
        if limit is None:
            self._resting.discard(session)
        else:
            self._resting.put(session, now)

    def restated(self, session: Session) -> None:
        """Its settings are others."""
        if _asked(session.facts.granted, session.state) != session.facts.allowance:
            self.heed(session, time.monotonic())

    def left(self, session: Session) -> None:
        self._resting.discard(session)

    def tick(self, now: float) -> None:
        """A few times a second."""
        self._forget(now)
        for backend in list(self._keeper.backends):
            running = backend.running
            if running is not None:
                if backend not in self._given_up:
                    self._busy(backend, *running, now)
            elif isinstance(backend.session, Session) and (backend.transaction != "I" or backend.unsynced):
                self._between(backend.session, backend.begun, now)
        promised = self._keeper.lane.promised
        for session in list(promised):
            if session.promised and not session.closed:
                self._between(session, 0.0, now)
            else:
                promised.discard(session)
        for session in self._resting.due(now):
            self._rest(session, now)

    def _forget(self, now: float) -> None:
        """What was given up is over, or it is with its connection."""
        for backend, (_, number, at) in list(self._given_up.items()):
            if backend.closed or not backend.still_owes(number):
                del self._given_up[backend]
            elif now - at >= GRACE:
                if backend.channel.reading:
                    self.counts["unanswered"] += 1
                    backend.close(
                        f"the server did not react to a cancel request within {GRACE:g} s,"
                        " which was sent because of pgambassador's statement timeout"
                    )
                else:
                    backend.close("its client did not read an answer that took too long")
                del self._given_up[backend]

    def has_given_up(self, session: Session, backend: Backend) -> bool:
        """Whether what it awaits there has taken too long, so that it is not asked again."""
        given_up = self._given_up.get(backend)
        return given_up is not None and given_up.session is session

    def _busy(
        self,
        backend: Backend,
        session: object,
        since: float,
        note: object,
        number: int,
        shared: bool,
        now: float,
    ) -> None:
        if session is None and now - since >= FORSAKEN_MOST:
            self._cancel(backend, None, number, now)
        if not isinstance(session, Session):
            return
        timeouts = session.facts.allowance.timeouts
        if timeouts.transaction is not None and now - (backend.begun or since) >= timeouts.transaction:
            if not session.riding:
                self._end(session, "transaction", timeouts.transaction)
            elif not shared:
                self._give_up(backend, session, number, "transaction", timeouts.transaction, now)
            return
        limit, text = timeouts.statement, statement_text(note)
        if b"pgambassador" in text.lower():
            hint = _hinted(text)
            limit = limit if hint is None else hint
        if limit is None or now - since < limit:
            return
        if session.riding and shared:
            # Whose statement it is cannot be told. They ask again, each for itself.
            backend.scatter()
            self._cancel(backend, None, number, now)
        else:
            self._give_up(backend, session, number, "statement", limit, now)

    def _give_up(
        self, backend: Backend, session: Session, number: int, kind: str, limit: float, now: float
    ) -> None:
        """Cancel what a connection is doing for a client."""
        self.counts[kind] += 1
        why = f"canceling statement due to pgambassador's {kind} timeout of {limit:g} s"
        if session.riding and session.give_up(build.error_response("ERROR", "57014", why)) is None:
            return
        if backend.session is session:
            session.hold()
        backend.give_up(number, why)
        self._cancel(backend, session, number, now)

    def _cancel(self, backend: Backend, session: Session | None, number: int, now: float) -> None:
        self._given_up[backend] = _GivenUp(session, number, now)
        if not backend.cancelling:
            spawn(self._keeper.cancel(backend), "cancel what takes too long")

    def _between(self, session: Session, begun: float, now: float) -> None:
        """A client whose next statement in a transaction is awaited."""
        since, timeouts = session.idle_since, session.facts.allowance.timeouts
        if since is None:
            return
        if timeouts.transaction is not None and now - (begun or since) >= timeouts.transaction:
            self._end(session, "transaction", timeouts.transaction)
        elif timeouts.idle_in_transaction is not None and now - since >= timeouts.idle_in_transaction:
            self._end(session, "idle_in_transaction", timeouts.idle_in_transaction)

    def _rest(self, session: Session, now: float) -> None:
        """A client that may have said nothing for too long."""
        limit, since = session.facts.allowance.timeouts.idle_client, session.idle_since
        backend = session.backend
        if limit is None or session.closed:
            return
        within = backend is not None and (backend.transaction != "I" or backend.unsynced)
        if since is None or within or session.promised:
            self._resting.put(session, now + limit)
        elif now - since < limit:
            self._resting.put(session, since + limit)
        else:
            self._end(session, "idle_client", limit)

    def _end(self, session: Session, kind: str, limit: float) -> None:
        self.counts[kind] += 1
        sqlstate, words = _WORDS[kind]
        facts = session.facts
        log.info(
            "%s",
            words,
            extra={"client": facts.address, "database": facts.database, "user": facts.user},
        )
        own = getattr(facts.granted.timeouts, kind) != limit
        whose = f"the session's {PREFIX}{kind}_timeout" if own else f"pgambassador's timeouts.{kind}"
        hint = f"The limit is {whose}, {limit:g} s for this client."
        if kind == "transaction" and self._keeper.aftermath.may_last(session):
            sqlstate, hint = "08007", f"Look whether it was before it is done again. {hint}"
        session.policy.failed(session, Refused(words, sqlstate=sqlstate, hint=hint))

    def __repr__(self) -> str:
        return f"<Timekeeper {len(self._resting)} at rest, {len(self._given_up)} given up>"


@lru_cache(maxsize=200)
def _asked(granted: Allowance, state: Settings) -> Allowance:
    return granted.asked(state.values)


@lru_cache(maxsize=200)
def _hinted(text: bytes) -> float | None:
    """Seconds that a statement asks for itself, infinity for `off`."""
    return said(parse.decode(text)).timeout
