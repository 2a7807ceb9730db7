"""A session whose guard is asked: what it asks, and what becomes of the answers. The guard is a test's."""

from __future__ import annotations

from typing import Any

import pytest

from pgambassador.net.aftermath import Fate
from pgambassador.wire import build
from tests.messages import (
    BIND_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TERMINATE,
    TRANSACTION,
    bind,
    columns,
    complete,
    copy_data,
    execute,
    parse,
    query,
    row,
)
from tests.playbook import Client, MakePlay, Playbook, Server
from tests.policies import AGREED, switched

ONE = (columns(b"?column?"), row(b"1"), complete("SELECT 1"))
NO = build.error_response("ERROR", "53400", "too often")


class Guard:
    """Judges what it is told to; writes down what it was asked."""

    def __init__(self, *judgements: Any) -> None:
        self.judgements = list(judgements)
        self.again: list[Any] = []
        self.asked: list[bytes | None] = []

    def judge(self, session: Any, text: bytes | None, now: float) -> Any:
        self.asked.append(text)
        return self.judgements.pop(0) if self.judgements else None

    def judge_again(self, text: bytes | None, now: float) -> Any:
        return self.again.pop(0) if self.again else None


def join(play: Playbook, *judgements: Any) -> tuple[Client, Server, Guard]:
    client, server, guard = play.client(), play.server(), Guard(*judgements)
    client.session.guard = guard
    return client, server, guard


