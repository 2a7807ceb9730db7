"""Cancel requests: they hit what they are meant for, at once, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import asyncpg
import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, wait_until
from tests.harness.activity import is_running, wait_over, wait_running
from tests.harness.cancelling import Cancellable
from tests.harness.tap import Tap
from tests.messages import SYNC, bind, execute, parse

RACES = 100


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def proxy(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """One server connection: whoever comes next has the same one."""
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 1})


def waiting(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_pool_waiting_clients")


def test_a_running_query_ends_within_a_second(proxy: Ambassador, observer: Connection) -> None:
    with Cancellable.session(proxy.port) as client:
        client.send(build.query("select pg_sleep(30), 'simple'"))
        wait_running(observer, "'simple'")
        began = time.monotonic()
        client.cancel()
        answer = client.until("Z")
        assert time.monotonic() - began < 1
        assert (answer.kinds, answer.error.sqlstate) == ("TEZ", "57014")
        assert client.ask("select 1").value == "1"


def test_a_running_pipeline_ends_at_its_sync(proxy: Ambassador, observer: Connection) -> None:
    with Cancellable.session(proxy.port) as client:
        client.send(parse(b"", b"select pg_sleep(30), 'extended'"), bind(b""), execute(), SYNC)
        client.send(parse(b"", b"select 'behind it'"), bind(b""), execute(), SYNC)
        wait_running(observer, "'extended'")
        client.cancel()
        answer = client.until("Z")
        assert (answer.kinds, answer.error.sqlstate) == ("12EZ", "57014")
        assert client.until("Z").value == "behind it"


def test_a_query_in_a_transaction_fails_and_the_transaction_with_it(
    proxy: Ambassador, observer: Connection
) -> None:
    with Cancellable.session(proxy.port) as client:
        client.ask("begin")
        client.send(build.query("select pg_sleep(30), 'transaction'"))
        wait_running(observer, "'transaction'")
        client.cancel()
        answer = client.until("Z")
        assert answer.error.sqlstate == "57014"
        assert answer[-1].payload == b"E"
        assert client.ask("select 1").error.sqlstate == "25P02"
        assert client.ask("rollback")[-1].payload == b"I"


def test_psycopg_cancels(proxy: Ambassador, observer: Connection) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:

        def cancel() -> None:
            wait_running(observer, "'psycopg'")
            connection.cancel_safe()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            connection.execute("select pg_sleep(30), 'psycopg'")
        thread.join()
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_timeout_of_asyncpg_ends_the_query_on_the_server(proxy: Ambassador, observer: Connection) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(proxy.dsn())
        with pytest.raises(asyncio.TimeoutError):
            await connection.execute("select pg_sleep(30), 'asyncpg'", timeout=0.2)
        assert await connection.fetchval("select 1") == 1
        await connection.close()

    asyncio.run(main())
    wait_over(observer, "'asyncpg'", deadline=2)


def test_with_all_server_connections_busy_the_next_client_comes_in(
    proxy: Ambassador, mode: str, observer: Connection
) -> None:
    with Cancellable.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.send(build.query("select pg_sleep(30), 'busy'"))
        wait_running(observer, "'busy'")
        other.send(build.query("select 'came in'"))
        wait_until(lambda: waiting(proxy) == 1)
        client.cancel()
        assert client.until("Z").error.sqlstate == "57014"
        if mode == "session":
            client.leave()
        assert other.until("Z").value == "came in"


def test_a_cancel_that_races_with_the_end_never_hits_the_next_client(proxy: Ambassador, mode: str) -> None:
    """The request is on its way while the query ends and somebody else gets the server connection."""
    hits = 0
    for index in range(RACES):
        with Cancellable.session(proxy.port) as client, Wire.session(proxy.port) as next_client:
            client.send(build.query(f"select 'short {index}'"))
            with client.begin_cancel() as cancel:
                next_client.send(build.query(f"select pg_sleep(0.003), 'next {index}'"))
                answer = client.until("Z")
                if "E" in answer.kinds:
                    assert answer.error.sqlstate == "57014"
                    hits += 1
                else:
                    assert answer.value == f"short {index}"
                if mode == "session":
                    client.leave()
                answer = next_client.until("Z")
                assert answer.kinds == "TDCZ", answer
                assert answer.rows[0][1] == f"next {index}"
                assert cancel.rest() == []
    assert hits < RACES


def test_a_cancel_after_the_end_never_hits_the_next_client(proxy: Ambassador, mode: str) -> None:
    for index in range(RACES):
        with Cancellable.session(proxy.port) as client, Wire.session(proxy.port) as next_client:
            assert client.ask(f"select {index}").value == str(index)
            if mode == "session":
                client.socket.shutdown(1)  # its key is still sent
                assert client.rest() == []
            next_client.send(build.query(f"select pg_sleep(0.003), 'next {index}'"))
            with Wire(proxy.port) as late:
                late.send(build.cancel_request(client.pid, client.secret))
                assert next_client.until("Z").kinds == "TDCZ"
                assert late.rest() == []


@pytest.mark.parametrize("given_up", [False, True], ids=["in time", "after it was given up"])
def test_a_cancel_that_is_long_on_its_way_does_not_hit_the_next_client(
    mode: str,
    given_up: bool,
    link: Link,
    primary: Postgres,
    observer: Connection,
    ambassador: Callable[..., Ambassador],
) -> None:
    """The network holds the request back until its query has long been over. (In plain text, where it is sent
    without waiting for anything.)"""
    url = primary.url("app_plain", USERS["app_plain"].password, "app", sslmode="disable", connect_timeout="2")
    proxy = ambassador(url.replace(f":{primary.port}/", f":{link.port}/"), pool={"mode": mode, "size": 1})
    with Cancellable.session(proxy.port) as client, Wire.session(proxy.port) as next_client:
        client.send(build.query("select pg_sleep(0.5), 'held back'"))
        wait_running(observer, "'held back'")
        before = link.accepted
        link.stall()
        with client.begin_cancel() as cancel:
            wait_until(lambda: link.accepted > before, "the request is on its way")
            wait_over(observer, "'held back'")
            next_client.send(build.query("select pg_sleep(0.5), 'the next one'"))
            if given_up:
                proxy.wait_for_log(lambda line: "cancel request" in line["message"])
            link.resume()
            with contextlib.suppress(ConnectionError):
                client.until("Z")
            if mode == "session":
                client.vanish()
            assert next_client.until("Z").kinds == "TDCZ"
            assert cancel.rest() == []


def test_a_client_that_waits_for_a_server_connection_leaves_the_queue(proxy: Ambassador, mode: str) -> None:
    """Its statement fails, as if it had begun; its session goes on."""
    with Wire.session(proxy.port) as holder, Cancellable.session(proxy.port) as client:
        holder.ask("begin")
        client.send(build.query("select 'never run'"))
        wait_until(lambda: waiting(proxy) == 1)
        client.cancel()
        answer = client.until("Z")
        assert (answer.kinds, answer.error.sqlstate) == ("EZ", "57014")
        assert answer.error.fields["S"] == "ERROR"
        assert waiting(proxy) == 0
        client.send(parse(b"", b"select 'nor this'"), bind(b""), execute(), SYNC)
        wait_until(lambda: waiting(proxy) == 1)
        client.cancel()
        answer = client.until("Z")
        assert (answer.kinds, answer.error.sqlstate) == ("EZ", "57014")
        assert holder.ask("commit").kinds == "CZ"
        if mode == "session":
            holder.leave()
        assert client.ask("select 'this is'").value == "this is"


def test_unknown_keys_do_nothing_and_are_closed(proxy: Ambassador, observer: Connection) -> None:
    with Cancellable.session(proxy.port) as client:
        client.send(build.query("select pg_sleep(0.5), 'left alone'"))
        wait_running(observer, "'left alone'")
        wrong = bytes(byte ^ 1 for byte in client.secret)
        for pid, secret in [
            (client.pid, wrong),
            (client.pid, wrong[:3] + client.secret[3:]),
            (client.pid ^ 1, client.secret),
            (0, client.secret),
            (0x7FFFFFFF, bytes(4)),
        ]:
            with Wire(proxy.port) as wire:
                wire.send(build.cancel_request(pid, secret))
                assert wire.rest() == []
        assert is_running(observer, "'left alone'")
        assert client.until("Z").kinds == "TDCZ"


@pytest.mark.parametrize("size", [0, 3, 5, 257, 4000])
def test_a_key_of_another_size_does_nothing(proxy: Ambassador, size: int) -> None:
    """Since protocol 3.2 keys may have up to 256 bytes; none of ours has."""
    with Cancellable.session(proxy.port) as client:
        with Wire(proxy.port) as wire:
            wire.send(build.cancel_request(client.pid, bytes(size)))
            wire.rest()
        assert client.ask("select 1").value == "1"


def test_a_long_key(proxy: Ambassador, observer: Connection) -> None:
    """Of a client that speaks protocol 3.2; the server's own is as long."""
    with Cancellable(proxy.port) as client:
        client.send(build.startup_message({"user": "app", "database": "app"}, build.PROTOCOL_3_2))
        (key,) = (message.payload for message in client.until("Z") if message.kind == "K")
        client.pid, client.secret = int.from_bytes(key[:4], "big"), key[4:]
        assert len(client.secret) == 32
        client.send(build.query("select pg_sleep(30), 'long key'"))
        wait_running(observer, "'long key'")
        with Wire(proxy.port) as wire:
            wire.send(build.cancel_request(client.pid, client.secret[:4]))
            assert wire.rest() == []
        assert is_running(observer, "'long key'")
        client.cancel()
        assert client.until("Z").error.sqlstate == "57014"


