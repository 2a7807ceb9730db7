"""The part of a pool's policy that opens server connections, and decides who waits for them how long.

1. Openings run in parallel, as many as `Plan` allows, and one by one after a failure. Each takes its turn
   among those of all pools to the same server (`net/approach.py`), and attempts after a failure are within
   its budget.
2. When a server is away, clients without a connection are held (`pool/outage.py`), `max_held` of them; the
   others get the last error at once. What waiting does not mend (a wrong password, a certificate that is not
   accepted) is told at once.
3. While the server's breaker is open whoever is not held is told so at once. Then the pool tries by itself,
   as long as it has clients.
4. A pool that led to a primary is not led to a standby by a name that lags behind: that connection counts as
   failed, until clients are not held any more. Then it is taken for what is wanted.
5. A pool that is paused opens nothing, and lets go of what it has as soon as it is free.
6. Under limits that several pools share nothing is opened without a place from its lease.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

from pgambassador.cluster.probe import IDENTITY, identity
from pgambassador.errors import AmbassadorError, ProtocolViolation, Unreachable
from pgambassador.net import patience
from pgambassador.net.backend import Backend
from pgambassador.net.channel import Channel
from pgambassador.net.greeting import BASE, Greeting
from pgambassador.net.lane import Borrower
from pgambassador.net.partings import Partings
from pgambassador.net.patience import as_error
from pgambassador.net.session import Session
from pgambassador.net.tasks import spawn
from pgambassador.pool.outage import Outage
from pgambassador.protocol.settings import Settings

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.config import Pool
    from pgambassador.config.failover import Failover
    from pgambassador.net.lease import Lease
    from pgambassador.net.link import Link
    from pgambassador.net.sockets import Sockets
    from pgambassador.pool.plan import Plan

log = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds that a client waits for an attempt which it has caused, though nobody is held any more."""
AS_IT_IS = 30.0
"""Seconds after which a standby in the place of a primary is looked up again."""
LOG_EVERY = 10.0
_STANDBY = "in_hot_standby"


