"""What a function does to its session stays with the client that has called it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.protocol.suspects import QUERY
from pgambassador.wire import build
from tests.harness import Ambassador, Wire
from tests.messages import SYNC, bind, execute, extended, parse

SETUP = """
create function tenant(who text) returns text language sql as
    $$ select set_config('app.tenant', who, false) $$;
create function outer_one() returns text language plpgsql as $$ begin return tenant('outer'); end $$;
create function memory() returns void language plpgsql as $$ begin set work_mem = '5MB'; end $$;
create function commented() returns void language plpgsql as
    $$ begin -- a word about it
    /* and another */ set work_mem = '77MB'; end $$;
create function dynamic() returns void language plpgsql as
    $$ begin execute 'set ' || 'work_mem to 6000'; end $$;
create function pieces(what text) returns void language plpgsql as
    $$ begin execute 's' || what; end $$;
create function pieces_of_a_table() returns void language plpgsql as
    $$ declare word text := 'te' || 'mp';
    begin execute format('create %s table if not exists kept (i int)', word); end $$;
create function temporary() returns void language plpgsql as
    $$ begin create temp table if not exists kept (i int); end $$;
create function locks() returns void language sql as $$ select pg_advisory_lock(42) $$;
create function atomic(who text) returns text language sql
    begin atomic select set_config('app.tenant', who, false); end;
create function triggered() returns trigger language plpgsql as
    $$ begin perform set_config('app.tenant', 'trigger', false); return new; end $$;
create table watched (i int primary key);
create trigger t before insert or update or delete on watched for each row execute function triggered();
create table parted (i int) partition by range (i);
create table part_one partition of parted for values from (0) to (100);
create trigger t before insert on part_one for each row execute function triggered();
create view looking as select tenant('view') as t;
create view looking_twice as select * from looking;
create table defaulted (i int, t text default tenant('default'));
create table checked (t text check (tenant(t) is not null));
create function fine() returns text language plpgsql as
    $$ begin update watched_not set i = 1; perform set_config('app.tenant', 'x', true);
    set local work_mem = '7MB'; return 'set'; end $$;
