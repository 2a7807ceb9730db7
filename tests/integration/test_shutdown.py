"""The end: work is finished, who is idle is told, and it does not take longer than allowed."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import HOST
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.harness.activity import stop, wait_over, wait_running
from tests.messages import COPY_DONE, SYNC, bind, copy_data, execute, parse


@pytest.fixture(params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def proxy(mode: str, primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 3})


def sent_away(client: Wire) -> None:
    answer = client.rest()
    assert answer.kinds == "E", answer
    assert answer.error.sqlstate == "57P01"
    assert answer.error.fields["S"] == "FATAL"


def refuses_newcomers(proxy: Ambassador) -> bool:
    """Nobody comes in any more: the address is free for another process."""
    try:
        socket.create_connection((HOST, proxy.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def drain(proxy: Ambassador, number: signal.Signals = signal.SIGTERM) -> None:
    proxy.send(number)
    wait_until(lambda: refuses_newcomers(proxy), "the end of listening")


def test_idle_clients_are_told_and_it_ends_at_once(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as fresh, Wire.session(proxy.port) as used:
        used.ask("select 1")
        began = time.monotonic()
        drain(proxy)
        sent_away(fresh)
        sent_away(used)
        assert proxy.wait() == 0
        assert time.monotonic() - began < 3


def test_a_running_query_is_answered(proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        client.send(build.query("select pg_sleep(1), 'finished'"))
        wait_running(observer, "'finished'")
        drain(proxy)
        assert proxy.running
        answer = client.until("Z")
        assert (answer.kinds, answer.rows) == ("TDCZ", [["", "finished"]])
        sent_away(client)
        assert proxy.wait() == 0


def test_an_open_transaction_goes_on_to_its_end(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as idle:
        client.ask("drop table if exists drained; create table drained (i int)")
        client.ask("begin")
        client.ask("insert into drained values (1)")
        drain(proxy)
        sent_away(idle)
        assert client.ask("insert into drained values (2)").kinds == "CZ"
        client.send(parse(b"", b"insert into drained values ($1::int)"), bind(b"", b"3"), execute(), SYNC)
        assert client.until("Z").kinds == "12CZ"
        client.send(build.query("copy drained from stdin"))
        client.until("G")
        client.send(copy_data(b"4\n"), COPY_DONE)
        assert client.until("Z").kinds == "CZ"
        answer = client.ask("commit")
        assert (answer.kinds, answer[-1].payload) == ("CZ", b"I")
        sent_away(client)
        assert proxy.wait() == 0
    with proxy, Wire.session(proxy.port) as client:
        assert client.ask("select sum(i) from drained").value == "10"


def test_a_pipeline_is_answered_to_its_sync(proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        client.send(parse(b"", b"select pg_sleep(0.5), 'piped'"), bind(b""), execute())
        for index in range(10):
            client.send(parse(b"", b"select $1"), bind(b"", b"%d" % index), execute())
        client.send(SYNC)
        wait_running(observer, "'piped'")
        drain(proxy)
        answer = client.until("Z")
        assert answer.kinds == "12DC" * 11 + "Z"
        sent_away(client)
        assert proxy.wait() == 0


def test_who_waits_for_a_server_connection_is_served(proxy: Ambassador) -> None:
    """Its statement was accepted; so it is answered."""
    holders = [Wire.session(proxy.port) for _ in range(3)]
    for holder in holders:
        holder.ask("begin")
    with Wire.session(proxy.port) as client:
        client.send(build.query("select 'served'"))
        wait_until(lambda: proxy.metrics().total("pgambassador_pool_waiting_clients") == 1)
        drain(proxy)
        for holder in holders:
            holder.ask("commit")
            sent_away(holder)
            holder.socket.close()
        assert client.until("Z").value == "served"
        sent_away(client)
        assert proxy.wait() == 0


def test_a_slow_reader_gets_all_of_its_result(proxy: Ambassador) -> None:
    with Wire(proxy.port, buffer=4096) as client:
        client.login(user="app", database="app")
        client.send(build.query("select repeat('x', 1000) from generate_series(1, 10000)"))
        client.until("D")
        drain(proxy)
        answer = client.until("Z")
        assert answer.kinds == 9999 * "D" + "CZ"
        sent_away(client)
        assert proxy.wait() == 0


def test_while_it_drains_it_is_alive_and_not_ready(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("begin")
        assert proxy.http("/readyz")[0] == 200
        drain(proxy)
        status, why = proxy.http("/readyz")
        assert status == 503
        assert "shutting down" in why
        assert proxy.http("/livez")[0] == 200
        assert proxy.http("/startupz")[0] == 200
        assert proxy.metrics().total("pgambassador_draining") == 1
        client.ask("commit")
        assert proxy.wait() == 0


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(
    first: signal.Signals,
    second: signal.Signals,
    primary: Postgres,
    observer: Connection,
    ambassador: Callable[..., Ambassador],
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 3})
    with Wire.session(proxy.port) as client:
        client.send(build.query("select pg_sleep(30), 'stopped'"))
        wait_running(observer, "'stopped'")
        drain(proxy, first)
        began = time.monotonic()
        proxy.send(second)
        answer = client.rest()
        assert time.monotonic() - began < 1
        assert proxy.wait() == 0
        assert answer.kinds == "TE"[2 - len(answer) :]
        assert answer.error.sqlstate == "57P01"
    stop(observer, "'stopped'")


def test_an_interrupt_waits_a_second_only(proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("begin")
        client.ask("create table of_an_interrupt ()")
        began = time.monotonic()
        proxy.send(signal.SIGINT)
        assert proxy.wait() == 0
        assert 0.5 < time.monotonic() - began < 3
        sent_away(client)
    wait_over(observer, "of_an_interrupt", deadline=2)
    with proxy, Wire.session(proxy.port) as client:
        assert client.ask("select to_regclass('of_an_interrupt') is null").value == "t"


def test_those_who_do_not_end_are_cut_off_after_the_drain_timeout(
    mode: str, primary: Postgres, observer: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"), pool={"mode": mode}, drain_timeout="1s"
    )
    with Wire.session(proxy.port) as holder, Wire.session(proxy.port) as runner:
        holder.ask("begin")
        runner.send(build.query("select pg_sleep(30), 'cut off'"))
        wait_running(observer, "'cut off'")
        began = time.monotonic()
        drain(proxy)
        assert proxy.wait() == 0
        assert 0.8 < time.monotonic() - began < 3
        sent_away(holder)
        assert runner.rest().error.sqlstate == "57P01"
    # Nobody wants its answer any more.
    said = [line.get("message", "") for line in proxy.log_lines()]
    assert not [message for message in said if "cancel request failed" in message]
    wait_over(observer, "'cut off'")
    assert [message for message in said if "cut off" in message]


def test_a_login_under_way_is_refused(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client, Wire(proxy.port) as newcomer:
        client.ask("begin")
        newcomer.send(build.SSL_REQUEST)
        assert newcomer.take(1) == b"N"
        drain(proxy)
        newcomer.start(user="app", database="app")
        answer = newcomer.rest()
        assert (answer.kinds, answer.error.sqlstate) == ("E", "57P03")
        client.ask("commit")
        assert proxy.wait() == 0


def test_its_server_connections_say_goodbye(proxy: Ambassador, primary: Postgres) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        offset = primary.log.stat().st_size
        assert proxy.drain() == 0
    with primary.log.open() as log:
        log.seek(offset)
        assert "unexpected EOF" not in log.read()


def test_another_process_can_take_over_while_the_old_one_drains(
    proxy: Ambassador, mode: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """As in a rolling restart: the address is given up first, then the clients."""
    with Wire.session(proxy.port) as old:
        old.ask("begin")
        drain(proxy)
        url = primary.url("app", USERS["app"].password, "app")
        heir = ambassador(url, listen=proxy.config["listen"], pool={"mode": mode})
        with Wire.session(proxy.port) as new:
            assert new.ask("select 'new'").value == "new"
        assert old.ask("commit").kinds == "CZ"
        sent_away(old)
        assert proxy.wait() == 0
        assert heir.running
