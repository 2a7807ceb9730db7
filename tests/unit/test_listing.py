"""The configuration as a list."""

from __future__ import annotations

from typing import Any

import msgspec.inspect as mi

from pgambassador.config import Config
from pgambassador.config.build import build
from pgambassador.config.listing import Setting, listing

TREE: dict[str, Any] = {
    "clusters": {
        "main": {
            "url": "postgresql://app:hunter2@db.example/shop",
            "credentials": {"provider": "exec", "command": ["token", "hunter2"]},
            "routing": {"weights": {"a:1": 0.5}, "rules": [{"user": "x", "route": "replica"}]},
        },
        "other": {"url": "postgresql:///x", "credentials": {"password": "hunter2"}},
    },
    "timeouts": {"statement": "2s"},
    "databases": {"shop": {"cluster": "main", "timeouts": {"statement": "off"}, "max_clients": 5}},
    "users": {"web": {"timeouts": {"transaction": "250ms"}}},
    "auth": {"users": {"alice": "hunter2"}, "admins": ["a", "b"]},
}


def rows(**more: Any) -> dict[str, Setting]:
    config: Config = build(mi.type_info(Config), {**TREE, **more}, "")
    found = list(listing(config))
    assert len({each.path for each in found}) == len(found)
    return {each.path: each for each in found}


def test_what_is_written_and_what_is_not() -> None:
    found = rows()
    assert found["timeouts.statement"] == Setting("timeouts.statement", "2s", "off", True)
    assert found["timeouts.idle_client"] == Setting("timeouts.idle_client", "off", "off", True)
    assert found["users.web.timeouts.transaction"] == ("users.web.timeouts.transaction", "250ms", None, True)
    assert found["databases.shop.timeouts.statement"][1:] == ("off", None, True)
    assert "databases.shop.timeouts.transaction" not in found, "it inherits"
    assert found["databases.shop.max_clients"][1:] == ("5", None, False)
    assert found["pool.size"] == Setting("pool.size", "20", "20", False)
    assert found["pool.wait_timeout"][1:] == ("120s", "120s", False)
    assert found["query_log.slow"][1:] == ("250ms", "250ms", True)
    assert found["query_log.sample"][1:] == ("0.0", "0.0", True)
    assert found["clusters.main.routing.batching"][1:] == ("true", "true", False)
    assert found["clusters.main.routing.weights.a:1"][1:] == ("0.5", None, True)
    assert "route=replica" in found["clusters.main.routing.rules"].value
    assert found["auth.admins"][1:] == ("a, b", "", True)


def test_nothing_secret_is_in_it() -> None:
    found = rows()
    assert "hunter2" not in str(found)
    assert found["clusters.main.url"].value == found["auth.users.alice"].value == "***"
    assert found["clusters.main.credentials.provider"].value == "exec"
    assert found["clusters.other.credentials.provider"].value == "static"
    assert not [path for path in found if ".credentials." in path and not path.endswith(".provider")]
