"""Where statements went, as the metrics and the query log tell it; servers say where they ran."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import HOST
from tests.harness import USERS, Ambassador, wait_until
from tests.integration.test_splitting import cluster, port

ROUTED = "pgambassador_routed_queries_total"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "queries"


@pytest.fixture(scope="module")
def proxy(
    ambassadors: Callable[..., Ambassador], primary: Postgres, replica: Postgres, log: Path
) -> Ambassador:
    primary.sql("create table if not exists told (n int); grant all on told to public", database="app")
    made = ambassadors(cluster(primary, replica), query_log={"file": str(log), "slow": "0s"})
    with client(made) as connection:
        wait_until(lambda: port(connection) == replica.port, "reads reach the replica")
    return made


def client(proxy: Ambassador) -> Connection:
    return psycopg.connect(proxy.dsn(), autocommit=True)


@pytest.fixture
def connection(proxy: Ambassador) -> Iterator[Connection]:
    with client(proxy) as made:
        yield made


def line(log: Path, mark: str) -> dict[str, Any]:
    """That of the statement with this name of a column in it."""

    def search() -> dict[str, Any] | None:
        lines = [json.loads(each) for each in log.read_text().split("\n")[:-1]] if log.exists() else []
        return next((each for each in lines if mark in each["query"]), None)

    found = wait_until(search, f"the line of {mark}")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("before", "sql", "route", "why"),
    [
        ("", "select 1 as plain_read", "replica", "read"),
        ("", "insert into told select 1 as plain_write where false", "primary", "write"),
        ("", "create temp table for_itself (a int)", "primary", "ddl"),
        ("begin", "select 1 as within_one", "primary", "transaction"),
        ("begin read only", "select 1 as within_read_only", "replica", "read"),
        ("", "/* pgambassador: primary */ select 1 as hinted_away", "primary", "hint primary"),
    ],
)
def test_the_query_log_says_where_and_why(
    connection: Connection, log: Path, before: LiteralString, sql: LiteralString, route: str, why: str
) -> None:
    if before:
        connection.execute(before)
    connection.execute(sql)
    if before:
        connection.execute("rollback")
    mark = next(word for word in sql.split() if "_" in word)
    found = line(log, mark)
    assert (found["route"], found["why"], found["batched"]) == (route, why, False)


def test_a_read_for_which_no_replica_is_fresh(
    connection: Connection, log: Path, proxy: Ambassador, replica: Postgres
) -> None:
    before = proxy.metrics().total("pgambassador_replica_misses_total", reason="stale")
    with psycopg.connect(replica.url(), autocommit=True) as standby:
        standby.execute("select pg_wal_replay_pause()")
        try:
            connection.execute("insert into told values (1)")
            connection.execute("select 1 as nobody_fresh")
        finally:
            standby.execute("select pg_wal_replay_resume()")
    found = line(log, "nobody_fresh")
    assert (found["route"], found["why"]) == ("primary", "no replica")
    assert proxy.metrics().total("pgambassador_replica_misses_total", reason="stale") == before + 1
    wait_until(lambda: port(connection) == replica.port, "reads are back at the replica")


def test_queries_are_counted_by_where_they_ran(connection: Connection, proxy: Ambassador) -> None:
    before = proxy.metrics()
    for _ in range(10):
        connection.execute("select 1")
    for _ in range(3):
        connection.execute("begin; commit")
    after = proxy.metrics()
    grown = {
        target: after.total(ROUTED, target=target) - before.total(ROUTED, target=target)
        for target in ("primary", "replica")
    }
    assert grown == {"primary": 3, "replica": 10}
    total = "pgambassador_queries_total"
    assert after.total(total) - before.total(total) == 13
    assert after.total("pgambassador_routing_statements") > 0


def test_the_servers(proxy: Ambassador, primary: Postgres, replica: Postgres) -> None:
    found = proxy.metrics()
    for server, role in ((primary, "primary"), (replica, "standby")):
        where = {"cluster": "main", "server": f"{HOST}:{server.port}"}
        assert found.total("pgambassador_server_role", role=role, **where) == 1
        assert found.total("pgambassador_server_role", **where) == 1
        assert found.total("pgambassador_server_well", **where) == 1
        assert found.total("pgambassador_server_probes_total", **where) > 0
    assert 0 <= found.total("pgambassador_server_lag_seconds") < 10
    assert found.total("pgambassador_discoveries_total", result="success") >= 1


def test_batches(ambassadors: Callable[..., Ambassador], primary: Postgres, tmp_path: Path) -> None:
    log = tmp_path / "queries"
    made = ambassadors(
        primary.url("app", USERS["app"].password, "app"),
        pool={"size": 1},
        query_log={"file": str(log), "slow": "0s"},
    )
    stop = False
    with client(made) as connection:
        connection.execute("create unlogged table if not exists in_company as select 1 as a")

    def read() -> None:
        with client(made) as connection:
            while not stop:
                # Not a table for a replica, which is no reason to go alone.
                connection.execute("select a from in_company")

    threads = [Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: made.metrics().total("pgambassador_batches_total") > 2, "batches", deadline=120)
    finally:
        stop = True
        for thread in threads:
            thread.join()
    found = made.metrics()
    assert found.total("pgambassador_batched_queries_total") >= 2 * found.total("pgambassador_batches_total")

    def logged() -> bool:
        return any(json.loads(each)["batched"] for each in log.read_text().split("\n")[:-1])

    wait_until(logged, "a line of a batched statement")
