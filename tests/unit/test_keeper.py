"""One pool at work: who is served, what becomes of a connection whose client has left, what time does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.failover import Failover
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.net.greeting import BASE, reports_of
from pgambassador.net.numbers import Numbers
from pgambassador.protocol.settings import Settings
from pgambassador.protocol.survey import TIES, question
from tests.keeping import PARAMETERS, Keeping
from tests.loop import Loop
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
    error,
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
AWAY = Unreachable("db.example is away", hint="Is it running?", passing=True)
OPEN = Unreachable("its breaker is open", sqlstate="57P03", passing=True)
STANDBY = {**PARAMETERS, "in_hot_standby": "on"}
PRIMARY = {**PARAMETERS, "in_hot_standby": "off"}
NO_LOGIN = ServerRefused({"S": "FATAL", "V": "FATAL", "C": "28P01", "M": "password authentication failed"})
TOO_MANY = ServerRefused({"S": "FATAL", "C": "53300", "M": "sorry, too many clients already"})
STARTING = ServerRefused({"S": "FATAL", "C": "57P03", "M": "the database system is starting up"})

MakeKeeping = Callable[..., Keeping]


@pytest.fixture
def keepings(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeKeeping]:
    made: list[Keeping] = []

    def make(**options: Any) -> Keeping:
        loop = Loop()
        loop.now = time.monotonic()  # that of those who wait
        keeping = Keeping(loop=loop, **options)
        monkeypatch.setattr("pgambassador.pool.plan.random", SimpleNamespace(random=lambda: 0.999))
        monkeypatch.setattr(
            "pgambassador.net.openings.time", SimpleNamespace(monotonic=keeping.loop.time, time=lambda: WALL)
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


def ticks(play: Keeping) -> None:
    """The keeper looks around, by the loop's clock."""
    play.does(lambda: play.keeper.tick(play.loop.now))


def let_go(play: Keeping, parameters: Mapping[str, str] = PARAMETERS) -> None:
    """The oldest opening succeeds, and its connection is not wanted."""
    with play.connects(parameters, hides=None) as sock:
        assert sock.recv(10) == b""


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
    for delay in (0.05, 0.1, 0.2, 0.4):
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


@pytest.mark.parametrize("error", [STARTING, AWAY, TOO_MANY])
def test_a_server_that_is_away_is_waited_for(keepings: MakeKeeping, error: AmbassadorError) -> None:
    play = keepings(failover=Failover())
    client = play.client()
    client.sends(QUERY)
    for _ in range(3):
        play.fails(error)
        client.gets_nothing()
        play.loop.pass_time(1)
    server = play.opens()
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    assert not play.keeper.outage.holds(play.loop.now)


def test_and_not_longer_than_who_waits_would(keepings: MakeKeeping) -> None:
    play = keepings(wait_timeout=5.0, failover=Failover())
    client = play.client()
    client.sends(QUERY)
    play.fails(STARTING)
    play.ticks(6)
    assert says(client, b"C57P03\0", b"starting up")
    assert play.keeper.wait_timeouts == 1


def test_nor_than_anybody_is_held(keepings: MakeKeeping) -> None:
    """Who comes later is held for what is left; then all are told at once, as long as it has just failed."""
    play = keepings(wait_notice=None, failover=Failover(hold=10.0))
    first, late, later = play.client(), play.client(), play.client()
    first.sends(QUERY)
    play.fails(AWAY)
    play.loop.pass_time(9)
    late.sends(QUERY)
    ticks(play)
    first.gets_nothing()
    late.gets_nothing()
    play.fails(AWAY)
    play.loop.pass_time(1.1)
    ticks(play)
    for each in (first, late):
        assert says(each, b"C08001\0", b"db.example is away")
    assert play.keeper.lane.waiting == 0
    play.fails(AWAY)
    later.sends(QUERY)
    assert says(later, b"C08001\0", b"db.example is away")
    assert play.upstream.openings == []


def test_where_nobody_is_held_all_are_told(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None))
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    assert says(client, b"C08001\0")


def test_so_many_are_held(keepings: MakeKeeping) -> None:
    """The last ones go first."""
    play = keepings(failover=Failover(max_held=2))
    clients = [play.client() for _ in range(4)]
    clients[0].sends(QUERY)
    play.fails(AWAY)
    for each in clients[1:]:
        each.sends(QUERY)
    for each in clients[:2]:
        each.gets_nothing()
    for each in clients[2:]:
        assert says(each, b"C08001\0", b"db.example is away")


