"""The catalog of no database: what it knows is true of every one."""

from __future__ import annotations

import pytest

from pgambassador.routing.decision import decide
from pgambassador.routing.offline import FIXED, OFFLINE, VOLATILE
from tests.routing import corpus


@pytest.mark.parametrize("name", sorted(FIXED | VOLATILE))
def test_a_server_says_the_same(name: str) -> None:
    assert OFFLINE.effect(name) is corpus.recorded().effect(name)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("select * from anything where lower(name) = 'a'", "replica"),
        ("select nextval('s')", "primary"),
        ("select pg_notify('a', 'b')", "primary"),
        ("select * from pg_stat_activity", "primary"),
        ("select of_ones_own()", "primary"),
        ("insert into anything values (1)", "primary"),
    ],
)
def test_where_statements_go(text: str, target: str) -> None:
    assert decide(text, OFFLINE).target == target


def test_what_changes_things_goes_to_no_replica() -> None:
    seen = 0
    for statement in corpus.STATEMENTS:
        if statement.kind in ("ddl", "session", "pinning") and statement.target == "primary":
            seen += 1
            assert decide(statement.text, OFFLINE).target != "replica", statement.text
    assert seen > 50
