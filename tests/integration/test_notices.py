"""Notices, and notifications: in their place among the replies, and only for whom they are meant."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import asyncpg
import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, Wire, wait_until
from tests.messages import SYNC, bind, execute, parse

RAISE = "do $$ begin raise notice '{0}'; end $$"
# Parameters of another size: so that replies lie on the edges of reads.
PADDING = "x" * 3000


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def proxy(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 3})


@pytest.fixture(scope="module")
def single(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """One server connection in transaction mode, for everybody in turn."""
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})


def said(answer: Answer) -> list[str]:
    return [message.fields["M"] for message in answer if message.kind == "N"]


def channels(answer: Answer) -> list[tuple[str, str]]:
    """Channel and payload of each notification."""
    parts = [message.payload[4:].split(b"\0") for message in answer if message.kind == "A"]
    return [(part[0].decode(), part[1].decode()) for part in parts]


# Notices.


def test_notices_stand_between_the_replies_of_a_query(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        answer = client.ask(
            f"select 1; {RAISE.format('one')}; select 2; {RAISE.format('two')}; {RAISE.format('three')}"
        )
        assert answer.kinds == "TDCNCTDCNCNCZ"
        assert said(answer) == ["one", "two", "three"]


def test_notices_of_one_statement_come_in_order(proxy: Ambassador) -> None:
    sql = f"do $$ begin for i in 1..500 loop raise notice '% {PADDING}', i; end loop; end $$"
    with Wire.session(proxy.port) as client:
        answer = client.ask(sql)
        assert answer.kinds == "N" * 500 + "CZ"
        assert [int(text.split()[0]) for text in said(answer)] == list(range(1, 501))


def test_notices_stand_between_the_replies_of_a_pipeline(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        for index in range(20):
            client.send(parse(b"", RAISE.format(index).encode()), bind(b""), execute())
        client.send(SYNC)
        answer = client.until("Z")
        assert answer.kinds == "12NC" * 20 + "Z"
        assert said(answer) == [str(index) for index in range(20)]


def test_notices_before_an_error(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        answer = client.ask("do $$ begin raise notice 'before'; raise exception 'the error'; end $$")
        assert answer.kinds == "NEZ"
        assert said(answer) == ["before"]


def test_notices_reach_the_handlers_of_a_driver(proxy: Ambassador) -> None:
    heard: list[str | None] = []
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        connection.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        connection.execute(RAISE.format("for psycopg"))
        connection.execute("set client_min_messages = warning")
        connection.execute(RAISE.format("unwanted"))
        connection.execute("set client_min_messages = notice")
        connection.execute(RAISE.format("wanted again"))
    assert heard == ["for psycopg", "wanted again"]


def test_notices_never_reach_another_client(single: Ambassador) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as other:
        for index in range(50):
            one.send(build.query(f"do $$ begin raise notice '% {PADDING}', {index}; end $$"))
            other.send(build.query(f"select 'other {index}'"))
            assert said(one.until("Z")) == [f"{index} {PADDING}"]
            answer = other.until("Z")
            assert (answer.kinds, answer.value) == ("TDCZ", f"other {index}")


def test_notices_for_a_client_that_has_left_reach_nobody(single: Ambassador) -> None:
    for index in range(20):
        client = Wire.session(single.port)
        client.send(
            build.query(
                f"do $$ begin for i in 1..50 loop raise notice 'lost {PADDING}'; end loop; end $$; select 1"
            )
        )
        client.vanish(reset=index % 2 == 0)
        with Wire.session(single.port) as next_client:
            answer = next_client.ask("select 'mine'")
            assert (answer.kinds, answer.value) == ("TDCZ", "mine")


# Notifications.


def test_a_listener_is_notified(proxy: Ambassador) -> None:
    """However its pool works: what it has asked for is never lost without a word."""
    with Wire.session(proxy.port) as listener, Wire.session(proxy.port) as notifier:
        assert listener.ask("listen of_interest").kinds == "CZ"
        notifier.ask("notify of_interest, 'the first'")
        notifier.ask("select pg_notify('of_interest', 'the second')")
        notifier.ask("notify of_no_interest")
        found = channels(listener.until("A", 2))
        assert found == [("of_interest", "the first"), ("of_interest", "the second")]
        answer = listener.ask("select 1")
        assert (answer.kinds, answer.value) == ("TDCZ", "1")
        assert notifier.quiet


def test_a_listener_of_psycopg_is_notified(proxy: Ambassador) -> None:
    with psycopg.connect(proxy.dsn(), autocommit=True) as listener:
        listener.execute("listen of_interest")
        with psycopg.connect(proxy.dsn(), autocommit=True) as notifier:
            for payload in "abc":
                notifier.execute("select pg_notify('of_interest', %s)", (payload,))
        heard = [notify.payload for notify in listener.notifies(timeout=5, stop_after=3)]
        assert heard == ["a", "b", "c"]


def test_a_listener_of_asyncpg_is_notified(proxy: Ambassador) -> None:
    async def main() -> None:
        listener, notifier = [await asyncpg.connect(proxy.dsn()) for _ in range(2)]
        heard: asyncio.Queue[str] = asyncio.Queue()
        await listener.add_listener("of_interest", lambda *about: heard.put_nowait(about[3]))
        await notifier.execute("notify of_interest, 'for asyncpg'")
        assert await asyncio.wait_for(heard.get(), 5) == "for asyncpg"
        await listener.close()
        await notifier.close()

    asyncio.run(main())


def test_one_who_listens_in_a_transaction_is_notified_after_it(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as listener, Wire.session(proxy.port) as notifier:
        listener.ask("begin")
        listener.ask("listen of_interest")
        listener.ask("commit")
        notifier.ask("notify of_interest, 'committed'")
        assert channels(listener.until("A")) == [("of_interest", "committed")]


def test_one_who_listens_by_a_pipeline_is_notified(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as listener, Wire.session(proxy.port) as notifier:
        listener.send(parse(b"", b"listen of_interest"), bind(b""), execute(), SYNC)
        assert listener.until("Z").kinds == "12CZ"
        notifier.ask("notify of_interest, 'by a pipeline'")
        assert channels(listener.until("A")) == [("of_interest", "by a pipeline")]


def test_one_who_notifies_itself_hears_it_before_the_end(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("listen of_interest")
        answer = client.ask("notify of_interest, 'myself'")
        assert re.fullmatch("CAZ|CZ", answer.kinds)
        if "A" not in answer.kinds:
            answer = client.until("A")
        assert channels(answer) == [("of_interest", "myself")]


def test_a_notification_never_reaches_a_client_that_does_not_listen(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as listener, Wire.session(proxy.port) as notifier:
        listener.ask("listen of_interest")
        with Wire.session(proxy.port) as neighbour:
            for index in range(50):
                notifier.send(build.query(f"notify of_interest, '{index}'"))
                neighbour.send(build.query(f"select {index}"))
                assert notifier.until("Z").kinds == "CZ"
                answer = neighbour.until("Z")
                assert (answer.kinds, answer.value) == ("TDCZ", str(index))
        assert channels(listener.until("A", 50)) == [("of_interest", str(index)) for index in range(50)]


def test_nobody_inherits_what_another_listened_to(single: Ambassador) -> None:
    for end in ("leave", "vanish"):
        listener = Wire.session(single.port)
        listener.ask("listen of_interest")
        getattr(listener, end)()
        with Wire.session(single.port) as next_client:
            answer = next_client.ask("select count(*) from pg_listening_channels()")
            assert answer.value == "0"
            answer = next_client.ask("notify of_interest, 'to nobody'")
            assert answer.kinds == "CZ"
            assert next_client.ask("select 1").kinds == "TDCZ"
            assert next_client.quiet


def test_a_listener_that_leaves_gives_its_server_connection_back(single: Ambassador) -> None:
    with Wire.session(single.port) as listener, Wire.session(single.port) as other:
        listener.ask("listen of_interest")
        other.send(build.query("select 'came in'"))
        wait_until(lambda: single.metrics().total("pgambassador_pool_waiting_clients") == 1)
        listener.leave()
        assert other.until("Z").value == "came in"
