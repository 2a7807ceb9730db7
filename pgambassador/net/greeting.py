"""What a client is told at its login about its session: the server's parameters, under its own settings.

1. The first client of a pool waits for its first server connection, and gets the server's error if it fails.
2. Each distinct set of settings is tried out once, on a server connection of the pool: a bad value fails the
   login, as it would in PostgreSQL, and bringing a connection into that state later needs no waiting.
3. `application_name` takes any value and is not tried out, unless a server would spell it otherwise.
4. A pool with a memoir does not wait for a first connection when its server is known to be away, and is told
   what was known last. Nothing of that becomes its own: the first connection teaches it all anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from pgambassador.auth.expiry import day
from pgambassador.errors import AmbassadorError, Refused, ServerRefused, Unreachable
from pgambassador.net import patience
from pgambassador.net.lane import Borrower
from pgambassador.protocol.settings import Settings, switch
from pgambassador.wire import build, parse

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.keeper import Keeper
    from pgambassador.net.memoirs import Memoir
    from pgambassador.net.session import Session

log = logging.getLogger(__name__)

BASE = Settings.of({})
# What clients make us remember is bounded in number and size.
_TRIED_MOST = 500
_TRIED_SIZE = 4096
_TRIES = 3

_READING = ("client_encoding", "standard_conforming_strings")


class Words(NamedTuple):
    """The settings as the server spells them, and all ParameterStatus for a client that has them, by
    name and as they are sent."""

    settings: Settings
    told: dict[str, str]
    reports: bytes


def reports_of(told: Mapping[str, str]) -> bytes:
    """ParameterStatus for each."""
    return b"".join(build.parameter_status(name, value) for name, value in told.items())


class Greeting:
    """Belongs to a keeper. `parameters` are the server's own, None before its first connection; `memoir` is
    what was known of them before that, and `remembers` says that a login was answered with it."""

    def __init__(self, keeper: Keeper) -> None:
        self.parameters: dict[str, str] | None = None
        self._keeper = keeper
        self.since = 0.0
        """When the one who has waited longest for the first connection began to."""
        self.memoir: Memoir | None = None
        self.remembers = False
        # Those who wait for it, and whether they can be answered without.
        self._first: dict[asyncio.Future[bool], bool] = {}
        # What was given, as the server spells it, and what else differs from its own.
        self._tried: dict[Settings, dict[str, str]] = {}
        self._spoken: dict[Settings, Words] = {}

    @property
    def waiting(self) -> int:
        """Logins that wait for the first connection."""
        return len(self._first)

    def learn(self, parameters: dict[str, str]) -> None:
        """A server connection has been opened."""
        version = "server_version"
        if self.parameters is None or self.parameters.get(version) != parameters.get(version):
            self._tried.clear()
        if parameters != self.parameters:
            self._spoken.clear()
            self.parameters = parameters
            if not self._keeper.lane.total:
                self.overheard()
        self.remembers = False
        if self.memoir is not None:
            self.memoir.learn(parameters)
            if self.memoir.announced:
                self.memoir.announced = False
                log.info("logins of %s are answered by its server again", self._whose, extra=self._names)
        for future in self._take_first():
            future.set_result(True)

    def overheard(self) -> None:
        """The server says something else than before: each client is told, with an answer of its own."""
        for session in self._keeper.clients:
            session.bereaved = True
        for pool in self._keeper.all():
            pool.lane.part()

    def remind(self) -> None:
        """What was learnt is still so."""
        if self.memoir is not None and self.parameters is not None and self._keeper.lane.total:
            self.memoir.learn(self.parameters)

    def despair(self, error: AmbassadorError) -> None:
        """The first connection cannot be opened."""
        for future, known in self._take_first().items():
            if known and error.passing:
                future.set_result(False)
            else:
                future.set_exception(error.with_traceback(None))

    def away(self) -> None:
        """The server may be: who can be answered without it waits no longer if it is."""
        if not self._is_away(None):
            return
        for future in [each for each, known in self._first.items() if known and not each.done()]:
            future.set_result(False)

    def _take_first(self) -> dict[asyncio.Future[bool], bool]:
        waiting, self._first = self._first, {}
        return {future: known for future, known in waiting.items() if not future.done()}

    def abides(self, session: Session, backend: Backend) -> None:
        """How its text is read stays as a client was told: it may have written down already what it asks."""
        own, state = backend.defaults.values, session.state
        for name in _READING:
            told = session.facts.told.get(name)
            if told is not None and name not in state.values and own.get(name, told) != told:
                session.state = session.state.with_value(name, told)

    async def words(self, settings: Settings) -> Words:
        """For a client that comes with these settings."""
        if self.parameters is None:
            known = self._remembered(settings)
            reached = await self._reached(known=known is not None)
            if not reached and known is not None and self.parameters is None:
                self._remember()
                return known
        assert self.parameters is not None
        if (spoken := self._spoken.get(settings)) is not None:
            if self.memoir is not None and self.memoir.memoirs.on:
                self._note(self.memoir, settings)
            return spoken
        essential, name = _parted(settings)
        told = self.parameters
        if essential is not BASE:
            told = self._told(essential) or await self._try_out(essential)
        if self.memoir is not None and self.memoir.memoirs.on:
            self._note(self.memoir, settings)
        words = _words(essential, name, told)
        if settings.size <= _TRIED_SIZE:
            if len(self._spoken) >= _TRIED_MOST:
                del self._spoken[next(iter(self._spoken))]
            self._spoken[settings] = words
        return words

    async def reached(self) -> None:
        """Wait for the first connection, whatever is known; raises what keeps it from being opened."""
        if self.parameters is None:
            await self._reached(known=False)

    async def _reached(self, *, known: bool) -> bool:
        """The first connection is there, or the server is away and enough is `known` to do without."""
        keeper = self._keeper
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self._first:
            self.since = time.monotonic()
        self._first[future] = known
        keeper.wanted()
        now = time.monotonic()
        error = keeper.refusal(now)
        if known and self._is_away(error):
            self._first.pop(future, None)
            return False
        if error is None and not (keeper.opening or patience.shares(keeper) or keeper.paused):
            error = None if keeper.outage.holds(now) else keeper.last_error
        if error is not None:
            # It has just failed: the reason is known, and asking again at once would only be a storm.
            self._first.pop(future, None)
            raise error.with_traceback(None)
        try:
            return await future
        finally:
            self._first.pop(future, None)

    def _is_away(self, error: AmbassadorError | None) -> bool:
        """Whether that is known already; `error` is what is said to those who come now."""
        keeper = self._keeper
        if error is not None:
            return error.passing
        last = keeper.last_error
        return keeper.outage.since is not None and (last is None or last.passing)

    # What was known before.

    def _remembered(self, settings: Settings) -> Words | None:
        if self.memoir is None:
            return None
        essential, name = _parted(settings)
        told = self.memoir.told(essential)
        return None if told is None else _words(essential, name, told)

    def _remember(self) -> None:
        """A login is answered with that."""
        self.remembers = True
        if self.memoir is not None and not self.memoir.announced:
            self.memoir.announced = True
            log.warning(
                "logins of %s are answered with what its server said of itself on %s",
                self._whose,
                day(self.memoir.at),
                extra=self._names,
            )

    @property
    def notes(self) -> bool:
        """Whether each login is taken note of."""
        return self.memoir is not None and self.memoir.memoirs.on

    def _note(self, memoir: Memoir, settings: Settings) -> None:
        """A client has come with them, and the server takes them."""
        essential, _ = _parted(settings)
        if (differing := self._tried.get(essential)) is not None:
            memoir.note(essential, differing)

    @property
    def _names(self) -> dict[str, str]:
        keeper = self._keeper
        return {"cluster": keeper.cluster, "database": keeper.database, "user": keeper.user}

    @property
    def _whose(self) -> str:
        return "/".join(self._names.values())

    async def _try_out(self, settings: Settings) -> dict[str, str]:
        for _ in range(_TRIES):
            told = await self._try_on(await self._borrow(), settings)
            if told is not None:
                return told
        raise Unreachable("the server connection was lost during the login", hint="Connect again.")

    async def _try_on(self, backend: Backend, settings: Settings) -> dict[str, str] | None:
        """All parameters under these settings; None if the connection is lost, whatever the settings are."""
        if backend.closed:
            return None
        before = backend.state if backend.marked_by is None else None
        queries = switch(before, settings)
        if settings in self._tried or not queries:
            # Somebody else has tried them meanwhile.
            told = self._told(settings) or dict(backend.parameters)
            backend.ask(b"", 0)
            return told
        asked: asyncio.Future[tuple[bytes | None, dict[str, str]]]
        asked = asyncio.get_running_loop().create_future()
        backend.state, backend.marked_by = settings, None

        def done(error: bytes | None) -> None:
            if error is not None:
                # All of it was one statement, so nothing of it holds.
                backend.state = BASE if before is None else before
                backend.marked_by = self if before is None else None
            if not asked.done():
                # By the time that the waiting task runs, the connection may be another client's.
                asked.set_result((error, dict(backend.parameters)))

        backend.ask(queries, 1, done)
        error, told = await asked
        if error == b"":
            return None  # the connection has ended
        if error is not None:
            raise ServerRefused(parse.fields(error))
        if settings.size <= _TRIED_SIZE:
            if len(self._tried) >= _TRIED_MOST:
                del self._tried[next(iter(self._tried))]
            given, own = settings.values, backend.link.parameters
            # What was given stays so whatever the server's own becomes.
            self._tried[settings] = {n: v for n, v in told.items() if n.lower() in given or own.get(n) != v}
        return told

    def _told(self, settings: Settings) -> dict[str, str] | None:
        """All parameters under settings that were tried out."""
        differing = self._tried.get(settings)
        return None if differing is None else {**(self.parameters or {}), **differing}

    async def _borrow(self) -> Backend:
        borrowed: asyncio.Future[Backend | None] = asyncio.get_running_loop().create_future()

        def granted(backend: Backend | None) -> None:
            if not borrowed.done():
                borrowed.set_result(backend)
            elif backend is not None:
                backend.ask(b"", 0)

        borrower = Borrower(granted)
        lane = self._keeper.lane
        lane.borrow(borrower, client=True)
        try:
            backend = await borrowed
        except asyncio.CancelledError:
            lane.forgo(borrower)
            if borrowed.done() and not borrowed.cancelled() and (late := borrowed.result()) is not None:
                late.ask(b"", 0)
            raise
        if backend is None:
            option = patience.limit(self._keeper)
            raise self._keeper.last_error or Refused(
                "no server connection became free to try out the session's settings",
                sqlstate="53300",
                hint=f"Raise {option} or pool.wait_timeout, or look for transactions that stay open.",
            )
        return backend


def _parted(settings: Settings) -> tuple[Settings, str | None]:
    """What has to be tried out, and the name of an application that has not."""
    name = settings.values.get("application_name")
    # A server cuts it to what fits into a name, and writes what cannot be printed in its own way.
    if name is not None and name.isascii() and name.isprintable() and len(name) < 64:
        return settings.without("application_name"), name
    return settings, None


def _words(essential: Settings, name: str | None, told: dict[str, str]) -> Words:
    spelled = dict(essential.values)
    for reported, value in told.items():
        if reported.lower() in spelled:
            spelled[reported.lower()] = value
    if name is not None:
        spelled["application_name"] = name
        told = {**told, "application_name": name}
    return Words(Settings.of(spelled), told, reports_of(told))
