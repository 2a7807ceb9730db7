"""Reads go to standbys that are fresh enough, all else to the primary; where it ran is the server's word."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from tests.harness import Ambassador, Wire, several, wait_until
from tests.messages import SYNC, extended

HERE = "select inet_server_port()"
"""Told to be a function that reads like any other, by the configuration of these tests."""
ROUTING = {"functions": {"read": ["inet_server_port"]}, "probe": {"interval": "200ms", "timeout": "20s"}}
"""A probe that comes late, as it may beside other tests, does not make a replica unwell."""


def cluster(*servers: Postgres, **routing: object) -> dict[str, object]:
    return {"clusters": {"main": {"url": several(*servers), "routing": ROUTING | routing}}}


@pytest.fixture(scope="module")
def proxy(ambassadors: Callable[..., Ambassador], primary: Postgres, replica: Postgres) -> Ambassador:
    made = ambassadors(cluster(primary, replica))
    with client(made) as connection:
        wait_until(lambda: port(connection) == replica.port, "reads reach the replica")
    return made


def client(proxy: Ambassador, **options: object) -> Connection:
    return psycopg.connect(proxy.dsn(user="app", dbname="app"), autocommit=True, **options)  # type: ignore[arg-type]


def port(connection: Connection, sql: LiteralString = HERE, *, prepare: bool | None = None) -> int:
    ((number,),) = connection.execute(sql, prepare=prepare).fetchall()
    return int(number)


@pytest.fixture
def connection(proxy: Ambassador) -> Iterator[Connection]:
    with client(proxy) as made:
        yield made


def test_a_read_runs_on_the_replica(connection: Connection, replica: Postgres) -> None:
    assert port(connection) == replica.port


def test_a_prepared_read_runs_on_the_replica(connection: Connection, replica: Postgres) -> None:
    assert {port(connection, prepare=True) for _ in range(5)} == {replica.port}


def test_a_write_runs_on_the_primary(connection: Connection, primary: Postgres) -> None:
    connection.execute("create table if not exists written (at int)")
    assert port(connection, "insert into written values (1) returning inet_server_port()") == primary.port


def test_a_transaction_runs_on_the_primary(connection: Connection, primary: Postgres) -> None:
    with connection.transaction():
        assert port(connection) == primary.port
        assert port(connection) == primary.port


def test_a_read_only_transaction_runs_on_the_replica_as_a_whole(
    connection: Connection, replica: Postgres
) -> None:
    connection.execute("begin read only")
    assert port(connection) == replica.port
    assert connection.execute("select pg_is_in_recovery()").fetchone() == (True,)
    connection.execute("commit")


def test_a_read_only_transaction_may_begin_in_one_part_with_what_it_reads(
    connection: Connection, proxy: Ambassador, replica: Postgres
) -> None:
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")
    asked = extended(b"begin read only") + extended(HERE.encode())
    with Wire.session(proxy.port) as wire:
        for _ in range(5):
            wire.send(asked, SYNC)
            assert wire.until("Z").value == str(replica.port)
            assert wire.ask("select pg_is_in_recovery()").value == "t"
            assert wire.ask("insert into nowhere values (1)").error.sqlstate in ("25006", "42P01")
            wire.ask("rollback")


def test_read_only_transactions_come_back_to_the_replica_though_they_never_pause(
    connection: Connection, primary: Postgres, replica: Postgres
) -> None:
    connection.execute("create table if not exists before_them (n int)")
    connection.execute("insert into before_them values (1)")
    until = time.monotonic() + 10
    where = primary.port
    while where != replica.port and time.monotonic() < until:
        connection.execute("begin read only")
        where = port(connection)
        connection.execute("commit")
    assert where == replica.port


def test_a_transaction_that_is_made_read_only_first_runs_on_the_replica(
    connection: Connection, replica: Postgres
) -> None:
    connection.execute("begin")
    connection.execute("set transaction read only")
    assert port(connection) == replica.port
    connection.execute("commit")


@pytest.mark.parametrize(
    "statements",
    [
        ("/* pgambassador: primary */ begin read only",),
        ("begin /* pgambassador: primary */", "set transaction read only"),
        ("begin", "set transaction read only /* pgambassador: primary */"),
    ],
)
def test_a_hint_keeps_a_read_only_transaction_on_the_primary(
    connection: Connection, primary: Postgres, replica: Postgres, statements: tuple[LiteralString, ...]
) -> None:
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")
    for statement in statements:
        connection.execute(statement)
    assert port(connection) == primary.port
    connection.execute("commit")


def test_a_session_reads_what_it_has_written(
    connection: Connection, observer: Connection, primary: Postgres, replica: Postgres
) -> None:
    """The replica does not replay: it must not be asked, until it does again."""
    connection.execute("create table if not exists own (n int)")
    with psycopg.connect(replica.url(), autocommit=True) as standby:
        wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")
        standby.execute("select pg_wal_replay_pause()")
        try:
            connection.execute("insert into own values (1)")
            assert port(connection) == primary.port
            assert connection.execute("select count(*) from own").fetchone() != (0,)
        finally:
            standby.execute("select pg_wal_replay_resume()")
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")


def test_many_writes_and_reads_behind_them(proxy: Ambassador, primary: Postgres, replica: Postgres) -> None:
    """No read is stale, and reads come back to the replica after each write."""
    with client(proxy) as connection:
        connection.execute("create table if not exists counted (n int)")
        connection.execute("truncate counted")
        connection.execute("insert into counted values (0)")
        for number in range(1, 200):
            connection.execute("update counted set n = %s", (number,))
            where: list[int] = []
            while where.count(replica.port) < 10:
                row = connection.execute("select n, inet_server_port() from counted").fetchone()
                assert row is not None and row[0] == number
                where.append(row[1])
                assert len(where) < 10_000


def test_a_session_says_where_it_wants_to_be(
    connection: Connection, proxy: Ambassador, primary: Postgres, replica: Postgres
) -> None:
    connection.execute("set pgambassador.route = 'primary'")
    wait_until(lambda: port(connection) == primary.port, "the setting is known")
    assert {port(connection) for _ in range(5)} == {primary.port}
    connection.execute("reset pgambassador.route")
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")
    with client(proxy, options="-c pgambassador.route=primary") as other:
        assert {port(other) for _ in range(5)} == {primary.port}


def test_a_hint_says_where_a_statement_goes(
    connection: Connection, primary: Postgres, replica: Postgres
) -> None:
    assert port(connection, "/* pgambassador: primary */ select inet_server_port()") == primary.port
    assert port(connection, "select inet_server_port() -- pgambassador: replica") == replica.port
    recovering = connection.execute("select pg_is_in_recovery() /* pgambassador: replica */")
    assert recovering.fetchone() == (True,)
    assert connection.execute("select pg_is_in_recovery(), '/* pgambassador: replica */'").fetchone() == (
        False,
        "/* pgambassador: replica */",
    )


def test_a_function_that_lies_is_asked_on_the_primary(
    connection: Connection, primary: Postgres, replica: Postgres
) -> None:
    """It is called stable, and writes: the replica refuses it, and its client does not notice."""
    connection.execute("create table if not exists lies (at int)")
    connection.execute(
        "create or replace function lie() returns int stable language plpgsql as"
        " $$ begin execute 'insert into lies values (1)'; return inet_server_port(); end $$"
    )
    for _ in range(3):
        with pytest.raises(
            psycopg.errors.FeatureNotSupported, match="INSERT is not allowed in a non-volatile"
        ):
            connection.execute("select lie()")


@pytest.mark.parametrize("prepare", [False, True])
def test_what_a_hint_has_sent_to_the_replica_in_vain_is_asked_on_the_primary(
    proxy: Ambassador, connection: Connection, primary: Postgres, replica: Postgres, prepare: bool
) -> None:
    """The replica refuses what writes (25006), of which nothing lasts; the next one goes to the primary."""
    connection.execute("create table if not exists led_astray (n int)")
    connection.execute("truncate led_astray")
    connection.execute(
        "create or replace function astray(n int) returns int language sql as"
        " $$ insert into led_astray values (n); select inet_server_port() $$"
    )
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")
    before = repeated(proxy)
    sql = b"/* pgambassador: replica */ select astray(%d)" % prepare
    for _ in range(3):
        assert connection.execute(sql, prepare=prepare).fetchone() == (primary.port,)
    assert connection.execute("select count(*) from led_astray").fetchone() == (3,)
    assert repeated(proxy) == before + 1


def test_a_read_only_transaction_that_writes_after_all_leaves_nothing_behind(
    proxy: Ambassador, connection: Connection, primary: Postgres, replica: Postgres
) -> None:
    """It begins in one part with what writes."""
    connection.execute("create sequence if not exists counts")
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")
    part = extended(b"begin read only") + extended(b"/* pgambassador: replica */ select nextval('counts')")
    with Wire.session(proxy.port, database="app") as wire:
        for _ in range(3):
            wire.send(part, SYNC)
            assert wire.until("Z").error.sqlstate == "25006"
            wire.ask("rollback")
    wait_until(
        lambda: proxy.metrics().total("pgambassador_server_connections", state="active") == 0,
        "all connections are free",
    )


def repeated(proxy: Ambassador) -> float:
    name, metrics = "pgambassador_lost_statements_total", proxy.metrics()
    return metrics.total(name, outcome="replayed") if any(each == name for each, _ in metrics) else 0
