"""What clients that share a transaction of the server must not notice of each other."""

from __future__ import annotations

import pytest

from pgambassador.net.aftermath import Fate
from pgambassador.wire import build
from tests import crowd
from tests.crowd import NOTHING, READ, Queue, answer, early, extended, extended_answer, later, one, part
from tests.messages import (
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    bind,
    columns,
    complete,
    describe_portal,
    error,
    execute,
    parse,
    query,
    row,
)
from tests.playbook import Client, MakePlay, Playbook
from tests.policies import Routed
from tests.unit.test_errands import BEGUN, Split
from tests.unit.test_one_query import asks
from tests.unit.test_together import ready

SQL = b"select mark"
USE = bind(b"") + execute()


@pytest.fixture
def play(plays: MakePlay) -> Playbook:
    return ready(plays(policy=Routed(), limit=1))


def brief(play: Playbook, *texts: bytes) -> None:
    for text in texts:
        verdict = play.policy.routes.verdicts.of(text)
        while not verdict.brief():
            verdict.took(1e-6, True, False)


# Portals live as long as their transaction.


@pytest.mark.parametrize(
    "odd",
    [
        bind(b"", portal=b"p") + execute(b"p"),
        bind(b"", portal=b"p") + USE,
        bind(b"") + execute(b"p"),
        bind(b"") + describe_portal(b"p") + execute(),
        execute(),
        describe_portal() + execute(),
        execute() + bind(b""),
    ],
)
def test_another_ones_portals_are_not_there(play: Playbook, odd: bytes) -> None:
    """Neither to be executed nor to be in the way."""
    odd = parse(b"", SQL) + odd + SYNC
    queue = Queue(play)
    asked = (extended(SQL), odd, extended(SQL), extended(SQL))
    clients = [queue.waits(each) for each in asked]
    queue.moves()
    queue.server.gets(extended(SQL), odd, parse(b"", SQL) + USE, NOTHING + USE, SYNC)
    for client in clients:
        client.leaves()


# Texts.


def heard(
    play: Playbook, *asked: bytes, state: str = "base", **parameters: str
) -> tuple[bytes, list[Client]]:
    queue = Queue(play)
    queue.server.backend.parameters.update(parameters)
    queue.server.backend.state = state
    clients = []
    for each in asked:
        clients.append(queue.play.client(state))
        clients[-1].writes(each)
    queue.holder.session.state = state
    queue.moves()
    return queue.server.read_all(), clients


@pytest.mark.parametrize(
    ("text", "encoding", "own"),
    [
        ("select mark", "BIG5", False),
        ("select 'été'", "UTF8", False),
        ("select 'été'", "BIG5", True),  # its second byte may be the quote
        ("select mark -- été", "BIG5", True),
        ('select a as "été"', "LATIN1", True),  # it may be too long in the server's encoding
    ],
)
def test_what_a_server_takes_in_another_encoding(play: Playbook, text: str, encoding: str, own: bool) -> None:
    asked = query(text)
    brief(play, text.encode())
    found, clients = heard(play, READ, READ, asked, client_encoding=encoding, server_encoding="UTF8")
    assert found == (one(READ, READ) + asked if own else one(READ, READ, asked))
    for client in clients:
        client.leaves()


def test_who_hears_of_the_servers_log_asks_alone(play: Playbook) -> None:
    found, clients = heard(play, READ, READ, state="log")
    assert found == READ + READ
    for client in clients:
        client.leaves()


@pytest.mark.parametrize("level", ["LOG", "DEBUG", "NOTICE"])
def test_what_the_log_says_of_a_text_of_several_is_for_nobody(play: Playbook, level: str) -> None:
    """Where servers tell everybody of their log; it shows that when they do so for the first time."""
    queue = Queue(play)
    for expected in (one(READ, READ), READ + READ):
        clients = [queue.waits(READ) for _ in range(2)]
        queue.moves()
        queue.server.gets(expected)
        log = build.notice_response(level, "00000", f"{'plan ' * 50} {expected[5:-1].decode()}")
        if expected == READ + READ:
            queue.server.sends(log, answer(b"0"), log, answer(b"1"))
            for number, client in enumerate(clients):
                client.gets(log, answer(b"%d" % number))
        else:
            queue.server.sends(log, part(b"0"), part(b"1"), log, IDLE)
            for number, client in enumerate(clients):
                client.gets(answer(b"%d" % number))
            queue.begins()


