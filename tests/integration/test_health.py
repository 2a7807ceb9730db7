"""Health and metrics as an orchestrator and a scraper find them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import Connection

from pgambassador import __version__
from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Metrics, Wire, wait_until
from tests.harness.activity import sessions, terminate
from tests.messages import SYNC, bind, execute, parse

POOL = {"cluster": "main", "database": "app", "user": "app"}


@pytest.fixture
def proxy(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 2})


@pytest.fixture
def linked(link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]) -> Callable[[], Ambassador]:
    """Behind the link."""

    def make() -> Ambassador:
        url = primary.url("app", USERS["app"].password, "app", connect_timeout="2")
        url = url.replace(f":{primary.port}/", f":{link.port}/")
        return ambassador(url, pool={"size": 2}, failover={"hold": "off"})

    return make


def wait_ready(proxy: Ambassador, status: int) -> str:
    wait_until(lambda: proxy.http("/readyz")[0] == status, f"/readyz says {status}", deadline=15)
    return proxy.http("/readyz")[1]


# Health.


def test_all_is_well(proxy: Ambassador) -> None:
    assert proxy.http("/livez")[0] == 200
    assert proxy.http("/startupz")[0] == 200
    wait_ready(proxy, 200)


def test_before_a_server_has_been_reached_it_is_started_and_not_ready(
    link: Link, linked: Callable[[], Ambassador]
) -> None:
    """It becomes ready by itself: an orchestrator sends nobody to one that is not, so nobody would ask."""
    link.refuse()
    proxy = linked()
    why = wait_ready(proxy, 503)
    assert "main" in why and "refused" in why.lower()
    assert proxy.http("/livez")[0] == 200
    assert proxy.http("/startupz")[0] == 200
    link.allow()
    wait_ready(proxy, 200)


def test_when_the_server_goes_away_it_is_not_ready_until_it_is_back(
    link: Link, linked: Callable[[], Ambassador]
) -> None:
    proxy = linked()
    wait_ready(proxy, 200)
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        link.refuse()
        link.cut()
        assert client.ask("select 1").error.sqlstate[:2] == "08"
        wait_ready(proxy, 503)
        assert proxy.http("/livez")[0] == 200
        link.allow()
        wait_ready(proxy, 200)
        assert client.ask("select 'back'").value == "back"


def test_a_client_with_a_wrong_database_does_not_make_it_unready(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url())
    for name in ("typo", "another"):
        with Wire(proxy.port) as client:
            client.start(user="app", database=name)
            assert client.rest().error.sqlstate == "3D000"
    assert proxy.http("/readyz")[0] == 200


def test_the_death_of_idle_connections_does_not_make_it_unready(
    proxy: Ambassador, observer: Connection
) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        terminate(observer, *sessions(observer))
        assert proxy.http("/readyz")[0] == 200


# Metrics.


def delta(before: Metrics, after: Metrics, name: str, **labels: str) -> float:
    return after.total(name, **labels) - before.total(name, **labels)


def test_what_is_counted(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        before = proxy.metrics()
        client.ask("select 1")
        client.ask("select repeat('x', 100000)")
        client.send(parse(b"", b"select 1"), bind(b""), execute(), SYNC)
        client.until("Z")
        client.ask("select 1 / 0")
        for sql in ("begin", "select 1", "commit"):
            client.ask(sql)
        after = proxy.metrics()
    assert delta(before, after, "pgambassador_queries_total", **POOL) == 7
    assert delta(before, after, "pgambassador_query_errors_total", **POOL) == 1
    assert delta(before, after, "pgambassador_transactions_total", **POOL) == 5
    assert 100_000 < delta(before, after, "pgambassador_sent_bytes_total", **POOL) < 102_000
    assert 100 < delta(before, after, "pgambassador_received_bytes_total", **POOL) < 400
    assert delta(before, after, "pgambassador_query_duration_seconds_count", **POOL) == 7
    assert delta(before, after, "pgambassador_query_duration_seconds_sum", **POOL) > 0
    buckets = [
        value
        for (name, labels), value in sorted(after.items(), key=lambda item: _bound(item[0][1]))
        if name == "pgambassador_query_duration_seconds_bucket" and dict(labels)["database"] == "app"
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == after.total("pgambassador_query_duration_seconds_count", **POOL)


def _bound(labels: Any) -> float:
    return float(dict(labels).get("le", "0"))


def test_who_is_there(proxy: Ambassador) -> None:
    def now(name: str, **labels: str) -> float:
        return proxy.metrics().total(f"pgambassador_{name}", **labels)

    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two, Wire.session(proxy.port) as three:
        assert now("clients") == now("pool_clients", **POOL) == 3
        assert now("pool_size", **POOL) == 2
        one.ask("begin")
        two.ask("begin")
        three.send(build.query("select 1"))
        wait_until(lambda: now("pool_waiting_clients") == 1)
        assert now("server_connections", state="active", **POOL) == 2
        assert now("server_connections", state="idle", **POOL) == 0
        one.ask("commit")
        three.until("Z")
        two.ask("commit")
        assert now("server_connections", state="idle", **POOL) == 2
        assert now("wait_duration_seconds_count") >= 1
    wait_until(lambda: now("clients") == 0)
    assert now("server_connections", state="idle", **POOL) == 2


def test_logins_and_refusals(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), clients={"max": 1})
    with Wire.session(proxy.port):
        with Wire(proxy.port) as second:
            second.start(user="app", database="app")
            assert second.rest().error.sqlstate == "53300"
        metrics = proxy.metrics()
        assert metrics.total("pgambassador_logins_total") == 1
        assert metrics.total("pgambassador_login_failures_total") == 1
        assert metrics.total("pgambassador_clients_rejected_total", reason="too many clients") == 1


def test_ends_of_server_connections_are_counted_by_reason(proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("begin")
        opened = proxy.metrics().total("pgambassador_server_connects_total", **POOL)
        terminate(observer, *sessions(observer))
        wait_until(lambda: proxy.metrics().total("pgambassador_sessions_kept_total", **POOL) == 1)
        closed = proxy.metrics().total("pgambassador_server_disconnects_total", **POOL)
        assert (opened, closed) == (1, 1)


def test_the_text_keeps_the_rules(proxy: Ambassador) -> None:
    """Names with our prefix, base units, help for everything, and the version."""
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        status, text = proxy.http("/metrics")
    assert status == 200
    names = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    ours = [(name, kind) for name, kind in names if not name.startswith("process_")]
    assert ours and all(name.startswith("pgambassador_") for name, _ in ours)
    assert all(name.endswith("_total") for name, kind in ours if kind == "counter")
    assert not [name for name, _ in ours if re.search(r"_(ms|milliseconds|kb|minutes)\b", name)]
    assert {name for name, _ in names} == set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert f'version="{__version__}"' in text
    assert "app-secret" not in text


def test_counters_never_go_back(proxy: Ambassador) -> None:
    last: dict[Any, float] = {}
    with Wire.session(proxy.port) as client:
        for index in range(20):
            client.ask("select 1" if index % 3 else "select 1 / 0")
            metrics = proxy.metrics()
            for (name, labels), value in metrics.items():
                if name.startswith("pgambassador_") and name.endswith(("_total", "_count", "_bucket")):
                    assert value >= last.get((name, labels), 0.0)
                    last[name, labels] = value
