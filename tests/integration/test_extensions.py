"""What functions in C do to a session reaches nobody else, with PostgreSQL's own extensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from pgambassador.embedded import Postgres
from pgambassador.protocol.extensions import KNOWN
from pgambassador.protocol.suspects import QUERY
from pgambassador.wire import build
from tests.harness import Ambassador, Wire, wait_until

# Those whose libraries need nothing that may not be there.
TRIED = (
    *("btree_gist", "citext", "cube", "dblink", "dict_int", "earthdistance", "fuzzystrmatch", "hstore"),
    *("intarray", "isn", "lo", "ltree", "pg_buffercache", "pg_stat_statements", "pg_trgm", "pgcrypto"),
    *("postgres_fdw", "refint", "seg", "tablefunc", "tcn", "unaccent"),
)
SETUP = """
create function my_limit(real) returns real language c as '$libdir/pg_trgm', 'set_limit';
create function my_setting(text, text, boolean) returns text language internal as 'set_config_by_name';
create function connected() returns text language sql as
    $$ select dblink_connect('mine', 'dbname=postgres') $$;
create view looking as select set_config('app.tenant', 'view', false) as t;
create view looking_twice as select * from looking;
create view working as select pg_try_advisory_lock(7) as got;
create table defaulted (i int, t text default set_config('app.tenant', 'default', false));
create function argued(t text default set_config('app.tenant', 'argument', false)) returns text
    language sql as 'select t';
"""
LIMIT = "select current_setting('pg_trgm.similarity_threshold', true)"
TENANT = "select current_setting('app.tenant', true)"


@pytest.fixture(scope="module", params=["primary", "system_postgres"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    server: Postgres = request.getfixturevalue(request.param)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("create database extended")
    with psycopg.connect(server.url(database="extended"), autocommit=True) as inside:
        for name in TRIED:
            inside.execute(sql.SQL("create extension {}").format(sql.Identifier(name)))
        inside.execute("select set_limit(0.3)")  # so that the library is loaded, and its functions are found
        inside.execute(SETUP)
    yield server.url(database="extended")

    def dropped() -> bool:
        try:
            connection.execute("drop database extended with (force)")
        except psycopg.errors.ObjectInUse:  # the ambassador has come again meanwhile
            return False
        return True

    with psycopg.connect(server.url(), autocommit=True) as connection:
        wait_until(dropped, "nobody uses the database")


@pytest.fixture(scope="module")
def proxy(url: str, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(url, pool={"size": 1})


def client(proxy: Ambassador) -> Wire:
    return Wire.session(proxy.port, "postgres", "extended")


@pytest.mark.parametrize(
    ("statement", "look", "before", "after"),
    [
        ("select set_limit(0.7)", LIMIT, ("0.3", None), "0.7"),
        ("select my_limit(0.6)", LIMIT, ("0.3", None), "0.6"),
        ("select my_setting('app.tenant', 'internal', false)", TENANT, ("", None), "internal"),
        ("select my_setting('work_mem', '5MB', false)", "show work_mem", ("4MB",), "5MB"),
        ("select * from crosstab('select 1, 2, set_co' || $$nfig('geqo', 'off', false)$$) t(a int, b text)",
         "show geqo", ("on",), "off"),
        ("select query_to_xml('select set_co' || 'nfig(''work_mem'', ''7MB'', false)', true, true, '')",
         "show work_mem", ("4MB",), "7MB"),
        ("select * from looking_twice", TENANT, ("", None), "view"),
        ("insert into defaulted (i) values (1)", TENANT, ("", None), "default"),
        ("select argued()", TENANT, ("", None), "argument"),
    ],
    ids=lambda each: str(each)[:30],
)  # fmt: skip
def test_a_setting_follows_its_client_alone(
    proxy: Ambassador, statement: str, look: str, before: tuple[str | None, ...], after: str
) -> None:
    with client(proxy) as one, client(proxy) as two:
        assert two.ask(look).value in before
        for _ in range(2):
            assert "E" not in one.ask(statement).kinds
            assert two.ask(look).value in before
            assert one.ask(look).value == after


@pytest.mark.parametrize(
    "statement",
    ["select dblink_connect('mine', 'dbname=none')", "select isn_weak(true)", "load 'auto_explain'"],
)
def test_what_nobody_can_ask_for_ends_with_its_connection(proxy: Ambassador, statement: str) -> None:
    """Whether it has worked or not."""
    with client(proxy) as one:
        pid = one.ask("select pg_backend_pid()").value
        one.ask(statement)
        with client(proxy) as two:
            two.send(build.query("select pg_backend_pid()"))
            assert one.ask("select pg_backend_pid()").value == pid
            one.leave()
            assert two.until("Z").value not in (None, pid)


def test_a_lock_in_a_view_keeps_its_connection(proxy: Ambassador) -> None:
    with client(proxy) as one, client(proxy) as two:
        assert one.ask("select got from working").value == "t"
        two.send(build.query("select 1"))
        assert (
            one.ask(
                "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
            ).value
            == "1"
        )
        one.ask("select pg_advisory_unlock(7)")
        assert two.until("Z").value == "1"


def test_all_of_them_are_known(url: str) -> None:
    """What PostgreSQL brings is in the table, and statements that name no other functions are not watched."""
    with psycopg.connect(url, autocommit=True) as connection:
        available = {row[0] for row in connection.execute("select name from pg_available_extensions")}
        assert not available - KNOWN
        rows = connection.pgconn.exec_(QUERY[5:-1])
        found = [(rows.get_value(i, 0), rows.get_value(i, 1)) for i in range(rows.ntuples)]
    assert {name for kind, name in found if kind == b"strange"} == {b"my_limit()", b"my_setting()"}
    assert b"everywhere" not in {kind for kind, _ in found}
    names = {name for kind, name in found if kind == b"name"}
    assert {
        b"set_limit",
        b"dblink_connect",
        b"connected",
        b"crosstab",
        b"looking_twice",
        b"working",
        b"defaulted",
    } <= names
    assert not {b"similarity", b"dblink", b"hstore", b"normal_rand"} & names


def test_a_stranger_is_watched_unless_somebody_vouches_for_it(
    url: str, ambassador: Callable[..., Ambassador]
) -> None:
    with psycopg.connect(url, autocommit=True) as inside:
        inside.execute("update pg_extension set extname = 'stranger' where extname = 'cube'")
    try:
        front = ambassador(url, pool={"size": 1})
        with client(front) as one:
            one.ask("select 1")
        wait_until(lambda: "every statement is watched" in front.output(), "a warning")
        assert "stranger" in front.output() and "pool.harmless_extensions" in front.output()
        trusting = ambassador(url, pool={"size": 1, "harmless_extensions": ["stranger"]})
        with client(trusting) as one:
            one.ask("select 1")
        assert "my_limit" in trusting.output() and "stranger" not in trusting.output()
    finally:
        with psycopg.connect(url, autocommit=True) as inside:
            inside.execute("update pg_extension set extname = 'cube' where extname = 'stranger'")
