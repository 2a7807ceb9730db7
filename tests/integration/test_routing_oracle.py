"""Nothing that is classed as a read may fail on a standby or change anything: the servers themselves say so.

Statements are made up, from parts of which some write, lock, or speak of the server that they run on; and
every function of PostgreSQL's own that counts as harmless is called.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.routing import catalog
from pgambassador.routing.catalog import Catalog, Effect
from pgambassador.routing.decision import decide
from tests.harness import wait_until
from tests.routing import corpus

DATABASE = "judged"
CLERK = "routed_clerk"
# read-only transaction, not on a standby (serializable, xids, unlogged tables), not in its state
STANDBY_ONLY = {"25006", "0A000", "55000"}

TABLES = [
    "accounts", "orders", "shop.items", "journal", "scratch", "parent", "twin", "shop.twin", "guarded",
    "guarded_writes", "guarded_adding", "named", "named_again", "numbered", "numbered_again", "signed",
    "tenant", "calling_forgot", "locking", "locking_deep", "lost", "public.accounts", "only parent",
]  # fmt: skip
LEAVES = [
    "1", "7", "t.id", "t.id", "t.of_row", "t.of_row_fine", "t.of_any", "nextval('counter')::int",
    "by_default()", "txid_current()::int", "pg_backend_pid()", "looks(1)::int", "kept()::int",
    "extract(year from now())::int", "length(current_user)", "current_setting('shop.tenant', true)::int",
    "by_default_too()", "atomic_asks()::int", "length(gen_random_uuid()::text)", "(random() * 0)::int",
    "pg_is_in_recovery()::int", "lastval()::int",
]  # fmt: skip
SHAPES = [
    "pure({})", "writes({})", "forgot({})", "either({})", "atomic_writes({})", "abs({})", "({} + {})",
    "({} <%%> {})", "({} <%+%> {})", "coalesce({}, {})", "case when {} > {} then {} else {} end",
    "(array[{}, {}])[{}]", "(select {} from {T} as t limit 1)",
    "array_length(array(select {} from {T} as t), 1)", "(select count(*)::int from {T} as t where {} > {})",
    "(select max(t.id) from {T} as t {L})", "({})::positive::int",
    "(select sum(quiet) from (select quiet({}) from {T} as t) as q)", "(select noisy(t.id) from {T} as t)",
    "json_value(json_object('a': {}), '$.a' returning int)", "(row({}, 2)).f1", "generate_series(1, {})",
]  # fmt: skip
LOCKS = ["", "", "", "for update", "for share", "for read only"]


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> str:
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(LEAVES))
    shape = draw(st.sampled_from(SHAPES))
    shape = shape.replace("{T}", draw(st.sampled_from(TABLES))).replace("{L}", draw(st.sampled_from(LOCKS)))
    while "{}" in shape:
        shape = shape.replace("{}", draw(expressions(depth=depth - 1)), 1)
    return shape


@st.composite
def statements(draw: st.DrawFn) -> str:
    table, other, lock = (draw(st.sampled_from(each)) for each in (TABLES, TABLES, LOCKS))
    first, second = draw(expressions()), draw(expressions())
    made = draw(
        st.sampled_from(
            [
                f"select {first} from {table} as t {lock}",
                f"select {first} as id from {table} as t where {second} > 0 order by 1 limit 5",
                f"select t.id from {table} as t group by t.id having max({first}) is not null",
                f"with c as (select {first} as id from {table} as t {lock}) select {second} from c as t",
                "with c as (insert into journal (line) values ('a') returning id) select id from c",
                f"with accounts as materialized (select * from {table}) select 1 from accounts",
                f"select {first} from {table} as t union all select {second} from {other} as t",
                f"select t.id from {table} as t join {other} as u using (id), lateral (select {first}) as v",
                f"values ({first.replace('t.', '1+')})",
                f"table {table.removeprefix('only ')}",
                f"select sum(t.id) over (partition by {first}) from {table} as t",
                f"select * from {table} as t tablesample system (100)",
                "update accounts set balance = 0 returning id",
                f"select t.id into temp made from {table} as t",
            ]
        )
    )
    around = draw(
        st.sampled_from(["{}", "{}", "{}", "explain {}", "explain analyze {}", "copy ({}) to stdout"])
    )
    return draw(st.sampled_from(["", "", "select 1; ", "/* pgambassador: any */"])) + around.format(made)


def run(connection: Connection, text: str) -> str:
    """The SQLSTATE of its error, "" if there is none; nothing stays."""
    connection.pgconn.exec_(b"begin")
    result = connection.pgconn.exec_(text.encode())
    if result.status == psycopg.pq.ExecStatus.COPY_OUT:
        while connection.pgconn.get_copy_data(0)[0] > 0:
            pass
        while (more := connection.pgconn.get_result()) is not None:
            result = more
    if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
        return (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
    return ""


@pytest.fixture(scope="module")
def pair(primary: Postgres, replica: Postgres) -> Iterator[tuple[Connection, Connection, Catalog]]:
    """A user whom policies bind, at the primary and at the standby, and what is known of the database."""
    primary.sql(f"drop database if exists {DATABASE} with (force)")
    primary.sql(f"create database {DATABASE}")
    url = primary.url(database=DATABASE)
    with psycopg.connect(url, autocommit=True) as writer:
        writer.execute(corpus.SCHEMA.read_bytes())
        writer.execute(f"drop role if exists {CLERK}; create role {CLERK}".encode())
        for schema in ("public", "shop"):
            for kind in ("tables", "sequences"):
                writer.execute(f"grant all on all {kind} in schema {schema} to {CLERK}".encode())
            writer.execute(f"grant usage on schema {schema} to {CLERK}".encode())
        answer = writer.execute(catalog.QUERY[5:-1]).fetchall()
        known = corpus.as_catalog((kind, names, detail or "") for kind, names, detail in answer)
        ((position,),) = writer.execute("select pg_current_wal_lsn()").fetchall()
        with psycopg.connect(replica.url(), autocommit=True) as watch:
            replayed = "select where pg_last_wal_replay_lsn() >= %s"
            wait_until(lambda: watch.execute(replayed, [position]).fetchall())
        with psycopg.connect(replica.url(database=DATABASE), autocommit=True) as reader:
            for connection in (writer, reader):
                connection.execute(f"set role {CLERK}".encode())
                connection.execute("set statement_timeout = '10s'")
            yield writer, reader, known
        writer.execute("reset role")


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(text=statements())
def test_what_is_classed_as_a_read_neither_fails_nor_writes(
    pair: tuple[Connection, Connection, Catalog], text: str
) -> None:
    writer, reader, known = pair
    if decide(text, known).target != "replica":
        return
    try:
        there, here = run(reader, text), run(writer, text)
        assert there not in STANDBY_ONLY or there == here, text
        assert there == here, text
        if not here:
            ask = b"select pg_current_xact_id_if_assigned() is null"
            assert writer.pgconn.exec_(ask).get_value(0, 0) == b"t", text
    finally:
        for connection in (writer, reader):
            connection.pgconn.exec_(b"rollback")


def test_enough_of_them_are_reads(pair: tuple[Connection, Connection, Catalog]) -> None:
    """Or the test above would show nothing."""
    reads, works = 0, 0

    @settings(max_examples=200, database=None)
    @given(text=statements())
    def count(text: str) -> None:
        nonlocal reads, works
        if decide(text, pair[2]).target == "replica":
            reads += 1
            works += not run(pair[0], text)
            pair[0].pgconn.exec_(b"rollback")

    count()
    assert reads > 20
    assert works > 10


VALUES = {
    "text": "'a'", "int4": "1", "int8": "1", "int2": "1::int2", "float8": "0", "float4": "0::float4",
    "numeric": "1", "bool": "true", "oid": "'accounts'::regclass::oid", "name": "'accounts'",
    "regclass": "'accounts'", "timestamptz": "now()", "timestamp": "'2020-01-01'", "date": "'2020-01-01'",
    "interval": "'1 hour'", "time": "'10:00'", "timetz": "'10:00Z'", "json": "'{\"a\": 1}'",
    "jsonb": "'{\"a\": 1}'", "bytea": "'a'", "anyarray": "array[1]", "anyelement": "1", "anynonarray": "1",
    "anycompatible": "1", "any": "'a'::text", "anycompatiblearray": "array[1]",
    "anyrange": "int4range(1, 2)", "anymultirange": "'{[1,2)}'::int4multirange", "record": "row(1)",
    "xml": "'<a/>'", "uuid": "'6c5a1ae2-0d0b-4b8e-8f53-0fbb3f6a3c5d'", "inet": "'127.0.0.1'",
    "tsvector": "'a'", "tsquery": "'a'", "regconfig": "'english'", "xid": "'3'", "xid8": "'3'",
    "jsonpath": "'$.a'", "pg_lsn": "'0/1'", "regproc": "'now'", "regtype": "'int'",
    "regnamespace": "'shop'", "bit": "b'1'", "varbit": "b'1'", "_text": "array['a']", "_int4": "array[1]",
    "pg_snapshot": "'10:20:10,14,15'", "txid_snapshot": "'10:20:10'", "char": "'r'", "bpchar": "'a'",
    "point": "'(1,2)'", "cstring": "'1'::cstring", "anyenum": "'well'::mood", "box": "'(1,2),(3,4)'",
    "circle": "'<(1,2),3>'", "path": "'((1,2))'", "polygon": "'((1,2))'", "lseg": "'((1,2),(3,4))'",
    "money": "'1'", "cidr": "'10.0.0.0/8'", "macaddr": "'08:00:2b:01:02:03'", "tid": "'(0,1)'",
}  # fmt: skip


def test_every_function_that_counts_as_harmless(pair: tuple[Connection, Connection, Catalog]) -> None:
    """Called with values, or with nulls where it has no use for these."""
    writer, reader, known = pair
    functions = writer.execute(
        """select proname, provariadic <> 0, array(
               select typname::text from unnest(proargtypes) with ordinality as a (type, n)
               join pg_type on pg_type.oid = type order by n)
           from pg_proc where oid < 16384 and prokind in ('f', 'a')
               and pronamespace = 'pg_catalog'::regnamespace
               and not 'internal'::regtype = any (proargtypes) and prorettype <> 'internal'::regtype
           order by oid"""
    ).fetchall()
    called, different = 0, []
    for name, variadic, types in functions:
        if known.effect(name) not in (Effect.READ, Effect.LOOSE) or name.startswith("pg_sleep"):
            continue
        given_values = [VALUES.get(each, f"null::{_quoted(each)}") for each in types]
        if variadic and types:
            given_values[-1] = (
                f"variadic {given_values[-1]}" if types[-1].startswith("any") else given_values[-1]
            )
        text = f"select {_quoted(name)}({', '.join(given_values)})"
        if decide(text, known).target != "replica":
            different.append((text, "is not classed as a read"))
            continue
        called += 1
        there, here = run(reader, text), run(writer, text)
        for connection in (writer, reader):
            connection.pgconn.exec_(b"rollback")
        if there != here:
            different.append((text, f"{there} there, {here} here"))
    assert not different
    assert called > 2000


def _quoted(name: str) -> str:
    return '"' + name + '"'
