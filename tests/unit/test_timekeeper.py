"""What takes too long, without a clock: what is cancelled, what follows it, and who is sent away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgambassador.config import Allowance, Timeouts
from pgambassador.net.timekeeper import GRACE, Timekeeper
from pgambassador.routing.catalog import Catalog
from tests.crowd import Queue, extended, extended_answer, heard
from tests.keeping import Keeping
from tests.messages import (
    BIND_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TRANSACTION,
    bind,
    complete,
    error,
    execute,
    parse,
    query,
)
from tests.playbook import Client, MakePlay, Server
from tests.policies import Routed

QUERY = query("x")
NEXT = query("y")
DONE = (complete("X"), IDLE)
ROLLBACK = query("ROLLBACK")
CANCELED = error("57014", "canceling statement due to user request")

MakeKeeping = Callable[..., Keeping]


@pytest.fixture
def keepings() -> Iterator[MakeKeeping]:
    made: list[Keeping] = []

    def make(**options: Any) -> Keeping:
        made.append(Keeping(**options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def play(keepings: MakeKeeping) -> Keeping:
    return keepings(wait_timeout=None, wait_notice=None)


def allows(play: Keeping, client: Client, wait: float | None = None, **timeouts: float) -> None:
    allowance = Allowance(timeouts=Timeouts(**timeouts), wait=wait)
    play.keeper.timekeeper.allow(client.session, allowance, time.monotonic())


def at_work(play: Keeping, text: str = "x", **timeouts: float) -> tuple[Client, Server]:
    """A client whose statement a server has."""
    client = play.client()
    allows(play, client, **timeouts)
    client.sends(query(text))
    server = play.opens()
    server.gets(query(text))
    return client, server


def in_transaction(play: Keeping, **timeouts: float) -> tuple[Client, Server]:
    client, server = at_work(play, "x", **timeouts)
    server.sends(complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    return client, server


def counted(play: Keeping) -> dict[str, int]:
    return {name: count for name, count in play.keeper.timekeeper.counts.items() if count}


def fatal(client: Client, *texts: bytes) -> None:
    got = client.read_all()
    assert got[:1] == b"E"
    assert b"SFATAL\0" in got
    for text in texts:
        assert text in got
    assert client.ended


def test_a_statement_is_cancelled_and_its_client_told_why(play: Keeping) -> None:
    client, server = at_work(play, statement=2.0)
    play.ticks(1.9)
    assert play.upstream.cancels == []
    play.ticks(2.1)
    ((link, cancel),) = play.upstream.cancels
    assert link is server.backend.link
    cancel.set_result(None)
    server.sends(CANCELED, IDLE)
    client.gets(error("57014", "canceling statement due to pgambassador's statement timeout of 2 s"), IDLE)
    play.ticks(2.3)
    assert counted(play) == {"statement": 1}
    client.sends(NEXT)
    server.answers(NEXT, *DONE)
    client.gets(*DONE)


@pytest.mark.parametrize(
    "message",
    ["canceling statement due to statement timeout", "storniere Anfrage wegen Benutzeraufforderung"],
)
def test_what_the_server_says_otherwise_is_left_as_it_is(message: str, play: Keeping) -> None:
    client, server = at_work(play, statement=2.0)
    play.ticks(2.1)
    play.upstream.cancels[0][1].set_result(None)
    server.sends(error("57014", message), IDLE)
    client.gets(error("57014", message), IDLE)


def what_follows_waits(play: Keeping, client: Client, server: Server) -> None:
    """What takes too long is answered all the same, before the cancel request has arrived."""
    play.ticks(2.1)
    server.sends(complete("X"), TRANSACTION)
    client.gets(complete("X"), TRANSACTION)
    client.sends(NEXT)
    server.gets_nothing()
    play.upstream.cancels[0][1].set_result(None)
    server.answers(NEXT, complete("X"), TRANSACTION)
    client.gets(complete("X"), TRANSACTION)


def test_what_is_shorter_than_what_came_in_pieces_waits_no_longer(play: Keeping) -> None:
    """How much was awaited of a message before says nothing about one that comes meanwhile."""
    client, server = in_transaction(play, statement=2.0)
    long = query("x" * 100)
    client.writes(long[:50])
    client.writes(long[50:])
    server.gets(long)
    what_follows_waits(play, client, server)


def test_what_follows_waits_until_the_request_has_arrived(play: Keeping) -> None:
    """In a transaction, where the same connection has to do it."""
    client, server = in_transaction(play, statement=2.0)
    client.sends(QUERY)
    server.gets(QUERY)
    what_follows_waits(play, client, server)


def test_it_is_on_its_way_from_the_moment_of_the_decision(play: Keeping) -> None:
    """An answer may be read before a task begins, and what its client sends then would meet the request."""
    client, server = in_transaction(play, statement=2.0)
    client.sends(QUERY)
    server.gets(QUERY)
    found = []

    def look() -> None:
        play.keeper.tick(time.monotonic() + 2.1)
        found.append(server.backend.cancelling)

    play.does(look)
    assert found == [1]
    server.sends(complete("X"), TRANSACTION)
    client.gets(complete("X"), TRANSACTION)
    client.sends(NEXT)
    server.gets_nothing()
    play.upstream.cancels[0][1].set_result(None)
    server.answers(NEXT, complete("X"), TRANSACTION)
    client.gets(complete("X"), TRANSACTION)


def test_and_elsewhere_goes_to_another_connection(keepings: MakeKeeping) -> None:
    play = keepings(size=2)
    client, server = at_work(play, statement=2.0)
    play.ticks(2.1)
    server.sends(*DONE)
    client.gets(*DONE)
    assert server.backend.parked
    client.sends(NEXT)
    play.opens().answers(NEXT, *DONE)
    client.gets(*DONE)
    play.upstream.cancels[0][1].set_result(None)
    play.loop.run()
    server.gets_nothing()
    assert server.is_idle


def test_a_later_statement_is_not_excused(play: Keeping) -> None:
    """What it gets is somebody else's cancel request."""
    client, server = in_transaction(play, statement=2.0)
    client.sends(QUERY)
    server.gets(QUERY)
    play.ticks(2.1)
    server.sends(complete("X"), TRANSACTION)
    play.upstream.cancels[0][1].set_result(None)
    play.loop.run()
    client.gets(complete("X"), TRANSACTION)
    client.sends(NEXT)
    server.gets(NEXT)
    server.sends(CANCELED, TRANSACTION)
    client.gets(CANCELED, TRANSACTION)


