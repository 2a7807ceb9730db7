"""What one pool knows of its clients' statements: where they may run, and why.

1. A verdict is given on what the database's catalog says of functions and relations. Until that is known, or
   where a function may change its session, a statement needs the primary and shares no connection.
2. The catalog is read through a connection that is free, again after changes that came through this pool and
   after `AGAIN` seconds; verdicts given before are forgotten.
3. Sessions for which the same rules and settings hold share their verdicts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, get_args

from pgambassador.config.routing import Route, RouteRule, Routing
from pgambassador.errors import Refused
from pgambassador.net.lane import Borrower
from pgambassador.net.patience import as_error
from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.protocol.suspects import EVERYBODY, NOBODY, Suspects
from pgambassador.routing.cache import Cache, Shelf
from pgambassador.routing.catalog import NOT_YET, NOTHING_KNOWN, QUERY, Catalog, read
from pgambassador.routing.decision import Decision, Overrides, decide, said
from pgambassador.routing.explanation import wants_replica
from pgambassador.wire import parse

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.lane import Lane
    from pgambassador.net.session import Session
    from pgambassador.protocol.settings import Settings

log = logging.getLogger(__name__)

AGAIN = 300.0
_LOOK_AFTER = 0.004
_WORTH_IT: Final = 50  # statements
_PATIENCE = 5.0
_BEHIND_AGAIN = 1.0
_SOON = 0.25
TOGETHER: Final = 0.001
"""Seconds that the statements of several clients which share a transaction usually take at most."""
SETTING: Final = "pgambassador.route"
_DISCREET: Final = frozenset({"info", "notice", "warning", "error"})
_CIRCLES_MOST: Final = 100
_NO_REPLICA: Final = Refused(
    "no replica is fresh and well enough to answer",
    sqlstate="57P03",
    hint="Ask again, or let reads go to the primary then (routing.without_replica).",
)


class Circle:
    """Sessions for which the same rules and settings hold; `route` is what they have set for themselves."""

    def __init__(self, routes: Routes, rules: tuple[RouteRule, ...], route: Route | None) -> None:
        self._routes = routes
        self.route = route
        own = () if route is None else (RouteRule(route=route),)
        self.overrides = Overrides.of(routes.config.functions, (*own, *rules), routes.config.cache)
        self.verdicts = Verdicts(self._judge)

    def _judge(self, text: bytes) -> Verdict:
        self._routes.judged += 1
        return Verdict(self.decide(text))

    def decide(self, text: bytes) -> Decision:
        """Where a statement goes."""
        suspects, sql = self._routes.suspects, parse.decode(text)
        if suspects is not EVERYBODY and suspects.among(text):
            return replace(SUSPECT, wait_timeout=said(sql).wait_timeout)
        found = decide(sql, self._routes.catalog, self.overrides)
        if suspects is not EVERYBODY:
            return found
        return replace(PUZZLING if found.seems_to_read else SUSPECT, wait_timeout=found.wait_timeout)


SUSPECT: Final = Decision("session", "primary", "may change its session, by what its functions do")
PUZZLING: Final = replace(SUSPECT, reason=f"{NOT_YET}, nor what functions do to their session")
"""What would be a read for all that is known."""


class Routes:
    """Belongs to a keeper, whose database and server user it is about. `judged` counts the statements that
    were not known; its length is how many are."""

    def __init__(self, lane: Lane, config: Routing) -> None:
        self.config = config
        self.catalog: Catalog = NOTHING_KNOWN
        self.suspects: Suspects = NOBODY
        self._lane = lane
        self._circles: dict[tuple[tuple[RouteRule, ...], Route | None], Circle] = {}
        self.judged = 0
        self._read_at: float | None = None
        self._queries = 0
        self._asking = False
        self._asked: Backend | None = None
        self._rows: list[bytes] | None = None
        self._changed = self._distrusted = False
        self.no_replica = as_error(_NO_REPLICA)
        lane.batching = config.batching and not lane.sticky

    @property
    def wanted(self) -> bool:
        """Whether anything depends on what statements do: where there are several servers, or answers kept,
        where many wait, and in every pool that is used, for when a connection dies."""
        lane = self._lane
        if lane.choice is not None or lane.cache is not None or (lane.batching and lane.crowded):
            return True
        return not lane.sticky and lane.queries >= _WORTH_IT

    def keep_in(self, cache: Cache, database: str) -> None:
        """Answers are kept there."""
        self._lane.cache = Shelf(cache, database)

    def circle(self, session: Session) -> Circle:
        """The circle of a session as it is now."""
        facts = session.facts
        values = session.state.values
        route: str | None = values.get(SETTING, "").lower()
        if not self.joins(session.state):
            route = "primary"  # a standby cannot be serializable
        return self.circle_of(facts.user, facts.database, facts.application_name, route or None)

    def circle_of(self, user: str, database: str, application_name: str, route: str | None) -> Circle:
        rules = self.config.rules_for(user, database, application_name)
        key = (rules, next((known for known in get_args(Route) if known == route), None))
        found = self._circles.get(key)
        if found is None:
            if len(self._circles) >= _CIRCLES_MOST:
                self._circles.clear()
            found = self._circles[key] = Circle(self, *key)
        return found

    def joins(self, state: Settings) -> bool:
        """Whether reads of sessions with these settings cannot fail at their end."""
        return state.values.get("default_transaction_isolation", "").lower() != "serializable"

    def discreet(self, state: Settings) -> bool:
        """Whether servers do not tell sessions with these settings what they log, texts included."""
        return state.values.get("client_min_messages", "notice").lower() in _DISCREET

    def carries(self) -> None:
        """Several clients share a connection: look after them."""
        asyncio.get_running_loop().call_later(_LOOK_AFTER, self._look_after)

    def _look_after(self) -> None:
        if self._lane.relieve():
            self.carries()

    # What the database knows.

    def heed(self, suspects: Suspects) -> None:
        """Other functions may change their sessions than before. So it is not known either what they read or
        write, until the catalog has been read again: at once, as nothing goes to standbys meanwhile."""
        same = suspects is not EVERYBODY and suspects.fingerprint == self.suspects.fingerprint
        self.suspects = suspects
        if same:
            self._forget()
            return
        self._distrusted = self._changed = True
        if self._lane.cache is not None:
            self._lane.cache.surprised(time.monotonic())
        self._rows = None
        self._learn(NOTHING_KNOWN)
        self.tick(time.monotonic())

    def changed(self) -> None:
        """Functions or relations have changed."""
        self._changed = True
        if self._lane.cache is not None:
            self._lane.cache.redefined()

    def tick(self, now: float) -> None:
        """From time to time, as long as the pool is used and has a connection to spare."""
        if self._asked is not None and now - (self._read_at or now) > _PATIENCE:
            self._asked.close("a question of pgambassador was not answered")
        if not self.wanted or self._asking:
            return
        old = self._read_at is None or (now - self._read_at >= AGAIN and self._lane.queries != self._queries)
        shelf = self._lane.cache
        # Perhaps another pool's clients have changed something.
        behind = shelf is not None and not shelf.current and now - (self._read_at or 0.0) >= _BEHIND_AGAIN
        if self._changed or old or behind:
            self._asking = True
            if self._lane.idle:
                self._lane.borrow(Borrower(self._granted))
            else:
                self._lane.next_free = self._granted  # who waits for one is a client
            self._read_at, self._queries = now, self._lane.queries

    def needed(self, now: float) -> None:
        """Somebody waits for the catalog."""
        if not self._asking and (self._read_at is None or now - self._read_at >= _SOON):
            self._asking = True
            self._read_at, self._queries = now, self._lane.queries
            self._lane.borrow(Borrower(self._granted))

    def _granted(self, backend: Backend | None) -> None:
        if backend is None:
            self._asking = False
            return
        rows: list[bytes] = []
        shelf = self._lane.cache
        definitions = 0 if shelf is None else shelf.definitions

        def done(error: bytes | None) -> None:
            self._asking = False
            self._asked = None
            if shelf is not None and error != b"":
                shelf.seen = definitions
            if self._distrusted:
                self.tick(time.monotonic())
                return  # of what it says, some may be of the time before
            if error is None:
                if rows != self._rows:
                    self._rows = rows
                    self._learn(read(rows))
            elif error == b"":
                # The connection was lost. If it did not answer, the question is not put again soon.
                self._changed = time.monotonic() - (self._read_at or 0.0) < _PATIENCE
            else:
                self._rows = None
                self._learn(NOTHING_KNOWN)
                log.warning("cannot read the database's catalog: %s", parse.fields(error).get("M", ""))

        self._changed = self._distrusted = False
        self._asked, self._read_at = backend, time.monotonic()
        backend.ask(QUERY, 1, done, rows)

    def _learn(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._lane.together = 0.0 if catalog.serializable else TOGETHER
        self._forget()

    def _forget(self) -> None:
        for circle in self._circles.values():
            circle.verdicts.clear()
        self._lane.part()

    def __len__(self) -> int:
        return sum(len(circle.verdicts) for circle in self._circles.values())


def way_of(session: Session, text: bytes) -> tuple[str, str]:
    """Where a statement that has just been answered ran, and why there, in a word or two; nothing where all
    go one way."""
    keeper, backend = session.policy, session.backend
    if session.recalled:
        decision = keeper.routes.circle(session).verdicts.of(text).decision
        return "cache", "" if decision is None else decision.rule or decision.kind
    if backend is None or keeper.lane.choice is None:
        return "", ""
    at_primary = backend in keeper.backends
    verdict = keeper.routes.circle(session).verdicts.of(text)
    decision = verdict.decision
    if decision is None:
        return "primary" if at_primary else "replica", "not looked at"
    why = decision.rule or decision.kind
    if wants_replica(decision) and at_primary:
        if backend.transaction != "I":
            why = "transaction"
        else:
            why = "no replica" if verdict.read or decision.begins else "a replica refused it"
    elif not at_primary and not wants_replica(decision):
        why = "transaction"
    return "primary" if at_primary else "replica", why
