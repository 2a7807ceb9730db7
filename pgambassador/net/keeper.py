"""One pool at work: the policy behind a lane, and the only one that opens server connections for it.

1. Openings run in parallel, as many as `Plan` allows; each failure goes to the clients that wait when no
   other connection is left to wait for, in the server's own words.
2. A server that is starting up (57P03) is asked again while clients wait, until their own time is up.
3. The session's settings are tried out at login, once for each distinct set, so that bringing a connection
   into that state needs no waiting for its outcome later.
4. Under limits that several pools share nothing is opened without a place from its lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pgambassador.config import Pool
from pgambassador.config.routing import Routing
from pgambassador.errors import AmbassadorError, Refused
from pgambassador.net import patience
from pgambassador.net.backend import Backend
from pgambassador.net.channel import Channel
from pgambassador.net.greeting import BASE, Greeting, starting_up
from pgambassador.net.lane import Borrower, Lane
from pgambassador.net.lease import Lease
from pgambassador.net.link import Link, Upstream
from pgambassador.net.lookout import Lookout
from pgambassador.net.partings import Partings
from pgambassador.net.patience import as_error
from pgambassador.net.routes import Routes
from pgambassador.net.session import Session
from pgambassador.net.sockets import Sockets
from pgambassador.net.statements import Statements
from pgambassador.net.tasks import spawn
from pgambassador.observe.metrics import BUCKETS
from pgambassador.pool.commons import Cap, Commons
from pgambassador.pool.plan import Plan
from pgambassador.protocol.settings import Settings
from pgambassador.wire import build

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.net.branch import Branch

log = logging.getLogger(__name__)


class Keeper(Partings):
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
        commons: Commons | None = None,
        caps: Sequence[Cap] = (),
    ) -> None:
        self.cluster, self.database, self.user = cluster, database, user
        self.config = config
        self.upstream = upstream
        self.statements = statements
        self.statement = statements.statement
        self.departed = departed
        self.vacate = vacate
        self.sockets = sockets
        self.plan = Plan(config.size, config.min_size, config.idle_timeout, config.lifetime)
        self.lane = Lane(self, BUCKETS, config.size, config.mode == "session", config.statements, buffer)
        self.opening = 0
        self.connects = self.connect_failures = self.wait_timeouts = self.cancels = 0
        self.closed: Counter[str] = Counter()
        self.pins = Counter()
        self.last_error: AmbassadorError | None = None
        self.stopping = False
        self.essential = False  # the pool of a URL itself: it is kept, and without it we are not ready
        self.clients: set[Session] = set()
        self.backends: set[Backend] = set()
        self.greeting = Greeting(self)
        self.routes = Routes(self.lane, routing)
        self.carries, self.joins = self.routes.carries, self.routes.joins
        self.lookout = Lookout(self.lane, config.harmless_extensions, self.routes.heed)
        self.branches: dict[Endpoint, Branch] = {}
        self._parting: dict[Backend, asyncio.Task[object]] = {}
        self._retry: asyncio.TimerHandle | None = None
        self.lease = Lease(commons, caps, self) if commons is not None and caps else None

    # Opening.

    def wanted(self) -> None:
        """Somebody waits although the pool is not full."""
        if self.stopping:
            return
        now = time.monotonic()
        lacks = self.lacks(now)
        if lacks and self.lease is not None:
            self.lease.claim()
        else:
            for _ in range(lacks):
                self.begin()
        if self.asked_for and now < self.plan.retry_at and self._retry is None:
            loop = asyncio.get_running_loop()
            self._retry = loop.call_later(self.plan.retry_at - now, self._again)

    @property
    def asked_for(self) -> int:
        """How many wait for a connection."""
        return self.lane.waiting + min(self.greeting.waiting, 1) or int(self.out_of_reach)

    def lacks(self, now: float) -> int:
        """How many connections should begin to be opened now."""
        if self.stopping:
            return 0
        waiting = max(self.asked_for - self.lookout.asking, 0)  # the one that is asked comes back
        return self.plan.openings(waiting=waiting, total=self.lane.total, opening=self.opening, now=now)

    def begin(self) -> None:
        self.opening += 1
        spawn(self._open(), f"open {self.cluster}/{self.database}")

    def yields(self) -> bool:
        """Whether a connection that comes free is closed for another pool's sake."""
        return self.lease is not None and self.lease.yields()

    def _again(self) -> None:
        self._retry = None
        self.wanted()

    async def _open(self) -> None:
        adopted = False
        try:
            try:
                link = await self.upstream.open()
            finally:
                self.opening -= 1
            self.connects += 1
            self.plan.succeeded()
            self.last_error = None
            adopted = self._adopt(link)
        except AmbassadorError as error:
            self._failed(error)
        finally:
            if self.lease is not None and not adopted:
                self.lease.returned()

    def _adopt(self, link: Link) -> bool:
        channel = Channel(self.sockets, link.sock, link.tls, link.incoming, link.outgoing)
        if self.stopping:
            channel.close()
            return False
        backend = Backend(self.sockets, channel, self.lane, link, dict(link.parameters), BASE, link.leftover)
        backend.defaults = Settings.of(link.parameters)
        backend.expires = self.plan.expiry(backend.opened)
        if link.retire_at is not None:
            backend.expires = min(backend.expires, backend.opened + link.retire_at - time.time())
        if backend.closed:
            return False
        self.backends.add(backend)
        if self.lease is not None:
            self.lease.opened(backend, link.sock)
        self.greeting.learn(dict(link.parameters))
        self._receive(backend)
        return True

    def _receive(self, backend: Backend) -> None:
        """A connection has been opened: somebody gets it, when that may be."""
        if self.lookout.knows:
            self.lane.add(backend)
        else:
            self.lane.add(backend, free=False)
            self.lookout.greet(backend)

    def _failed(self, error: AmbassadorError) -> None:
        self.connect_failures += 1
        self.last_error = error
        self.plan.failed(time.monotonic())
        log.warning(
            "cannot open a server connection: %s",
            error.sentence(),
            extra={"cluster": self.cluster, "database": self.database, "user": self.user},
        )
        if self.lane.total == 0 and self.opening == 0 and not starting_up(error):
            self.greeting.despair(error)
            message = as_error(error)
            while (waiter := self.lane.first_waiting()) is not None:
                self.turn_away(waiter, message)
        self.wanted()

    def turn_away(self, waiter: object, message: bytes) -> None:
        if isinstance(waiter, Session):
            waiter.refuse(message)
        elif isinstance(waiter, Borrower):
            self.lane.forgo(waiter)
            waiter.granted_to(None)

    # What the compiled part asks.

    def lost(self, backend: Backend, reason: str) -> None:
        self.closed[reason] += 1
        self.backends.discard(backend)
        if self.lease is not None:
            self.lease.closed(backend)
        log.debug("server connection closed: %s", reason)
        if self.lane.waiting or self.lane.total < self.plan.min_size:
            self.wanted()

    def orphaned(self, session: Session, reason: str) -> None:
        """The server connection died under a client and could not say why."""
        detail = "The transaction or query that was running on it may or may not have been completed."
        self.failed(session, AmbassadorError(reason, sqlstate="08006", detail=detail, hint="Connect again."))

    def failed(self, session: Session, error: AmbassadorError) -> None:
        """Tell a client why its session ends, and end it."""
        session.tell(build.error_response("FATAL", error.sqlstate, error.message, error.detail, error.hint))
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
        self.departed(session, reason)

    # Time passes.

    def tick(self, now: float) -> None:
        """A few times a second: what has waited, idled or lived too long."""
        if self.lease is not None:
            self.lease.tick(now)
        patience.look(self, now)
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
        if self.out_of_reach or (short and self.greeting.parameters is not None):
            self.wanted()

    def inquire(self, now: float) -> None:
        """Ask from time to time what there is in the database."""
        self.lookout.tick(now)
        self.routes.tick(now)

    @property
    def out_of_reach(self) -> bool:
        """Whether it must find out by itself when the server is back: nobody is sent here meanwhile."""
        return self.essential and self.last_error is not None and self.lane.total == 0

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
