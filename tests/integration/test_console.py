"""The console as psql and drivers use it, over a cluster whose reads are split."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator

import asyncpg
import pg8000.native
import psycopg
import psycopg2
import pytest
from psycopg import Connection

from pgambassador import __version__
from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import HOST
from tests.harness import USERS, Ambassador, wait_until
from tests.integration.test_splitting import cluster
from tests.integration.test_splitting import port as ran_on


@pytest.fixture(scope="module")
def proxy(ambassadors: Callable[..., Ambassador], primary: Postgres, replica: Postgres) -> Ambassador:
    primary.sql("create table if not exists shown (n int); grant all on shown to public", database="app")
    rules = [{"application_name": "nightly job", "route": "primary"}]
    made = ambassadors(cluster(primary, replica, rules=rules))
    with client(made) as connection:
        wait_until(lambda: ran_on(connection) == replica.port, "reads reach the replica")
    return made


def client(proxy: Ambassador) -> Connection:
    return psycopg.connect(proxy.dsn(), autocommit=True)


@pytest.fixture
def console(proxy: Ambassador) -> Iterator[Connection]:
    with psycopg.connect(proxy.dsn(user="admin", database="pgambassador"), autocommit=True) as made:
        yield made


def route(console: Connection, sql: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in console.execute("show route %s", (sql,)):
        found[name] = f"{found[name]}\n{value}" if name in found else value
    return found


def test_where_a_read_goes(console: Connection, primary: Postgres, replica: Postgres) -> None:
    found = route(console, "select * from shown")
    assert (found["class"], found["goes"]) == ("read", f"to {HOST}:{replica.port}")
    first, second = found["server"].split("\n")
    assert first == f"{HOST}:{primary.port}, primary: no, reads go to replicas"
    assert second.startswith(f"{HOST}:{replica.port}, standby, shows all that is older than ")
    assert second.endswith("s: yes")


def test_where_a_write_goes_and_why(console: Connection) -> None:
    found = route(console, "insert into shown select 1")
    assert (found["class"], found["goes"]) == ("write", "to the primary")


def test_for_whom(console: Connection) -> None:
    rows = console.execute("show route for app app 'select 1'").fetchall()
    assert ("class", "read") in rows
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        console.execute("show route for app other 'select 1'")


def test_for_an_application(console: Connection) -> None:
    """As a rule says; for others it does not count."""
    for application, target in (("nightly job", "primary"), ("other", "replica"), ("", "replica")):
        rows = console.execute("show route for app app %s 'select 1'", (application,)).fetchall()
        assert ("target", target) in rows, (application, rows)


def test_a_weight_of_nothing_takes_a_replica_out(
    console: Connection, primary: Postgres, replica: Postgres, proxy: Ambassador
) -> None:
    where = f"{HOST}:{replica.port}"
    console.execute("set weight %s 0", (where,))
    try:
        found = route(console, "select * from shown")
        assert found["goes"] == "to the primary, since no replica will do"
        assert "its weight is 0" in found["server"]
        with client(proxy) as connection:
            assert ran_on(connection) == primary.port
    finally:
        console.execute("set weight %s = 1", (where,))
    with client(proxy) as connection:
        wait_until(lambda: ran_on(connection) == replica.port, "reads are back at the replica")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="watched"):
        console.execute("set weight 'nowhere:1' 1")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="0 to 1000"):
        console.execute("set weight %s 1001", (where,))


def test_weights_of_the_configuration_follow_a_signal(
    ambassadors: Callable[..., Ambassador], primary: Postgres, replica: Postgres
) -> None:
    made = ambassadors(cluster(primary, replica))
    with client(made) as connection:
        wait_until(lambda: ran_on(connection) == replica.port, "reads reach the replica")
        made.reload(**cluster(primary, replica, weights={f"{HOST}:{replica.port}": 0}))
        wait_until(lambda: ran_on(connection) == primary.port, "reads leave the replica")
        made.reload(**cluster(primary, replica))
        wait_until(lambda: ran_on(connection) == replica.port, "reads are back at the replica")
    applied = [line["message"] for line in made.log_lines() if "applied:" in line["message"]]
    assert len(applied) == 2 and f"clusters.main.routing.weights.{HOST}:{replica.port}" in applied[0]


def test_the_servers(console: Connection, primary: Postgres, replica: Postgres) -> None:
    cursor = console.execute("show replication")
    assert cursor.description is not None
    names = [column.name for column in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor]
    assert [(row["port"], row["role"], row["well"]) for row in rows] == [
        (str(primary.port), "primary", "t"),
        (str(replica.port), "standby", "t"),
    ]
    assert rows[0]["lag_seconds"] is None and 0 <= float(rows[1]["lag_seconds"]) < 10
    assert all(int(row["probes"]) > 0 and row["weight"] == "1" for row in rows)


def test_the_pools(console: Connection, proxy: Ambassador, replica: Postgres) -> None:
    with client(proxy) as connection:
        connection.execute("begin; insert into shown values (1)")
        cursor = console.execute("show pools")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        rows = [dict(zip(names, row, strict=True)) for row in cursor]
        connection.execute("rollback")
    assert names[:4] == ["database", "user", "cl_active", "cl_waiting"]
    first, second = rows
    assert (first["database"], first["user"], first["server"]) == ("app", "app", "primary")
    assert (first["sv_active"], first["cl_waiting"], first["maxwait"]) == ("1", "0", "0")
    assert int(first["cl_active"]) >= 1
    assert (second["server"], second["pool_mode"]) == (f"{HOST}:{replica.port}", "transaction")


@pytest.mark.parametrize("database", ["pgambassador", "pgbouncer"])
def test_psql(proxy: Ambassador, workspace: Workspace, database: str) -> None:
    done = subprocess.run(
        [
            *(str(workspace.installation.folder / "psql"), "-XAtq"),
            proxy.dsn(user="admin", database=database),
        ],
        input="show version;\nshow route 'delete from shown';\nselect 1;\nshow help;\n",
        env=workspace.installation.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert f"pgambassador {__version__}\nclass|write\n" in done.stdout
    assert "SHOW POOLS|" in done.stdout
    assert "the console does not know 'select'\nHINT:  SHOW HELP" in done.stderr


def test_drivers(proxy: Ambassador) -> None:
    dsn = proxy.dsn(user="admin", database="pgambassador")
    said = f"pgambassador {__version__}"
    with psycopg.connect(dsn) as connection:  # not autocommit: it begins a transaction
        assert connection.execute("show version").fetchone() == (said,)
        assert connection.execute("show version", binary=True, prepare=True).fetchone() == (said,)
    old = psycopg2.connect(dsn)
    with old.cursor() as cursor:
        cursor.execute("show version")
        assert cursor.fetchone() == (said,)
    old.commit()
    old.close()
    native = pg8000.native.Connection("admin", host=HOST, port=proxy.port, database="pgambassador")
    assert native.run("show version") == [[said]]
    native.close()

    async def ask() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("show version")
        finally:
            await connection.close()

    assert asyncio.run(ask()) == said


def test_it_ends_when_the_process_drains(ambassadors: Callable[..., Ambassador], primary: Postgres) -> None:
    made = ambassadors(primary.url("app", USERS["app"].password, "app"))
    with psycopg.connect(made.dsn(user="admin", database="pgambassador"), autocommit=True) as console:
        assert made.drain() == 0
        with pytest.raises(psycopg.OperationalError, match="shutting down"):
            console.execute("show version")


def test_a_database_of_that_name_that_is_listed_is_one(
    ambassadors: Callable[..., Ambassador], primary: Postgres
) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    databases = {"pgbouncer": {"database": "app"}}
    made = ambassadors({"clusters": {"main": {"url": url}}, "databases": databases})
    with psycopg.connect(made.dsn(user="app", database="pgbouncer")) as connection:
        assert connection.execute("select current_database()").fetchone() == ("app",)
    with psycopg.connect(made.dsn(user="app", database="pgambassador"), autocommit=True) as console:
        found = route(console, "select 1")
        assert found["goes"] == "to the only server"


def test_passwords_and_machines(ambassadors: Callable[..., Ambassador], primary: Postgres) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    auth = {"method": "scram-sha-256", "users": {"admin": "secret"}}
    made = ambassadors({"clusters": {"main": {"url": url}}, "auth": auth})
    good = made.dsn(user="admin", database="pgambassador", password="secret")
    with psycopg.connect(good, autocommit=True) as console:
        assert console.execute("show help").fetchall()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(made.dsn(user="admin", database="pgambassador", password="wrong"))