create table watched_not (i int);
create function setof_rows() returns setof int language sql as $$ select 1 $$;
"""
CALLS = [
    ("select tenant('called')", "called"),
    ("select * from tenant('from')", "from"),
    ("SELECT Public.\"tenant\"('quoted')", "quoted"),
    ("select outer_one()", "outer"),
    ("select atomic('atom')", "atom"),
    ("insert into watched values (1) on conflict do nothing", "trigger"),
    ("insert into parted values (1)", "trigger"),
    ("select * from looking_twice", "view"),
    ("insert into defaulted (i) values (1)", "default"),
    ("insert into checked values ('check')", "check"),
    ("with x as (select tenant('cte')) select * from x", "cte"),
    ("do $$ begin perform tenant('block'); end $$", "block"),
]
LOOK = (
    "select current_setting('app.tenant', true), current_setting('work_mem'), to_regclass('pg_temp.kept'),"
    " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
)
NOTHING = [["", "4MB", None, "0"]]


@pytest.fixture(scope="module")
def database(primary: Postgres) -> Iterator[str]:
    """Of its own: whose functions they are is watched for."""
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        connection.execute("create database functions owner app")
    yield "functions"
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        connection.execute("drop database functions with (force)")


@pytest.fixture(scope="module")
def url(primary: Postgres, database: str) -> str:
    with psycopg.connect(primary.url(database=database), autocommit=True) as connection:
        connection.execute(SETUP)
    return primary.url(database=database)


@pytest.fixture(scope="module")
def proxy(url: str, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(url, pool={"size": 1})


def client(proxy: Ambassador) -> Wire:
    return Wire.session(proxy.port, "postgres", "functions")


def look(wire: Wire) -> list[list[str | None]]:
    return [[row[0] or "", *row[1:]] for row in wire.ask(LOOK).rows]


@pytest.mark.parametrize("how", ["simple", "unnamed", "named"])
@pytest.mark.parametrize(("sql", "tenant"), CALLS, ids=[sql[:40] for sql, _ in CALLS])
def test_a_setting_follows_its_client_alone(proxy: Ambassador, sql: str, tenant: str, how: str) -> None:
    with client(proxy) as one, client(proxy) as two:
        assert look(two) == NOTHING
        for _ in range(2):
            one.send(
                build.query(sql)
                if how == "simple"
                else extended(sql.encode()) + SYNC
                if how == "unnamed"
                else parse(b"s", sql.encode())
                + bind(b"s")
                + execute()
                + build.frame(ord("C"), b"Ss\0")
                + SYNC
            )
            assert "E" not in one.until("Z").kinds
            assert look(two) == NOTHING
            assert look(one) == [[tenant, "4MB", None, "0"]]


@pytest.mark.parametrize(
    "sql",
    [
        "select memory()",
        "select dynamic()",
        "select pieces('et work_mem to 6001')",
        "select commented()",
        'select U&"m\\0065mory"()',
        """select U&"set\\005fconfig"('work_mem', '5MB', false)""",
        "update pg_settings set setting = '5120' where name = 'work_mem'",
    ],
)
def test_a_set_in_a_function(proxy: Ambassador, sql: str) -> None:
    with client(proxy) as one, client(proxy) as two:
        one.ask(sql)
        assert look(two) == NOTHING
        assert look(one)[0][1] in ("5MB", "6000kB", "6001kB", "77MB")


def test_what_is_created_on_a_path_that_begins_with_pg_temp(proxy: Ambassador) -> None:
    with client(proxy) as one:
        one.ask("set search_path = pg_temp")
        one.ask("create table shadow as select 1 as mine")
        one.ask("create table kept (i int)")
        assert one.ask("select to_regclass('pg_temp.kept')").value == "kept"
        one.leave()
    with client(proxy) as two:
        assert look(two) == NOTHING


@pytest.mark.parametrize("sql", ["select temporary()", "select locks()", "select pieces_of_a_table()"])
def test_what_ties_keeps_the_connection(proxy: Ambassador, sql: str) -> None:
    with client(proxy) as one:
        one.ask(sql)
        with client(proxy) as two:
            two.send(build.query("select 1"))
            assert look(one) != NOTHING
            one.leave()
            assert two.until("Z").value == "1"
            assert look(two) == NOTHING


def test_it_is_undone_with_its_transaction(proxy: Ambassador) -> None:
    with client(proxy) as one, client(proxy) as two:
        one.ask("begin")
        one.ask("select tenant('gone')")
        one.ask("rollback")
        assert look(one) == look(two) == NOTHING


def test_a_function_that_is_made_while_clients_work(proxy: Ambassador) -> None:
    with client(proxy) as one, client(proxy) as two:
        one.ask("create function newer() returns text language sql as"
                " $$ select set_config('app.tenant', 'newer', false) $$")  # fmt: skip
        two.ask("select 1")
        one.ask("select newer()")
        assert look(two) == NOTHING
        assert look(one)[0][0] == "newer"
        one.ask("drop function newer")


def test_who_is_suspect(url: str) -> None:
    with psycopg.connect(url) as connection:
        rows = connection.pgconn.exec_(QUERY[5:-1])
        names = {rows.get_value(i, 1) for i in range(rows.ntuples) if rows.get_value(i, 0) == b"name"}
    assert {
        b"tenant",
        b"outer_one",
        b"memory",
        b"dynamic",
        b"temporary",
        b"locks",
        b"atomic",
        b"watched",
    } <= names
    assert {b"parted", b"part_one", b"looking", b"looking_twice", b"defaulted", b"checked"} <= names
    assert not {b"fine", b"watched_not", b"setof_rows"} & names


def test_a_body_that_is_very_long(url: str, ambassador: Callable[..., Ambassador]) -> None:
    """Nobody reads it all, and what it does may be anything."""
    body = f"select '{'x' * 2_000_000}'; select set_config('app.tenant', 'long', false)"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create function long_winded() returns text language sql as $$ {body} $$")
        proxy = ambassador(url, pool={"size": 1})
        with client(proxy) as one, client(proxy) as two:
            assert one.ask("select long_winded()").value == "long"
            assert two.ask("select current_setting('app.tenant', true)").value in (None, "")
            assert one.ask("select current_setting('app.tenant', true)").value == "long"
        connection.execute("drop function long_winded()")
