"""Several clients on one server connection: each gets its own answer once, whatever becomes of others."""

from __future__ import annotations

from typing import cast

import pytest

from pgambassador.net.aftermath import Fate
from pgambassador.net.verdicts import Verdict
from pgambassador.wire import build
from tests.crowd import READ, Queue, answer, extended, extended_answer
from tests.messages import (
    BIND_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TERMINATE,
    bind,
    columns,
    complete,
    describe,
    error,
    execute,
    fatal,
    notice,
    parameter_description,
    parse,
    query,
    row,
)
from tests.playbook import MakePlay, Playbook
from tests.policies import Routed

CANCELED = build.error_response("ERROR", "57014", "canceling statement")
LOST = build.error_response("FATAL", "08006", "the server closed the connection unexpectedly")


@pytest.fixture
def play(plays: MakePlay) -> Playbook:
    play = plays(policy=Routed(), limit=1)
    play.lane.batching = True
    return play


def test_all_ask_at_once_and_each_gets_its_own_answer(play: Playbook) -> None:
    queue = Queue(play)
    asked = (READ, extended(b"select mark"), READ)
    clients = [queue.waits(each) for each in asked]
    queue.moves()
    assert play.lane.batched == 3
    queue.server.answers(asked, answer(b"1"), extended_answer(b"2"), answer(b"3"))
    clients[0].gets(answer(b"1"))
    clients[1].gets(extended_answer(b"2"))
    clients[2].gets(answer(b"3"))
    assert queue.server.is_idle
    assert play.lane.batches == 1


def test_who_does_not_only_read_waits_for_a_turn_of_its_own(play: Playbook) -> None:
    queue = Queue(play)
    first, second, writer, last = (
        queue.waits(READ),
        queue.waits(READ),
        queue.waits(query("write")),
        queue.waits(READ),
    )
    queue.moves()
    queue.server.answers((READ, READ), answer(b"1"), answer(b"2"))
    first.gets(answer(b"1"))
    second.gets(answer(b"2"))
    queue.server.answers(query("write"), complete("WRITE"), IDLE)
    writer.gets(complete("WRITE"), IDLE)
    queue.server.answers(READ, answer(b"3"))
    last.gets(answer(b"3"))


def test_an_error_is_that_of_one_alone(play: Playbook) -> None:
    queue = Queue(play)
    first, second, third = queue.waits(READ), queue.waits(extended(b"select mark")), queue.waits(READ)
    queue.moves()
    queue.server.answers(
        (READ, extended(b"select mark"), READ),
        answer(b"1"), PARSE_COMPLETE, BIND_COMPLETE, error("22012"), IDLE, error("22P02"), IDLE,
    )  # fmt: skip
    first.gets(answer(b"1"))
    second.gets(PARSE_COMPLETE, BIND_COMPLETE, error("22012"), IDLE)
    third.gets(error("22P02"), IDLE)
    assert queue.server.is_idle


