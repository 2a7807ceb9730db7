"""Servers that are found by names, by Patroni and by Aurora, with real servers behind them."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest
import trustme
import uvloop

from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.discovery import AuroraDiscovery, DnsDiscovery, PatroniDiscovery
from pgambassador.config.routing import Probe
from pgambassador.embedded import Postgres, Workspace
from pgambassador.errors import AmbassadorError
from pgambassador.net.discovery.dns import Dns
from pgambassador.net.discovery.patroni import Patroni
from pgambassador.routing.freshness import NEVER
from tests.harness import HBA, populate
from tests.harness.endpoint import Endpoint as Site
from tests.harness.endpoint import Reply, Request
from tests.harness.watching import HOST, Scene

QUICK = Probe(interval=0.2, timeout=2.0)


def run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
    gc.collect()


def at(server: Postgres, host: str = HOST) -> Endpoint:
    return Endpoint(host, server.port)


# --- Patroni ------------------------------------------------------------------------------------------------


class Cluster:
    """The REST interface of a member."""

    def __init__(self) -> None:
        self.members: list[dict[str, Any]] = []
        self.status = 200
        self.mistakes: list[str] = []

    def answer(self, request: Request) -> Reply:
        asked = (request.method, request.path, request.headers.get("accept"), request.body)
        if asked != ("GET", "/cluster", "application/json", b""):
            self.mistakes.append(repr(asked))
        return Reply(self.status, json.dumps({"members": self.members, "scope": "x"}).encode())

    def show(self, *servers: Postgres, host: str = HOST) -> None:
        self.members = [
            {"name": str(n), "role": "replica" if n else "leader", "host": host, "port": server.port}
            for n, server in enumerate(servers)
        ]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    assert not made.mistakes


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, str]:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made, str(tmp_path / "ca.pem")


def test_members_come_and_go(
    primary: Postgres, replica: Postgres, cluster: Cluster, authority: tuple[trustme.CA, str]
) -> None:
    """The URL names one server, Patroni both; later one is at another address."""
    ca, file = authority

    async def main(site: Site) -> None:
        discovery = PatroniDiscovery(urls=(f"https://{HOST}:1", site.url), ca=file, interval=0.1)
        scene = Scene(primary, probe=QUICK, discovery=discovery)
        cluster.show(primary, replica)
        async with scene.watching() as watch:
            await scene.settled(replica)
            assert watch.topology.leader == at(primary)
            # A server that moves: the old address is gone, the new one is new, and fresh by itself.
            cluster.show(primary, replica, host="localhost")
            moved = at(replica, "localhost")
            await scene.until(lambda: watch.topology.leader == at(primary, "localhost"))
            await scene.until(lambda: [each.endpoint for each in watch.topology.standbys] == [moved])
            await scene.until(lambda: watch.freshness.fresh_until(moved) > NEVER)
            assert [value for endpoint, value in scene.moves if endpoint == at(replica)][-1] == NEVER
            pairs = list(zip(scene.pictures, scene.pictures[1:], strict=False))
            gone = [each.endpoint for old, new in pairs for each in new.changed(old).gone]
            assert set(gone) == {at(primary), at(replica)}
            # There was a primary all the time.
            first = next(n for n, each in enumerate(scene.pictures) if each.leader is not None)
            assert all(each.leader is not None for each in scene.pictures[first:])
            # What cannot be found out changes nothing.
            cluster.status = 503
            failures = watch.discovery_failures
            await scene.until(lambda: watch.discovery_failures > failures + 2)
            assert watch.topology.leader == at(primary, "localhost")

    with Site(cluster.answer, ca.issue_cert(HOST)) as site:
        run(main(site))


def test_without_patroni_the_urls_hosts_are_used(primary: Postgres, replica: Postgres) -> None:
    async def main() -> None:
        discovery = PatroniDiscovery(urls=(f"http://{HOST}:1",), interval=0.1)
        scene = Scene(primary, replica, probe=QUICK, discovery=discovery)
        async with scene.watching() as watch:
            await scene.settled(replica)
            assert watch.topology.leader == at(primary)

    run(main())


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(500), "status 500"),
        (Reply(302, headers={"Location": "http://127.0.0.1/"}), "status 302"),
        (Reply(200, b"x" * (1 << 21)), "too long"),
        (Reply(raw=b"SSH-2.0\r\n"), "no answer"),
        (Reply(hold=threading.Event()), "did not answer within"),
        (
            Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", hold=threading.Event()),
            "did not answer",
        ),
    ],
)
def test_a_patroni_that_does_not_answer_well(primary: Postgres, reply: Reply, words: str) -> None:
    async def main(site: Site) -> None:
        scene = Scene(primary)
        source = Patroni(PatroniDiscovery(urls=(site.url,), timeout=0.5), scene.upstream)
        with pytest.raises(AmbassadorError, match=words):
            await source.find({})

    with Site(lambda request: reply) as site:
        run(main(site))
        if reply.hold is not None:
            reply.hold.set()


def test_a_patroni_that_nobody_vouches_for(primary: Postgres, cluster: Cluster) -> None:
    async def main(site: Site) -> None:
        source = Patroni(PatroniDiscovery(urls=(site.url,)), Scene(primary).upstream)
        with pytest.raises(AmbassadorError, match="certificate was not accepted"):
            await source.find({})

    with Site(cluster.answer, trustme.CA().issue_cert(HOST)) as site:
        run(main(site))
    assert not cluster.members


# --- DNS ----------------------------------------------------------------------------------------------------


def test_an_address_that_moves(primary: Postgres, replica: Postgres) -> None:
    """Found by its name, whose certificate it has, at whatever address it is."""
    known = {primary.port: ["127.0.0.1"], replica.port: ["127.0.0.1"]}

    async def lookup(endpoint: Endpoint) -> list[str]:
        assert endpoint.host == "localhost" and not endpoint.hostaddr
        return known[endpoint.port]

    async def main() -> None:
        scene = Scene(primary, replica, probe=QUICK)
        upstream = replace(scene.upstream, endpoints=(at(primary, "localhost"), at(replica, "localhost")))
        source = Dns(DnsDiscovery(interval=0.1, linger=0.5), upstream, lookup=lookup)
        old, new = (Endpoint("localhost", replica.port, address) for address in ("127.0.0.1", "::1"))
        async with scene.watching(source=source) as watch:
            await scene.until(lambda: watch.freshness.fresh_until(old) > NEVER)
            assert watch.topology.leader == Endpoint("localhost", primary.port, "127.0.0.1")
            known[replica.port] = ["::1"]
            await scene.until(lambda: watch.freshness.fresh_until(new) > NEVER)
            both = watch.topology.at(old), watch.topology.at(new)
            assert both[0] is None or (both[1] is not None and both[0].life == both[1].life)
            await scene.until(lambda: watch.topology.at(old) is None)
            assert watch.freshness.fresh_until(old) == NEVER
            assert [each.endpoint for each in watch.topology.standbys] == [new]

    run(main())


@contextmanager
def name_server(lines: list[str]) -> Iterator[int]:
    """Answers one question for one SRV record; its port."""
    asked = "_postgresql._tcp.db.example.com."
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(10)

        def serve() -> None:
            data, peer = sock.recvfrom(4096)
            query = dns.message.from_wire(data)
            assert query.question[0].name.to_text() == asked
            answer = dns.message.make_response(query)
            answer.answer.append(dns.rrset.from_text(asked, 60, "IN", "SRV", *lines))
            sock.sendto(answer.to_wire(), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield int(sock.getsockname()[1])
        finally:
            thread.join()


def test_an_srv_record(primary: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lookup(endpoint: Endpoint) -> list[str]:
        return [{"a.example.com": "10.0.0.1", "b.example.com": "10.0.0.2"}[endpoint.host]]

    async def main(port: int) -> None:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [HOST], port
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
        options = DnsDiscovery(srv="_postgresql._tcp.db.example.com")
        found = await Dns(options, Scene(primary).upstream, lookup=lookup).find({})
        assert [each.endpoint for each in found] == [
            Endpoint("a.example.com", 5432, "10.0.0.1"),
            Endpoint("b.example.com", 5433, "10.0.0.2"),
        ]
        assert [each.weight for each in found] == [30.0, 10.0]

    with name_server(["20 10 5433 b.example.com.", "10 30 5432 a.example.com."]) as port:
        run(main(port))


def test_no_srv_record(primary: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [HOST], 1
        monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
        monkeypatch.setattr("pgambassador.net.discovery.dns.TIMEOUT", 0.5)
        source = Dns(DnsDiscovery(srv="_postgresql._tcp.db.example.com"), Scene(primary).upstream)
        with pytest.raises(AmbassadorError, match="SRV record _postgresql"):
            await source.find({})

    run(main())


# --- Aurora -------------------------------------------------------------------------------------------------

AURORA = """
set allow_system_table_mods = on;
create table public.instances (server_id text, session_id text, replica_lag_in_msec integer, age interval);
grant select on public.instances to public;
create function pg_catalog.aurora_db_instance_identifier() returns text language sql stable as
    $$ select current_setting('cluster_name') $$;
