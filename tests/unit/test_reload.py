"""What differs between two configurations, and which of it a running process takes over."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi
import pytest

from pgambassador.config import Config, compare
from pgambassador.config.build import build
from pgambassador.errors import ConfigError

URL = "postgresql://app:hunter2@db.example/shop"


def config(**more: Any) -> Config:
    tree = {"clusters": {"main": {"url": URL}}, **more}
    found: Config = build(mi.type_info(Config), tree, "")
    return found


def weighed(**weights: float) -> dict[str, Any]:
    return {"clusters": {"main": {"url": URL, "routing": {"weights": weights}}}}


def test_the_same_is_no_change() -> None:
    change = compare(config(), config())
    assert (change.live, change.restart) == ([], [])
    assert change.config == config()


@pytest.mark.parametrize(
    ("new", "live"),
    [
        ({"auth": {"users": {"a": "hunter2"}}}, ["auth.users.a"]),
        ({"auth": {"rules": [{"method": "trust"}]}}, ["auth.rules"]),
        ({"auth": {"map": {"a": "b"}, "query": {"user": "x"}}}, ["auth.query", "auth.map.a"]),
        ({"tls": {"certificate": "x", "mode": "require"}}, ["tls.mode", "tls.certificate"]),
        ({"clients": {"max": 5, "login_timeout": "1s"}}, ["clients.max", "clients.login_timeout"]),
        ({"log": {"level": "debug"}, "drain_timeout": "1s"}, ["log.level", "drain_timeout"]),
        ({"query_log": {"slow": "off"}}, ["query_log.slow"]),
        ({"timeouts": {"statement": "2s"}}, ["timeouts.statement"]),
        (
            {"failover": {"hold": "off", "max_opening": 3}, "breaker": {"failures": 2, "dry_run": True}},
            ["failover.hold", "failover.max_opening", "breaker.failures", "breaker.dry_run"],
        ),
        (weighed(**{"10.0.0.1:5432": 0.1}), ["clusters.main.routing.weights.10.0.0.1:5432"]),
    ],
)
def test_what_is_taken_over(new: dict[str, Any], live: list[str]) -> None:
    change = compare(config(), config(**new))
    assert (change.live, change.restart) == (live, [])
    assert change.config == config(**new)
    back = compare(config(**new), config())
    assert (back.live, back.restart, back.config) == (live, [], config())


@pytest.mark.parametrize(
    ("new", "restart"),
    [
        ({"clusters": {"main": {"url": URL + "2"}}}, ["clusters.main.url"]),
        ({"clusters": {"other": {"url": URL}}}, ["clusters.main", "clusters.other"]),
        (
            {"clusters": {"main": {"url": URL, "credentials": {"password": "hunter2"}}}},
            ["clusters.main.credentials"],
        ),
        (
            {"clusters": {"main": {"url": URL, "routing": {"max_lag": "1s"}}}},
            ["clusters.main.routing.max_lag"],
        ),
        ({"databases": {"shop": {"max_clients": 3}}}, ["databases.shop"]),
        ({"listen": ["127.0.0.1:1"], "http": "off"}, ["listen", "http"]),
        ({"pool": {"size": 3, "mode": "session"}}, ["pool.mode", "pool.size"]),
        ({"users": {"*": {"max_clients": 3}}}, ["users.*"]),
        ({"clients": {"buffer": 65536}}, ["clients.buffer"]),
        ({"query_log": {"file": "x"}}, ["query_log.file"]),
    ],
)
def test_what_waits_for_a_restart(new: dict[str, Any], restart: list[str]) -> None:
    change = compare(config(), config(**new))
    assert (change.live, change.restart) == ([], restart)
    assert change.config == config()
    assert "hunter2" not in repr(change)


def test_one_provider_in_place_of_another() -> None:
    one, two = (
        config(clusters={"main": {"url": URL, "credentials": each}})
        for each in ({"provider": "env", "variable": "A"}, {"provider": "file", "path": "b"})
    )
    assert compare(one, two).restart == ["clusters.main.credentials"]


def test_both_together() -> None:
    change = compare(config(), config(listen=["127.0.0.1:1"], log={"level": "error"}))
    assert (change.live, change.restart) == (["log.level"], ["listen"])
    assert change.config == config(log={"level": "error"})
    change.check()


def test_what_does_not_go_together_with_what_stays() -> None:
    """It would be right after a restart: users without a password where only this machine can connect."""
    here = config(auth={"method": "trust"})
    elsewhere = config(listen=["0.0.0.0:5432"], auth={"users": {"a": "b"}})
    with pytest.raises(ConfigError) as caught:
        compare(elsewhere, here).check()
    sentence = caught.value.sentence()
    assert "what only a restart changes (listen): 0.0.0.0:5432 can be reached from other machines" in sentence
    assert sentence.endswith("Restart to apply all of it.")


def test_of_databases_and_users_the_timeouts_alone_are_taken_over() -> None:
    old = config(databases={"shop": {}}, users={"app": {}, "gone": {}})
    new = config(
        databases={"shop": {"timeouts": {"statement": "2s"}, "max_clients": 5}},
        users={"app": {"timeouts": {"idle_client": "off"}, "pool": {"wait_timeout": "1s"}}, "new": {}},
    )
    change = compare(old, new)
    assert change.live == [
        "databases.shop.timeouts.statement",
        "users.app.pool.wait_timeout",
        "users.app.timeouts.idle_client",
    ]
    assert change.restart == ["databases.shop.max_clients", "users.gone", "users.new"]
    assert change.config.databases["shop"].timeouts == new.databases["shop"].timeouts
    assert change.config.databases["shop"].max_clients is None
    assert change.config.users == {"app": new.users["app"], "gone": old.users["gone"]}
