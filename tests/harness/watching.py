"""A watch over real servers, in the test's own process: what it has seen, and how to wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pgambassador.cluster.topology import Server, Topology
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.config.routing import Routing
from pgambassador.config.secret import Secret
from pgambassador.config.structs import Cluster
from pgambassador.credentials.registry import keyring_of
from pgambassador.embedded import Postgres
from pgambassador.net.link import Link
from pgambassador.net.origin import Origin
from pgambassador.net.tasks import spawn
from pgambassador.net.watch import Watch
from pgambassador.routing.freshness import NEVER
from tests.harness.servers import USERS, several

HOST = "127.0.0.1"


class Scene:
    """`pictures` and `moves` are all that the watch has told."""

    def __init__(self, *servers: Postgres, user: str = "app", **routing: Any) -> None:
        self.cluster = Cluster(url=Secret(several(*servers, user=user)), routing=Routing(**routing))
        self.user = user
        self.pictures: list[Topology] = []
        self.moves: list[tuple[Endpoint, float]] = []
        self.opened: list[Endpoint] = []
        self.watch: Watch
        self._news = asyncio.Condition()

    @property
    def upstream(self) -> Upstream:
        return self.cluster.upstream()

    async def open(self, endpoint: Endpoint) -> Link:
        """As a pool does it, to this server alone."""
        self.opened.append(endpoint)
        password = USERS[self.user].password.encode()
        upstream = replace(self.upstream, endpoints=(endpoint,), target_session_attrs="any")
        keyring = keyring_of("main", None, lambda user: password, spawn)
        return await Origin(upstream, keyring, database="app", user=self.user).open()

    def changed(self, picture: Topology) -> None:
        assert not self.pictures or picture != self.pictures[-1]
        self.pictures.append(picture)

    def moved(self, endpoint: Endpoint, fresh_until: float) -> None:
        self.moves.append((endpoint, fresh_until))

    @asynccontextmanager
    async def watching(self, **more: Any) -> AsyncIterator[Watch]:
        self.watch = Watch("main", self.cluster, self.open, self.changed, self.moved, **more)
        self.watch.start()
        try:
            yield self.watch
        finally:
            self.watch.stop()
            await asyncio.sleep(0)

    def server(self, server: Postgres) -> Server:
        found = self.watch.topology.at(Endpoint(HOST, server.port))
        assert found is not None
        return found

    def fresh(self, server: Postgres) -> float:
        return self.watch.freshness.fresh_until(Endpoint(HOST, server.port))

    def shows(self, server: Postgres, written: float) -> bool:
        """Whether a read of what was written then may go there."""
        return (
            self.server(server).well
            and self.server(server).role == "standby"
            and written < self.fresh(server)
        )

    async def until(self, condition: Callable[[], object], what: str = "", deadline: float = 15.0) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"{what or condition}: {self.watch!r} {self.watch.topology}"
            await asyncio.sleep(0.002)

    async def settled(self, *standbys: Postgres) -> None:
        """The primary is known, and these are well and fresh."""
        await self.until(
            lambda: (
                self.watch.topology.primary
                and all(self.server(each).well and self.fresh(each) > NEVER for each in standbys)
            ),
            "settled",
        )


async def sql(server: Postgres, text: str) -> str:
    return await asyncio.to_thread(server.sql, text)