create function pg_catalog.aurora_replica_status(out server_id text, out session_id text,
        out durable_lsn bigint, out replica_lag_in_msec integer, out last_update_timestamp timestamptz)
    returns setof record language sql volatile as
    $$ select server_id, session_id, 1::bigint, replica_lag_in_msec, clock_timestamp() - age
       from public.instances $$;
create or replace function pg_catalog.pg_last_wal_replay_lsn() returns pg_lsn language plpgsql as
    $$ begin raise 'Function pg_last_wal_replay_lsn() is currently not supported for Aurora'; end $$;
"""


def test_aurora(workspace: Workspace) -> None:
    """Servers that say what Aurora's say, and refuse what those refuse."""
    writer = workspace.primary("aurora-1", hba=HBA)
    populate(writer)
    writer.sql(AURORA, database="app")
    reader = writer.replica("aurora-2")

    def says(lag: str, age: str) -> None:
        writer.sql(
            "truncate instances; insert into instances values"
            " ('aurora-1', 'MASTER_SESSION_ID', null, null),"
            f" ('aurora-2', '11111111-aaaa', {lag}, {age})",
            database="app",
        )

    class Way(Scene):
        """Where the instances really are."""

        async def open(self, endpoint: Endpoint) -> Any:
            where = {"aurora-1.x.example": writer, "aurora-2.x.example": reader, "cluster.example": writer}
            return await super().open(at(where[endpoint.host]))

    async def main() -> None:
        discovery = AuroraDiscovery(instances="?.x.example", interval=0.1)
        scene = Way(writer, probe=QUICK, discovery=discovery, max_lag=5.0)
        url = scene.cluster.url.reveal().replace(f"{HOST}:{writer.port}", "cluster.example:5432")
        scene.cluster = type(scene.cluster)(url=type(scene.cluster.url)(url), routing=scene.cluster.routing)
        first, second = Endpoint("aurora-1.x.example"), Endpoint("aurora-2.x.example")
        says("20", "'0.1 s'")
        async with scene.watching() as watch:
            await scene.until(lambda: watch.topology.leader == first)
            await scene.until(lambda: watch.freshness.fresh_until(second) > NEVER)
            assert [each.endpoint for each in watch.topology.servers] == [first, second]
            standby = watch.standbys[second]
            now = asyncio.get_running_loop().time()
            lag = standby.lag(now)
            assert standby.well and lag is not None and lag > 1.0
            says("9000", "'0.1 s'")
            await scene.until(lambda: not watch.standbys[second].well)
            assert watch.standbys[second].server.objection == "it lags more than 5 s"
            says("20", "'60 s'")
            fresh = watch.freshness.fresh_until(second)
            asked = watch.probers[first].probes
            await scene.until(lambda: watch.probers[first].probes > asked + 2)
            assert watch.freshness.fresh_until(second) == fresh
            says("20", "null")
            await scene.until(lambda: not getattr(watch.probers[first].report, "lags", None))
            says("20", "'0.1 s'")
            await scene.until(lambda: watch.standbys[second].well)

    try:
        run(main())
    finally:
        reader.stop(immediate=True)
        writer.stop(immediate=True)