@pytest.mark.parametrize("arrives", [False, True])
def test_a_server_that_does_not_react(arrives: bool, play: Keeping) -> None:
    client, server = at_work(play, statement=2.0)
    play.ticks(2.1)
    if arrives:
        play.upstream.cancels[0][1].set_result(None)
    play.ticks(2.1 + GRACE - 0.1)
    client.gets_nothing()
    assert len(play.upstream.cancels) == 1, "one request is enough"
    play.ticks(2.1 + GRACE + 0.1)
    server.gets_end()
    got = client.read_all()
    assert b"SERROR\0" in got and b"C08007\0" in got and got.endswith(IDLE)
    assert b"he server did not react to a cancel request within 10 s" in got
    assert counted(play) == {"statement": 1, "unanswered": 1}
    if not arrives:
        play.upstream.cancels[0][1].set_result(None)


def test_a_hint_says_otherwise(keepings: MakeKeeping) -> None:
    play = keepings(size=3)
    at_work(play, "x /* pgambassador: timeout=1s */", statement=2.0)
    play.ticks(1.1)
    assert len(play.upstream.cancels) == 1
    at_work(play, "x /* pgambassador: timeout=off */", statement=2.0)
    at_work(play, "x /* pgambassador: timeout=4s */")
    play.ticks(3.9)
    assert len(play.upstream.cancels) == 1
    play.ticks(4.1)
    assert len(play.upstream.cancels) == 2
    for _, cancel in play.upstream.cancels:
        cancel.set_result(None)


