"""How long a client's work may take, by what is said of everybody, its database and its user."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi
import pytest

from pgambassador.config import Allowance, Config, Timeouts
from pgambassador.config.build import build
from pgambassador.errors import ConfigError

TREE: dict[str, Any] = {
    "clusters": {"main": {"url": "postgresql://app@db.example/shop", "pool": {"wait_timeout": "40s"}}},
    "pool": {"wait_timeout": "50s"},
    "timeouts": {"statement": "10s", "transaction": "20s", "idle_client": "1h"},
    "databases": {
        "shop": {},
        "reports": {"timeouts": {"statement": "5min", "idle_client": "off"}, "pool": {"wait_timeout": "30s"}},
        "*": {"timeouts": {"idle_in_transaction": "1s"}},
    },
    "users": {
        "web": {"timeouts": {"statement": "1s"}, "pool": {"wait_timeout": "250ms"}},
        "batch": {"timeouts": {"statement": "off", "transaction": "off"}, "pool": {"wait_timeout": "off"}},
        "*": {"timeouts": {"transaction": "2s"}},
    },
}


def config(**more: Any) -> Config:
    found: Config = build(mi.type_info(Config), {**TREE, **more}, "")
    return found


@pytest.mark.parametrize(
    ("database", "user", "timeouts", "wait", "option"),
    [
        ("shop", "web", (1, 20, None, 3600), 0.25, "users.web.pool.wait_timeout"),
        ("reports", "web", (1, 20, None, None), 0.25, "users.web.pool.wait_timeout"),
        ("reports", "batch", (None, None, None, None), None, "users.batch.pool.wait_timeout"),
        ("reports", "anybody", (300, 2, None, None), 30, "pool.wait_timeout"),
        ("another", "anybody", (10, 2, 1, 3600), 40, "pool.wait_timeout"),
    ],
)
def test_the_most_specific_counts(
    database: str, user: str, timeouts: tuple[float | None, ...], wait: float | None, option: str
) -> None:
    found = config().allowance(database, user)
    statement, transaction, idle_in_transaction, idle_client = timeouts
    assert found.timeouts == Timeouts(
        statement=statement,
        transaction=transaction,
        idle_in_transaction=idle_in_transaction,
        idle_client=idle_client,
    )
    assert (found.wait, found.wait_option) == (wait, option)


def test_nothing_is_set_unless_somebody_says_so() -> None:
    plain = config(timeouts={}, databases={}, users={}, pool={})
    assert plain.allowance("shop", "web") == Allowance(wait=40)
    assert plain.timeouts == Timeouts()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"timeouts": {"statement": 0}}, "timeouts.statement must be a duration such as"),
        ({"timeouts": {"login": "1s"}}, "timeouts.login is not an option"),
        ({"users": {"a": {"pool": {"size": 5}}}}, "users.a.pool.size is not an option"),
        ({"users": {"a": {"timeouts": {"statement": "soon"}}}}, "users.a.timeouts.statement must be"),
    ],
)
def test_mistakes_are_named(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**more)


def test_what_a_session_asks_for() -> None:
    given = Allowance(timeouts=Timeouts(statement=1, transaction=2, idle_client=3), wait=4, wait_option="x")
    asked = given.asked(
        {
            "pgambassador.statement_timeout": "250ms",
            "pgambassador.transaction_timeout": "OFF",
            "pgambassador.idle_in_transaction_timeout": "5",
            "pgambassador.idle_client_timeout": "soon",
            "pgambassador.wait_timeout": "0",
            "statement_timeout": "1h",
        }
    )
    timeouts = Timeouts(statement=0.25, transaction=None, idle_in_transaction=5, idle_client=3)
    assert asked == Allowance(timeouts=timeouts, wait=None, wait_option="pgambassador.wait_timeout")
    assert given.asked({"pgambassador.route": "primary"}) is given