def select(client: Client, server: Server) -> None:
    client.sends(query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_a_statement_is_judged_once(play: Playbook) -> None:
    client, server, guard = join(play)
    select(client, server)
    assert guard.asked == [b"select 1"]


def test_one_that_is_refused_never_leaves(play: Playbook) -> None:
    client, server, guard = join(play, NO)
    client.sends(query("select 1"))
    client.gets(NO, IDLE)
    assert server.is_idle
    select(client, server)
    assert len(guard.asked) == 2


def test_the_extended_protocol_is_refused_up_to_its_sync(play: Playbook) -> None:
    client, server, guard = join(play, NO)
    client.sends(parse(b"", b"select 1"), bind(b""), execute(), SYNC)
    client.gets(NO, IDLE)
    assert guard.asked == [b"select 1"]
    assert server.is_idle
    select(client, server)


def test_a_transaction_under_way_is_not_judged(play: Playbook) -> None:
    client, server, guard = join(play)
    client.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    guard.judgements = [NO]
    client.sends(query("x"))
    server.answers(query("x"), complete("X"), TRANSACTION)
    client.gets(complete("X"), TRANSACTION)
    client.sends(query("COMMIT"))
    server.answers(query("COMMIT"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)
    assert guard.asked == [b"BEGIN"]
    client.sends(query("x"))
    client.gets(NO, IDLE)


def test_who_sends_ahead_is_judged_one_by_one(play: Playbook) -> None:
    """The second begins something only if the first has not begun a transaction."""
    client, server, guard = join(play, None, NO)
    client.sends(query("x"), query("y"), query("z"))
    server.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE, NO, IDLE)
    server.answers(query("z"), complete("Z"), IDLE)
    client.gets(complete("Z"), IDLE)
    assert guard.asked == [b"x", b"y", b"z"]
    assert server.is_idle


def test_a_transaction_that_is_sent_ahead(play: Playbook) -> None:
    client, server, guard = join(play, None, NO)
    client.sends(query("BEGIN"), query("y"), query("COMMIT"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    server.answers((query("y"), query("COMMIT")), complete("Y"), TRANSACTION, complete("COMMIT"), IDLE)
    client.gets(complete("BEGIN"), TRANSACTION, complete("Y"), TRANSACTION, complete("COMMIT"), IDLE)
    assert guard.asked == [b"BEGIN"]


def test_a_pipeline_that_is_refused_in_its_middle(play: Playbook) -> None:
    client, server, guard = join(play, None, NO)
    part = (parse(b"", b"x"), bind(b""), execute(), SYNC)
    client.sends(*part, *part, query("z"))
    answer = (PARSE_COMPLETE, BIND_COMPLETE, complete("X"), IDLE)
    server.answers(part, *answer)
    client.gets(*answer, NO, IDLE)
    server.answers(query("z"), complete("Z"), IDLE)
    client.gets(complete("Z"), IDLE)
    assert guard.asked == [b"x", b"x", b"z"]


def test_in_a_session_pool_every_statement_is_judged(plays: MakePlay) -> None:
    play = plays(sticky=True)
    client, server, guard = join(play, None, NO)
    select(client, server)
    client.sends(parse(b"", b"x"), bind(b""), execute(), SYNC)
    client.gets(NO, IDLE)
    select(client, server)
    assert guard.asked == [b"select 1", b"x", b"select 1"]
    client.sends(TERMINATE)


def test_a_copy_is_one_statement(play: Playbook) -> None:
    client, server, guard = join(play)
    client.sends(query("copy t from stdin"))
    copy_in = b"G\x00\x00\x00\x09\x00\x00\x01\x00\x00"
    server.answers(query("copy t from stdin"), copy_in)
    client.gets(copy_in)
    guard.judgements = [NO]
    client.sends(copy_data(b"1\n"), b"c\x00\x00\x00\x04")
    server.answers((copy_data(b"1\n"), b"c\x00\x00\x00\x04"), complete("COPY 1"), IDLE)
    client.gets(complete("COPY 1"), IDLE)
    assert guard.asked == [b"copy t from stdin"]


def test_one_that_is_delayed_waits_without_a_connection(play: Playbook) -> None:
    client, server, guard = join(play, 0.2)
    client.sends(query("select 1"), query("select 1"))
    assert client.session.detained
    assert server.is_idle
    client.session.proceed()
    play.loop.run()
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert guard.asked == [b"select 1", b"select 1"]


def test_one_that_is_delayed_on_its_own_connection(plays: MakePlay) -> None:
    play = plays(sticky=True)
    client, server, _ = join(play, None, 0.2)
    select(client, server)
    client.sends(query("select 1"))
    assert client.session.detained
    client.session.proceed()
    play.loop.run()
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    client.sends(TERMINATE)


@pytest.mark.parametrize("sticky", [False, True])
def test_one_that_is_delayed_can_be_cancelled(plays: MakePlay, sticky: bool) -> None:
    play = plays(sticky=sticky)
    client, server, _ = join(play, None, 0.2)
    select(client, server)
    client.sends(query("select 1"))
    client.session.refuse(NO)
    play.loop.run()
    client.gets(NO, IDLE)
    client.session.proceed()
    select(client, server)
    client.sends(TERMINATE)


def test_one_that_leaves_meanwhile(play: Playbook) -> None:
    client, server, _ = join(play, 0.2)
    client.sends(query("select 1"))
    client.leaves()
    client.session.proceed()
    play.loop.run()
    assert client.session.closed
    assert server.is_idle


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_connection_that_is_cut(plays: MakePlay, fate: str) -> None:
    play = plays()
    client, server, _ = join(play, fate)
    client.sends(query("x"))
    play.loop.run()
    assert server.backend.closed
    assert client.session.backend is None or client.session.closed
    assert server.read_all() == (b"" if fate == "before" else query("x"))
    client.read_all()  # in whatever words it is told


def test_words_of_statements_with_a_name(play: Playbook) -> None:
    client, server, guard = join(play)
    client.sends(parse(b"s", b"select 1"), SYNC)
    server.answers((parse(b"pga_1", b"select 1"), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    client.sends(bind(b"s"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, complete("X"), IDLE)
    client.gets(BIND_COMPLETE, complete("X"), IDLE)
    client.sends(bind(b"unknown"), execute(), SYNC)
    server.gets(bind(b"unknown"), execute(), SYNC)
    assert guard.asked == [b"select 1", b"select 1", None]


def test_what_waits_for_a_connection_was_judged_before(play: Playbook) -> None:
    """And the one that it gets has to be brought into its state first."""
    client, guard = play.client("german"), Guard()
    client.session.guard = guard
    client.sends(query("x"), query("y"))
    assert client.session.waiting
    server = play.server()
    server.answers((switched("german"), query("x")), AGREED, complete("X"), IDLE)
    server.answers(query("y"), complete("Y"), IDLE)
    client.gets(complete("X"), IDLE, complete("Y"), IDLE)
    assert guard.asked == [b"x", b"y"]


def test_a_guard_that_comes_while_it_waits(play: Playbook) -> None:
    client = play.client()
    client.sends(query("x"))
    client.session.guard = Guard(NO, NO)
    server = play.server()
    server.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    client.sends(query("x"))
    client.gets(NO, IDLE)


def test_one_that_waited_in_vain_is_judged_again(play: Playbook) -> None:
    client, guard = play.client(), Guard()
    client.session.guard = guard
    client.sends(query("x"))
    client.session.refuse(NO)
    client.gets(NO, IDLE)
    client.sends(query("y"))
    assert guard.asked == [b"x", b"y"]


def test_what_is_asked_again_may_be_cut_again(plays: MakePlay) -> None:
    """But it is not judged again: that may have cost it something."""
    play = plays(limit=3)
    client, first, guard = join(play, "before")
    play.policy.fate = Fate(replay=True)
    guard.again = ["before", None]
    client.sends(query("x"))
    first.gets_end()
    play.server().gets_end()
    play.server().answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    assert guard.asked == [b"x"] and not guard.again
