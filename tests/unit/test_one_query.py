"""Simple queries of several clients as statements of one, and what they parse without a name parsed once."""

from __future__ import annotations

import pytest

from pgambassador.wire import build
from tests.crowd import (
    NOTHING,
    READ,
    Queue,
    answer,
    each_gets_its_own,
    extended,
    extended_answer,
    one,
    part,
)
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    bind,
    columns,
    error,
    execute,
    notice,
    parse,
    query,
    row,
)
from tests.playbook import Client, MakePlay, Playbook
from tests.policies import Routed
from tests.unit.test_together import ready

CANCELED = build.error_response("ERROR", "57014", "canceling statement")


def asks(number: int, rest: str = "") -> bytes:
    """All of one shape."""
    return query(f"select mark -- {number}{rest}")


@pytest.fixture
def play(plays: MakePlay) -> Playbook:
    return ready(plays(policy=Routed(), limit=1))


def crowd(play: Playbook, many: int = 3) -> tuple[Queue, list[Client]]:
    queue = Queue(play)
    asked = [asks(number) for number in range(many)]
    clients = [queue.waits(each) for each in asked]
    queue.moves()
    queue.server.gets(one(*asked))
    return queue, clients


def again(queue: Queue, clients: dict[int, Client], reply: bytes = answer(b"again")) -> None:
    """They ask alone, in whatever order."""
    texts = {asks(number): number for number in clients}
    for _ in clients:
        number = texts.pop(queue.server.read_all())
        queue.server.sends(reply)
        clients[number].gets(reply)


def test_they_become_one(play: Playbook) -> None:
    queue, clients = crowd(play)
    each_gets_its_own(queue, clients, part(b"0") + part(b"1") + part(b"2") + IDLE, READ, answer)


