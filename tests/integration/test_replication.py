"""Replication connections, physical and logical: each on a server connection of its own, outside the pool."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.wire import build
from tests.harness import HBA, Ambassador, Wire, populate, psql, wait_until

Make = Callable[..., Ambassador]


@pytest.fixture(scope="module")
def publisher(workspace: Workspace) -> Postgres:
    server = workspace.primary("publisher", settings={"wal_level": "logical"}, hba=HBA)
    populate(server)
    server.sql("create table sent (i int primary key); create publication ours for table sent")
    return server


@pytest.fixture(scope="module")
def proxy(publisher: Postgres, ambassadors: Make) -> Iterator[Ambassador]:
    """Its pool has one connection, which is taken."""
    process = ambassadors(publisher.url(), pool={"size": 1})
    with psycopg.connect(process.dsn("postgres", "postgres")) as holder:
        holder.execute("select 1")
        yield process


@pytest.fixture
def tool(publisher: Postgres, proxy: Ambassador) -> Callable[..., str]:
    """Runs one of PostgreSQL's programs against the ambassador."""

    def run(program: str, *arguments: str, to: bool = True) -> str:
        where = ("-d", proxy.dsn("postgres", "postgres")) if to else ()
        installation = publisher.installation
        done = subprocess.run(
            [installation.folder / program, *where, *arguments],
            env=installation.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_system_is_identified(proxy: Ambassador, publisher: Postgres) -> None:
    identity = psql(proxy.dsn("postgres", "postgres", replication="database"), "IDENTIFY_SYSTEM")
    system, _, _, database = identity.split("|")
    assert database == "postgres"
    assert system == publisher.sql("select system_identifier from pg_control_system()")


def test_a_base_backup(tool: Callable[..., str], tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    tool("pg_basebackup", "-D", str(backup), "-X", "stream", "-c", "fast")
    tool("pg_verifybackup", str(backup), to=False)


def test_wal_is_received(tool: Callable[..., str], publisher: Postgres, tmp_path: Path) -> None:
    # It begins with the segment that is written now, and stops when it has more than it was asked for.
    end = publisher.sql("create table waste (); select pg_current_wal_insert_lsn()")
    publisher.sql("drop table waste")
    tool("pg_receivewal", "-D", str(tmp_path), "--endpos", end, "--no-loop")
    assert list(tmp_path.iterdir())


def test_changes_are_decoded(tool: Callable[..., str], publisher: Postgres, tmp_path: Path) -> None:
    tool("pg_recvlogical", "--slot", "one", "--create-slot", "-P", "pgoutput")
    publisher.sql("insert into sent values (1001)")
    end = publisher.sql("select pg_current_wal_lsn()")
    file = tmp_path / "changes"
    options = ("-o", "proto_version=1", "-o", "publication_names=ours")
    tool(
        "pg_recvlogical", "--slot", "one", "--start", "--endpos", end, "-f", str(file), "--no-loop", *options
    )
    assert b"1001" in file.read_bytes()


def test_a_subscription(proxy: Ambassador, publisher: Postgres, workspace: Workspace) -> None:
    subscriber = workspace.primary("subscriber", hba=HBA)
    subscriber.sql("create table sent (i int primary key)")
    dsn = proxy.dsn("postgres", "postgres")
    subscriber.sql(f"create subscription theirs connection '{dsn}' publication ours")
    publisher.sql("insert into sent values (1)")
    wait_until(lambda: subscriber.sql("select 1 from sent where i = 1") == "1", "the first row")
    subscriber.sql("alter subscription theirs disable; alter subscription theirs set (slot_name = none)")
    subscriber.sql("drop subscription theirs")
    subscriber.stop()


def test_statements_and_their_cancelling(proxy: Ambassador) -> None:
    dsn = proxy.dsn("postgres", "postgres", replication="database", application_name="walker")
    with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        assert connection.execute("show application_name").fetchone() == ("walker",)
        cancel = threading.Timer(0.2, connection.cancel_safe)
        cancel.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(60)")
        cancel.join()
        assert connection.execute("select 2").fetchone() == (2,)


def test_a_big_answer_to_a_client_that_reads_late_stays_in_the_server(
    proxy: Ambassador, publisher: Postgres
) -> None:
    with Wire(proxy.port, timeout=60.0) as wire:
        wire.login(user="postgres", database="postgres", replication="database")
        pid = wire.ask("select pg_backend_pid()").value
        before = proxy.rss()
        wire.send(build.query("copy (select repeat('x', 1000) from generate_series(1, 50000)) to stdout"))
        waits = f"select wait_event from pg_stat_activity where pid = {pid}"
        wait_until(lambda: publisher.sql(waits) == "ClientWrite", "the server waiting for its client")
        assert proxy.rss() - before < 16 << 20
        assert wire.until("Z").kinds.count("d") == 50_000


def test_who_may_not_replicate_hears_it_from_the_server(publisher: Postgres, ambassador: Make) -> None:
    process = ambassador(publisher.url("app", "app-secret", "app"))
    with Wire(process.port) as wire:
        wire.start(user="app", database="app", replication="database")
        error = wire.rest().error
    assert error.fields["S"] == "FATAL"
    assert error.sqlstate in ("42501", "28000")


def test_a_database_that_is_not_served(publisher: Postgres, ambassador: Make) -> None:
    """Only the connection of a whole server may name any: its tools name `replication` or nothing."""
    process = ambassador(
        {"clusters": {"main": {"url": publisher.url()}}, "databases": {"postgres": {"cluster": "main"}}}
    )
    with Wire(process.port) as wire:
        wire.start(user="postgres", database="other", replication="database")
        assert wire.rest().error.sqlstate == "3D000"
    with Wire(process.port) as wire:
        wire.login(user="postgres", database="replication", replication="true")
        assert wire.ask("IDENTIFY_SYSTEM").rows


@pytest.mark.parametrize(
    ("databases", "physical", "logical"),
    [("all", False, True), ("postgres", False, True), ("replication", True, False), ("other", False, False)],
)
def test_rules_name_replication(
    publisher: Postgres, ambassador: Make, databases: str, physical: bool, logical: bool
) -> None:
    """As in pg_hba.conf."""
    process = ambassador(publisher.url(), auth={"rules": [{"database": databases, "method": "trust"}]})
    for value, let_in in (("true", physical), ("1", physical), ("database", logical)):
        with Wire(process.port) as wire:
            wire.start(user="postgres", database="postgres", replication=value)
            if let_in:
                wire.until("Z")
                assert wire.ask("IDENTIFY_SYSTEM").rows
                continue
            error = wire.until("E").error
        assert error.sqlstate == "28000"
        sentence = 'no entry in auth.rules for replication connection from host "127.0.0.1", user "postgres"'
        assert error.fields["M"].startswith(sentence)
        assert ("database: replication" in error.fields["H"]) == (value != "database")


def own_address() -> str | None:
    """One of this machine that is not loopback; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 1))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def test_without_rules_it_is_for_this_machine(publisher: Postgres, ambassador: Make) -> None:
    """Whoever has a password may have sessions; a copy of everything only by a rule that says so."""
    elsewhere = own_address()
    if elsewhere is None:
        pytest.skip("this machine has no address but loopback")
    users = {"postgres": "x"}
    process = ambassador(publisher.url(), start=False, auth={"method": "scram-sha-256", "users": users})
    process.config["listen"] = [f"0.0.0.0:{process.port}"]
    process.start()
    login = f"port={process.port} user=postgres password=x dbname=postgres"
    for value in ("true", "database"):
        query = "IDENTIFY_SYSTEM"
        assert psql(f"host=127.0.0.1 {login} replication={value}", query)
        said = psql(f"host={elsewhere} {login} replication={value}", query, check=False)
        assert "no entry in auth.rules for replication connection" in said
    assert psql(f"host={elsewhere} {login}", "select 1") == "1"
    process.stop()
    process.config["auth"]["rules"] = [{"database": ["replication", "postgres"], "method": "scram-sha-256"}]
    del process.config["auth"]["method"]
    process.start()
    for value in ("true", "database"):
        assert psql(f"host={elsewhere} {login} replication={value}", "IDENTIFY_SYSTEM")


@pytest.mark.parametrize("value", ["false", "OFF", "of", "f", "n", "0"])
def test_every_word_for_no_is_an_ordinary_session(publisher: Postgres, ambassador: Make, value: str) -> None:
    process = ambassador(
        {"clusters": {"main": {"url": publisher.url()}}, "databases": {"postgres": {"cluster": "main"}}}
    )
    with Wire(process.port) as wire:
        wire.start(user="postgres", database="other", replication=value)
        assert wire.rest().error.sqlstate == "3D000"


@pytest.mark.parametrize("value", ["", "o", "maybe", "Database"])
def test_what_is_no_truth_value_is_refused(proxy: Ambassador, value: str) -> None:
    with Wire(proxy.port) as wire:
        wire.start(user="postgres", database="postgres", replication=value)
        assert wire.rest().error.sqlstate == "22023"


def test_it_counts_as_a_client_and_not_among_the_servers_connections(
    publisher: Postgres, ambassador: Make
) -> None:
    """The server does not count it among its connections either, but among its `max_wal_senders`."""
    process = ambassador(
        {"clusters": {"main": {"url": publisher.url(), "max_connections": 1}}},
        databases={"postgres": {"max_connections": 1, "max_clients": 3}},
    )
    start = {"user": "postgres", "database": "postgres"}
    with Wire.session(process.port, **start) as holder:
        holder.ask("begin")
        with (
            Wire.session(process.port, **start, replication="database") as one,
            Wire.session(process.port, **start, replication="true") as two,
            Wire(process.port) as late,
        ):
            assert one.ask("IDENTIFY_SYSTEM").rows
            assert two.ask("IDENTIFY_SYSTEM").rows
            late.start(**start, replication="database")
            error = late.until("E").error
            assert error.sqlstate == "53300"
            assert "databases.postgres.max_clients" in error.fields["H"]
        holder.ask("commit")
        assert holder.ask("select 1").value == "1"


def test_shutting_down_does_not_wait_for_it(publisher: Postgres, ambassador: Make) -> None:
    process = ambassador(publisher.url(), drain_timeout="1h")
    with Wire(process.port) as wire:
        wire.login(user="postgres", database="postgres", replication="database")
        assert process.drain() == 0
        assert wire.rest() == []


def test_its_end_is_the_end_of_its_server_connection(proxy: Ambassador, publisher: Postgres) -> None:
    count = "select count(*) from pg_stat_activity where backend_type = 'walsender'"
    with Wire(proxy.port) as wire:
        wire.login(user="postgres", database="postgres", replication="database")
        pid = wire.ask("select pg_backend_pid()").value
        assert publisher.sql(f"{count} and pid = {pid}") == "1"
    wait_until(lambda: publisher.sql(f"{count} and pid = {pid}") == "0", "the walsender's end")


def test_the_servers_end_is_the_clients(proxy: Ambassador, publisher: Postgres) -> None:
    with Wire(proxy.port) as wire:
        wire.login(user="postgres", database="postgres", replication="database")
        pid = wire.ask("select pg_backend_pid()").value
        publisher.sql(f"select pg_terminate_backend({pid})")
        answer = wire.rest()
        assert answer.error.sqlstate == "57P01"


@pytest.mark.parametrize(
    "start",
    [
        {"options": "-c user=boss"},
        {"options": "--user=boss"},
        {"User": "boss"},
        {"options": "-c database=other"},
        {"Database": "other"},
        {"options": "-c replication=true"},
        {"options": "-c _pq_.option=1"},
    ],
    ids=str,
)
def test_nobody_chooses_who_logs_in_at_the_server(proxy: Ambassador, start: dict[str, str]) -> None:
    """What is in a start packet under another name, or in its options, is a parameter, and there is none."""
    asked = {"user": "postgres", "database": "postgres", "replication": "database", **start}
    with Wire(proxy.port) as wire:
        wire.send(build.startup_message(asked))
        assert wire.until("E").error.sqlstate == "42704"