@pytest.mark.parametrize("limit", [2.0, None])
def test_where_several_share_a_sync_it_cannot_be_told_whose_statement_it_is(
    plays: MakePlay, limit: float | None
) -> None:
    """All of them ask again, one by one, and nobody is told anything. Without a limit too, once they have
    gone, since nobody awaits what is left."""
    play = plays(policy=Routed(), limit=1)
    play.lane.batching = True
    play.lane.together = 60.0
    queue = Queue(play)
    asked = extended(b"select mark")
    clients = [queue.waits(asked) for _ in range(3)]
    queue.moves()
    queue.server.gets(heard(3), SYNC)
    cancelled = []

    async def cancel(backend: object) -> None:
        cancelled.append(backend)

    keeper = SimpleNamespace(backends={queue.server.backend}, lane=play.lane, cancel=cancel)
    timekeeper = Timekeeper(cast(Any, keeper))
    for client in clients:
        client.session.facts.allowance = Allowance(timeouts=Timeouts(statement=limit))
    now = time.monotonic()
    if limit is None:
        play.loop.within(lambda: timekeeper.tick(now + 1000.0))
        assert queue.server.backend.relieve(now + 1000.0)
        play.loop.within(lambda: timekeeper.tick(now + 1000.1))
        play.loop.run()
        assert not cancelled
        now += 1000.0
    play.loop.within(lambda: timekeeper.tick(now + 2.1))
    play.loop.run()
    assert cancelled == [queue.server.backend]
    assert not any(timekeeper.counts.values())
    assert not any(timekeeper.has_given_up(each.session, queue.server.backend) for each in clients)
    queue.server.sends(CANCELED, IDLE)
    for number in range(3):
        queue.server.gets(asked)
        queue.server.sends(extended_answer(b"%d" % number))
    for client in clients:
        assert client.read_all() in {extended_answer(b"%d" % number) for number in range(3)}
    assert queue.server.is_idle


@pytest.mark.parametrize("asked", ["select 1", "insert into t values (1)", "rollback"])
def test_a_transaction_at_work(asked: str, play: Keeping) -> None:
    """It is cancelled, as for any client that leaves."""
    client, server = in_transaction(play, transaction=3.0)
    client.sends(query(asked))
    server.gets(query(asked))
    play.ticks(3.1)
    fatal(client, b"C25P04\0", b"Mterminating connection due to transaction timeout\0")
    play.upstream.cancels[0][1].set_result(None)
    server.gets_end()
    assert counted(play) == {"transaction": 1}


@pytest.mark.parametrize(
    "asked",
    [
        (query("commit"),),
        (query("insert into t values (1)"), query("commit")),
        (query("rollback"), query("insert into t values (1)")),
        (parse(b"", b"commit"), bind(b""), execute(), SYNC),
    ],
    ids=["commit", "before", "behind a rollback", "extended"],
)
def test_what_may_be_committed_all_the_same_is_not_known(asked: tuple[bytes, ...], play: Keeping) -> None:
    """A cancel request may come too late, and a commit that waits for a standby is done."""
    client, server = in_transaction(play, transaction=3.0)
    client.sends(*asked)
    server.gets(*asked)
    play.ticks(3.1)
    fatal(
        client, b"C08007\0", b"DWhat was under way may or may not have been done.\0", b"timeouts.transaction"
    )
    assert counted(play) == {"transaction": 1}


