"""Which statements may tie a session to its server connection."""

from __future__ import annotations

import pytest
from pglast import parse_sql

from pgambassador.protocol.ties import INVENTORY, MARK, may_tie
from pgambassador.wire.replies import mentions

TYING = [
    "create temp table t (a int)",
    "CREATE TEMPORARY TABLE IF NOT EXISTS t AS SELECT 1",
    "create table pg_temp.t (a int)",
    "create function pg_temp.f() returns int language sql as 'select 1'",
    "create local temp view v as select 1",
    "create temp sequence s",
    "select 1 as a into temp t",
    "select 1; create temp table t (a int)",
    "select pg_advisory_lock(1)",
    "select Pg_Try_Advisory_Lock(1, 2)",
    "select pg_catalog.pg_advisory_lock_shared(1)",
    "with l as (select pg_advisory_lock(1)) select * from l",
    "declare c cursor with hold for select 1",
    "this is no SQL, but has temp in it",
]
LOOSE = [
    "select temp, threshold, 'temporary' from weather where hold = 1",
    "insert into t values ('create temp table')",
    'select \'"relpersistence":"t"\' as temp',
    "select pg_advisory_xact_lock(1)",
    "select pg_advisory_unlock(1), pg_advisory_unlock_all()",
    "select pg_try_advisory_xact_lock_shared(1, 2)",
    "update temp set household = 'pg_advisory_lock'",
    "create unlogged table templates (a int)",
]


@pytest.mark.parametrize("text", TYING)
def test_what_ties(text: str) -> None:
    assert mentions(text.encode())
    assert may_tie(text.encode())


@pytest.mark.parametrize("text", LOOSE)
def test_what_only_looks_like_it(text: str) -> None:
    assert mentions(text.encode()), "else it proves nothing"
    assert not may_tie(text.encode())


@pytest.mark.parametrize(
    "text", ["select 1", "", "tem", "s", "insert into t values (1, 'x')", "select abalance"]
)
def test_most_statements_are_not_even_looked_at(text: str) -> None:
    assert not mentions(text.encode())


def test_a_long_text() -> None:
    assert may_tie(b"create temp table t (a text default '" + 5000 * b"x" + b"')")
    assert not may_tie(b"insert into temperatures values " + 5000 * b"(1), ")
    assert may_tie(b""), "nobody knows what it is"


def test_the_inventory_is_sql_and_names_what_it_finds() -> None:
    (statement,) = parse_sql(INVENTORY)
    assert type(statement.stmt).__name__ == "SelectStmt"
    assert INVENTORY.count(f"'{MARK}") == 6
