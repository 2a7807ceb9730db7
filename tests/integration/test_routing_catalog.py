"""What a database's catalog says of what a statement uses without naming it, on servers old and new."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.routing import catalog
from pgambassador.routing.catalog import Catalog
from pgambassador.routing.decision import Overrides, decide
from tests.routing import corpus

EVIL = "create function evil({0}) returns {1} language {2} as $${3}$$"
TELLS = EVIL.format("int", "boolean", "sql", "select true")

HIDDEN = {
    "a domain's check": (TELLS, "create domain d as int check (evil(value))"),
    "a domain's check of PostgreSQL's own": ("create domain d as int check (nextval('pg_am') = value)",),
    "a cast": (
        "create type pair as (a int, b int)",
        EVIL.format("int", "pair", "sql", "select row(1, 2)::pair"),
        "create cast (int as pair) with function evil(int) as implicit",
    ),
    "an operator class": (
        "create type pair as (a int, b int)",
        EVIL.format("pair, pair", "int", "sql", "select 1"),
        "create operator class own for type pair using btree as function 1 evil(pair, pair)",
    ),
    "what a type reads itself from": (
        "create type raw",
        "create function raw_in(cstring) returns raw volatile strict language internal as 'textin'",
        "create function raw_out(raw) returns cstring stable strict language internal as 'textout'",
        "create type raw (input = raw_in, output = raw_out, like = text)",
    ),
    "the operator of IN and CASE": (
        "create type pair as (a int, b int)",
        EVIL.format("pair, pair", "boolean", "sql", "select true"),
        "create operator = (leftarg = pair, rightarg = pair, function = evil)",
    ),
}


def known(connection: Connection) -> Catalog:
    rows = connection.execute(catalog.QUERY[5:-1]).fetchall()
    return corpus.as_catalog((kind, names, detail or "") for kind, names, detail in rows)


@pytest.fixture(params=["primary", "system_postgres"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """In a transaction that leaves nothing."""
    server: Postgres = request.getfixturevalue(request.param)
    with psycopg.connect(server.url()) as connection:
        yield connection
        connection.rollback()


@pytest.mark.parametrize("name", HIDDEN)
def test_what_is_used_without_being_named(connection: Connection, name: str) -> None:
    assert decide("select 1", known(connection)).target == "replica"
    for each in HIDDEN[name]:
        connection.execute(each.encode())
    found = known(connection)
    decision = decide("select 1", found)
    assert decision.target == "primary", found
    assert "()" in decision.reason
    trusted = Overrides(read_functions=frozenset({"evil", "raw_in", "nextval"}))
    assert decide("select 1", found, trusted).target == "replica"


def test_a_catalog_without_anything_of_its_own(connection: Connection) -> None:
    found = known(connection)
    for text, target in {
        "select lower('a'), now(), count(*), json_agg(1), extract(year from now())": "replica",
        "select clock_timestamp()": "replica",
        "select pg_is_in_recovery()": "primary",
        "select nextval('a')": "primary",
        "select * from pg_class": "primary",
        "select 1 + 1 = 2": "replica",
    }.items():
        assert decide(text, found).target == target, text


def test_names_that_could_be_taken_apart(connection: Connection) -> None:
    connection.execute('create table "a\nb" (id int); create table "c\'d" (id int)')
    connection.execute('create function "e\nf"(int) returns int language sql as $$select 1$$')
    connection.execute('create view g as select "e\nf"(1)')
    found = known(connection)
    assert decide('select * from "c\'d"', found).target == "replica"
    for text in ('select * from "a\nb"', "select * from a", "select * from b", "select * from g"):
        assert decide(text, found).target == "primary", text


def test_a_view_that_is_very_large(connection: Connection) -> None:
    parts = [
        " || ".join(f"md5('{n * m}')" for m in (7919, 104729, 1299709, 15485863, 179424673))
        for n in range(1500)
    ]
    columns = ", ".join(f"{part} as c{n}" for n, part in enumerate(parts))
    connection.execute(f"create view large as select {columns}".encode())
    ((size,),) = connection.execute(
        "select pg_column_size(ev_action) from pg_rewrite where ev_class = 'large'::regclass"
    ).fetchall()
    assert size > 100_000
    assert "too large" in decide("select * from large", known(connection)).reason


def test_a_function_that_is_very_large(connection: Connection) -> None:
    body = "select 1 /* " + "x" * 100_000 + " */"
    connection.execute(f"create function large() returns int stable language sql as $${body}$$".encode())
    assert decide("select large()", known(connection)).reason == (
        "calls large(), which uses what cannot be looked at"
    )


@pytest.mark.parametrize("level", ["serializable", "repeatable read", "read committed"])
def test_which_transactions_may_fail_at_their_end(primary: Postgres, level: str) -> None:
    """What a session sets is its own; what it begins with is that of the pool."""
    options = f"-c default_transaction_isolation={level.replace(' ', chr(92) + ' ')}"
    with psycopg.connect(primary.url(), options=options) as connection:
        connection.execute("set default_transaction_isolation to 'read uncommitted'")
        assert known(connection).serializable == (level == "serializable")
