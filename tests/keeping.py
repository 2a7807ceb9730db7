"""A keeper at work without a clock, a network or a server: openings succeed and fail when a test says so."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from pgambassador.cluster.upstream import Endpoint
from pgambassador.config import Pool
from pgambassador.config.failover import Failover
from pgambassador.config.routing import Routing
from pgambassador.errors import AmbassadorError
from pgambassador.net.greeting import BASE, Words
from pgambassador.net.keeper import Keeper
from pgambassador.net.link import Link
from pgambassador.net.session import Session
from pgambassador.net.statements import Statements
from pgambassador.pool.commons import Cap, Commons
from pgambassador.protocol.settings import Settings
from pgambassador.protocol.suspects import QUERY
from tests.loop import Loop
from tests.messages import IDLE, complete, row
from tests.playbook import Client, Playbook, Server

PARAMETERS = {"server_version": "18.0", "TimeZone": "UTC", "application_name": "", "DateStyle": "ISO, MDY"}

AT_ONCE = Failover(hold=None)


class Upstream:
    """Hands out what a test opens."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.openings: list[asyncio.Future[Link]] = []
        self.cancels: list[tuple[Link, asyncio.Future[None]]] = []
        self.knocks: list[asyncio.Future[bool]] = []
        self.broken: list[str] = []
        self.admitting = self.affordable = True
        self.closed: AmbassadorError | None = None
        self.sick: float | None = None
        self.named_once = True

    async def open(self, *, held: bool = False) -> Link:
        opening = self._loop.create_future()
        self.openings.append(opening)
        return await opening

    def prefer(self, endpoint: object) -> None: ...

    def admits(self, now: float, *, held: bool) -> bool:
        return self.admitting

    def shut(self, now: float) -> AmbassadorError | None:
        return self.closed

    def may_retry(self, now: float) -> bool:
        return self.affordable

    def sick_since(self) -> float | None:
        return self.sick

    def broke(self, link: Link, why: str) -> None:
        self.broken.append(why)

    async def knock(self, link: Link) -> bool:
        knock = self._loop.create_future()
        self.knocks.append(knock)
        return await knock

    def begin_like(self, parameters: Mapping[str, str]) -> None: ...

    async def cancel(self, link: Link) -> None:
        cancel = self._loop.create_future()
        self.cancels.append((link, cancel))
        await cancel


def says_what_hides(sock: socket.socket, *found: bytes) -> None:
    """A pool's first connection is asked for functions that change their sessions; this is its answer."""
    try:
        if sock.recv(len(QUERY), socket.MSG_PEEK) == QUERY:
            sock.recv(len(QUERY))
            failed = any(each.startswith(b"E") for each in found)
            sock.send(b"".join((*found, b"" if failed else complete("SELECT"), IDLE)))
    except OSError:
        pass  # it is not asked


class Keeping(Playbook):
    """`opens` and `fails` end the oldest opening; `ticks` lets the keeper look at what has become old."""

    def __init__(
        self,
        *,
        piece: int = 0,
        loop: Loop | None = None,
        commons: Commons | None = None,
        caps: Sequence[Cap] = (),
        failover: Failover = AT_ONCE,
        **pool: Any,
    ) -> None:
        loop = loop or Loop()
        self.upstream = Upstream(loop)
        self.vacated: list[bytes] = []
        self.departed: list[tuple[Session, str]] = []
        self.config = Pool(**{"size": 1, **pool})
        self.keeper = Keeper(
            cluster="main",
            database="shop",
            user="app",
            config=self.config,
            upstream=self.upstream,
            statements=Statements(),
            departed=lambda session, reason: self.departed.append((session, reason)),
            vacate=self.vacated.append,
            buffer=65536,
            sockets=cast(Any, loop),
            commons=commons,
            caps=caps,
            routing=Routing(batching=False),
            failover=failover,
        )
        super().__init__(piece=piece, policy=self.keeper, lane=self.keeper.lane, loop=loop)

    def client(self, state: object = BASE, **options: Any) -> Client:
        client = super().client(state, **options)
        client.session.facts.told = dict(PARAMETERS)
        self.keeper.clients.add(client.session)
        return client

    def opens(
        self,
        parameters: Mapping[str, str] = PARAMETERS,
        *,
        early: bytes = b"",
        hides: Sequence[bytes] | None = (),
        retire_at: float | None = None,
    ) -> Server:
        """The oldest opening succeeds; `hides`: what is found if it is asked for functions."""
        before = set(self.keeper.backends)
        sock = self.connects(parameters, early=early, hides=hides, retire_at=retire_at)
        (backend,) = self.keeper.backends - before
        return Server(self, sock, backend)

    def connects(
        self,
        parameters: Mapping[str, str] = PARAMETERS,
        *,
        early: bytes = b"",
        hides: Sequence[bytes] | None = (),
        retire_at: float | None = None,
    ) -> socket.socket:
        """The oldest opening succeeds, whatever becomes of it: the server's end, silent without `hides`."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        link = SimpleNamespace(
            sock=ours,
            tls=None,
            incoming=None,
            outgoing=None,
            address=f"server{len(self.peers)}",
            endpoint=Endpoint("db.example"),
            instance=None,
            close=ours.close,
            parameters=dict(parameters),
            leftover=early,
            retire_at=retire_at,
            pid=1,
        )
        self.upstream.openings.pop(0).set_result(cast(Link, link))
        self.loop.run()
        if hides is not None:
            says_what_hides(theirs, *hides)
            self.loop.run()
        return theirs

    def fails(self, error: AmbassadorError) -> None:
        """The oldest opening fails."""
        self.upstream.openings.pop(0).set_exception(error)
        self.loop.run()

    def surveys(self, server: Server, asked: bytes, **found: str | None) -> None:
        """The server is asked what its client has set, and says it."""
        rows = [
            row(name.replace("__", ".").encode(), None if value is None else value.encode().hex().encode())
            for name, value in found.items()
        ]
        server.answers(asked, *rows, complete("SELECT"), IDLE)

    def ticks(self, later: float = 0.0) -> None:
        """The keeper looks around, so many seconds from now."""
        self.does(lambda: self.keeper.tick(time.monotonic() + later))

    def does(self, call: Callable[[], object]) -> None:
        """Within the loop, as everything is in a process that runs."""
        self.loop.call_soon(call)
        self.loop.run()

    def greets(self, settings: Settings = BASE) -> asyncio.Task[Words]:
        """A login wants to know what to tell its client."""
        task = self.loop.create_task(self.keeper.greeting.words(settings))
        self.loop.run()
        return task

    def end(self) -> None:
        for opening in self.upstream.openings:
            opening.cancel()
        super().end()