def test_idle_in_a_transaction_it_does_no_harm(proxy: Ambassador) -> None:
    with Cancellable.session(proxy.port) as client:
        client.ask("begin")
        for _ in range(5):
            client.cancel()
            assert client.ask("select 1").value == "1"
        answer = client.ask("commit")
        assert (answer.kinds, answer[-1].payload) == ("CZ", b"I")
        client.cancel()
        assert client.ask("select 2").value == "2"


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_the_request_goes_to_the_server_over_tls(
    negotiation: str, primary: Postgres, observer: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    """As does everything else: no key is ever seen on the wire."""
    with Tap(primary.port) as tap:
        url = primary.url("app", USERS["app"].password, "app", sslnegotiation=negotiation)
        proxy = ambassador(url.replace(f":{primary.port}/", f":{tap.port}/"), pool={"size": 1})
        with Cancellable.session(proxy.port) as client:
            client.send(build.query("select pg_sleep(30), 'over tls'"))
            wait_running(observer, "'over tls'")
            before = len(tap.said)
            client.cancel()
            assert client.until("Z").error.sqlstate == "57014"
            assert len(tap.said) == before + 1
        handshake = b"\x16\x03"
        first = handshake if negotiation == "direct" else build.SSL_REQUEST + handshake
        for said in tap.said:
            assert said.startswith(first)
            assert (80877102).to_bytes(4, "big") not in said  # the code of a cancel request


def test_two_at_once_for_the_same_client(proxy: Ambassador, observer: Connection) -> None:
    with Cancellable.session(proxy.port) as client:
        for index in range(10):
            client.send(build.query(f"select pg_sleep(30), 'twice {index}'"))
            wait_running(observer, f"'twice {index}'")
            with client.begin_cancel() as one, client.begin_cancel() as other:
                assert client.until("Z").error.sqlstate == "57014"
                assert one.rest() == other.rest() == []
            assert client.ask("select 1").value == "1"


def test_one_that_cannot_be_passed_on_leaves_the_query_alone(
    link: Link, primary: Postgres, observer: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url.replace(f":{primary.port}/", f":{link.port}/"), pool={"size": 1})
    with Cancellable.session(proxy.port) as client:
        client.send(build.query("select pg_sleep(0.4), 'unreachable'"))
        wait_running(observer, "'unreachable'")
        link.refuse()
        client.cancel()
        assert client.until("Z").kinds == "TDCZ"
        link.allow()
        assert client.ask("select 1").value == "1"
    proxy.wait_for_log(lambda line: "cancel request" in line["message"])


def test_a_client_that_leaves_with_its_query_running(proxy: Ambassador, observer: Connection) -> None:
    """Nobody wants the answer any more: the server is told so, and the next client does not wait for it."""
    client = Cancellable.session(proxy.port)
    client.send(build.query("select pg_sleep(30), 'abandoned'"))
    wait_running(observer, "'abandoned'")
    with contextlib.suppress(OSError):
        client.vanish()
    wait_over(observer, "'abandoned'", deadline=2)
    with Wire.session(proxy.port) as next_client:
        assert next_client.ask("select 1").value == "1"
