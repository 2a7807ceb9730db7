"""PostgreSQL's own tools through a small pool in transaction mode do what they do on a direct connection.

Each test runs against PostgreSQL 18 and against the version that the machine has, with the tools of the same
version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import connect

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import free_port
from tests.harness import Ambassador
from tests.harness.tools import LARGE, Tools, same_text


@pytest.fixture(scope="module", params=["18", "system"])
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tools]:
    server: Postgres = request.getfixturevalue("primary" if request.param == "18" else "system_postgres")
    tools = Tools(server, tmp_path_factory.mktemp("home"))
    tools.shop()
    yield tools
    tools.drop("shop")


@pytest.fixture
def proxy(tools: Tools, ambassador: Callable[..., Ambassador]) -> Ambassador:
    """Three server connections for each database: pg_dump -j 2 needs as many at once."""
    return ambassador(tools.server.url(), pool={"size": 3, "wait_timeout": "20s"})


# pg_dump and pg_restore


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--inserts", "--rows-per-insert=50"),
        ("--schema-only", "--create"),
        ("--serializable-deferrable",),
    ],
    ids=lambda options: " ".join(options),
)
def test_a_plain_dump(tools: Tools, proxy: Ambassador, options: tuple[str, ...]) -> None:
    dump = tools.run(proxy, "pg_dump", *options)
    assert "CREATE TABLE public.orders" in dump
    assert same_text(dump) == same_text(tools.run(None, "pg_dump", *options))


@pytest.mark.parametrize("how", ["custom", "directory"])
@pytest.mark.parametrize("at_once", [1, 2])
def test_an_archive_is_the_same_and_restores_to_the_same(
    tools: Tools, ambassador: Callable[..., Ambassador], how: str, at_once: int, tmp_path: Path
) -> None:
    """The copy has another name here than on the server. Two workers of a dump share a snapshot."""
    names = {"shop": {"cluster": "main"}, "copy": {"cluster": "main", "database": "shop_copy"}}
    config = {"clusters": {"main": {"url": tools.server.url()}}, "databases": names}
    proxy = ambassador(config, pool={"size": 3, "wait_timeout": "20s"})
    jobs = ("-j", str(at_once))
    dumping = jobs if how == "directory" else ()
    archives = {}
    for name, through in (("ours", proxy), ("theirs", None)):
        tools.run(through, "pg_dump", f"--format={how}", "-f", str(tmp_path / name), *dumping)
        archives[name] = same_text(tools.run(None, "pg_restore", "-f", "-", str(tmp_path / name)))
        archives[name + " list"] = same_text(tools.run(None, "pg_restore", "-l", str(tmp_path / name)))
    assert archives["ours"] == archives["theirs"]
    assert archives["ours list"] == archives["theirs list"]
    if dumping:
        # The leader, whose snapshot it is, and the two workers held one each.
        expected = 3 if at_once == 2 else 1
        assert proxy.metrics().total("pgambassador_server_connections", database="shop") == expected

    tools.make("shop_copy")
    try:
        tools.run(proxy, "pg_restore", "-d", "copy", *jobs, str(tmp_path / "ours"))
        copies = [same_text(tools.run(None, "pg_dump", name)) for name in ("shop", "shop_copy")]
        assert copies[0] == copies[1]
        assert tools.ask(LARGE, "shop_copy") == tools.ask(LARGE)
    finally:
        tools.drop("shop_copy")


def test_a_dump_waits_for_a_locked_table_only_so_long(tools: Tools, proxy: Ambassador) -> None:
    """The timeout that a dump sets for its LOCK TABLE ends it, and is nobody else's."""
    with connect(tools.server.url(database="shop")) as holder:
        holder.execute("lock table orders in access exclusive mode")
        said = tools.run(proxy, "pg_dump", "--lock-wait-timeout=200", code=1)
        assert said == tools.run(None, "pg_dump", "--lock-wait-timeout=200", code=1)
        assert "canceling statement due to statement timeout" in said
    assert tools.psql(proxy, "show lock_timeout; show statement_timeout", "-At") == "0\n0\n"
    assert "CREATE TABLE" in tools.run(proxy, "pg_dump", "--lock-wait-timeout=200")


@pytest.mark.parametrize("options", [("--globals-only",), ()], ids=["globals", "everything"])
def test_a_dump_of_all_databases(tools: Tools, proxy: Ambassador, options: tuple[str, ...]) -> None:
    dump = tools.run(proxy, "pg_dumpall", *options)
    assert "CREATE ROLE app_md5" in dump
    assert ("\\connect shop" in dump) == (not options)
    assert same_text(dump) == same_text(tools.run(None, "pg_dumpall", *options))


# Maintenance


def test_vacuumdb(tools: Tools, proxy: Ambassador) -> None:
    """By one connection and by two; its search_path does not stay behind."""
    for options in ((), ("--jobs=2", "--analyze"), ("--analyze-in-stages",), ("--full", "-t", "parts")):
        said = tools.run(proxy, "vacuumdb", "--echo", *options)
        direct = tools.run(None, "vacuumdb", "--echo", *options)
        assert sorted(said.splitlines()) == sorted(direct.splitlines())
        assert "VACUUM" in said or "ANALYZE" in said
    assert tools.psql(proxy, "show search_path", "-At") == '"$user", public\n'


def test_vacuumdb_of_all_databases(tools: Tools, proxy: Ambassador) -> None:
    said = tools.run(proxy, "vacuumdb", "--all", "--analyze-only")
    assert 'vacuumdb: vacuuming database "shop"' in said
    assert said == tools.run(None, "vacuumdb", "--all", "--analyze-only")