def test_each_is_ready_when_its_statement_is_done(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.sends(part(b"0"))
    clients[0].gets(answer(b"0"))
    queue.server.sends(columns(b"mark"), row(b"1"))
    clients[1].gets(columns(b"mark"), row(b"1"))
    clients[2].gets_nothing()


def test_what_is_said_meanwhile_is_said_to_whose_statement_runs(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.sends(part(b"0"), notice("so"), part(b"1"), part(b"2"), IDLE)
    clients[0].gets(answer(b"0"))
    clients[1].gets(notice("so"), answer(b"1"))
    clients[2].gets(answer(b"2"))


@pytest.mark.parametrize("who", [0, 1, 2])
def test_who_fails_asks_again_as_do_those_behind(play: Playbook, who: int) -> None:
    """The error names a place in a text that is not its own."""
    queue, clients = crowd(play)
    before = [part(b"%d" % number) for number in range(who)]
    queue.server.sends(*before, error("22012", "elsewhere"), IDLE)
    for number in range(who):
        clients[number].gets(answer(b"%d" % number))
    again(queue, {number: clients[number] for number in range(who, 3)})
    assert queue.server.is_idle
    assert play.lane.repeated == 3 - who


def test_who_has_a_part_of_its_answer_is_told(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.sends(columns(b"mark"), row(b"0"))
    clients[0].gets(columns(b"mark"), row(b"0"))
    queue.server.sends(error("22012"), IDLE)
    clients[0].gets(error("22012"), IDLE)
    again(queue, {1: clients[1], 2: clients[2]})


def test_what_fails_often_is_not_asked_together(play: Playbook) -> None:
    queue = Queue(play)
    verdict = play.policy.routes.verdicts.of(b"select mark")
    verdict.took(0.025, True, False)  # as if this machine had stood still, which it may at any time
    for _ in range(1000):
        clients = [queue.waits(asks(number)) for number in range(2)]
        queue.moves()
        asked = queue.server.read_all()
        if not verdict.brief():
            break
        if asked == one(asks(0), asks(1)):
            queue.server.sends(error("22012"), IDLE)
            again(queue, dict(enumerate(clients)), error("22012") + IDLE)
        else:
            queue.server.sends(error("22012"), IDLE, error("22012"), IDLE)
            for client in clients:
                client.gets(error("22012"), IDLE)
        queue.begins()
    assert asked not in (one(asks(0), asks(1)), asks(0) + asks(1))


@pytest.mark.parametrize("who", [0, 1, 2])
def test_who_gives_up_is_told_at_once(play: Playbook, who: int) -> None:
    queue, clients = crowd(play)
    leads = clients[who].session.give_up(CANCELED)
    clients[who].gets(CANCELED, IDLE)
    others = {number: clients[number] for number in range(3) if number != who}
    if who == 0:
        assert leads is queue.server.backend
        queue.server.sends(CANCELED, IDLE)
        again(queue, others)
    else:
        assert leads is None
        queue.server.sends(part(b"0"), part(b"1"), part(b"2"), IDLE)
        for number, client in others.items():
            client.gets(answer(b"%d" % number))
    assert queue.server.is_idle


@pytest.mark.parametrize("who", [0, 1, 2])
def test_the_answer_to_who_has_gone_is_nobodys(play: Playbook, who: int) -> None:
    queue, clients = crowd(play)
    clients[who].leaves()
    queue.server.sends(part(b"0"), part(b"1"), part(b"2"), IDLE)
    for number in {0, 1, 2} - {who}:
        clients[number].gets(answer(b"%d" % number))
    assert queue.server.is_idle


def test_a_cancel_request_that_hits_somebody_else_is_not_noticed(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.sends(part(b"0"), CANCELED, IDLE)
    clients[0].gets(answer(b"0"))
    again(queue, {1: clients[1], 2: clients[2]})
    assert play.policy.routes.verdicts.of(b"select mark").brief()


def test_if_the_connection_dies_they_ask_again(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.writes(part(b"0"))
    queue.server.leaves()
    clients[0].gets(answer(b"0"))
    queue.server = play.server()
    again(queue, {1: clients[1], 2: clients[2]})


@pytest.mark.parametrize(
    "text",
    [
        "select mark /* ends with a comment */",
        "select mark -- and so does this",
        "select mark;",
        "select mark ; -- nothing",
        "select 'a;b', ' -- '",
        "select 'été'",
        f"select a as {'x' * 63}",
        f'select a as "{"x" * 63}" /* {"x" * 64} */',
        f"select '{'x' * 1000}'",
        'select mark /* pgambassador: any "*/',
    ],
)
def test_what_can_be_one_of_several(play: Playbook, text: str) -> None:
    assert play.policy.routes.verdicts.of(text.encode()).combines
    assert goes_with(play, query(text))


@pytest.mark.parametrize(
    "text",
    [
        r"select 'a\b'",  # the server may warn of it
        r"select e'a\n'",
        f"select a as {'x' * 64}",  # the server says that it cuts it off
        f'select a as "{"x" * 64}"',
        f'select a /* pgambassador: any " */ as "{"x y " * 20}"',
        "select $$a$$",
        "select U&'a'",
        "select 'open",
        "select a /* open",
        f"select '{'x' * 12_000}'",
    ],
)
def test_what_cannot(play: Playbook, text: str) -> None:
    assert not goes_with(play, query(text))


def goes_with(play: Playbook, asked: bytes) -> bool:
    """Whether it becomes one with others."""
    queue = Queue(play)
    verdict = play.policy.routes.verdicts.of(asked[5:-1])
    while not verdict.brief():
        verdict.took(1e-6, True, False)
    clients = [queue.waits(each) for each in (READ, asked, READ)]
    queue.moves()
    heard = queue.server.read_all()
    for client in clients:
        client.leaves()
    return heard == one(READ, asked, READ)


def test_the_text_of_one_is_not_endless(play: Playbook) -> None:
    queue = Queue(play)
    asked = [asks(number, "x" * 9_000) for number in range(5)]
    clients = [queue.waits(each) for each in asked]
    queue.moves()
    queue.server.gets(one(*asked[:3]), one(*asked[3:]))
    queue.server.sends(*(part(b"%d" % number) for number in range(3)), IDLE, part(b"3"), part(b"4"), IDLE)
    for number, client in enumerate(clients):
        client.gets(answer(b"%d" % number))


def test_the_unnamed_statement_ends_as_with_a_query_of_its_own(play: Playbook) -> None:
    queue = Queue(play)
    client, other = queue.waits(parse(b"", b"select mark") + SYNC), queue.waits(READ)
    queue.moves()
    queue.server.answers(parse(b"", b"select mark") + SYNC, PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    queue.server.answers(READ, answer(b"1"))
    other.gets(answer(b"1"))
    queue.begins()
    client.writes(READ)
    other.writes(READ)
    queue.moves()
    queue.server.answers(one(READ, READ), part(b"0"), part(b"1"), IDLE)
    client.gets(answer(b"0"))
    other.gets(answer(b"1"))
    client.sends(bind(b"") + execute() + SYNC)
    close = b"C" + (6).to_bytes(4, "big") + b"S\0"
    queue.server.answers((close, bind(b""), execute(), SYNC), CLOSE_COMPLETE, error("26000"), IDLE)
    client.gets(error("26000"), IDLE)


# What several parse without a name.

SQL = b"select mark"
USE = bind(b"") + execute()
REPLY = BIND_COMPLETE + row(b"1") + build.command_complete("SELECT 1")


def test_a_statement_is_parsed_again_after_a_few(play: Playbook) -> None:
    """Before it would be planned for whatever parameters."""
    queue = Queue(play)
    clients = [queue.waits(extended(SQL)) for _ in range(7)]
    queue.moves()
    first, more = parse(b"", SQL) + USE, NOTHING + USE
    queue.server.gets(first, more * 4, first, more, SYNC)
    anew, known = PARSE_COMPLETE + REPLY, CLOSE_COMPLETE + REPLY
    queue.server.sends(anew, known * 4, anew, known, IDLE)
    for client in clients:
        client.gets(PARSE_COMPLETE, REPLY, IDLE)


@pytest.mark.parametrize("between", [b"select  mark", b"kept"])
def test_another_statement_comes_between(play: Playbook, between: bytes) -> None:
    """Of the same shape, or one that a client has parsed before."""
    queue = Queue(play)
    keeper = queue.waits(parse(b"", b"select mark ") + SYNC)
    queue.moves()
    queue.server.answers(parse(b"", b"select mark ") + SYNC, PARSE_COMPLETE, IDLE)
    keeper.gets(PARSE_COMPLETE, IDLE)
    queue.begins()
    clients = [queue.waits(extended(SQL))]
    if between == b"kept":
        keeper.writes(USE + SYNC)
        middle, heard = keeper, parse(b"", b"select mark ") + USE
    else:
        middle, heard = queue.waits(extended(between)), parse(b"", between) + USE
    clients.append(queue.waits(extended(SQL)))
    queue.moves()
    queue.server.gets(parse(b"", SQL) + USE, heard, parse(b"", SQL) + USE, SYNC)
    queue.server.sends((PARSE_COMPLETE + REPLY) * 3, IDLE)
    for client in clients:
        client.gets(PARSE_COMPLETE, REPLY, IDLE)
    middle.gets(b"" if between == b"kept" else PARSE_COMPLETE, REPLY, IDLE)


def test_it_belongs_to_who_used_it_last(play: Playbook) -> None:
    """Whose it is elsewhere: the others bring their own."""
    queue = Queue(play)
    clients = [queue.waits(extended(SQL)) for _ in range(2)]
    queue.moves()
    queue.server.gets(parse(b"", SQL) + USE, NOTHING + USE, SYNC)
    queue.server.sends(PARSE_COMPLETE + REPLY, CLOSE_COMPLETE + REPLY, IDLE)
    for client in clients:
        client.gets(PARSE_COMPLETE, REPLY, IDLE)
    clients[1].sends(USE + SYNC)
    queue.server.answers(USE + SYNC, REPLY, IDLE)
    clients[1].gets(REPLY, IDLE)
    clients[0].sends(USE + SYNC)
    queue.server.answers((parse(b"", SQL), USE, SYNC), PARSE_COMPLETE, REPLY, IDLE)
    clients[0].gets(REPLY, IDLE)


def test_behind_an_error_it_is_parsed_again(play: Playbook) -> None:
    queue = Queue(play)
    clients = [queue.waits(extended(SQL)) for _ in range(3)]
    queue.moves()
    queue.server.gets(parse(b"", SQL) + USE, NOTHING + USE, NOTHING + USE, SYNC)
    queue.server.sends(PARSE_COMPLETE + REPLY, CLOSE_COMPLETE + BIND_COMPLETE + error("22012"), IDLE)
    clients[0].gets(PARSE_COMPLETE, REPLY, IDLE)
    clients[1].gets(PARSE_COMPLETE, BIND_COMPLETE, error("22012"), IDLE)
    queue.server.answers(extended(SQL), extended_answer(b"2"))
    clients[2].gets(extended_answer(b"2"))
