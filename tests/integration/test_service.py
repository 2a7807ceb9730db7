"""One process: how it starts, what it says of itself, and how it ends."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import HOST, free_port
from tests.harness import USERS, Ambassador
from tests.harness.waiting import wait_until

NOWHERE = "postgresql://app@127.0.0.1:1/app?sslmode=disable"

MakeAmbassador = Callable[..., Ambassador]


@pytest.fixture
def proxy(primary: Postgres, ambassador: MakeAmbassador) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), drain_timeout=20)


def connect(proxy: Ambassador) -> psycopg.Connection:
    return psycopg.connect(proxy.dsn(), autocommit=True)


def test_term_lets_transactions_finish(proxy: Ambassador) -> None:
    with closing(connect(proxy)) as busy, closing(connect(proxy)) as idle:
        busy.execute("begin")
        proxy.send(signal.SIGTERM)
        wait_until(lambda: proxy.http("/readyz")[0] == 503, "not ready any more")
        assert "shutting down" in proxy.http("/readyz")[1]
        assert proxy.http("/livez")[0] == 200
        with pytest.raises(psycopg.OperationalError):
            idle.execute("select 1")
        with pytest.raises(psycopg.OperationalError):
            connect(proxy)
        assert busy.execute("select 1").fetchone() == (1,)
        assert proxy.running
        busy.execute("commit")
        assert proxy.wait() == 0


STUMBLES = """
import sys
from pgambassador.cli import main
from pgambassador.net.keeper import Keeper

tick, left = Keeper.tick, [3]

def stumbles(keeper, now):
    if keeper.cluster == "bad":
        raise RuntimeError("a mistake for ever")
    left[0] -= 1
    if left[0] >= 0:
        raise RuntimeError("a mistake at first")
    tick(keeper, now)

Keeper.tick = stumbles
sys.exit(main())
"""


def test_a_mistake_ends_no_timeouts(primary: Postgres, ambassador: MakeAmbassador) -> None:
    """Neither those of the pool that it concerns nor those of another; and it is not said all the time."""
    url = primary.url("app", USERS["app"].password, "app")
    clusters = {"bad": {"url": url}, "good": {"url": url}}
    databases = {"bad": {"cluster": "bad", "database": "app"}, "app": {"cluster": "good"}}
    proxy = ambassador(
        {"clusters": clusters, "databases": databases},
        timeouts={"statement": "300ms"},
        pool={"wait_timeout": "2s"},
        start=False,
    )
    proxy.command = (sys.executable, "-c", STUMBLES)
    proxy.start()
    with closing(connect(proxy)) as client, closing(psycopg.connect(proxy.dsn(database="bad"))):
        for _ in range(2):
            with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
                client.execute("select pg_sleep(600)")
    assert len([line for line in proxy.log_lines() if line.get("level") == "error"]) == 1
    proxy.stop()
    proxy.stderr.write_text("")  # elsewhere no traceback is expected


def test_damaged_data_are_an_alarm(primary: Postgres, ambassador: MakeAmbassador) -> None:
    """Also where no errors of statements are logged; and what else fails is none."""
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, query_log={"errors": False, "slow": "off"})
    with closing(connect(proxy)) as client:
        for sqlstate in ("XX000", "58030", "XX001", "XX002"):
            with pytest.raises(psycopg.Error, match="so it says"):
                client.execute(f"do $$ begin raise 'so it says' using errcode = '{sqlstate}'; end $$")
    (line,) = [line for line in proxy.log_lines() if line["level"] == "error"]
    assert (
        line["message"]
        == f"127.0.0.1:{primary.port} says that some of its data are damaged (XX001); its log says more"
    )


def test_a_second_signal_ends_it_at_once(proxy: Ambassador) -> None:
    with closing(connect(proxy)) as busy:
        busy.execute("begin")
        proxy.send(signal.SIGTERM)
        wait_until(lambda: proxy.http("/readyz")[0] == 503, "draining")
        proxy.send(signal.SIGTERM)
        assert proxy.wait(5) == 0
        with pytest.raises(psycopg.OperationalError, match=r"shutting down|closed"):
            busy.execute("select 1")


def test_int_does_not_wait_long(proxy: Ambassador) -> None:
    with closing(connect(proxy)) as busy:
        busy.execute("begin")
        proxy.send(signal.SIGINT)
        assert proxy.wait(10) == 0


def test_patience_has_an_end(primary: Postgres, ambassador: MakeAmbassador) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), drain_timeout=0.3)
    with closing(connect(proxy)) as busy:
        busy.execute("begin")
        assert proxy.drain() == 0
    assert "cut off" in proxy.output()


def test_it_tells_when_no_server_can_be_reached(ambassador: MakeAmbassador) -> None:
    proxy = ambassador(NOWHERE, failover={"hold": "off"})
    wait_until(lambda: proxy.http("/readyz")[0] == 503, "not ready")
    assert "main" in proxy.http("/readyz")[1]
    assert (proxy.http("/livez")[0], proxy.http("/startupz")[0]) == (200, 200)
    line = proxy.wait_for_log(lambda line: "cannot be used yet" in line["message"])
    assert line["level"] == "error"
    with pytest.raises(psycopg.OperationalError, match=r"127\.0\.0\.1"):
        connect(proxy)


def test_it_says_where_it_listens(proxy: Ambassador) -> None:
    line = proxy.wait_for_log(lambda line: "listens on" in line["message"])
    assert f"{HOST}:{proxy.port}" in line["message"]


def test_without_http(primary: Postgres, ambassador: MakeAmbassador) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), start=False, http="off")
    proxy.start(ready=False)
    proxy.wait_for_log(lambda line: "listens on" in line["message"])
    with connect(proxy) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("what", ["listen", "http"])
def test_a_busy_port_ends_the_start(ambassador: MakeAmbassador, what: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        address = f"{HOST}:{taken.getsockname()[1]}"
        proxy = ambassador(NOWHERE, start=False, **{what: [address] if what == "listen" else address})
        proxy.start(ready=False)
        assert proxy.wait() != 0
    assert address in proxy.output()
    assert f"--{what}" in proxy.output()


def test_an_address_that_fails_takes_the_others_back(ambassador: MakeAmbassador, tmp_path: Path) -> None:
    port = free_port()
    with socket.create_server((HOST, 0)) as taken:
        busy = f"{HOST}:{taken.getsockname()[1]}"
        proxy = ambassador(NOWHERE, start=False, listen=[f"{HOST}:{port}", busy])
        proxy.start(ready=False)
        assert proxy.wait() != 0
    with socket.create_server((HOST, port)):
        pass  # it is free


def test_an_authority_that_cannot_be_read_ends_the_start(ambassador: MakeAmbassador) -> None:
    proxy = ambassador(f"postgresql://app@{HOST}/app?sslrootcert=/nowhere/ca.pem", start=False)
    proxy.start(ready=False)
    assert proxy.wait() != 0
    assert "/nowhere/ca.pem" in proxy.output()


def test_a_weak_url_is_warned_of(ambassador: MakeAmbassador) -> None:
    proxy = ambassador(NOWHERE)
    assert proxy.wait_for_log(lambda line: line["level"] == "warning" and "sslmode" in line["message"])