def test_who_waits_for_an_attempt_of_its_own_has_a_moment(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None))
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    assert says(client, b"C08001\0")
    play.loop.pass_time(3)
    client.sends(QUERY)
    play.ticks(0.5)
    client.gets_nothing()
    play.ticks(1.5)
    assert says(client, b"C08001\0")
    server = play.opens()
    client.sends(QUERY)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)


def test_what_waiting_does_not_mend_is_told_at_once(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover())
    client = play.client()
    for failure, sqlstate in ((NO_LOGIN, b"28P01"), (DOWN, b"08001")):
        client.sends(QUERY)
        play.loop.pass_time(6)
        play.fails(failure)
        assert says(client, b"C" + sqlstate + b"\0")


def test_after_a_failure_one_tries_for_all(keepings: MakeKeeping) -> None:
    play = keepings(size=3, wait_notice=None, failover=Failover(hold=100.0))
    clients = [play.client() for _ in range(5)]
    for each in clients:
        each.sends(QUERY)
    for _ in range(3):
        play.fails(AWAY)
    for _ in range(4):
        play.loop.pass_time(3)
        assert len(play.upstream.openings) == 1
        play.fails(AWAY)
    play.loop.pass_time(3)
    first = play.opens()
    others = [play.opens(), play.opens()]
    for client, server in zip(clients, [first, *others, first, others[0]], strict=True):
        server.answers(QUERY, *DONE)
        client.gets(*DONE)


def test_attempts_wait_for_their_budget_and_their_turn(keepings: MakeKeeping) -> None:
    play = keepings(wait_notice=None, failover=Failover(hold=100.0))
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    play.upstream.affordable = False
    play.loop.pass_time(10)
    assert play.upstream.openings == []
    play.upstream.affordable, play.upstream.admitting = True, False
    play.loop.pass_time(10)
    assert play.upstream.openings == []
    play.upstream.admitting = True
    ticks(play)
    play.opens().answers(QUERY, *DONE)
    client.gets(*DONE)


def test_while_the_breaker_is_open_clients_are_told_at_once(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None))
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    assert says(client, b"C08001\0")
    play.upstream.closed, play.upstream.admitting = OPEN, False
    play.loop.pass_time(10)
    client.sends(QUERY)
    assert says(client, b"C57P03\0", b"its breaker is open")
    assert play.greets().exception() is OPEN
    assert play.upstream.openings == []
    play.upstream.admitting = True  # for one who tries
    ticks(play)
    assert len(play.upstream.openings) == 1
    client.sends(QUERY)
    assert says(client, b"C57P03\0")
    play.upstream.closed = None
    play.opens()
    assert play.keeper.last_error is None


def test_but_those_who_are_held_stay(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover())
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    play.upstream.closed = OPEN
    play.loop.pass_time(3)
    client.gets_nothing()
    play.opens().answers(QUERY, *DONE)
    client.gets(*DONE)


def test_what_other_pools_have_found_out_counts(keepings: MakeKeeping) -> None:
    """Whose server was lost to others a moment ago waits as long as those do, and not a moment longer."""
    play = keepings(wait_notice=None, failover=Failover(hold=10.0))
    play.upstream.closed, play.upstream.sick, play.upstream.admitting = OPEN, play.loop.now - 9, False
    client = play.client()
    client.sends(QUERY)
    ticks(play)
    client.gets_nothing()
    play.loop.pass_time(2)
    ticks(play)
    assert says(client, b"C57P03\0", b"its breaker is open")


def test_an_outage_that_nobody_has_seen_the_end_of(keepings: MakeKeeping) -> None:
    """Is forgotten: whoever comes later is held anew."""
    play = keepings(failover=Failover(hold=10.0))
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    client.leaves()
    play.loop.pass_time(1000)
    ticks(play)
    assert play.keeper.outage.since is None


def test_a_login_is_held_too(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=10.0))
    task, other = play.greets(), play.greets()
    play.fails(AWAY)
    late = play.greets()
    play.loop.pass_time(3)
    play.fails(AWAY)
    assert not (task.done() or late.done())
    other.cancel()
    play.loop.pass_time(1)
    play.opens()
    assert task.result() == late.result() == (BASE, PARAMETERS, reports_of(PARAMETERS))