def test_hints_for_planners_are_their_statements_own(play: Playbook) -> None:
    asked = query("/*+ SeqScan(a) */ select mark")
    found, clients = heard(play, READ, READ, asked)
    assert found == one(READ, READ) + asked
    for client in clients:
        client.leaves()


@pytest.mark.parametrize("text", [f'select a as "{"x" * 64}"', r"select 'a\b'"])
def test_what_a_server_may_warn_of_is_parsed_for_everybody(play: Playbook, text: str) -> None:
    asked = extended(text.encode())
    brief(play, text.encode())
    found, clients = heard(play, asked, asked)
    assert found == asked.removesuffix(SYNC) + asked
    for client in clients:
        client.leaves()


# Failures.


def test_who_fails_alone_as_well_goes_alone(play: Playbook) -> None:
    """Servers read all before they do anything, and say of nobody whose text they could not."""
    bad = query("select bad")
    brief(play, b"select bad")
    queue = Queue(play)
    clients = {READ: play.client(), bad: play.client()}
    for _ in range(1000):
        for asked, client in clients.items():
            client.writes(asked)
        queue.moves()
        found = queue.server.read_all()
        if found != one(READ, bad):
            break
        queue.server.sends(error("22021"), IDLE)
        for _ in clients:
            found = queue.server.read_all()
            reply = answer(b"0") if found == READ else error("22021") + IDLE
            queue.server.sends(reply)
            clients[found].gets(reply)
        queue.begins()
    else:
        raise AssertionError("they always go together")
    for client in clients.values():
        client.leaves()
    assert play.policy.routes.verdicts.of(SQL).brief()
    assert not play.policy.routes.verdicts.of(b"select bad").brief()


def test_a_text_that_fails_late_has_ended_the_unnamed_statement(play: Playbook) -> None:
    queue = Queue(play)
    client = queue.waits(parse(b"", SQL) + SYNC)
    queue.moves()
    queue.server.answers(parse(b"", SQL) + SYNC, PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    queue.begins()
    client.writes(asks(0))
    other = queue.waits(asks(1))
    queue.moves()
    queue.server.gets(one(asks(0), asks(1)))
    queue.server.sends(columns(b"mark"), row(b"0"))
    client.gets(columns(b"mark"), row(b"0"))
    queue.server.sends(error("22012"), IDLE)
    client.gets(error("22012"), IDLE)
    queue.server.answers(asks(1), answer(b"1"))
    other.gets(answer(b"1"))
    client.writes(USE + SYNC)
    close = b"C" + (6).to_bytes(4, "big") + b"S\0"
    queue.server.gets(close, USE, SYNC)
    client.leaves()


@pytest.mark.parametrize(("sqlstate", "many"), [("22012", 2), ("42P01", 1), ("25006", 0)])
def test_what_fails_on_a_standby_fails_there_alone_too(plays: MakePlay, sqlstate: str, many: int) -> None:
    """The primary may be gone. Only what it may know or do better is for it."""
    split = Split(plays(policy=Routed(), limit=1))
    split.lane.batching, split.lane.together = True, 60.0
    brief(split.play, SQL)
    primary, standby, holder = split.primary(), split.standby(), split.play.client()
    holder.writes(query("begin read only"))
    standby.answers(query("begin read only"), BEGUN)
    holder.gets(BEGUN)
    clients = {asks(number): split.play.client() for number in range(2)}
    for asked, client in clients.items():
        client.writes(asked)
    holder.writes(query("commit"))
    standby.answers(query("commit"), complete("COMMIT"), IDLE)
    holder.gets(complete("COMMIT"), IDLE)
    standby.answers(one(*clients), error(sqlstate), IDLE)
    asked_there = []
    for server in (primary, standby, primary):
        while asked := server.read_all():
            server.sends(answer(b"1"))
            clients.pop(asked).gets(answer(b"1"))
            asked_there += [asked] if server is standby else []
    assert not clients
    assert len(asked_there) == many


# Where the connection breaks.


def test_what_one_has_executed_counts_for_nobody_else(play: Playbook) -> None:
    queue = Queue(play)
    first, second = queue.waits(extended(SQL)), queue.waits(extended(SQL))
    queue.moves()
    queue.server.gets(crowd.heard(2), SYNC)
    queue.server.sends(early(b"0"), later(b"1")[:-3])
    first.gets(extended_answer(b"0"))
    play.policy.fate = Fate(answers=error("08006") + IDLE)
    queue.server.leaves()
    (loss,) = (each[1] for each in play.policy.heard if each[0] == "bereft")
    assert loss.rode and not loss.executed
    assert second.read_all().endswith(error("08006") + IDLE)
