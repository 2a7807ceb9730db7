"""What changes past the ambassador is noticed soon, and a catalogue of any size costs a bounded time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.protocol.suspects import PROBE, QUERY, read
from tests.harness import Ambassador, Wire, wait_until
from tests.messages import row

MEMORY = """create function memory() returns int language plpgsql as
    $$ begin perform set_config('work_mem', '77MB', false); return 1; end $$"""


@pytest.fixture
def url(primary: Postgres) -> Iterator[str]:
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        connection.execute("create database watched")
    yield primary.url(database="watched")
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        connection.execute("drop database watched with (force)")


@pytest.fixture
def inside(url: str) -> Iterator[Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def client(front: Ambassador) -> Wire:
    return Wire.session(front.port, "postgres", "watched")


def test_a_function_that_is_made_elsewhere(
    url: str, inside: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    front = ambassador(url, pool={"size": 1})
    with client(front) as one, client(front) as two:
        one.ask("select 1")
        inside.execute(MEMORY)

        def watched() -> bool:
            with client(front) as third:
                third.ask("select 1")
            return "are watched" in front.output()

        wait_until(watched, "the change to be seen")
        one.ask("select memory()")
        assert two.ask("show work_mem").value == "4MB"
        assert one.ask("show work_mem").value == "77MB"


def fingerprint(connection: Connection) -> tuple[bytes | None, bytes | None]:
    """Of functions, and of columns."""
    rows = connection.pgconn.exec_(PROBE[5:-1])
    return rows.get_value(0, 1), rows.get_value(1, 1)


CHANGES = [
    MEMORY,
    "create or replace function memory() returns int language sql as 'select 1'",
    "alter function memory() rename to remembered",
    "create table t (a int default remembered())",
    "alter table t rename to u",
    "create view v as select * from u",
    "create or replace view v as select a from u where remembered() = 1",
    "alter table u alter a set default 5",
    "alter table u add check (remembered() = 1)",
    "create policy p on u using (remembered() = 1)",
    "create table parent (a int) partition by range (a)",
    "create table child partition of parent for values from (0) to (9)",
    "alter table parent detach partition child",
    "create function fires() returns trigger language plpgsql as 'begin return new; end'",
    "create trigger x before insert on u for each row execute function fires()",
    "drop trigger x on u",
    "create operator ## (function = int4pl, leftarg = int, rightarg = int)",
    "create function double(int) returns int language sql as 'select $1 * 2'",
    "create operator ### (function = double, rightarg = int)",
    "create domain d as int check (remembered() = 1)",
    "drop view v",
]
UNSEEN = {"create operator ## (function = int4pl, leftarg = int, rightarg = int)"}
COLUMNS = ["alter table u add b int", "alter table u alter b type text", "alter table u drop b"]
NO_CHANGES = [
    "insert into u values (1)",
    "truncate u",
    "analyze u",
    "create temp table mine (a int primary key default 3 check (a > 1))",
    "create index on u (a)",
    "vacuum full u",
]


def test_what_changes_the_fingerprint(inside: Connection) -> None:
    before = fingerprint(inside)
    assert all(before)
    for change in CHANGES:
        inside.execute(change)
        after = fingerprint(inside)
        assert (after[0] == before[0]) == (change in UNSEEN), change
        before = after
    for change in COLUMNS:
        inside.execute(change)
        after = fingerprint(inside)
        assert (after[0] == before[0], after[1] == before[1]) == (True, False), change
        before = after
    for change in NO_CHANGES:
        inside.execute(change)
        assert fingerprint(inside) == before, change


HOSTILE = """
do $d$ begin for i in 1..400 loop
    execute format('create function f%s() returns int language plpgsql as %L', i,
        'begin execute ''x''; return ' || (select string_agg('f' || (i * 7 + j * 13) % 400 || '()', ' + ')
            from generate_series(1, 300) j) || '; end');
end loop; end $d$;
"""


def test_a_hostile_catalogue_is_answered_within_bounds(
    url: str, inside: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    inside.execute(HOSTILE)
    rows = inside.pgconn.exec_(QUERY[5:-1])
    if rows.ntuples:
        found = [tuple(rows.get_value(i, j) for j in range(3)) for i in range(rows.ntuples)]
        assert sum(len(value or b"") for _, value, _ in found) < 5_000_000
        assert read(row(*each) for each in found).among(b"select f1()")
    else:
        assert b"statement timeout" in rows.error_message  # on a slow machine
    front = ambassador(url, pool={"size": 1})
    with client(front) as one, client(front) as two:
        one.ask("set work_mem = '5MB'")
        assert two.ask("show work_mem").value == "4MB"


@pytest.mark.slow
def test_everybody_is_watched_where_it_cannot_be_found_out_in_time(
    url: str, inside: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    """A lock that a migration may hold keeps the answer away."""
    inside.execute(MEMORY)
    with psycopg.connect(url) as holder:
        holder.execute("lock table pg_policy in access exclusive mode")
        front = ambassador(url, pool={"size": 1})
        with client(front) as one, client(front) as two:
            one.ask("select memory()")
            holder.rollback()
            assert two.ask("show work_mem").value == "4MB"
            assert one.ask("show work_mem").value == "77MB"
    assert "takes too long" in front.output()