def test_and_not_for_ever(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=10.0))
    task = play.greets()
    play.fails(AWAY)
    play.loop.pass_time(11)
    ticks(play)
    assert task.exception() is AWAY


def test_an_idle_pool_with_clients_looks_for_its_server_by_itself(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None))
    client = play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    client.read_all()
    play.loop.pass_time(3)
    ticks(play)
    play.opens()
    assert play.keeper.last_error is None


# Roles.


def loses_its_primary(play: Keeping) -> Client:
    """A client that asks again, and waits."""
    client = play.client()
    client.sends(QUERY)
    server = play.opens(PRIMARY)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    server.leaves()
    client.sends(QUERY)
    return client


def test_what_was_a_primary_is_not_replaced_by_a_standby(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=10.0))
    client = loses_its_primary(play)
    for _ in range(2):
        let_go(play, STANDBY)
        client.gets_nothing()
        play.loop.pass_time(1)
    play.opens(PRIMARY).answers(QUERY, *DONE)
    client.gets(*DONE)


def test_unless_nobody_is_held_any_more(keepings: MakeKeeping, caplog: pytest.LogCaptureFixture) -> None:
    play = keepings(failover=Failover(hold=10.0))
    client = loses_its_primary(play)
    let_go(play, STANDBY)
    play.loop.pass_time(11)
    play.opens(STANDBY).answers(QUERY, *DONE)
    client.read_all()
    assert "used as it is" in caplog.text


def test_who_asks_for_anything_gets_anything(play: Keeping) -> None:
    play.upstream.named_once = False
    client = play.client()
    for parameters in (PRIMARY, STANDBY):
        client.sends(QUERY)
        server = play.opens(parameters)
        server.answers(QUERY, *DONE)
        client.read_all()
        server.leaves()


def test_a_pool_that_was_always_on_a_standby_stays_there(play: Keeping) -> None:
    client = play.client()
    for _ in range(2):
        client.sends(QUERY)
        server = play.opens(STANDBY)
        server.answers(QUERY, *DONE)
        client.read_all()
        server.leaves()


def test_a_primary_that_says_it_is_none_is_let_go(keepings: MakeKeeping) -> None:
    play = keepings(size=2, failover=Failover())
    alarms: list[int] = []
    play.keeper.alarm = lambda: alarms.append(1)
    busy, client = play.client(), play.client()
    busy.sends(QUERY)
    first = play.opens(PRIMARY)
    client.sends(QUERY)
    second = play.opens(PRIMARY)
    second.answers(QUERY, *DONE)
    client.gets(*DONE)
    first.gets(QUERY)
    play.does(lambda: play.keeper.demoted(first.backend))
    second.gets_end(TERMINATE)
    assert alarms == [1]
    first.sends(*DONE)
    busy.gets(*DONE)
    first.gets_end(TERMINATE)
    client.sends(QUERY)
    let_go(play, STANDBY)


def test_it_may_say_so_on_a_connection_that_is_open(play: Keeping) -> None:
    client = play.client()
    client.sends(QUERY)
    server = play.opens(PRIMARY)
    server.answers(QUERY, parameter_status("in_hot_standby", "on"), *DONE)
    client.read_all()
    ticks(play)
    server.gets_end(TERMINATE)


def test_another_primary_ends_what_leads_to_the_old_one(keepings: MakeKeeping) -> None:
    play = keepings(size=2, failover=Failover())
    busy, client = play.client(), play.client()
    busy.sends(QUERY)
    first = play.opens(PRIMARY)
    first.gets(QUERY)
    client.sends(QUERY)
    play.fails(AWAY)
    client.gets_nothing()
    play.does(lambda: play.keeper.follow(Endpoint("new.example")))
    assert says(busy, b"SERROR\0", b"C08007\0", b"not the primary any more")
    play.opens(PRIMARY).answers(QUERY, *DONE)
    client.gets(*DONE)


# Silence.


def test_a_server_that_says_nothing_is_knocked_at(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None, quiet=15.0))
    client = play.client()
    client.sends(QUERY)
    server = play.opens()
    server.gets(QUERY)
    play.ticks()
    play.ticks(14)
    assert play.upstream.knocks == []
    play.ticks(16)
    play.ticks(17)
    (knock,) = play.upstream.knocks
    knock.set_result(True)
    play.loop.run()
    client.gets_nothing()
    server.sends(row(b"1"))
    client.gets(row(b"1"))
    play.ticks(30)
    play.ticks(44)
    assert len(play.upstream.knocks) == 1
    play.ticks(46)
    play.upstream.knocks[1].set_result(False)
    play.loop.run()
    assert says(client, b"SERROR\0", b"C08007\0", b"does not answer any more")
    assert (play.keeper.health.knocks, play.keeper.health.lost) == (2, 1)


