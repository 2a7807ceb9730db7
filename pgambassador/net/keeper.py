"""One pool at work: the policy behind a lane. How its connections are opened is in `net/openings.py`.

1. The session's settings are tried out at login, once for each distinct set, so that bringing a connection
   into that state needs no waiting for its outcome later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pgambassador.config import Pool
from pgambassador.config.failover import Failover
from pgambassador.config.routing import Routing
from pgambassador.errors import AmbassadorError, Refused
from pgambassador.net.aftermath import Aftermath
from pgambassador.net.backend import Backend
from pgambassador.net.greeting import Greeting
from pgambassador.net.health import Health
from pgambassador.net.lane import Lane
from pgambassador.net.lease import Lease
from pgambassador.net.link import Upstream
from pgambassador.net.lookout import Lookout
from pgambassador.net.openings import Openings
from pgambassador.net.routes import Routes
from pgambassador.net.session import Session
from pgambassador.net.shedding import overflow
from pgambassador.net.sockets import Sockets
from pgambassador.net.statements import Statements
from pgambassador.net.timekeeper import Timekeeper
from pgambassador.observe.metrics import BUCKETS
from pgambassador.pool.commons import Cap, Commons
from pgambassador.pool.outage import Outage
from pgambassador.pool.plan import Plan
from pgambassador.wire import build

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.net.branch import Branch

log = logging.getLogger(__name__)

NOT_KNOWN = "What was under way may or may not have been done."
_BROKEN = ("the server closed the connection unexpectedly", "the connection to the server broke")


class Keeper(Openings):
    """`departed(session, reason)` is called once for each session that has ended."""

    def __init__(
        self,
        *,
        cluster: str,
        database: str,
        user: str,
        config: Pool,
        upstream: Upstream,
        statements: Statements,
        departed: Callable[[Session, str], None],
        vacate: Callable[[bytes], None],
        buffer: int,
        sockets: Sockets,
        routing: Routing = Routing(),  # noqa: B008  it is frozen
        failover: Failover = Failover(),  # noqa: B008  so is this
        commons: Commons | None = None,
        caps: Sequence[Cap] = (),
        renamed: Callable[[Session], None] = lambda session: None,
    ) -> None:
        self.cluster, self.database, self.user = cluster, database, user
        self.config = config
        self.upstream = upstream
        self.statements = statements
        self.statement = statements.statement
        self.departed = departed
        self.vacate = vacate
        self.renamed = renamed
        self.sockets = sockets
        self.failover = failover
        self.plan = Plan(
            config.size,
            config.min_size,
            config.idle_timeout,
            config.lifetime,
            failover.first_pause,
            failover.longest_pause,
        )
        self.outage = Outage(failover.hold, failover.attempts)
        self.health = Health(self, failover.quiet)
        self.lane = Lane(self, BUCKETS, config.size, config.mode == "session", config.statements, buffer)
        if config.wait_timeout is not None:
            self.lane.wait_most = config.wait_timeout
        self.timekeeper = Timekeeper(self)
        self.restated = self.timekeeper.restated
        if config.max_waiting is not None:
            self.lane.most_waiting = config.max_waiting
        self.opening = 0
        self.connects = self.connect_failures = self.wait_timeouts = self.cancels = 0
        self.shed = self.dismissed = 0
        self.closed: Counter[str] = Counter()
        self.pins = Counter()
        self.last_error: AmbassadorError | None = None
        self.stopping = False
        self.essential = False  # the pool of a URL itself: it is kept, and without it we are not ready
        self.clients: set[Session] = set()
        self.backends: set[Backend] = set()
        self.greeting = Greeting(self)
        self.abides, self.overheard = self.greeting.abides, self.greeting.overheard
        self.routes = Routes(self.lane, routing)
        self.carries, self.joins = self.routes.carries, self.routes.joins
        self.discreet = self.routes.discreet
        self.aftermath = Aftermath(self)
        self.bereft, self.refused = self.aftermath.bereft, self.aftermath.refused
        self.later, self.uncertain = self.aftermath.later, self.aftermath.uncertain
        self.lookout = Lookout(self.lane, config.harmless_extensions, self.routes.heed)
        self.branches: dict[Endpoint, Branch] = {}
        self._parting: dict[Backend, asyncio.Task[object]] = {}
        self.lease = Lease(commons, caps, self) if commons is not None and caps else None

    # What the compiled part asks.

    def overflow(self, session: Session, lane: Lane) -> bytes | None:
        return overflow(self, session, lane)

    def lost(self, backend: Backend, reason: str) -> None:
        self.closed[reason] += 1
        self.backends.discard(backend)
        if self.lease is not None:
            self.lease.closed(backend)
        log.debug("server connection closed: %s", reason)
        if reason in _BROKEN and backend.owes:
            self.upstream.broke(backend.link, reason)
        if self.lane.waiting or self.lane.total < self.plan.min_size:
            self.wanted()

    def failed(self, session: Session, error: AmbassadorError) -> None:
        """Tell a client why its session ends, and end it."""
        detail = error.detail
        if detail is None and self.aftermath.may_last(session):
            detail = NOT_KNOWN
        session.tell(build.error_response("FATAL", error.sqlstate, error.message, detail, error.hint))
        session.close(error.message)

    def broke(self, who: Session | Backend, error: Exception) -> None:
        """A mistake of ours: it costs one client, and says so."""
        log.error("internal error in %r", who, exc_info=error)
        if isinstance(who, Session):
            who.spoil()
            self.failed(
                who,
                AmbassadorError(
                    "internal error of pgambassador; the connection cannot be used any more",
                    detail=NOT_KNOWN,
                    hint="Connect again, and report what its log says.",
                ),
            )

    def drained(self, session: Session) -> None:
        self.failed(
            session,
            Refused(
                "terminating connection because pgambassador is shutting down",
                sqlstate="57P01",
                hint="Connect again.",
            ),
        )

    def left(self, session: Session, reason: str) -> None:
        self.clients.discard(session)
        self.timekeeper.left(session)
        self.aftermath.riddles.forget(session)
        self.departed(session, reason)

    # Time passes.

    def refit(self, failover: Failover) -> None:
        """The configuration has changed."""
        self.failover = failover
        self.plan.first_pause, self.plan.longest_pause = failover.first_pause, failover.longest_pause
        self.outage.hold, self.outage.attempts = failover.hold, failover.attempts
        self.health.quiet = failover.quiet

    def tick(self, now: float) -> None:
        """A few times a second: what has waited, idled or lived too long."""
        if self.lease is not None:
            self.lease.tick(now)
        self.timekeeper.tick(now)
        self.look_after_waiting(now)
        self.health.tick(now)
        self.look_at_roles()
        for backend in [b for b in self.lane.idle if b.expires <= now]:
            backend.close("lifetime")
        for backend in self.backends:
            if backend.expires <= now:
                backend.retiring = True
        for backend in list(self.lane.idle):
            if not self.plan.too_idle(freed_at=backend.freed_at, total=self.lane.total, now=now):
                break  # the stack's bottom has been idle longest
            backend.close("idle")
        self.inquire(now)
        short = self.lane.total + self.opening < self.plan.min_size
        waits = self.asked_for > 0 and not self.lane.total  # perhaps for another pool's attempt
        if waits or (short and self.greeting.parameters is not None):
            self.wanted()

    def inquire(self, now: float) -> None:
        """Ask from time to time what there is in the database."""
        self.lookout.tick(now)
        self.routes.tick(now)

    def all(self) -> tuple[Keeper, ...]:
        """It and those on standbys beside it."""
        return (self, *self.branches.values())

    @property
    def unused(self) -> bool:
        """No clients, no connections, none under way."""
        return (
            not (
                self.clients or self.lane.total or self.opening or self.lane.waiting or self.greeting.waiting
            )
            and all(branch.unused for branch in self.branches.values())
            and (self.lease is None or self.lease.unused)
        )

    def retire_idle(self, reason: str) -> None:
        """Close every connection that nobody uses."""
        for backend in list(self.lane.idle):
            backend.close(reason)

    # The end.

    def drain(self) -> None:
        """Let go of clients as soon as nothing of theirs is under way."""
        for session in list(self.clients):
            session.drain()

    def stop(self) -> None:
        """Close everything now."""
        self.stopping = True
        for session in list(self.clients):
            self.drained(session)
        for backend in self.backends - self._parting.keys():
            backend.close("shutdown")

    async def stopped(self, patience: float) -> None:
        """Wait until queries that nobody wants any more have been cancelled."""
        if self._parting:
            await asyncio.wait(list(self._parting.values()), timeout=patience)
        if self.lease is not None:
            self.lease.stop()

    def __repr__(self) -> str:
        return f"<Keeper {self.cluster}/{self.database}/{self.user} {self.lane!r} opening={self.opening}>"
