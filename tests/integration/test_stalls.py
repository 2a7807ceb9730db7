"""One client's statement keeps nobody else waiting, and what it makes us hold is bounded."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.messages import SYNC, bind, close_statement, execute, parse

STATEMENTS = {
    "a RESET with blanks": b"reset a" + b" " * 1900 + b"b",
    "a SET of a value with blanks": b"set application_name = 'a" + b" " * 1900 + b"b'",
    "many an UPDATE": b"select 1 /* temp " + b"update " * 9000 + b"*/",
}


def active(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_server_connections", state="active")


@pytest.fixture
def proxy(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 4})


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_statement_that_is_slow_to_read_stalls_nobody(what: str, proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as victim, Wire.session(proxy.port, application_name="x") as attacker:
        victim.ask("select 1")
        attacker.send(build.query(STATEMENTS[what].decode()))
        victim.socket.settimeout(3.0)
        try:
            assert victim.ask("select 1").value == "1"
        finally:
            proxy.kill()


def test_a_long_block_stalls_nobody(proxy: Ambassador) -> None:
    block = b"do $$ begin perform set_config('a.b', '" + b"x" * 15_000_000 + b"', true); end $$"
    with Wire.session(proxy.port) as victim, Wire.session(proxy.port) as attacker:
        victim.ask("select 1")
        victim.socket.settimeout(3.0)
        attacker.send(parse(b"", block), bind(b""), execute(), SYNC)
        attacker.socket.settimeout(30.0)
        try:
            attacker.until("1")
            while attacker.quiet:
                assert victim.ask("select 1").value == "1"
        finally:
            proxy.kill()


def test_the_console_reads_no_statement_for_long(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as victim, Wire.session(proxy.port, database="pgambassador") as attacker:
        victim.ask("select 1")
        attacker.send(build.query("/* " * 80_000))
        victim.socket.settimeout(3.0)
        try:
            assert victim.ask("select 1").value == "1"
        finally:
            proxy.kill()


MOST = 100 << 20


def test_names_of_portals_are_bounded(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("begin")
        client.send(parse(b"", b"select 1"))
        before = proxy.rss()
        for number in range(200):
            client.send(bind(b"", portal=b"%d " % number + b"x" * (1 << 20)))
        client.send(SYNC)
        client.until("Z")
        assert proxy.rss() - before < MOST


def test_what_a_client_closes_is_bounded(proxy: Ambassador) -> None:
    """Closes of statements are answered by us: while a server is at work they add up, and none is lost."""
    closes = 1_200_000
    with Wire.session(proxy.port) as owner, Wire.session(proxy.port) as client:
        owner.ask("select pg_advisory_lock(1)")
        client.send(parse(b"", b"select pg_advisory_lock_shared(1)"), bind(b""), execute())
        before = proxy.rss()
        client.socket.settimeout(0.5)
        data = memoryview(close_statement(b"x") * closes + SYNC)
        with pytest.raises(TimeoutError):  # it is not read any more
            while data:
                data = data[client.socket.send(data[:100_000]) :]
        assert proxy.rss() - before < MOST
        client.socket.settimeout(10.0)
        owner.ask("select pg_advisory_unlock(1)")
        with ThreadPoolExecutor(1) as others:
            rest = others.submit(client.socket.sendall, data)
            assert client.until("C").kinds == "12DC"
            assert client.take(5 * closes) == b"3\0\0\0\4" * closes
            assert client.until("Z").kinds == "Z"
            rest.result()


def test_a_long_pipeline_is_answered_without_its_sync(proxy: Ambassador) -> None:
    """What waits for its Sync at the server keeps that Sync from being read: the server is made to answer."""
    with Wire.session(proxy.port) as client, ThreadPoolExecutor(1) as others:
        steps = parse(b"a", b"select $1::int4"), *((bind(b"a", b"1"), execute()) * 20_000), SYNC
        sent = others.submit(client.send, *steps)
        answer = client.until("Z")
        sent.result()
        assert answer.kinds == "1" + "2DC" * 20_000 + "Z"
        steps = parse(b"b", b"select 1 / $1::int4"), *((bind(b"b", b"0"), execute()) * 20_000), SYNC
        sent = others.submit(client.send, *steps)
        answer = client.until("Z")
        sent.result()
        assert answer.kinds in ("12EZ", "1EZ")
        assert client.ask("select 1").value == "1"


def test_large_settings_stall_nobody(proxy: Ambassador) -> None:
    """Who has set that much keeps its server connection, until it has not."""
    with Wire.session(proxy.port) as victim, Wire.session(proxy.port) as attacker:
        pid = attacker.ask("select pg_backend_pid()").value
        attacker.ask("begin")
        for number in range(80):
            attacker.ask(f"set attack.k{number} = '{'é' * 30_000}'")
        attacker.ask("commit")
        assert attacker.ask("select pg_backend_pid()").value == pid
        victim.socket.settimeout(3.0)
        for _ in range(3):
            assert victim.ask("select pg_backend_pid()").value != pid
            attacker.ask("select set_config('attack.k1', 'x', false)")
        assert attacker.ask("select length(current_setting('attack.k79'))").value == "30000"
        wait_until(lambda: active(proxy) == 1, "one connection to be kept")
        attacker.ask("reset all")
        wait_until(lambda: active(proxy) == 0, "no connection to be kept")


def test_a_very_large_setting_is_kept(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.ask(f"set a.b = '{'x' * 2_000_000}'")
        assert other.ask("select coalesce(current_setting('a.b', true), '')").value == ""
        assert client.ask("select length(current_setting('a.b'))").value == "2000000"


def test_names_of_statements_are_bounded(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, clients={"memory": "16MiB"})
    with Wire.session(proxy.port) as client:
        client.socket.settimeout(1.0)
        before = proxy.rss()
        names = iter(range(1_000_000))
        for _ in range(80):
            try:
                client.send(*(parse(b"%050d" % next(names), b"select 1") for _ in range(10_000)), SYNC)
                client.until("Z")
            except (ConnectionError, TimeoutError):
                break  # it is told that this is too much, or not read
        assert proxy.rss() - before < MOST


def test_a_long_ledger_stalls_nobody(proxy: Ambassador) -> None:
    """The server is at work, so that what is asked adds up."""
    frames = (parse(b"%d" % number, b"select %d" % number) for number in range(50_000))
    with Wire.session(proxy.port) as attacker, Wire.session(proxy.port) as victim:
        victim.ask("select 1")
        victim.socket.settimeout(3.0)
        attacker.send(parse(b"", b"select pg_sleep(20)"), bind(b""), execute())
        attacker.socket.settimeout(0.5)
        data = close_statement(b"x") * 500_000 + b"".join(frames)
        try:
            while data:
                try:
                    data = data[attacker.socket.send(data[:100_000]) :]
                except TimeoutError:
                    break  # it is not read any more
                assert victim.ask("select 1").value == "1"
        finally:
            proxy.kill()