class Openings(Partings):
    """`alarm` is called when the server turns out to be away or a standby; `recognises` tells whether a
    connection leads to the primary that is watched, by its endpoint and what `probe.identity` says of it."""

    cluster: str
    database: str
    user: str
    config: Pool
    failover: Failover
    plan: Plan
    greeting: Greeting
    lease: Lease | None
    sockets: Sockets
    outage: Outage
    opening: int
    connects: int
    connect_failures: int
    dismissed: int
    last_error: AmbassadorError | None
    stopping: bool
    essential: bool
    clients: set[Session]
    backends: set[Backend]
    alarm: Callable[[], None] | None = None
    recognises: Callable[[Endpoint, int], bool] | None = None
    paused = False
    _retry: asyncio.TimerHandle | None = None
    _led_to = ""  # a "primary", or whatever there is ("any")
    _dismissing = False
    _told: tuple[str, float] = ("", 0.0)

    # When to open.

    def wanted(self) -> None:
        """Somebody waits although the pool is not full."""
        if self.stopping or self.paused:
            return
        now = time.monotonic()
        if self.outage.since is None and not self.lane.total:
            since = self.upstream.sick_since()
            if since is not None:
                self.outage.failed(since)  # others have found out
                self.greeting.away()
        if self.refusal(now) is not None or self.lane.waiting > self.failover.max_held:
            self._dismiss_soon()
        lacks = self.lacks(now)
        if lacks and self.plan.failures and not self.upstream.may_retry(now):
            self.plan.postpone(now)
            lacks = 0
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

    @property
    def out_of_reach(self) -> bool:
        """Whether it must find out by itself when the server is back: nobody may be waiting meanwhile."""
        if self.last_error is None or self.lane.total:
            return False
        return self.essential or (self.last_error.passing and bool(self.clients))

    def lacks(self, now: float) -> int:
        """How many connections should begin to be opened now."""
        if self.stopping or self.paused:
            return 0
        waiting = max(self.asked_for - self.lookout.asking, 0)  # the one that is asked comes back
        lacks = self.plan.openings(waiting=waiting, total=self.lane.total, opening=self.opening, now=now)
        return lacks if lacks and self.upstream.admits(now, held=self.outage.holds(now)) else 0

    def begin(self) -> None:
        self.opening += 1
        spawn(self._open(), f"open {self.cluster}/{self.database}")

    def yields(self) -> bool:
        """Whether a connection that comes free is closed for another pool's sake."""
        return self.lease is not None and self.lease.yields()

    def _again(self) -> None:
        self._retry = None
        self.wanted()

    def at_once(self) -> None:
        """Something has changed: another attempt may succeed."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self.plan.soon()
        if self.asked_for:
            self.wanted()
        elif not self.opening:
            self.outage.over()

    # How it went.

    async def _open(self) -> None:
        adopted = False
        began = time.monotonic()
        try:
            try:
                link = await self.upstream.open(held=self.outage.holds(began))
            finally:
                self.opening -= 1
            self._check_role(link, time.monotonic())
            self.connects += 1
            self.plan.succeeded()
            self.outage.over()
            self.last_error = None
            adopted = self._adopt(link)
            if self.lane.waiting:
                self.wanted()
        except AmbassadorError as error:
            self._failed(error, began)
        finally:
            if self.lease is not None and not adopted:
                self.lease.returned()

    def _check_role(self, link: Link, now: float) -> None:
        """Unreachable if what was a primary is a standby now; servers since 14 say it at the login."""
        standby = link.parameters.get(_STANDBY)
        if standby == "on" and self._led_to == "primary" and self.upstream.named_once:
            if not self.outage.overdue(now):
                link.close()
                raise Unreachable(
                    f"{link.address} is a standby now",
                    hint="It is asked again, until there is a primary or nobody is held any more.",
                    passing=True,
                )
            log.warning("%s is a standby now, and is used as it is", link.address, extra=self._names())
            soon = time.time() + AS_IT_IS
            link.retire_at = soon if link.retire_at is None else min(link.retire_at, soon)
        if standby == "on":
            self._led_to = "any"
        elif standby is not None and not self._led_to:
            self._led_to = "primary"

    def _adopt(self, link: Link) -> bool:
        channel = Channel(self.sockets, link.sock, link.tls, link.incoming, link.outgoing)
        if self.stopping or self.paused:
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
        recognises = self.recognises
        if recognises is None:
            self._welcome(backend)
            return
        rows: list[bytes] = []

        def done(error: bytes | None) -> None:
            if error is None:
                try:
                    recognises(backend.link.endpoint, identity(rows)[0])
                except ProtocolViolation:
                    log.warning("a server does not tell which one it is", extra=self._names())

        self.lane.add(backend, free=False)
        if not self.lookout.knows:
            self.lookout.greet(backend)
        else:
            backend.ask(IDENTITY, 1, done, rows)

    def _welcome(self, backend: Backend) -> None:
        if self.lookout.knows:
            self.lane.add(backend)
        else:
            self.lane.add(backend, free=False)
            self.lookout.greet(backend)

    def _failed(self, error: AmbassadorError, began: float) -> None:
        now = time.monotonic()
        self.connect_failures += 1
        self.last_error = error
        self.plan.failed(now, passing=error.passing)
        self._log_failure("cannot open a server connection: %s", error, now)
        if error.passing and not self.lane.total:
            self.outage.failed(began)
            self.greeting.away()
            if self.alarm is not None and self.outage.failures == 1:
                self.alarm()
        if self.lane.total == 0 and self.opening == 0 and not (error.passing and self.outage.holds(now)):
            self._dismiss(error)
        self.wanted()

    def _log_failure(self, text: str, error: AmbassadorError, now: float) -> None:
        """The same one not too often."""
        sentence, at = error.sentence(), now
        again = sentence == self._told[0] and now - self._told[1] < LOG_EVERY
        if not again:
            self._told = sentence, at
        log.log(logging.DEBUG if again else logging.WARNING, text, sentence, extra=self._names())

    def _names(self) -> dict[str, str]:
        return {"cluster": self.cluster, "database": self.database, "user": self.user}

    # Who waits.

    def refusal(self, now: float) -> AmbassadorError | None:
        """What is said at once to those who come now, or None: they wait."""
        if self.lane.total or self.paused or self.outage.holds(now):
            return None
        if self.last_error is not None and self.last_error.passing:
            if (shut := self.upstream.shut(now)) is not None:
                return shut
            if self.outage.overdue(now) and now < self.plan.retry_at:
                return self.last_error
        elif self.last_error is None:
            return self.upstream.shut(now)
        return None

    def _dismiss_soon(self) -> None:
        """Once whoever has just begun to wait does wait."""
        if not self._dismissing:
            self._dismissing = True
            self.sockets.call_soon(self._dismiss_now)

    def _dismiss_now(self) -> None:
        self._dismissing = False
        now = time.monotonic()
        error = self.refusal(now)
        if error is not None:
            self._dismiss(error)
        elif self.outage.holds(now) and self.lane.total == 0 and self.last_error is not None:
            message = as_error(self.last_error)
            waiting = [each for each in chain.from_iterable(self.lane.queues()) if each.waiting]
            for waiter in waiting[self.failover.max_held :]:
                self.turn_away(waiter, message)

    def _dismiss(self, error: AmbassadorError) -> None:
        """Nobody waits any longer."""
        self.greeting.despair(error)
        message = as_error(error)
        while (waiter := self.lane.first_waiting()) is not None:
            self.turn_away(waiter, message)

    def turn_away(self, waiter: object, message: bytes) -> None:
        self.dismissed += 1
        if isinstance(waiter, Session):
            waiter.refuse(message)
        elif isinstance(waiter, Borrower):
            self.lane.forgo(waiter)
            waiter.granted_to(None)

    def look_after_waiting(self, now: float) -> None:
        """Turn away whom nobody holds any more."""
        patience.look(self, now)  # type: ignore[arg-type]  # a keeper
        if not (self.asked_for or self.opening or self.clients):
            self.outage.over()  # nobody knows about now
        if self.lane.total or self.paused or self.outage.since is None:
            return
        error = self.last_error or self.refusal(now)
        if error is None:
            return
        if not self.outage.overdue(now):
            most = self.config.wait_timeout
            if most is not None and self.greeting.waiting and now - self.greeting.since >= most:
                self.greeting.despair(error)
            return
        before = now - GRACE if self.opening else now
        if self.greeting.waiting and self.greeting.since <= before:
            self.greeting.despair(error)
        message = as_error(error)
        while (waiter := self.lane.first_waiting()) is not None and waiter.waiting_since <= before:
            self.turn_away(waiter, message)

    # What becomes of those there are.

    def follow(self, leader: Endpoint) -> None:
        """Another server is the primary now: what the one before acknowledges from now on would be lost."""
        for backend in list(self.backends):
            if leader not in (backend.link.endpoint, backend.link.instance):
                backend.close("its server is not the primary any more")
        self._led_to = "primary"
        self.at_once()

    def demoted(self, backend: Backend) -> None:
        """A server has turned out to be a standby: its connections go, and another is looked for."""
        self._led_to = "primary"
        where = backend.link.endpoint
        for each in list(self.backends):
            if each.link.endpoint == where:
                each.retiring = True
        for each in list(self.lane.idle):
            if each.retiring:
                each.close("its server is not the primary any more")
        if self.alarm is not None:
            self.alarm()

    def look_at_roles(self) -> None:
        """Whether a server that was a primary says that it is none any more."""
        for backend in list(self.backends):
            primary = self._led_to == "primary"
            if primary and not backend.retiring and backend.parameters.get(_STANDBY) == "on":
                self.demoted(backend)

    def pause(self) -> None:
        """Let go of all connections as they become free, and open none."""
        self.paused = True
        self.reconnect()

    def resume(self) -> None:
        self.paused = False
        self.at_once()

    def reconnect(self) -> None:
        """Replace all connections: those that are idle now, the others when they come back."""
        for backend in list(self.lane.idle):
            backend.close("by hand")
        for backend in self.backends:
            backend.retiring = True
