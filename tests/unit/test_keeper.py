"""One pool at work: who is served, what becomes of a connection whose client has left, what time does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pgambassador.errors import ServerRefused, Unreachable
from pgambassador.net.greeting import BASE
from pgambassador.net.numbers import Numbers
from pgambassador.protocol.survey import TIES, question
from tests.keeping import Keeping
from tests.messages import (
    COPY_IN,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TERMINATE,
    TRANSACTION,
    bind,
    complete,
    copy_data,
    fatal,
    parameter_status,
    parse,
    query,
    row,
)
from tests.playbook import Client, Server

QUERY = query("x")
WALL = 1_000_000_000.0
DONE = (complete("X"), IDLE)
DOWN = Unreachable("db.example refused the connection", hint="Is it running?")
NO_LOGIN = ServerRefused({"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "password authentication failed"})
STARTING = ServerRefused({"S": "FATAL", "C": "57P03", "M": "the database system is starting up"})

MakeKeeping = Callable[..., Keeping]


@pytest.fixture
def keepings(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeKeeping]:
    made: list[Keeping] = []

    def make(**options: Any) -> Keeping:
        keeping = Keeping(**options)
        monkeypatch.setattr(
            "pgambassador.net.keeper.time", SimpleNamespace(monotonic=keeping.loop.time, time=lambda: WALL)
        )
        made.append(keeping)
        return keeping

    yield make
    for each in made:
        each.end()


@pytest.fixture
def play(keepings: MakeKeeping) -> Keeping:
    return keepings()


def served(play: Keeping) -> tuple[Client, Server]:
    """A client whose query was answered, and the connection that was opened for it."""
    client = play.client()
    client.sends(QUERY)
    server = play.opens()
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    return client, server


def says(client: Client, *texts: bytes) -> bool:
    """Whether one error or notice has come that holds these texts."""
    got = client.read_all()
    size = 1 + int.from_bytes(got[1:5], "big")
    return got[:1] in (b"E", b"N") and got[size:] in (b"", IDLE) and all(each in got for each in texts)


# Opening.


def test_a_connection_is_opened_when_it_is_needed(play: Keeping) -> None:
    client = play.client()
    assert play.upstream.openings == []
    client.sends(QUERY)
    assert play.keeper.opening == 1
    server = play.opens()
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    assert (play.keeper.opening, play.keeper.connects, play.lane.total) == (0, 1, 1)


def test_openings_run_in_parallel_up_to_the_size(keepings: MakeKeeping) -> None:
    play = keepings(size=3)
    clients = [play.client() for _ in range(5)]
    for each in clients:
        each.sends(QUERY)
    assert len(play.upstream.openings) == 3
    servers = [play.opens() for _ in range(3)]
    for client, server in zip(clients, [*servers, *servers[:2]], strict=True):
        server.answers(QUERY, *DONE)
        client.gets(*DONE)
    assert play.keeper.connects == 3


def test_the_least_is_opened_once_the_pool_is_used(keepings: MakeKeeping) -> None:
    play = keepings(size=5, min_size=2)
    play.ticks()
    assert play.upstream.openings == []
    served(play)
    play.ticks()
    play.opens()
    play.ticks()
    assert (play.lane.total, play.upstream.openings) == (2, [])


def test_a_refusal_goes_to_those_who_wait_in_the_servers_words(play: Keeping) -> None:
    clients = [play.client(), play.client()]
    for each in clients:
        each.sends(QUERY)
    play.fails(NO_LOGIN)
    for each in clients:
        assert says(each, b"SERROR\0", b"C28P01\0", b"Mpassword authentication failed\0")
        assert not each.session.closed
    assert play.keeper.connect_failures == 1
    assert play.lane.waiting == 0


def test_an_unreachable_server_is_named(play: Keeping) -> None:
    client = play.client()
    client.sends(QUERY)
    play.fails(DOWN)
    assert says(client, b"C08001\0", b"Mdb.example refused the connection\0", b"HIs it running?\0")


def test_a_failure_with_others_left_to_wait_for(keepings: MakeKeeping) -> None:
    play = keepings(size=2)
    first, server = served(play)
    first.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    first.gets(complete("BEGIN"), TRANSACTION)
    second = play.client()
    second.sends(QUERY)
    play.fails(DOWN)
    assert second.session.waiting
    first.sends(query("COMMIT"))
    server.answers(query("COMMIT"), *DONE)
    first.gets(*DONE)
    server.answers(QUERY, *DONE)
    second.gets(*DONE)


def test_it_tries_again_later_and_later(play: Keeping) -> None:
    client = play.client()
    client.sends(QUERY)
    play.fails(DOWN)
    assert says(client, b"C08001\0")
    for delay in (0.1, 0.2, 0.4):
        client.sends(QUERY)
        play.loop.pass_time(delay - 0.01)
        assert play.upstream.openings == []
        play.loop.pass_time(0.02)
        play.fails(DOWN)
        assert says(client, b"C08001\0")
    client.sends(QUERY)
    play.loop.pass_time(1)
    server = play.opens()
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    assert play.keeper.last_error is None


def test_a_server_that_starts_up_is_waited_for(play: Keeping) -> None:
    client = play.client()
    client.sends(QUERY)
    for _ in range(3):
        play.fails(STARTING)
        client.gets_nothing()
        play.loop.pass_time(1)
    server = play.opens()
    server.answers(QUERY, *DONE)
    client.gets(*DONE)


def test_and_not_for_ever(keepings: MakeKeeping) -> None:
    play = keepings(wait_timeout=10.0)
    client = play.client()
    client.sends(QUERY)
    play.fails(STARTING)
    play.ticks(11)
    assert says(client, b"C57P03\0", b"starting up")
    assert play.keeper.wait_timeouts == 1


def test_a_connection_that_is_lost_is_replaced_for_those_who_wait(play: Keeping) -> None:
    client, server = served(play)
    other = play.client()
    client.sends(QUERY)
    server.gets(QUERY)
    other.sends(QUERY)
    server.leaves()
    assert says(client, b"C08006\0", b"DThe transaction or query that was running")
    client.gets_end()
    replacement = play.opens()
    replacement.answers(QUERY, *DONE)
    other.gets(*DONE)
    assert sum(play.keeper.closed.values()) == 1


# Clients that leave.


def test_a_transaction_is_rolled_back(play: Keeping) -> None:
    client, server = served(play)
    client.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    client.leaves()
    server.answers(query("ROLLBACK"), complete("ROLLBACK"), IDLE)
    assert server.is_idle
    assert [reason for _, reason in play.departed] == ["the client went away"]


def test_a_running_query_is_cancelled_and_its_connection_closed(play: Keeping) -> None:
    client, server = served(play)
    other = play.client()
    client.sends(QUERY)
    server.gets(QUERY)
    client.leaves()
    ((link, cancel),) = play.upstream.cancels
    assert link is server.backend.link
    other.sends(QUERY)
    server.gets_nothing()
    cancel.set_result(None)
    server.gets_end()
    play.opens().answers(QUERY, *DONE)
    other.gets(*DONE)


def test_a_query_that_ends_while_its_cancel_is_under_way(play: Keeping) -> None:
    client, server = served(play)
    other = play.client()
    client.sends(QUERY)
    server.gets(QUERY)
    client.leaves()
    other.sends(QUERY)
    server.sends(row(b"secret"), *DONE)
    other.gets_nothing()
    play.upstream.cancels[0][1].set_result(None)
    play.loop.run()
    assert server.backend.closed
    server.read_all()
    play.opens().answers(QUERY, *DONE)
    other.gets(*DONE)


def test_a_cancel_that_fails(play: Keeping) -> None:
    client, server = served(play)
    client.sends(QUERY)
    server.gets(QUERY)
    client.leaves()
    play.upstream.cancels[0][1].set_exception(DOWN)
    server.gets_end()
    assert play.keeper.cancels == 1


def test_half_a_message_costs_the_connection(play: Keeping) -> None:
    client, server = served(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    client.sends(copy_data(b"0123456789")[:7])
    client.leaves()
    server.gets_end(copy_data(b"0123456789")[:7])
    assert play.upstream.cancels == []


def test_a_pinned_connection_is_reset(play: Keeping) -> None:
    client, server = served(play)
    client.sends(query("listen news"))
    server.answers(query("listen news"), complete("LISTEN"), IDLE)
    client.gets(complete("LISTEN"), IDLE)
    server.answers(question(TIES, ()), row(b"!LISTEN", b""), complete("SELECT 1"), IDLE)
    assert server.backend.pinned
    client.sends(TERMINATE)
    client.gets_end()
    server.answers(query("DISCARD ALL"), complete("DISCARD ALL"), IDLE)
    assert (server.is_idle, server.backend.pinned) == (True, False)


def test_in_session_mode_the_session_is_reset(keepings: MakeKeeping) -> None:
    play = keepings(mode="session")
    client, server = served(play)
    client.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    client.leaves()
    server.answers((query("ROLLBACK"), query("DISCARD ALL")), complete("ROLLBACK"), IDLE)
    assert not server.is_idle
    server.sends(complete("DISCARD ALL"), IDLE)
    assert server.is_idle


def test_a_cancel_that_may_still_arrive_costs_the_connection(play: Keeping) -> None:
    client, server = served(play)
    client.sends(QUERY)
    server.gets(QUERY)
    play.loop.create_task(play.keeper.cancel(server.backend))
    play.loop.run()
    server.sends(*DONE)
    client.gets(*DONE)
    play.upstream.cancels[0][1].set_exception(DOWN)
    play.loop.run()
    assert server.backend.closed
    server.read_all()


def test_what_describes_the_server_is_not_part_of_a_session(play: Keeping) -> None:
    client, server = served(play)
    client.sends(QUERY)
    server.answers(QUERY, parameter_status("in_hot_standby", "off"), *DONE)
    client.gets(parameter_status("in_hot_standby", "off"), *DONE)
    assert client.session.state is BASE


@pytest.mark.parametrize("tag", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_statements_are_gone_when_they_are_discarded(play: Keeping, tag: str) -> None:
    client, server = served(play)
    client.sends(parse(b"s", b"x"), SYNC)
    server.read_all()
    server.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    client.sends(query(tag))
    server.answers(query(tag), complete(tag), IDLE)
    client.gets(complete(tag), IDLE)
    assert not client.session.statements
    assert not server.backend.prepared
    client.sends(bind(b"s"), SYNC)
    assert server.read_all().endswith(bind(b"s") + SYNC)


# Time.


def test_who_waits_too_long_is_told(keepings: MakeKeeping) -> None:
    play = keepings(wait_timeout=10.0, wait_notice=None)
    busy, server = served(play)
    busy.sends(QUERY)
    server.gets(QUERY)
    client = play.client()
    client.sends(QUERY)
    play.ticks(9)
    client.gets_nothing()
    play.ticks(11)
    assert says(client, b"SERROR\0", b"C53300\0", b"10 s", b"pool.size")
    assert (play.keeper.wait_timeouts, client.session.closed) == (1, False)
    server.sends(*DONE)
    busy.gets(*DONE)
    assert server.is_idle


def test_who_waits_long_gets_one_notice(keepings: MakeKeeping) -> None:
    play = keepings(wait_notice=5.0)
    client = play.client()
    client.sends(QUERY)
    play.ticks(4)
    client.gets_nothing()
    play.ticks(6)
    assert says(client, b"SNOTICE\0", b"waiting")
    play.ticks(7)
    client.gets_nothing()


def test_waiting_without_an_end(keepings: MakeKeeping) -> None:
    play = keepings(wait_timeout=None, wait_notice=None)
    client = play.client()
    client.sends(QUERY)
    play.ticks(1e6)
    assert client.session.waiting


def test_connections_that_nobody_needs_are_closed(keepings: MakeKeeping) -> None:
    play = keepings(size=3, min_size=1, idle_timeout=60.0)
    clients = [play.client() for _ in range(3)]
    for each in clients:
        each.sends(QUERY)
    servers = [play.opens() for _ in clients]
    for client, server in zip(clients, servers, strict=True):
        server.answers(QUERY, *DONE)
        client.gets(*DONE)
    play.ticks(59)
    assert play.lane.total == 3
    play.ticks(61)
    assert play.lane.total == 1
    servers[0].gets_end(TERMINATE)
    servers[1].gets_end(TERMINATE)
    assert play.keeper.closed == {"idle": 2}


def test_old_connections_are_closed_when_they_are_free(keepings: MakeKeeping) -> None:
    play = keepings(size=2, lifetime=100.0)
    busy, first = served(play)
    idle = play.client()
    busy.sends(QUERY)
    first.gets(QUERY)
    idle.sends(QUERY)
    second = play.opens()
    second.answers(QUERY, *DONE)
    idle.gets(*DONE)
    play.ticks(79)
    assert play.lane.total == 2
    play.ticks(101)
    second.gets_end(TERMINATE)
    first.sends(*DONE)
    busy.gets(*DONE)
    first.gets_end(TERMINATE)
    assert play.lane.total == 0


def test_a_connection_may_end_with_its_secret(keepings: MakeKeeping) -> None:
    play = keepings(size=2, lifetime=100.0)
    client = play.client()
    client.sends(QUERY)
    server = play.opens(retire_at=WALL + 50)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.ticks(49)
    assert play.lane.total == 1
    play.ticks(51)
    server.gets_end(TERMINATE)
    assert play.lane.total == 0


# The end.


def test_draining_lets_work_finish(play: Keeping) -> None:
    client, server = served(play)
    idle = play.client()
    client.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    play.does(play.keeper.drain)
    assert says(idle, b"SFATAL\0", b"C57P01\0")
    idle.gets_end()
    client.sends(query("COMMIT"))
    server.answers(query("COMMIT"), *DONE)
    got = client.read_all()
    assert got.startswith(b"".join(DONE) + b"E") and b"C57P01\0" in got
    client.gets_end()


def test_stopping_cuts_off(play: Keeping) -> None:
    client, server = served(play)
    waiting = play.client()
    client.sends(QUERY)
    server.gets(QUERY)
    waiting.sends(QUERY)
    play.does(play.keeper.stop)
    for each in (client, waiting):
        assert says(each, b"SFATAL\0", b"C57P01\0")
        each.gets_end()
    assert play.keeper.clients == set()
    for _, cancel in play.upstream.cancels:
        play.does(partial(cancel.set_result, None))
    server.gets_end()


def test_a_connection_that_comes_too_late(play: Keeping) -> None:
    play.client().sends(QUERY)
    play.does(play.keeper.stop)
    play.peers[0].read_all()
    sock = play.connects()
    assert sock.recv(100) == b""
    sock.close()
    assert play.lane.total == 0


def test_a_mistake_of_ours_costs_one_client(play: Keeping, caplog: pytest.LogCaptureFixture) -> None:
    client, server = served(play)
    other = play.client()

    def wrong(body: bytes, settings: object) -> Any:
        raise KeyError("a mistake")

    play.keeper.statement = wrong
    client.sends(parse(b"s", b"x"), SYNC)
    assert says(client, b"CXX000\0", b"internal error")
    client.gets_end()
    server.read_all()
    assert "a mistake" in caplog.text
    other.sends(QUERY)
    if not server.backend.closed:
        server.answers(QUERY, *DONE)
    else:
        play.opens().answers(QUERY, *DONE)
    other.gets(*DONE)


def test_early_garbage(play: Keeping) -> None:
    play.client().sends(QUERY)
    play.connects(early=row(b"1")).close()
    assert (play.lane.total, play.keeper.backends) == (0, set())


def test_last_words(play: Keeping) -> None:
    client, server = served(play)
    client.sends(QUERY)
    server.answers(QUERY, fatal())
    server.leaves()
    client.gets_end(fatal())


def test_numbers(keepings: MakeKeeping) -> None:
    play = keepings(size=2)
    client, server = served(play)
    client.sends(QUERY)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    client.sends(QUERY)
    server.gets(QUERY)
    play.client().sends(QUERY)
    numbers = Numbers(play.keeper)
    assert (numbers.cluster, numbers.database, numbers.user) == ("main", "shop", "app")
    assert (numbers.size, numbers.idle, numbers.active, numbers.opening) == (2, 0, 1, 1)
    assert (numbers.waiting, numbers.sessions, numbers.queries, numbers.transactions) == (1, 2, 2, 2)
    assert (numbers.connects, numbers.connect_failures, numbers.errors) == (1, 0, 0)
    assert sum(numbers.query_histogram) == 2
    assert repr(play.keeper) == "<Keeper main/shop/app <Lane 1 active, 0 idle | 1 waiting> opening=1>"
