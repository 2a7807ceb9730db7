"""Connections that neither answer nor end: noticed in the time that was set, and nobody waits longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, wait_until
from tests.harness.activity import stop, wait_running
from tests.harness.packets import Cable

KEEPALIVE = {"keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "2"}
NOTICED = 8.0  # without what is set here it takes 15 s (failover.quiet), or for ever


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def cable(primary: Postgres) -> Iterator[Cable]:
    if not Cable.possible:
        pytest.skip("losing packets on purpose takes Linux, and here a privilege that this user has not")
    with Cable(primary.port) as cable:
        yield cable


def url(primary: Postgres, link: Link, **parameters: str) -> str:
    found = primary.url("app", USERS["app"].password, "app", **parameters)
    return found.replace(f":{primary.port}/", f":{link.port}/")


@pytest.mark.parametrize("running", [True, False], ids=["running", "idle in transaction"])
def test_a_lost_server_is_noticed_by_keepalives_and_the_queue_moves_on(
    mode: str,
    running: bool,
    cable: Cable,
    primary: Postgres,
    observer: Connection,
    ambassador: Callable[..., Ambassador],
) -> None:
    """Whoever has the connection is told; whoever waits for one gets a new one."""
    proxy = ambassador(url(primary, cable, **KEEPALIVE), pool={"mode": mode, "size": 1})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as waiter:
        client.ask("begin")
        if running:
            client.send(build.query("select pg_sleep(60), 'unplugged'"))
            wait_running(observer, "'unplugged'")
        cable.pull()
        pulled = time.monotonic()
        waiter.send(build.query("select 'came in'"))
        if mode == "session":
            answer = client.rest()
            assert answer.kinds == "E"
            assert (answer.error.fields["S"], answer.error.sqlstate) == ("FATAL", "08006")
        elif running:
            answer = client.until("Z")
            assert (answer.kinds, answer.error.sqlstate, answer[-1].payload) == ("EZ", "08006", b"E")
        assert running is False or time.monotonic() - pulled < NOTICED
        assert waiter.until("Z").value == "came in"
        assert time.monotonic() - pulled < NOTICED + 1
        if mode == "transaction":
            answer = client.ask("commit")
            assert answer.kinds == "CZ" if running else answer.error.sqlstate == "08006"
            assert client.ask("select 'on'").value == "on"
    stop(observer, "'unplugged'")


def test_an_idle_lost_server_is_noticed_by_keepalives(
    cable: Cable, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(url(primary, cable, **KEEPALIVE), pool={"size": 1})
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        cable.pull()
        wait_until(
            lambda: proxy.metrics().total("pgambassador_server_connections", state="idle") == 0,
            "the loss of the connection",
            deadline=NOTICED,
        )
        assert client.ask("select 2").value == "2"


def test_a_statement_sent_into_the_void_ends_after_the_user_timeout(
    cable: Cable, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """While sent bytes are not acknowledged keepalives are silent."""
    proxy = ambassador(url(primary, cable, tcp_user_timeout="1500"), pool={"size": 1})
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        cable.pull()
        began = time.monotonic()
        answer = client.ask("select nextval('nobody')")
        assert time.monotonic() - began < NOTICED
        assert (answer.kinds, answer.error.sqlstate) == ("EZ", "08007")
        assert client.ask("select 3").value == "3"


def test_a_server_that_accepts_and_says_nothing_costs_the_connect_timeout(
    primary: Postgres, link: Link, ambassador: Callable[..., Ambassador]
) -> None:
    target = url(primary, link, connect_timeout="2")
    proxy = ambassador(target, pool={"size": 2}, failover={"hold": "off"})
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        link.cut()
        link.stall()
        began = time.monotonic()
        client.send(build.query("select 2"))
        answer = client.until("Z")
        assert (answer.kinds, answer.error.sqlstate[:2]) == ("EZ", "08")
        assert 1 < time.monotonic() - began < 4
        link.resume()

        def back() -> bool:
            return client.ask("select 3").kinds == "TDCZ"

        wait_until(back, "the connection's return")


def test_behind_a_stalled_connection_nobody_waits_longer_than_the_wait_timeout(
    mode: str, primary: Postgres, link: Link, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        url(primary, link, connect_timeout="30"), pool={"mode": mode, "size": 1, "wait_timeout": "1s"}
    )
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as waiter:
        assert client.ask("begin").kinds == "CZ"
        link.stall()
        client.send(build.query("select 'late'"))
        waiter.send(build.query("select 'never'"))
        began = time.monotonic()
        answer = waiter.until("Z")
        assert (answer.kinds, answer.error.sqlstate) == ("EZ", "53300")
        assert 0.5 < time.monotonic() - began < 3
        link.resume()
        assert client.until("Z").value == "late"
        client.ask("commit")
        if mode == "session":
            client.leave()
        assert waiter.ask("select 'in time'").value == "in time"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads /proc/net/tcp")
def test_a_client_is_asked_for_a_sign_of_life(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Clients too vanish without a packet, with a transaction open; PostgreSQL uses keepalives as well."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"))
    with Wire.session(proxy.port) as client:
        client.ask("begin")
        wait_until(lambda: keepalive_timers(proxy) == 1, "a keepalive timer on the client's connection")


def keepalive_timers(proxy: Ambassador) -> int:
    """How many connections of its clients have a keepalive timer running (proc_net_tcp: timer 02)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{proxy.port:04X}"
    return sum(line[1].endswith(port) and line[3] == "01" and line[5].startswith("02") for line in lines)
