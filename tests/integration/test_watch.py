"""A primary and two streaming replicas under watch, as they are paused, stopped, promoted and replaced."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import uvloop
from psycopg import AsyncConnection, Connection

from pgambassador.cluster.probe import IDENTITY, identity
from pgambassador.cluster.topology import Topology
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.routing import Probe
from pgambassador.embedded import Postgres, Workspace
from pgambassador.net.tasks import spawn
from pgambassador.net.watch import Watch
from pgambassador.routing.freshness import NEVER
from tests.harness import HBA, USERS, populate, wait_until
from tests.harness.watching import HOST, Scene, sql
from tests.messages import row

QUICK = Probe(interval=0.2, timeout=1.0)
SELDOM = Probe(interval=60.0, timeout=5.0)
"""What happens happens because somebody wanted it."""


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    gc.collect()  # a socket left open would be a ResourceWarning now


def _reached(server: Postgres, position: str) -> bool:
    return server.sql(f"select pg_last_wal_replay_lsn() >= '{position}'") == "t"


def at(server: Postgres) -> Endpoint:
    return Endpoint(HOST, server.port)


@pytest.fixture(scope="module")
def second(workspace: Workspace, primary: Postgres) -> Postgres:
    return primary.replica(f"second-{len(workspace.servers)}")


@dataclass
class Trio:
    primary: Postgres
    first: Postgres
    second: Postgres

    def scene(self, **routing: Any) -> Scene:
        return Scene(self.primary, self.first, self.second, probe=QUICK, **routing)

    async def synchronise(self) -> None:
        """Both replicas have everything."""
        position = await sql(self.primary, "select pg_switch_wal()") and await sql(
            self.primary, "checkpoint; select pg_current_wal_flush_lsn()"
        )
        for each in (self.first, self.second):
            await asyncio.to_thread(wait_until, partial(_reached, each, position))

    async def repoint(self, server: Postgres, to: Postgres) -> None:
        conninfo = f"host={HOST} port={to.port} user=postgres password={to.password}"
        await sql(server, f"alter system set primary_conninfo = '{conninfo}'")
        await asyncio.to_thread(server.reload)


@pytest.fixture
def trio(workspace: Workspace, request: pytest.FixtureRequest) -> Iterator[Trio]:
    """One of its own, to break."""
    name = f"w{abs(hash(request.node.name)) % 10**8}"
    primary = workspace.primary(name, hba=HBA)
    populate(primary)
    made = Trio(primary, primary.replica(f"{name}-first"), primary.replica(f"{name}-second"))
    yield made
    for server in (made.second, made.first, made.primary):
        server.stop(immediate=True)
        shutil.rmtree(server.data)


def test_roles_are_learnt_from_the_servers(primary: Postgres, replica: Postgres, second: Postgres) -> None:
    async def main() -> None:
        scene = Scene(replica, primary, second)
        async with scene.watching() as watch:
            await scene.settled(replica, second)
            assert watch.topology.primary == scene.server(primary)
            assert watch.topology.standbys == (scene.server(replica), scene.server(second))
            for server in watch.topology.servers:
                assert server.well and server.life and not server.objection
            assert len({server.life for server in watch.topology.servers}) == 3
            assert set(watch.standbys) == {server.endpoint for server in watch.topology.standbys}
            for standby in watch.standbys.values():
                lag = standby.lag(time.monotonic())
                assert lag is not None and lag >= 0

    run(main())


def test_a_paused_replica_shows_nothing_that_is_newer(
    primary: Postgres, replica: Postgres, second: Postgres
) -> None:
    async def main() -> None:
        scene = Scene(primary, replica, second, probe=SELDOM)
        async with scene.watching() as watch:
            await scene.settled(replica, second)
            await sql(primary, "create table paused (n int)")
            await sql(replica, "select pg_wal_replay_pause()")
            await scene.until(lambda: "paused" in replica.sql("select pg_get_wal_replay_pause_state()"))
            try:
                await sql(primary, "insert into paused values (1)")
                written = time.monotonic()
                watch.wanted(written)
                await scene.until(lambda: scene.shows(second, written), "the other replica shows it")
                assert not scene.shows(replica, written)
            finally:
                await sql(replica, "select pg_wal_replay_resume()")
            await scene.until(lambda: scene.shows(replica, written), "the paused replica shows it", 70.0)
            assert await sql(replica, "select n from paused") == "1"
            await sql(primary, "drop table paused")

    run(main())


def test_what_is_called_fresh_shows_the_write(primary: Postgres, replica: Postgres, second: Postgres) -> None:
    """Pairs of a write and a read, each on connections of their own, while one replica stumbles."""

    async def connected(server: Postgres) -> AsyncConnection:
        return await AsyncConnection.connect(server.url(), autocommit=True)

    async def stumble(connection: AsyncConnection) -> None:
        try:
            while True:
                await connection.execute("select pg_wal_replay_pause()")
                await asyncio.sleep(0.03)
                await connection.execute("select pg_wal_replay_resume()")
                await asyncio.sleep(0.03)
        finally:
            await connection.execute("select pg_wal_replay_resume()")

    async def main() -> None:
        scene = Scene(primary, replica, second)
        reads = {replica: 0, second: 0}
        async with scene.watching() as watch, contextlib.AsyncExitStack() as stack:
            await scene.settled(replica, second)
            links = {each: await connected(each) for each in (primary, replica, second)}
            pausing = await connected(replica)
            for link in (*links.values(), pausing):
                stack.push_async_callback(link.close)
            await links[primary].execute("create table pairs (n int)")
            await links[primary].execute("insert into pairs values (0)")
            stumbling = spawn(stumble(pausing), "stumbling")
            try:
                for n in range(1, 401):
                    # Some of them tell the client before they are on disk.
                    commit = "off" if n % 4 == 0 else "on"
                    await links[primary].execute(f"set synchronous_commit = {commit}")
                    await links[primary].execute(f"update pairs set n = {n}")
                    written = time.monotonic()
                    for _ in range(8):
                        for each in reads:
                            if scene.shows(each, written):
                                cursor = await links[each].execute("select n from pairs")
                                assert await cursor.fetchall() == [(n,)]
                                reads[each] += 1
                            else:
                                watch.wanted(time.monotonic())
                        await asyncio.sleep(0.002)
            finally:
                stumbling.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await stumbling
                await links[primary].execute("drop table pairs")
        assert min(reads.values()) > 100, reads

    run(main())


def test_a_replica_that_is_killed_and_comes_back(trio: Trio) -> None:
    async def main() -> None:
        scene = trio.scene()
        async with scene.watching() as watch:
            await scene.settled(trio.first, trio.second)
            before = scene.server(trio.first)
            trio.first.kill()
            await scene.until(lambda: not scene.server(trio.first).well, "it is out")
            assert scene.server(trio.first).role == "standby"
            assert scene.server(trio.second).well and scene.server(trio.primary).well
            await asyncio.to_thread(trio.first.start)
            await scene.until(lambda: scene.server(trio.first).well, "it is back")
            await scene.settled(trio.first)
            assert scene.server(trio.first).life != before.life
            assert (at(trio.first), NEVER) in scene.moves
            assert watch.probers[at(trio.first)].failures >= 1

    run(main())


def test_a_replica_whose_processes_are_started_anew(trio: Trio) -> None:
    """One of them was killed: the postmaster is the same, but what is replayed again may be less than before.
    Of the primary nothing of what was acknowledged is less."""

    async def main() -> None:
        scene = trio.scene()
        async with scene.watching():
            await scene.settled(trio.first)
            before, leader = scene.server(trio.first), scene.server(trio.primary)
            for server in (trio.first, trio.primary):
                (pid,) = (
                    await sql(server, "select pid from pg_stat_activity where usename = 'app'")
                ).splitlines()
                os.kill(int(pid), signal.SIGKILL)
            await scene.until(lambda: scene.server(trio.first).life not in (0, before.life), "another run")
            await scene.settled(trio.first)
            assert (at(trio.first), NEVER) in scene.moves
            assert scene.server(trio.primary).life == leader.life

    run(main())


def test_a_replica_that_hangs(trio: Trio) -> None:
    async def main() -> None:
        scene = trio.scene()
        async with scene.watching():
            await scene.settled(trio.first, trio.second)
            (pid,) = (
                await sql(trio.first, "select pid from pg_stat_activity where usename = 'app'")
            ).splitlines()
            trio.first.freeze()
            os.kill(int(pid), signal.SIGSTOP)
            try:
                await scene.until(lambda: not scene.server(trio.first).well, "it is out")
                assert scene.server(trio.first).objection == "it has not answered within 1 s"
                assert scene.server(trio.second).well
            finally:
                os.kill(int(pid), signal.SIGCONT)
                trio.first.thaw()
            await scene.until(lambda: scene.server(trio.first).well, "it is back")

    run(main())


def test_a_silent_primary_stops_nothing(trio: Trio) -> None:
    async def main() -> None:
        scene = trio.scene(max_lag=1.0)
        async with scene.watching() as watch:
            await scene.settled(trio.first, trio.second)
            before = scene.server(trio.primary)
            await asyncio.to_thread(trio.primary.stop)
            await scene.until(lambda: not scene.server(trio.primary).well, "it is silent")
            assert watch.topology.leader == at(trio.primary)
            fresh = scene.fresh(trio.first)
            asked = watch.probers[at(trio.first)].probes
            await scene.until(lambda: watch.probers[at(trio.first)].probes > asked + 6)  # more than max_lag
            assert fresh == scene.fresh(trio.first) > NEVER
            assert all(scene.server(each).well for each in (trio.first, trio.second))
            await asyncio.to_thread(trio.primary.start)
            await scene.until(lambda: scene.server(trio.primary).well, "it is back")
            after = scene.server(trio.primary)
            assert after.role == "primary" and after.life != before.life
            written = time.monotonic()
            await scene.until(lambda: scene.shows(trio.first, written) and scene.shows(trio.second, written))

    run(main())


@pytest.mark.parametrize("privileged", [True, False])
def test_a_promotion(trio: Trio, privileged: bool) -> None:
    async def main() -> None:
        if privileged:
            await sql(trio.primary, "grant pg_read_all_stats to app")
        await trio.synchronise()
        scene = trio.scene()
        async with scene.watching() as watch:
            await scene.settled(trio.first, trio.second)
            await asyncio.to_thread(trio.primary.stop)
            await asyncio.to_thread(trio.first.promote)
            await scene.until(lambda: watch.topology.leader == at(trio.first), "the other is the primary")
            assert scene.server(trio.first).role == "primary"
            assert scene.fresh(trio.first) == NEVER
            await scene.until(lambda: not scene.server(trio.second).well, "nobody knows whom it follows")
            assert scene.fresh(trio.second) == NEVER
            await trio.repoint(trio.second, trio.first)
            await sql(trio.first, "create table promoted as select 1 as n")
            written = time.monotonic()
            if not privileged:
                await scene.until(
                    lambda: trio.second.sql("select to_regclass('promoted') is not null") == "t"
                )
                assert "timeline 2" in scene.server(trio.second).objection
                await sql(trio.first, "checkpoint")
                await scene.until(
                    lambda: not trio.second.sql("checkpoint") and scene.shows(trio.second, written)
                )
            await scene.until(lambda: scene.shows(trio.second, written), "it follows")
            assert await sql(trio.second, "select n from promoted") == "1"
            # The old one comes back as it was: it is not taken for the primary again.
            await asyncio.to_thread(trio.primary.start)
            await scene.until(lambda: "not the one that counts" in scene.server(trio.primary).objection)
            await asyncio.to_thread(trio.first.stop)
            await scene.until(lambda: not scene.server(trio.first).well)
            asked = watch.probers[at(trio.primary)].probes
            await scene.until(lambda: watch.probers[at(trio.primary)].probes > asked + 2)
            assert watch.topology.leader == at(trio.first)

    run(main())


def test_a_replica_that_stays_behind_the_old_primary(trio: Trio) -> None:
    """Both are alive: what the replica has is not what the new primary has, however much that is."""

    def probed(watch: Watch, before: int) -> bool:
        return watch.probers[at(trio.second)].probes > before

    async def main() -> None:
        await trio.synchronise()
        scene = trio.scene()
        async with scene.watching() as watch:
            await scene.settled(trio.first, trio.second)
            await asyncio.to_thread(trio.first.promote)
            await scene.until(lambda: watch.topology.leader == at(trio.first), "the other is the primary")
            moves = len(scene.moves)
            for n in range(4):
                await sql(trio.primary, f"create table stray{n} as select generate_series(1, 20000)")
                await sql(trio.first, f"create table own{n} as select generate_series(1, 5000)")
                asked = watch.probers[at(trio.second)].probes
                watch.wanted(time.monotonic())
                await scene.until(partial(probed, watch, asked))
                assert not scene.server(trio.second).well
            assert all(
                value == NEVER for endpoint, value in scene.moves[moves:] if endpoint == at(trio.second)
            )

    run(main())


def test_connections_are_recognised(primary: Postgres, replica: Postgres) -> None:
    def who(server: Postgres) -> tuple[int, bool]:
        life, standby = server.sql(IDENTITY[5:-1].decode()).split("|")
        return identity([row(life.encode(), standby.encode())])

    async def main() -> None:
        scene = Scene(primary, replica, probe=SELDOM)
        async with scene.watching() as watch:
            await scene.settled(replica)
            life, standby = who(replica)
            assert standby and watch.recognises(at(replica), life)
            life, standby = who(primary)
            assert not standby and watch.recognises(at(primary), life)
            assert scene.fresh(replica) > NEVER
            # A name that leads elsewhere now: the primary is looked at again, over a new connection.
            opened = scene.opened.count(at(primary))
            assert not watch.recognises(at(primary), life + 1)
            assert scene.fresh(replica) == NEVER
            await scene.until(lambda: scene.opened.count(at(primary)) > opened)
            await scene.settled(replica)
            # A standby that is another than expected is asked at once; what is known of the one stays.
            asked = watch.probers[at(replica)].probes
            assert not watch.recognises(at(replica), life)
            assert scene.fresh(replica) > NEVER
            await scene.until(lambda: watch.probers[at(replica)].probes > asked)
            assert not watch.recognises(Endpoint("elsewhere"), life)

    run(main())


def test_how_often_servers_are_asked(primary: Postgres, replica: Postgres) -> None:
    """Nobody waits: hardly ever. Everybody waits, all the time: often, and not for each of them."""

    async def main() -> None:
        scene = Scene(primary, replica, probe=SELDOM)
        async with scene.watching() as watch:
            await scene.settled(replica)
            began = time.monotonic()
            asked = watch.probers[at(primary)].probes
            for _ in range(100):
                watch.wanted(time.monotonic())
                await asyncio.sleep(0.002)
            took = time.monotonic() - began
            assert 2 < watch.probers[at(primary)].probes - asked <= took / 0.01 + 2
            written = time.monotonic()
            watch.wanted(written)
            await scene.until(lambda: scene.shows(replica, written))
            asked = watch.probers[at(replica)].probes
            await asyncio.sleep(0.1)
            assert watch.probers[at(replica)].probes == asked

    run(main())


def test_a_user_who_may_ask_for_less(workspace: Workspace, trio: Trio) -> None:
    """Without positions there are roles, and what is assumed."""

    async def assuming(scene: Scene, watch: Watch, assumed: float | None) -> None:
        await scene.until(lambda: len(watch.topology.standbys) == 1)
        await scene.until(lambda: watch.topology.leader == at(trio.primary))
        await scene.until(lambda: scene.server(trio.first).well)
        if assumed is None:
            assert scene.fresh(trio.first) == NEVER
        else:
            await scene.until(lambda: scene.fresh(trio.first) > NEVER)
            assert scene.fresh(trio.first) < time.monotonic() - assumed

    async def main() -> None:
        revoke = "; ".join(
            f"revoke execute on function {each} from public"
            for each in ("pg_last_wal_replay_lsn()", "pg_control_system()", "pg_control_checkpoint()")
        )
        for database in ("postgres", "app"):
            await asyncio.to_thread(trio.primary.sql, revoke, database=database)
        await trio.synchronise()
        for assumed in (None, 5.0):
            scene = Scene(
                trio.primary, trio.first, probe=Probe(interval=0.2, timeout=1.0, assumed_lag=assumed)
            )
            async with scene.watching() as watch:
                await assuming(scene, watch, assumed)

    run(main())


def test_who_may_not_log_in(primary: Postgres, replica: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and shows no secret."""

    async def main() -> None:
        scene = Scene(primary, replica, probe=QUICK)
        scene.user = "app_cert"  # who needs a certificate
        async with scene.watching() as watch:
            await scene.until(lambda: all(prober.failures > 2 for prober in watch.probers.values()))
            assert watch.topology.leader is None and watch.topology.standbys == ()
            assert all(server.role == "unknown" and not server.well for server in watch.topology.servers)
            assert all(server.objection for server in watch.topology.servers)

    run(main())
    assert USERS["app"].password not in caplog.text