def test_one_that_owes_nothing_may_be_silent(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None, quiet=15.0))
    client, server = served(play)
    client.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    for later in (0, 20, 40):
        play.ticks(later)
    assert play.upstream.knocks == []


def test_an_answer_that_came_meanwhile_saves_its_connection(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=None, quiet=15.0))
    client = play.client()
    client.sends(QUERY)
    server = play.opens()
    server.gets(QUERY)
    play.ticks()
    play.ticks(16)
    server.sends(row(b"1"))
    client.gets(row(b"1"))
    play.upstream.knocks[0].set_result(False)
    play.loop.run()
    server.sends(*DONE)
    client.gets(*DONE)


# By hand.


def test_a_pool_that_is_paused_keeps_its_clients_waiting(keepings: MakeKeeping) -> None:
    play = keepings(size=2, wait_notice=None)
    busy, client = play.client(), play.client()
    busy.sends(QUERY)
    first = play.opens()
    client.sends(QUERY)
    second = play.opens()
    second.answers(QUERY, *DONE)
    client.gets(*DONE)
    first.gets(QUERY)
    play.does(play.keeper.pause)
    second.gets_end(TERMINATE)
    assert play.lane.total == 1
    first.sends(*DONE)
    busy.gets(*DONE)
    first.gets_end(TERMINATE)
    client.sends(QUERY)
    play.loop.pass_time(10)
    ticks(play)
    client.gets_nothing()
    assert (play.lane.total, play.upstream.openings) == (0, [])
    play.does(play.keeper.resume)
    play.opens().answers(QUERY, *DONE)
    client.gets(*DONE)


def test_a_connection_that_was_being_opened_is_let_go(play: Keeping) -> None:
    client = play.client()
    client.sends(QUERY)
    play.does(play.keeper.pause)
    let_go(play)
    client.gets_nothing()


def test_reconnecting_replaces_connections_unseen(keepings: MakeKeeping) -> None:
    play = keepings(size=2)
    busy, client = play.client(), play.client()
    busy.sends(query("BEGIN"))
    first = play.opens()
    first.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    busy.gets(complete("BEGIN"), TRANSACTION)
    client.sends(QUERY)
    second = play.opens()
    second.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.does(play.keeper.reconnect)
    second.gets_end(TERMINATE)
    client.sends(QUERY)
    play.opens().answers(QUERY, *DONE)
    client.gets(*DONE)
    busy.sends(query("COMMIT"))
    first.answers(query("COMMIT"), *DONE)
    busy.gets(*DONE)
    first.gets_end(TERMINATE)


def test_a_connection_that_is_lost_is_replaced_for_those_who_wait(play: Keeping) -> None:
    client, server = served(play)
    other = play.client()
    client.sends(QUERY)
    server.gets(QUERY)
    other.sends(QUERY)
    server.leaves()
    assert says(client, b"SERROR\0", b"C08007\0", b"may or may not have been done")
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


def test_a_cancel_request_that_hits_its_change_of_hands(play: Keeping) -> None:
    """The client for whose sake the connection was being changed is not there any more."""
    client = play.client(Settings.of({"work_mem": "1"}))
    client.sends(QUERY)
    server = play.opens()
    assert server.read_all().endswith(QUERY)
    client.leaves()
    server.sends(error("57014"))
    assert server.backend.closed
    play.upstream.cancels[0][1].set_result(None)
    server.gets_end()


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


def test_what_it_is_that_clients_wait_for(keepings: MakeKeeping) -> None:
    play = keepings(failover=Failover(hold=100.0))
    client, other = play.client(), play.client()
    client.sends(QUERY)
    play.fails(AWAY)
    play.ticks(6)
    assert says(client, b"Mthe server is away; waiting for it\0", b"Hdb.example is away\0")
    play.does(play.keeper.pause)
    other.sends(QUERY)
    play.ticks(6)
    assert says(other, b"Mthe database is paused; waiting until it is resumed\0", b"HRESUME")


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
    client.gets(error("57P01", "terminating connection"), IDLE)


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