def test_what_they_send_meanwhile_comes_behind(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(READ, query("write")), queue.waits(READ)
    queue.moves()
    second.sends(query("late"))
    queue.server.answers((READ, READ), answer(b"1"), answer(b"2"))
    first.gets(answer(b"1"))
    second.gets(answer(b"2"))
    queue.server.answers(query("write"), complete("1"), IDLE)
    first.gets(complete("1"), IDLE)
    queue.server.answers(query("late"), complete("2"), IDLE)
    second.gets(complete("2"), IDLE)


def test_who_says_goodbye_meanwhile_gets_its_answer(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(READ), queue.waits(READ, TERMINATE)
    queue.moves()
    first.sends(TERMINATE)
    queue.server.answers((READ, READ), answer(b"1"), answer(b"2"))
    first.gets_end(answer(b"1"))
    second.gets_end(answer(b"2"))
    assert queue.server.is_idle


@pytest.mark.parametrize("who", [0, 1, 2])
def test_the_answer_to_who_has_gone_is_nobodys(play: Playbook, who: int) -> None:
    queue = Queue(play)
    asked = extended(b"select mark")
    clients = [queue.waits(asked) for _ in range(3)]
    queue.moves()
    clients[who].leaves()
    answers = [
        extended_answer(b"0"),
        PARSE_COMPLETE + BIND_COMPLETE + error("22012") + IDLE,
        extended_answer(b"2"),
    ]
    queue.server.answers((asked,) * 3, *answers)
    for number, client in enumerate(clients):
        if number != who:
            client.gets(answers[number])
    assert queue.server.is_idle


# The connection dies.


def test_if_the_connection_dies_all_ask_again_by_themselves(play: Playbook) -> None:
    queue = Queue(play)
    clients = [queue.waits(READ, query("behind")), queue.waits(extended(b"select mark")), queue.waits(READ)]
    queue.moves()
    queue.server.gets(READ, extended(b"select mark"), READ)
    queue.server.leaves()
    for client in clients:
        client.gets_nothing()
    server = play.server()
    for number, asked in ((2, READ), (1, extended(b"select mark"))):
        server.gets(asked)
        made = answer(b"x") if asked == READ else extended_answer(b"x")
        server.sends(made)
        clients[number].gets(made)
    server.answers((READ, query("behind")), answer(b"x"), complete("B"), IDLE)
    clients[0].gets(answer(b"x"), complete("B"), IDLE)


@pytest.mark.parametrize("last_words", [fatal(), b""], ids=["says why", "says nothing"])
def test_who_has_an_answer_keeps_it_and_who_has_half_of_one_is_told(
    play: Playbook, last_words: bytes
) -> None:
    queue = Queue(play)
    clients = [queue.waits(READ, TERMINATE), queue.waits(READ), queue.waits(READ)]
    queue.moves()
    queue.server.gets(READ, READ, READ)
    # In one read: what is done for one must not be done before its answer has left.
    queue.server.writes(answer(b"1") + columns(b"mark") + row(b"2") + last_words)
    queue.server.leaves()
    clients[0].gets_end(answer(b"1"))
    told = clients[1].read_all()
    assert told.startswith(columns(b"mark") + row(b"2")) and clients[1].ended
    assert b"SFATAL" in told
    server = play.server()
    server.answers(READ, answer(b"3"))
    clients[2].gets(answer(b"3"))


def test_words_that_the_server_says_to_all_do_not_disturb(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(READ), queue.waits(READ)
    queue.moves()
    queue.server.gets(READ, READ)
    queue.server.sends(
        build.parameter_status("TimeZone", "elsewhere"), answer(b"1"), notice("so"), answer(b"2")
    )
    first.gets(answer(b"1"))
    second.gets(notice("so"), answer(b"2"))


# Cancelling.


def test_a_cancel_request_that_hits_somebody_else_is_not_noticed(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(extended(b"select mark")), queue.waits(READ)
    queue.moves()
    queue.server.gets(extended(b"select mark"), READ)
    queue.server.sends(PARSE_COMPLETE + BIND_COMPLETE + row(b"1") + complete("S") + IDLE, CANCELED, IDLE)
    first.gets(PARSE_COMPLETE + BIND_COMPLETE + row(b"1") + complete("S") + IDLE)
    second.gets_nothing()
    queue.server.answers(READ, answer(b"2"))
    second.gets(answer(b"2"))
    assert play.lane.repeated == 1


@pytest.mark.parametrize("asked", [READ, extended(b"select mark")], ids=["simple", "extended"])
def test_who_gives_up_first_is_told_at_once_and_the_others_ask_elsewhere(
    play: Playbook, asked: bytes
) -> None:
    queue = Queue(play)
    first, second, third = queue.waits(asked), queue.waits(READ), queue.waits(READ)
    queue.moves()
    queue.server.gets(asked, READ, READ)
    assert first.session.give_up(CANCELED) is queue.server.backend
    first.gets(CANCELED, IDLE)
    assert second.session.waiting and third.session.waiting
    queue.server.sends(error("57014"), IDLE, answer(b"2"), answer(b"3"))
    # It is free again, and everybody asks alone.
    queue.server.answers(READ, answer(b"3"))
    queue.server.answers(READ, answer(b"2"))
    second.gets(answer(b"2"))
    third.gets(answer(b"3"))
    first.gets_nothing()
    first.sends(READ)
    queue.server.answers(READ, answer(b"1"))
    first.gets(answer(b"1"))


def test_who_gives_up_behind_another_disturbs_nobody(play: Playbook) -> None:
    queue = Queue(play)
    asked = extended(b"select mark")
    first, second, third = queue.waits(READ), queue.waits(asked), queue.waits(asked)
    queue.moves()
    queue.server.gets(READ, asked, asked)
    assert second.session.give_up(CANCELED) is None
    second.gets(CANCELED, IDLE)
    second.sends(READ)
    queue.server.sends(
        answer(b"1"), PARSE_COMPLETE, BIND_COMPLETE, error("22012"), IDLE, extended_answer(b"3")
    )
    first.gets(answer(b"1"))
    third.gets(extended_answer(b"3"))
    queue.server.answers(READ, answer(b"2"))
    second.gets(answer(b"2"))


def test_who_has_got_a_part_of_its_answer_gets_the_error_itself(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(READ), queue.waits(READ)
    queue.moves()
    queue.server.answers((READ, READ), columns(b"mark"), row(b"1"))
    assert first.session.give_up(CANCELED) is queue.server.backend
    assert second.session.waiting
    queue.server.sends(CANCELED, IDLE, CANCELED, IDLE)
    first.gets(columns(b"mark"), row(b"1"), CANCELED, IDLE)
    queue.server.answers(READ, answer(b"2"))
    second.gets(answer(b"2"))


def test_those_behind_one_that_takes_long_ask_elsewhere(play: Playbook) -> None:
    play.lane.limit = 2
    queue = Queue(play)
    first, second, third = queue.waits(READ), queue.waits(READ), queue.waits(READ)
    queue.moves()
    queue.server.gets(READ, READ, READ)
    while not second.session.waiting:
        assert play.lane.relieve()
    other = play.server()
    other.answers(READ, answer(b"3"))
    other.answers(READ, answer(b"2"))
    second.gets(answer(b"2"))
    third.gets(answer(b"3"))
    queue.server.sends(answer(b"1"), answer(b"old"), answer(b"older"))
    first.gets(answer(b"1"))
    assert queue.server.is_idle
    assert not play.lane.relieve()


# What is not brief is tried out, and nobody waits behind it.

NAP = query("select nap")


def naps(queue: Queue) -> Verdict:
    """It is known to take long; the next one is tried out."""
    verdict = queue.play.policy.routes.verdicts.of(b"select nap")
    verdict.took(0.05, False, False)
    return cast(Verdict, verdict)


def test_who_is_tried_out_goes_last(play: Playbook) -> None:
    queue = Queue(play)
    naps(queue)
    first, tried, behind = queue.waits(READ), queue.waits(NAP), queue.waits(READ)
    queue.moves()
    queue.server.answers((READ, NAP), answer(b"1"), answer(b"2"))
    first.gets(answer(b"1"))
    tried.gets(answer(b"2"))
    queue.server.answers(READ, answer(b"3"))
    behind.gets(answer(b"3"))


def test_behind_what_takes_long_goes_only_who_is_tried_out(play: Playbook) -> None:
    queue = Queue(play)
    verdict = naps(queue)
    assert verdict.volunteers()
    first, behind = queue.waits(NAP), queue.waits(READ)
    queue.moves()
    queue.server.answers(NAP, answer(b"1"))
    first.gets(answer(b"1"))
    queue.server.answers(READ, answer(b"2"))
    behind.gets(answer(b"2"))
    assert not any(verdict.volunteers() for _ in range(15))  # nor was that one


def test_what_it_takes_behind_another_says_more_than_what_it_takes_alone(play: Playbook) -> None:
    queue = Queue(play)
    verdict = play.policy.routes.verdicts.of(b"select mark")
    first, second = queue.waits(READ), queue.waits(READ)
    queue.moves()
    queue.server.answers((READ, READ), answer(b"1"), answer(b"2"))
    first.gets(answer(b"1"))
    second.gets(answer(b"2"))
    verdict.took(60.0, False, False)
    assert verdict.brief()


# Not all that was thought to go together does.


def test_if_one_of_them_cannot_ask_they_ask_one_by_one_and_once(plays: MakePlay) -> None:
    """A table has changed since the first one was looked at: its statement's rows must be asked for first."""
    play = plays(policy=Routed(), limit=1)
    play.lane.batching = True
    queue = Queue(play)
    sql = b"select mark"
    names = (parse(b"s", sql) + describe(b"s") + SYNC, bind(b"s") + execute() + SYNC)
    first = queue.waits(names[0])
    queue.moves()
    known = parse(b"pga_1", sql) + describe(b"pga_1") + SYNC
    described = parameter_description() + columns(b"mark")
    queue.server.answers(known, PARSE_COMPLETE, described, IDLE)
    first.gets(PARSE_COMPLETE, described, IDLE)
    # The connection that knows it goes; another one comes, while all wait.
    queue.server.leaves()
    first.writes(names[1])
    others = [play.client() for _ in range(2)]
    for other in others:
        other.sends(READ)
    play.policy.statements.forget()
    assert play.lane.waiting == 3
    server = play.server()
    assert play.lane.total == 0
    server.gets_end()
    server = play.server()
    # Those who were put first again come last in, first out.
    for other in reversed(others):
        server.answers(READ, answer(b"x"))
        other.gets(answer(b"x"))
    probe = parse(b"pga_1", sql) + build.describe_statement(b"pga_1") + build.FLUSH
    server.answers(probe, PARSE_COMPLETE, described)
    server.answers(bind(b"pga_1") + execute() + SYNC, BIND_COMPLETE, row(b"1"), complete("SELECT 1"), IDLE)
    first.gets(BIND_COMPLETE, row(b"1"), complete("SELECT 1"), IDLE)


# Not reading.


def test_who_does_not_read_its_answer_does_not_keep_the_others_from_theirs(plays: MakePlay) -> None:
    play = plays(policy=Routed(), limit=1, high_water=10_000)
    play.lane.batching = True
    queue = Queue(play)
    first, second = queue.waits(READ, buffer=4096), queue.waits(READ)
    queue.moves()
    queue.server.gets(READ, READ)
    long = answer(b"x" * 100_000)
    queue.server.writes(long)
    queue.server.sends(answer(b"2"))
    second.gets(answer(b"2"))
    assert queue.server.is_idle and queue.server.is_read()
    first.gets(long)


def test_who_leaves_without_reading_does_not_either(plays: MakePlay) -> None:
    play = plays(policy=Routed(), limit=1, high_water=10_000)
    play.lane.batching = True
    queue = Queue(play)
    first, second = queue.waits(READ, buffer=4096), queue.waits(READ)
    queue.moves()
    queue.server.gets(READ, READ)
    long = answer(b"x" * 100_000)
    queue.server.writes(long[:50_000])
    assert not queue.server.is_read()
    first.leaves()
    queue.server.writes(long[50_000:])
    queue.server.sends(answer(b"2"))
    second.gets(answer(b"2"))
    assert queue.server.is_idle


def test_all_are_read_again_though_they_had_much_to_say(plays: MakePlay) -> None:
    play = plays(policy=Routed(), limit=1, high_water=1000)
    play.lane.batching = True
    queue = Queue(play)
    long = parse(b"", b"select mark") + bind(b"", b"x" * 3000) + execute() + SYNC
    clients = [queue.waits(long) for _ in range(3)]
    queue.moves()
    queue.server.answers((long,) * 3, *(extended_answer(b"%d" % i) for i in range(3)))
    for number, client in enumerate(clients):
        client.gets(extended_answer(b"%d" % number))
        client.sends(READ)
        queue.server.answers(READ, answer(b"y"))
        client.gets(answer(b"y"))


def test_what_stands_behind_an_answer_that_broke_off_is_asked_elsewhere(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(READ, query("write")), queue.waits(READ)
    queue.moves()
    queue.server.answers((READ, READ), columns(b"mark"))
    first.gets(columns(b"mark"))
    play.policy.fate = Fate(answers=error("08006") + IDLE)
    queue.server.leaves()
    first.gets(error("08006"), IDLE)
    (loss,) = (each[1] for each in play.policy.heard if each[0] == "bereft")
    assert loss.rode and not loss.executed
    server = play.server()
    server.answers(READ, answer(b"2"))
    second.gets(answer(b"2"))
    server.answers(query("write"), complete("WRITE"), IDLE)
    first.gets(complete("WRITE"), IDLE)
