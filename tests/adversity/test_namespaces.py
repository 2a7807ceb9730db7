"""Networks that fail as networks do: servers on machines of their own, which only a cable leads to.

The tests are in the ambassador's network namespace, and so are their clients. Each server has one of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.wire import build
from tests.adversity.promises import IN_FORCE, broken
from tests.adversity.scenes import knows, seed
from tests.harness import Ambassador, Wire, wait_until
from tests.harness.ambassador import clean_environment
from tests.harness.ledger import Ledger, Told
from tests.harness.load import Load
from tests.harness.network import Distant, Lan, Machine
from tests.harness.warm import Warm

PATIENT = 30.0
# No drivers in the crowd: psycopg takes a statement for prepared that was lost with its pipeline (26000).
KERNEL = {
    "connect_timeout": "2",
    "tcp_user_timeout": "1000",
    "keepalives_idle": "1",
    "keepalives_interval": "1",
}
ASKED = {"connect_timeout": "2"}
LOSSES = 1.0 + 2.0
"""Seconds until a silent server is given up: `failover.quiet` and `connect_timeout`; `KERNEL` needs less."""
READ = "select count(*) >= 0 from deeds"
Start = Callable[..., Ambassador]


@pytest.fixture(scope="module")
def pairs() -> Iterator[list[Distant]]:
    made: list[Distant] = []
    yield made
    for pair in made:
        pair.stop()


@pytest.fixture
def pair(lan: Lan, workspace: Workspace, pairs: list[Distant]) -> Distant:
    if not pairs or pairs[-1].parted:
        pairs.append(Distant(workspace, lan))
    pairs[-1].fresh()
    return pairs[-1]


@pytest.fixture(scope="module")
def near() -> Iterator[Warm]:
    with Warm(clean_environment()) as made:
        yield made


@pytest.fixture
def start(lan: Lan, near: Warm, ambassador: Start) -> Iterator[Start]:
    """Makes an ambassador from the URLs of its clusters, one database for each. The test is beside it."""

    def make(urls: dict[str, str], **more: Any) -> Ambassador:
        clusters = {
            name: {"url": url, "routing": {"probe": {"interval": "100ms", "timeout": "500ms"}}}
            for name, url in urls.items()
        }
        databases = {name: {"cluster": name, "database": "app"} for name in urls}
        usual = {"pool": {"size": 4, "wait_notice": "off"}, "query_log": {"slow": "off", "errors": False}}
        proxy = ambassador({"clusters": clusters, "databases": databases}, **usual, **more, start=False)
        proxy.warm = near
        proxy.start()
        return proxy

    with lan.space.inside():
        yield make


def judge(ledger: Ledger, server: Postgres) -> None:
    found = server.sql("select key from deeds", database="app").splitlines()
    about = "\n".join((ledger.summary(), *ledger.wrong[:10]))
    print(about)
    assert not ledger.compare(found), (ledger.compare(found)[:10], about)
    assert not ledger.wrong, about
    beyond = ledger.beyond(IN_FORCE)
    assert not beyond, f"{broken(beyond)}\n{about}"


def no_half_dead(lan: Lan, pair: Distant, machine: Machine, address: str = "") -> None:
    """Waits until the machine knows of each connection that leads to it."""
    number = int.from_bytes(socket.inet_aton(address or machine.address), "little")
    end = f"{number:08X}:{pair.primary.port:04X}"

    def known() -> bool:
        ours = {(there, here) for here, there in lan.space.connections() if there == end}
        return bool(ours) and ours <= machine.space.connections()

    wait_until(known, "connections that both ends know of", deadline=PATIENT, poll=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("tcp", [KERNEL, ASKED], ids=["kernel", "asked"])
def test_a_cable_that_is_pulled(tcp: dict[str, str], lan: Lan, pair: Distant, start: Start) -> None:
    """Who is at work is told in time; who reads has an answer of the standby, or when the cable is back."""
    machine = pair.here
    urls = {"app": pair.url(machine, pair.there, **tcp), "lone": pair.url(machine, **tcp)}
    quiet = "15s" if tcp is KERNEL else "1s"
    proxy = start(urls, failover={"quiet": quiet, "hold": "20s"}, breaker={"first_pause": "20s"})
    with contextlib.ExitStack() as stack, Load(proxy, seed(), drivers=0, raw=2) as load:
        ledger = load.ledger
        writer, inside, reader, lone = (
            stack.enter_context(Wire.session(proxy.port, database=database))
            for database in ("lone", "lone", "app", "lone")
        )
        load.everybody(5, "before")
        knows(proxy, reader, READ, "app")
        knows(proxy, lone, READ, "lone")
        ledger.intend("doubtful", "undone")
        ledger.tell(Told.DOUBT, "doubtful")
        inside.ask("begin")
        assert inside.ask("insert into deeds (key) values ('undone')").kinds == "CZ"
        writer.send(build.query("insert into deeds (key) select 'doubtful' from pg_sleep(3)"))
        running = "select count(*) from pg_stat_activity where query like '%doubtful%' and state = 'active'"
        wait_until(lambda: pair.primary.sql(f"{running} and pid <> pg_backend_pid()") == "1", "the write")
        machine.unplug()
        try:
            writer.socket.settimeout(LOSSES + PATIENT / 3)
            answer = writer.until("Z")
            assert (answer.kinds, answer.error.sqlstate) == ("EZ", "08007"), answer
            answer = inside.ask("select 1")
            assert (answer.kinds, answer.error.sqlstate) == ("EZ", "08006"), answer
            assert inside.ask("rollback").kinds == "CZ"
            assert reader.ask(READ).value == "t"
            lone.send(build.query(READ))
            held = "pgambassador_pool_held_clients"
            wait_until(lambda: proxy.metrics().total(held, cluster="lone") >= 1, "who waits")
            assert lone.quiet
        finally:
            machine.plug()
        lone.socket.settimeout(PATIENT)
        assert lone.until("Z").value == "t"
        load.everybody(10, "after", PATIENT)
        for client in (writer, inside, reader, lone):
            assert client.ask("begin").kinds == "CZ"
            assert client.ask("insert into deeds (key) select 'x' where false").kinds == "CZ"
            assert client.ask("commit").kinds == "CZ"
    no_half_dead(lan, pair, machine)
    judge(ledger, pair.primary)


SAYS = {
    "unreachable": ("no route to host", "Check the network"),
    "prohibit": ("permission denied", "route"),
    "blackhole": ("invalid argument", "route"),
}


@pytest.mark.parametrize("kind", SAYS)
def test_a_route_that_leads_nowhere(kind: str, lan: Lan, pair: Distant, start: Start) -> None:
    """Clients are told why, and soon at once; and nobody has to do anything when it is back."""
    reason, remedy = SAYS[kind]
    breaker = {"failures": 3, "first_pause": "30s"}
    proxy = start({"lone": pair.url(pair.here, **KERNEL)}, failover={"hold": "off"}, breaker=breaker)

    def opened() -> bool:
        return bool(proxy.metrics().total("pgambassador_breaker_state", state="open"))

    with Wire.session(proxy.port, database="lone") as client:
        knows(proxy, client, READ, "lone")
        lan.route(kind, pair.here.address)
        try:
            answer = client.ask(READ)
            said = answer.error.fields
            if said["C"] != "57P03":  # which nobody else has brought about yet
                assert (answer.kinds, said["C"]) == ("EZ", "08001"), answer
                assert reason in said["M"] and remedy in said["H"], answer
            wait_until(lambda: client.ask(READ).error.sqlstate == "57P03", "refusals at once")
            assert opened()
            answer = client.ask(READ)
            assert answer.error.sqlstate == "57P03" and reason in answer.error.fields["D"], answer
        finally:
            lan.unroute(kind, pair.here.address)
        wait_until(lambda: client.ask(READ).kinds == "TDCZ", "an answer", deadline=PATIENT, poll=0.1)
        wait_until(lambda: not opened(), "the breaker's end", deadline=PATIENT)
        with Wire.session(proxy.port, database="lone") as other:
            assert other.ask("select 2").value == "2"
    no_half_dead(lan, pair, pair.here)


def test_a_slow_cable(lan: Lan, pair: Distant, start: Start) -> None:
    """What is large takes its time, others are answered meanwhile, and no connection counts as dead."""
    patient = {**KERNEL, "connect_timeout": "10", "tcp_user_timeout": "5000"}
    proxy = start({"lone": pair.url(pair.here, **patient)}, failover={"quiet": "1s"})
    large = "select string_agg(md5(i::text), '') from generate_series(1, 10000) i"
    expected = "".join(hashlib.md5(str(i).encode()).hexdigest() for i in range(1, 10001))
    with (
        Wire.session(proxy.port, database="lone") as client,
        Wire.session(proxy.port, database="lone") as writer,
        Wire.session(proxy.port, database="lone") as other,
    ):
        for what in ("begin", "commit"):  # each has a connection while it is fast
            for each in (client, writer, other):
                assert each.ask(what).kinds == "CZ"
        try:
            pair.here.slow("2mbit")
        except OSError as error:
            pytest.skip(f"no cable can be made slow here: {error}")
        try:
            client.send(build.query(large))
            writer.send(build.query(f"insert into deeds (key) select md5('{expected}')"))
            answered = 0
            while client.quiet:
                assert other.ask("select 'meanwhile'").value == "meanwhile"
                answered += 1
            client.socket.settimeout(PATIENT)
            assert client.until("Z").value == expected
            writer.socket.settimeout(PATIENT)
            assert writer.until("Z").kinds == "CZ"
            assert answered
        finally:
            pair.here.fast()
        digest = hashlib.md5(expected.encode()).hexdigest()
        assert other.ask("select key from deeds").rows == [[digest]]
    metrics = proxy.metrics()
    ended = {key: n for key, n in metrics.items() if key[0].endswith("server_disconnects_total") and n}
    assert not ended, ended
    assert metrics.total("pgambassador_server_connect_failures_total") == 0


def test_an_address_that_moves(lan: Lan, pair: Distant, start: Start) -> None:
    """The primary is cut off and lives on; the standby is promoted and takes its address. Nobody outside a
    transaction sees an error, but for writes that were under way."""
    old, new = pair.here, pair.there
    pair.primary.sql("alter system set synchronous_standby_names = '*'")
    pair.primary.reload()
    state = "select sync_state from pg_stat_replication"
    wait_until(lambda: pair.primary.sql(state) == "sync", "the standby's state", poll=0.05)
    proxy = start({"app": pair.url(old, **KERNEL)}, failover={"hold": "20s"})
    try:
        with Load(proxy, seed(), drivers=0, raw=4) as load:
            load.everybody(10, "before")
            pair.parted = True
            old.drop(old.address)
            pair.standby.sql("alter system set synchronous_standby_names = ''")
            pair.standby.promote()
            new.take(old.address)
            load.everybody(10, "at the new place", PATIENT)
        no_half_dead(lan, pair, new, old.address)
        assert proxy.metrics().total("pgambassador_server_disconnects_total") > 0
    finally:
        pair.primary.stop(immediate=True)
        with contextlib.suppress(OSError):
            new.drop(old.address)
        old.take(old.address)
    judge(load.ledger, pair.standby)