def test_mistakes_of_those_who_are_told_end_nothing(
    primary: Postgres, replica: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Scene):
        left = 3

        def changed(self, picture: Topology) -> None:
            self.left -= 1
            if self.left >= 0:
                raise RuntimeError("a mistake")
            super().changed(picture)

    async def main() -> None:
        scene = Broken(primary, replica, probe=QUICK)
        async with scene.watching():
            await scene.until(lambda: scene.watch.topology.servers)
            await scene.settled(replica)
            written = time.monotonic()
            await scene.until(lambda: scene.shows(replica, written))
            assert scene.left < 3

    run(main())
    assert "a mistake" in caplog.text


def test_a_connection_that_was_ended_says_nothing_about_its_server(
    primary: Postgres, replica: Postgres, observer: Connection
) -> None:
    end = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"

    def more(scene: Scene, opened: int, probes: int) -> bool:
        return len(scene.opened) > opened and scene.watch.probers[at(primary)].probes > probes

    async def main() -> None:
        scene = Scene(primary, replica, probe=QUICK)
        async with scene.watching() as watch:
            await scene.settled(replica)
            before = len(scene.pictures)
            for _ in range(5):
                opened, probes = len(scene.opened), watch.probers[at(primary)].probes
                assert observer.execute(end).fetchall() == [(True,)]
                await scene.until(partial(more, scene, opened, probes))
            written = time.monotonic()
            await scene.until(lambda: scene.shows(replica, written))
            assert len(scene.pictures) == before

    run(main())


def test_a_process_that_stood_still_blames_nobody(primary: Postgres, replica: Postgres) -> None:
    def more(scene: Scene, probes: int) -> bool:
        return scene.watch.probers[at(replica)].probes > probes + 3

    async def main() -> None:
        scene = Scene(primary, replica, probe=Probe(interval=0.01, timeout=0.3))
        async with scene.watching() as watch:
            await scene.settled(replica)
            before = len(scene.pictures)
            for _ in range(5):
                probes = watch.probers[at(replica)].probes
                time.sleep(0.9)  # noqa: ASYNC251  nothing runs meanwhile
                await scene.until(partial(more, scene, probes))
            assert len(scene.pictures) == before

    run(main())


def test_the_servers_of_this_machine(system_postgres: Postgres) -> None:
    """Of another version, most likely."""

    async def main() -> None:
        other = await asyncio.to_thread(system_postgres.replica, "system-replica")
        scene = Scene(system_postgres, other, probe=QUICK)
        async with scene.watching() as watch:
            await scene.settled(other)
            report = watch.probers[at(system_postgres)].report
            assert report is not None and report.position and report.timeline == 1 and report.system

    run(main())
