"""What a client is told at its login about its session: the server's parameters, under its own settings.

1. The first client of a pool waits for its first server connection, and gets the server's error if it fails.
2. Each distinct set of settings is tried out once, on a server connection of the pool: a bad value fails the
   login, as it would in PostgreSQL, and bringing a connection into that state later needs no waiting.
3. `application_name` takes any value and is not tried out, unless a server would spell it otherwise.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pgambassador.errors import AmbassadorError, Refused, ServerRefused, Unreachable
from pgambassador.net import patience
from pgambassador.net.lane import Borrower
from pgambassador.protocol.settings import Settings, switch
from pgambassador.wire import parse

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.keeper import Keeper

BASE = Settings.of({})
# What clients make us remember is bounded in number and size.
_TRIED_MOST = 500
_TRIED_SIZE = 4096
_TRIES = 3


class Greeting:
    """Belongs to a keeper. `parameters` are the server's own, None before its first connection."""

    def __init__(self, keeper: Keeper) -> None:
        self.parameters: dict[str, str] | None = None
        self._keeper = keeper
        self.since = 0.0
        """When the one who has waited longest for the first connection began to."""
        self._first: list[asyncio.Future[None]] = []
        self._tried: dict[Settings, dict[str, str]] = {}
        self._spoken: dict[Settings, tuple[Settings, dict[str, str]]] = {}

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
        for future in self._take_first():
            future.set_result(None)

    def despair(self, error: AmbassadorError) -> None:
        """The first connection cannot be opened."""
        for future in self._take_first():
            future.set_exception(error.with_traceback(None))

    def _take_first(self) -> list[asyncio.Future[None]]:
        waiting, self._first = self._first, []
        return [future for future in waiting if not future.done()]

    async def words(self, settings: Settings) -> tuple[Settings, dict[str, str]]:
        """The settings as the server spells them, and all ParameterStatus for a client that has them."""
        parameters = self.parameters if self.parameters is not None else await self._server_parameters()
        if settings is BASE:
            return settings, parameters
        if (known := self._spoken.get(settings)) is not None:
            return known
        name = settings.values.get("application_name")
        # A server cuts it to what fits into a name, and writes what cannot be printed in its own way.
        plain = name is not None and name.isascii() and name.isprintable() and len(name) < 64
        essential = settings.without("application_name") if plain else settings
        told = parameters
        if essential is not BASE:
            told = self._tried.get(essential) or await self._try_out(essential)
        spelled = dict(essential.values)
        for reported, value in told.items():
            if reported.lower() in spelled:
                spelled[reported.lower()] = value
        if plain and name is not None:
            spelled["application_name"] = name
            told = {**told, "application_name": name}
        words = Settings.of(spelled), told
        if settings.size <= _TRIED_SIZE:
            if len(self._spoken) >= _TRIED_MOST:
                del self._spoken[next(iter(self._spoken))]
            self._spoken[settings] = words
        return words

    async def _server_parameters(self) -> dict[str, str]:
        if self.parameters is None:
            keeper = self._keeper
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if not self._first:
                self.since = time.monotonic()
            self._first.append(future)
            keeper.wanted()
            now = time.monotonic()
            error = keeper.refusal(now)
            if error is None and not (keeper.opening or patience.shares(keeper) or keeper.paused):
                error = None if keeper.outage.holds(now) else keeper.last_error
            if error is not None:
                # It has just failed: the reason is known, and asking again at once would only be a storm.
                self._first.remove(future)
                raise error.with_traceback(None)
            try:
                await future
            finally:
                if future in self._first:
                    self._first.remove(future)
        assert self.parameters is not None
        return self.parameters

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
            told = self._tried.get(settings) or dict(backend.parameters)
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
            self._tried[settings] = told
        return told

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