@pytest.mark.parametrize(
    ("asked", "told"), [("insert into t values (1)", b"C08007\0"), ("select 1", b"C25P04\0")]
)
def test_a_statement_by_itself_that_takes_as_long(asked: str, told: bytes, play: Keeping) -> None:
    play.keeper.routes.catalog = Catalog({}, frozenset({"t"}))
    client, _ = at_work(play, asked, transaction=3.0)
    play.ticks(3.1)
    fatal(client, told)


@pytest.mark.parametrize(("asked", "detail"), [("insert into t values (1)", True), ("select 1", False)])
def test_whoever_is_sent_away_is_told_what_is_not_known(asked: str, detail: bool, play: Keeping) -> None:
    play.keeper.routes.catalog = Catalog({}, frozenset({"t"}))
    client, _ = at_work(play, asked)
    play.does(play.keeper.stop)
    got = client.read_all()
    assert b"C57P01\0" in got
    assert (b"DWhat was under way may or may not have been done.\0" in got) == detail


@pytest.mark.parametrize(("first", "detail"), [(b"insert into t values (1)", True), (b"", False)])
def test_what_was_done_before_in_the_same_part_may_last(first: bytes, detail: bool, play: Keeping) -> None:
    """Only a read is still to be answered, but a Sync ends them both."""
    play.keeper.routes.catalog = Catalog({}, frozenset({"t"}))
    client = play.client()
    pieces = [parse(b"", each) + bind(b"") + execute() for each in (first, b"select 1") if each]
    client.sends(*pieces, SYNC)
    server = play.opens()
    server.gets(*pieces, SYNC)
    if first:
        server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("INSERT 0 1"))
    play.does(play.keeper.stop)
    assert (b"DWhat was under way may or may not have been done.\0" in client.read_all()) == detail


@pytest.mark.parametrize(
    ("timeout", "sqlstate"), [("transaction", b"25P04"), ("idle_in_transaction", b"25P03")]
)
def test_a_transaction_at_rest_is_rolled_back(timeout: str, sqlstate: bytes, play: Keeping) -> None:
    client, server = in_transaction(play, **{timeout: 3.0})
    play.ticks(2.9)
    client.gets_nothing()
    play.ticks(3.1)
    fatal(client, b"C" + sqlstate)
    server.answers(ROLLBACK, complete("ROLLBACK"), IDLE)
    assert server.is_idle
    assert counted(play) == {timeout: 1}


def test_an_idle_client(play: Keeping) -> None:
    client, server = at_work(play, idle_client=5.0)
    play.ticks(5.1)
    client.gets_nothing()
    server.sends(*DONE)
    client.gets(*DONE)
    play.ticks(9.9)
    client.gets_nothing()
    play.ticks(10.4)
    fatal(client, b"C57P05\0", b"Mterminating connection due to idle-session timeout\0", b"5 s")
    assert counted(play) == {"idle_client": 1}
    assert repr(play.keeper.timekeeper) == "<Timekeeper 0 at rest, 0 given up>"


def test_who_leaves_is_forgotten(play: Keeping) -> None:
    client = play.client()
    allows(play, client, idle_client=5.0)
    client.leaves()
    assert "0 at rest" in repr(play.keeper.timekeeper)


def test_how_long_a_client_waits_is_its_own_affair(play: Keeping) -> None:
    """Those who wait longer stay in their places."""
    holder, server = in_transaction(play)
    waits = [play.client() for _ in range(3)]
    for client, wait in zip(waits, (9.0, 1.0, None), strict=True):
        allows(play, client, wait=wait)
        client.sends(QUERY)
    play.ticks(0.9)
    play.ticks(1.1)
    assert b"C53300\0" in waits[1].read_all()
    waits[0].gets_nothing()
    play.ticks(9.1)
    assert b"C53300\0" in waits[0].read_all()
    play.ticks(100)
    holder.sends(NEXT)
    server.answers(NEXT, *DONE)
    holder.gets(*DONE)
    server.answers(QUERY, *DONE)
    waits[2].gets(*DONE)
    assert play.keeper.wait_timeouts == 2