@pytest.mark.parametrize(
    ("program", "options"),
    [
        ("reindexdb", ("--table=orders",)),
        ("reindexdb", ("--jobs=2", "--table=orders", "--table=customers")),
        ("reindexdb", ("--concurrently", "--table=orders")),
        ("clusterdb", ()),
        ("clusterdb", ("--table=customers",)),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_rewrites_tables_and_indexes(
    tools: Tools, proxy: Ambassador, program: str, options: tuple[str, ...]
) -> None:
    table = "customers_pkey" if program == "clusterdb" else "orders_pkey"
    files = f"select pg_relation_filenode('{table}')"
    before = tools.ask(files)
    said = tools.run(proxy, program, "--echo", *options)
    after = tools.ask(files)
    assert after != before
    assert sorted(said.splitlines()) == sorted(tools.run(None, program, "--echo", *options).splitlines())


def test_pg_amcheck(tools: Tools, proxy: Ambassador) -> None:
    options = ("--install-missing", "--jobs=2", "--heapallindexed", "--database=shop", "--verbose")
    said = tools.run(proxy, "pg_amcheck", *options)
    assert "checking heap table" in said
    tools.run(None, "pg_amcheck", *options)
    assert tools.ask("select count(*) from pg_extension where extname = 'amcheck'") == "1"


# Databases and roles


def test_createdb_and_dropdb(tools: Tools, proxy: Ambassador) -> None:
    there = "select pg_get_userbyid(datdba), datallowconn from pg_database where datname = 'made by tool'"
    tools.run(proxy, "createdb", "--owner=app", "--template=template0", "made by tool", "a comment")
    assert tools.ask(there) == "app|t"
    said = tools.run(proxy, "createdb", "made by tool", code=1)
    assert said == tools.run(None, "createdb", "made by tool", code=1)
    tools.run(proxy, "dropdb", "made by tool")
    assert tools.ask(there) == ""
    said = tools.run(proxy, "dropdb", "made by tool", code=1)
    assert said == tools.run(None, "dropdb", "made by tool", code=1)
    assert "does not exist" in said


def test_dropdb_by_force_takes_the_pools_connections_too(tools: Tools, proxy: Ambassador) -> None:
    for turn in range(2):
        tools.run(proxy, "createdb", "forced")
        assert tools.psql(proxy, f"select {turn}", "-At", "-d", "forced") == f"{turn}\n"
        tools.run(proxy, "dropdb", "--force", "forced")
        assert tools.ask("select count(*) from pg_database where datname = 'forced'") == "0"


def test_a_database_that_nobody_uses_any_more_can_be_dropped_and_copied(
    primary: Postgres, ambassador: Callable[..., Ambassador], tmp_path: Path
) -> None:
    tools = Tools(primary, tmp_path)
    proxy = ambassador(primary.url(), pool={"size": 3})
    tools.drop("of_nobody")
    try:
        tools.run(proxy, "createdb", "of_nobody")
        assert tools.psql(proxy, "select 1", "-At", "-d", "of_nobody") == "1\n"
        tools.run(proxy, "dropdb", "of_nobody")
    finally:
        tools.drop("of_nobody")


def test_createuser_and_dropuser(tools: Tools, proxy: Ambassador) -> None:
    options = ("--createdb", "--no-login", "--connection-limit=3", "--role=app")
    said = tools.run(proxy, "createuser", "--echo", *options, "made by tool")
    made = "select rolcreatedb, rolcanlogin, rolconnlimit from pg_roles where rolname = 'made by tool'"
    assert tools.ask(made) == "t|f|3"
    dropped = tools.run(proxy, "dropuser", "--echo", "made by tool")
    assert tools.ask(made) == ""
    assert said == tools.run(None, "createuser", "--echo", *options, "made by tool")
    assert dropped == tools.run(None, "dropuser", "--echo", "made by tool")


# pgbench and pg_isready


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench(tools: Tools, proxy: Ambassador, protocol: str) -> None:
    """A thread for each client: one that prepares a statement holds up the others of its thread."""
    made = tools.run(proxy, "pgbench", "-i", "-I", "dtGvpf", "--partitions=2", "-q")
    assert "vacuuming" in made and "creating foreign keys" in made
    done = tools.run(
        proxy, "pgbench", "-b", "tpcb-like", "-n", "-c", "4", "-j", "4", "-t", "50", "-M", protocol
    )
    assert "number of transactions actually processed: 200/200" in done
    sums = (
        "select count(*), sum(delta) = (select sum(abalance) from pgbench_accounts),"
        " sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history"
    )
    assert tools.ask(sums) == "200|t|t"
    tools.ask("drop table pgbench_accounts, pgbench_branches, pgbench_history, pgbench_tellers")


def test_pg_isready(tools: Tools, proxy: Ambassador) -> None:
    assert "accepting connections" in tools.run(proxy, "pg_isready")
    proxy.stop()
    assert "no response" in tools.run(proxy, "pg_isready", code=2)


def test_pg_isready_when_the_server_was_never_there(
    primary: Postgres, ambassador: Callable[..., Ambassador], tmp_path: Path
) -> None:
    proxy = ambassador(
        primary.url().replace(f":{primary.port}/", f":{free_port()}/"), failover={"hold": "off"}
    )
    assert "rejecting connections" in Tools(primary, tmp_path).run(proxy, "pg_isready", code=1)
