"""Sessions outlive their server connections: each message is answered once, and nothing is done twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from pgambassador.config import cache as config
from pgambassador.errors import Unreachable
from pgambassador.net.aftermath import Loss
from pgambassador.net.choice import Choice
from pgambassador.net.lane import Lane
from pgambassador.protocol import suspects
from pgambassador.protocol.settings import Settings
from pgambassador.routing.cache import Cache, Shelf
from pgambassador.routing.catalog import Catalog, Effect
from pgambassador.routing.question import QUERY
from pgambassador.routing.replay import Phase
from pgambassador.wire import build
from tests.keeping import PARAMETERS, Keeping
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_IN,
    FUNCTION_CALL,
    FUNCTION_RESULT,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TRANSACTION,
    bind,
    columns,
    complete,
    copy_data,
    error,
    execute,
    fatal,
    notice,
    parameter_status,
    parse,
    query,
    row,
)
from tests.playbook import Client, Server
from tests.policies import Routes

READ, WRITE = query("select a from t"), query("insert into t values (1)")
MARKED = query("/* pgambassador: idempotent */ insert into t values (1)")
BEGIN, COMMIT, ROLLBACK = query("begin"), query("commit"), query("rollback")
BEGUN = (complete("BEGIN"), TRANSACTION)
ROWS = (columns(b"a"), row(b"1"), complete("SELECT 1"), IDLE)
WROTE = (complete("INSERT 0 1"), IDLE)
ROLLED_BACK = complete("ROLLBACK") + IDLE
CRASH = notice("terminating connection because of crash of another server process").replace(
    b"C00000", b"C57P02"
)
UNKNOWN, BROKEN = "08007", "08006"


MakeKeeping = Callable[..., Keeping]


@pytest.fixture
def keepings(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeKeeping]:
    made: list[Keeping] = []

    def make(**options: Any) -> Keeping:
        keeping = Keeping(**options)
        clock = SimpleNamespace(monotonic=keeping.loop.time, time=lambda: 1e9)
        for module in ("openings", "aftermath", "riddles", "routes"):
            monkeypatch.setattr(f"pgambassador.net.{module}.time", clock)
        made.append(keeping)
        return keeping

    yield make
    for each in made:
        each.end()


def knows(play: Keeping) -> None:
    catalog = Catalog({"now": Effect.READ}, frozenset({"t"}))
    play.keeper.routes.catalog = catalog


@pytest.fixture
def play(keepings: MakeKeeping) -> Keeping:
    made = keepings(size=1)
    knows(made)
    return made


def opened(play: Keeping) -> Server:
    """A connection that is opened for who waits; it is not asked for a catalog here."""
    return play.opens()


def served(play: Keeping, first: bytes = WRITE) -> tuple[Client, Server]:
    """A client whose first message has reached a server."""
    client = play.client()
    client.sends(first)
    server = opened(play)
    server.gets(first)
    return client, server


def prepared(play: Keeping, asked: bytes) -> tuple[Client, Server]:
    """A client that has prepared a statement, and the server that knows it."""
    client = play.client()
    client.sends(asked)
    server = opened(play)
    server.read_all()
    server.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    return client, server


def within(play: Keeping) -> tuple[Client, Server]:
    """A client in a transaction."""
    client, server = served(play, BEGIN)
    server.sends(*BEGUN)
    client.gets(*BEGUN)
    return client, server


def heard(client: Client) -> str:
    """What a client has been told, shortly: errors by SQLSTATE, ReadyForQuery by what it says."""
    client.play.loop.run()
    data, words = client.read_all(), []
    while data:
        size = 1 + int.from_bytes(data[1:5], "big")
        assert len(data) >= size, "half a message"
        kind, body, data = chr(data[0]), data[5:size], data[size:]
        if kind == "E":
            fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
            words.append(("" if fields[b"S"] == b"ERROR" else "!") + fields[b"C"].decode())
        elif kind == "Z":
            words.append(f"Z{body.decode()}")
        else:
            words.append(kind)
    return " ".join(words)


def waits_for_rollback(client: Client) -> None:
    """Its transaction is lost, and it knows."""
    client.sends(WRITE)
    assert heard(client) == "25P02 ZE"
    client.sends(ROLLBACK)
    client.gets(ROLLED_BACK)


def lives(play: Keeping, client: Client) -> None:
    """The session goes on, with another connection."""
    client.sends(WRITE)
    server = opened(play)
    server.answers(WRITE, *WROTE)
    client.gets(*WROTE)
    play.keeper.retire_idle("for what comes next")
    server.gets_end(build.TERMINATE)


# Alone.


def test_a_read_is_asked_again_unseen(play: Keeping) -> None:
    client, server = served(play, READ)
    server.leaves()
    client.gets_nothing()
    opened(play).answers(READ, *ROWS)
    client.gets(*ROWS)
    assert play.keeper.aftermath.outcomes == {"replayed": 1}


def test_once_where_the_connection_ends_without_a_word(play: Keeping) -> None:
    """Perhaps the statement itself makes servers crash."""
    client, server = served(play, READ)
    server.leaves()
    again = opened(play)
    again.gets(READ)
    again.leaves()
    assert heard(client) == f"{BROKEN} ZI"
    lives(play, client)


def test_those_that_die_with_it_do_not_count(keepings: MakeKeeping) -> None:
    """A server that crashes ends them all, and some of them cannot say so."""
    play = keepings(size=2)
    knows(play)
    client, other = play.client(), play.client()
    client.sends(READ)
    other.sends(READ)
    first, second = opened(play), opened(play)
    first.gets(READ)
    second.answers(READ, *ROWS)
    other.gets(*ROWS)
    first.leaves()
    second.gets(READ)
    second.leaves()
    client.gets_nothing()
    third = opened(play)
    third.gets(READ)
    third.leaves()
    assert heard(client) == f"{BROKEN} ZI"
    assert play.keeper.aftermath.outcomes["replayed"] == 2


@pytest.mark.parametrize("last_words", [False, True])
@pytest.mark.parametrize("asked", [READ, BEGIN])
def test_nor_do_they_count_that_end_one_after_another(
    keepings: MakeKeeping, asked: bytes, last_words: bool
) -> None:
    """A server that stops ends one connection after another; what moves on may meet all of them."""
    play = keepings(size=6)
    knows(play)
    clients = [play.client() for _ in range(6)]
    for client in clients:
        client.sends(WRITE)
    servers = [opened(play) for _ in clients]
    for client, server in zip(clients, servers, strict=True):
        server.answers(WRITE, *WROTE)
        client.gets(*WROTE)
    clients[0].sends(asked)
    for server in reversed(servers):
        server.gets(asked)
        server.sends(*((fatal(),) if last_words else ()))
        server.leaves()
        clients[0].gets_nothing()
    answer = ROWS if asked is READ else BEGUN
    opened(play).answers(asked, *answer)
    clients[0].gets(*answer)


@pytest.mark.parametrize("times", [1, 3, 4])
def test_more_often_where_servers_are_shut_down(play: Keeping, times: int) -> None:
    client, server = served(play, READ)
    for index in range(times):
        server.sends(columns(b"a") + fatal())
        server.leaves()
        if index < 3:
            server = opened(play)
            server.gets(READ)
    if times < 4:
        server.sends(*ROWS)
        client.gets(*ROWS)
    else:
        assert heard(client) == "T 57P01 ZI"


def test_a_connection_that_was_idle_for_too_long(play: Keeping) -> None:
    """A server ends it while the next statement is on its way there: that says nothing about the session."""
    over = fatal("57P05", "terminating connection due to idle-session timeout")
    client, server = served(play, READ)
    server.sends(over)
    server.leaves()
    again = opened(play)
    again.answers(READ, *ROWS)
    client.gets(*ROWS)
    play.keeper.retire_idle("for what comes next")
    again.gets_end(build.TERMINATE)
    client, server = served(play, WRITE)
    server.sends(over)
    server.leaves()
    assert heard(client) == "57P05 ZI"
    lives(play, client)


def test_the_servers_words_have_a_detail_why_it_is_not_asked_again(play: Keeping) -> None:
    client, server = served(play, READ)
    server.sends(columns(b"a"), row(b"1"))
    client.gets(columns(b"a"), row(b"1"))
    server.sends(fatal())
    server.leaves()
    play.loop.run()
    assert b"\0DA part of its answer had been passed on.\0" in client.read_all()
    client.sends(READ)
    for _ in range(4):
        server = opened(play)
        server.gets(READ)
        server.sends(fatal())
        server.leaves()
    play.loop.run()
    assert b"\0DIt had been asked again several times.\0" in client.read_all()


def test_a_crash_that_is_said_in_a_notice(play: Keeping) -> None:
    for message, told in ((READ, ""), (WRITE, f"{UNKNOWN} ZI")):
        client = play.client()
        client.sends(message)
        server = opened(play)
        server.gets(message)
        server.sends(CRASH)
        server.leaves()
        assert heard(client) == told
        if not told:
            again = opened(play)
            again.answers(READ, *ROWS)
            client.gets(*ROWS)
            play.keeper.retire_idle("for what comes next")
            again.gets_end(build.TERMINATE)


@pytest.mark.parametrize("done", [b"", complete("BEGIN")], ids=["bound", "done"])
@pytest.mark.parametrize("last_words", [CRASH, fatal()], ids=["notice", "error"])
def test_what_it_says_in_one_go_with_its_last_words_has_not_been_passed_on(
    play: Keeping, last_words: bytes, done: bytes
) -> None:
    """A process that is told to stop says what it had ready, too."""
    asked = parse(b"", b"begin") + bind(b"") + execute() + SYNC
    client, server = served(play, asked)
    server.sends(PARSE_COMPLETE + BIND_COMPLETE + done + last_words)
    server.leaves()
    client.gets_nothing()
    opened(play).answers(asked, PARSE_COMPLETE, BIND_COMPLETE, *BEGUN)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *BEGUN)


@pytest.mark.parametrize("done", [b"", complete("INSERT 0 1")], ids=["bound", "done"])
def test_nor_is_a_write_asked_again_because_of_that(play: Keeping, done: bytes) -> None:
    client, server = served(play, extended(b"insert into t values (1)"))
    server.sends(PARSE_COMPLETE + BIND_COMPLETE + done + CRASH)
    server.leaves()
    assert heard(client) == f"1 2{' C' if done else ''} {UNKNOWN} ZI"
    lives(play, client)


def test_what_is_whole_before_its_last_words_is_passed_on(play: Keeping) -> None:
    """Of two parts the first has been done."""
    client, server = served(play, READ + READ)
    server.sends(*ROWS, columns(b"a"), CRASH)
    server.leaves()
    assert heard(client) == f"T D C ZI T {BROKEN} ZI"
    lives(play, client)


@pytest.mark.parametrize(
    ("text", "told"), [(b"select a from t", "ZI"), (b"insert into t values (1)", "08007 ZI")]
)
def test_when_nothing_but_its_end_is_missing(play: Keeping, text: bytes, told: str) -> None:
    """Of a write it is not known whether it lasts."""
    part = parse(b"", text) + bind(b"") + execute() + SYNC
    client, server = served(play, part)
    server.sends(PARSE_COMPLETE + BIND_COMPLETE + complete("DONE"))
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, complete("DONE"))
    server.leaves()
    assert heard(client) == told
    lives(play, client)


def test_a_write_is_never_asked_again(play: Keeping) -> None:
    for end, told in (((), UNKNOWN), ((fatal(),), "57P01")):
        client, server = served(play)
        server.sends(*end)
        server.leaves()
        assert heard(client) == f"{told} ZI"
        lives(play, client)
        client.leaves()


def test_a_write_that_is_marked_is(play: Keeping) -> None:
    client, server = served(play, MARKED)
    server.leaves()
    opened(play).answers(MARKED, *WROTE)
    client.gets(*WROTE)


def test_what_became_of_a_marked_write_is_not_known_if_it_cannot_be_repeated(play: Keeping) -> None:
    client, server = served(play, MARKED)
    server.leaves()
    play.fails(Unreachable("nobody is there"))
    assert heard(client) == f"{UNKNOWN} ZI"


def test_a_read_that_cannot_be_repeated_says_why(play: Keeping) -> None:
    client, server = served(play, READ)
    server.leaves()
    play.fails(Unreachable("nobody is there"))
    assert heard(client) == "08001 ZI"


def test_nothing_is_asked_again_of_which_something_was_told(play: Keeping) -> None:
    client, server = served(play, READ)
    server.sends(columns(b"a"))
    client.gets(columns(b"a"))
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI"


def test_the_budget_bounds_it(play: Keeping) -> None:
    while play.keeper.aftermath.budget.grant(0.0, 0):
        pass
    play.keeper.aftermath.budget._floor = 0.0
    client, server = served(play, READ)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI"
    assert play.keeper.aftermath.outcomes == {"denied": 1, "broken": 1}


@pytest.mark.parametrize("end", ["cut", "fatal"])
@pytest.mark.parametrize("message", ["read", "write", "extended read", "extended write", "commit"])
def test_wherever_the_answer_is_cut(keepings: MakeKeeping, message: str, end: str) -> None:
    """At each byte: whole messages, one answer, no word too many; and nothing is done twice."""
    answer: tuple[bytes, ...]
    marks = b"an answer that is cut somewhere"
    if "read" in message:
        said, answer = b"select a from t", (columns(b"a"), row(marks), complete("SELECT 1"))
    else:
        said, answer = b"insert into t values (1)", (complete("INSERT 0 1"),)
    if message.startswith("extended"):
        sent = parse(b"", said) + bind(b"") + execute() + SYNC
        answer = (PARSE_COMPLETE, BIND_COMPLETE, *answer[1 if "read" in message else 0 :])
    else:
        sent = query(said.decode())
    if message == "commit":
        sent, answer = COMMIT, (complete("COMMIT"),)
    whole = b"".join((*answer, IDLE))
    for at in range(len(whole)):
        play = keepings(size=1)
        knows(play)
        if message == "commit":
            client, server = within(play)
            client.sends(COMMIT)
            server.gets(COMMIT)
        else:
            client, server = served(play, sent)
        server.writes(whole[:at])
        if end == "fatal" and not any(at in inside for inside in _insides((*answer, IDLE))):
            server.sends(fatal())
        server.leaves()
        play.loop.run()
        got = client.read_all()
        if not got and "read" in message:
            opened(play).answers(sent, whole)
            client.gets(whole)
            continue
        if client.ended:
            assert any(at in inside for inside in _insides((*answer, IDLE))), (at, got)
            continue
        assert got.endswith(IDLE), (at, got)
        if got == whole and message == "extended read":
            lives(play, client)  # its end was all that was missing
            continue
        assert got.count(b"SERROR\0") == 1 and b"SFATAL" not in got, (at, got)
        sqlstate = got.partition(b"SERROR\0VERROR\0C")[2][:5].decode()
        if "read" in message:
            assert sqlstate in (BROKEN, "57P01")
        else:
            assert sqlstate in (UNKNOWN, "57P01"), (at, got)
        if message == "commit":
            assert sqlstate == UNKNOWN
        lives(play, client)


def _insides(messages: tuple[bytes, ...]) -> list[range]:
    """Offsets at which a client has got a part of a message: its header and more."""
    found, start = [], 0
    for each in messages:
        found.append(range(start + 1, start + len(each)))
        start += len(each)
    return found


# Pipelines.


def test_each_part_of_a_pipeline_is_answered(play: Keeping) -> None:
    part = parse(b"", b"insert into t values (1)") + bind(b"") + execute() + SYNC
    client, server = served(play, part * 2 + WRITE + SYNC + parse(b"", b"select 1"))
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZI {UNKNOWN} ZI {UNKNOWN} ZI ZI {BROKEN}"
    client.sends(bind(b""), execute(), SYNC)
    assert heard(client) == "ZI"
    lives(play, client)


def test_an_error_that_was_told_is_not_told_twice(play: Keeping) -> None:
    client, server = served(play, query("no"))
    server.sends(error())
    client.gets(error())
    server.leaves()
    assert heard(client) == "ZI"
    lives(play, client)


def test_nor_is_one_of_what_we_have_sent_for_it(play: Keeping) -> None:
    """Its statement has to be made known to the server first, which fails."""
    client = play.client()
    client.sends(parse(b"s", b"insert into t values (1)") + SYNC)
    server = opened(play)
    taught = server.read_all()
    server.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    server.leaves()
    client.sends(bind(b"s") + execute() + SYNC)
    server = opened(play)
    assert server.read_all().startswith(taught.removesuffix(SYNC) + b"B")
    server.sends(error())
    client.gets(error())
    server.leaves()
    assert heard(client) == "ZI"
    lives(play, client)


def test_a_pipeline_in_a_transaction(play: Keeping) -> None:
    client, server = within(play)
    client.sends(WRITE + WRITE + COMMIT + WRITE)
    server.gets(WRITE + WRITE + COMMIT + WRITE)
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZE {UNKNOWN} ZE {UNKNOWN} ZI {UNKNOWN} ZI"
    lives(play, client)


def test_a_pipeline_without_its_commit(play: Keeping) -> None:
    client, server = within(play)
    client.sends(WRITE + WRITE + ROLLBACK + WRITE)
    server.gets(WRITE + WRITE + ROLLBACK + WRITE)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZE 25P02 ZE 25P02 ZI {UNKNOWN} ZI"
    lives(play, client)


# Transactions.


@pytest.mark.parametrize("last_words", [False, True])
def test_a_transaction_is_lost(play: Keeping, last_words: bool) -> None:
    client, server = within(play)
    client.sends(WRITE)
    server.gets(WRITE)
    server.sends(*((fatal(),) if last_words else ()))
    server.leaves()
    assert heard(client) == ("57P01" if last_words else BROKEN) + " ZE"
    client.sends(READ)
    assert heard(client) == "25P02 ZE"
    client.sends(parse(b"", b"select 1"), bind(b""), execute(), SYNC)
    assert heard(client) == "25P02 ZE"
    client.sends(ROLLBACK)
    client.gets(ROLLED_BACK)
    lives(play, client)


def test_a_standby_that_had_to_end_it(play: Keeping) -> None:
    """Of a conflict with what it had to replay a server says so, and ends the connection if that was idle."""
    client, server = within(play)
    server.sends(fatal("40001", "terminating connection due to conflict with recovery"))
    server.leaves()
    client.gets_nothing()
    client.sends(READ)
    assert heard(client) == "40001 ZE"
    waits_for_rollback(client)
    lives(play, client)


def test_one_that_was_idle(play: Keeping) -> None:
    for asked, told in ((WRITE, f"{BROKEN} ZE"), (COMMIT, f"{BROKEN} ZI"), (ROLLBACK, "C ZI")):
        client, server = within(play)
        server.leaves()
        client.gets_nothing()
        client.sends(asked)
        assert heard(client) == told
        if told.endswith("E"):
            client.sends(COMMIT)
            client.gets(ROLLED_BACK)
        lives(play, client)
        client.leaves()


def test_one_that_had_failed_before(play: Keeping) -> None:
    """Its client knows that; a COMMIT is a ROLLBACK, as on one connection."""
    client, server = within(play)
    client.sends(query("no"))
    server.answers(query("no"), error(), build.ready_for_query(b"E"))
    assert heard(client) == "42601 ZE"
    server.leaves()
    client.sends(COMMIT)
    client.gets(ROLLED_BACK)
    lives(play, client)


EXTENDED_ROLLBACK = parse(b"", b"rollback") + bind(b"") + execute() + SYNC


@pytest.mark.parametrize("last_words", [False, True])
@pytest.mark.parametrize(
    ("asked", "answer"),
    [(ROLLBACK, ROLLED_BACK), (EXTENDED_ROLLBACK, PARSE_COMPLETE + BIND_COMPLETE + ROLLED_BACK)],
)
def test_a_rollback_that_was_under_way_is_done(
    play: Keeping, asked: bytes, answer: bytes, last_words: bool
) -> None:
    client, server = within(play)
    client.sends(WRITE)
    server.answers(WRITE, complete("INSERT 0 1"), TRANSACTION)
    client.gets(complete("INSERT 0 1"), TRANSACTION)
    client.sends(asked)
    server.gets(asked)
    server.sends(*((fatal(),) if last_words else ()))
    server.leaves()
    client.gets(answer)
    lives(play, client)


def test_of_its_answer_nothing_is_said_twice(play: Keeping) -> None:
    client, server = within(play)
    client.sends(ROLLBACK)
    server.gets(ROLLBACK)
    server.sends(complete("ROLLBACK"))
    client.gets(complete("ROLLBACK"))
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI"
    lives(play, client)


@pytest.mark.parametrize(
    ("asked", "told"), [(COMMIT, "C ZI"), (ROLLBACK, "C ZI"), (READ, "25P02 ZE"), (query("sync"), "25P02 ZE")]
)
def test_what_was_under_way_in_one_that_had_failed(play: Keeping, asked: bytes, told: str) -> None:
    client, server = within(play)
    client.sends(query("no"))
    server.answers(query("no"), error(), build.ready_for_query(b"E"))
    assert heard(client) == "42601 ZE"
    client.sends(asked)
    server.gets(asked)
    server.leaves()
    assert heard(client) == told
    if told.endswith("E"):
        client.sends(ROLLBACK)
        client.gets(ROLLED_BACK)
    lives(play, client)


@pytest.mark.parametrize("asked", ["insert into t values (1); commit", "this is no SQL"])
def test_what_may_have_committed_is_not_known(play: Keeping, asked: str) -> None:
    client, server = within(play)
    client.sends(query(asked))
    server.gets(query(asked))
    server.leaves()
    assert heard(client).startswith(UNKNOWN)


def test_a_read_in_a_transaction_is_not_asked_again(play: Keeping) -> None:
    client, server = within(play)
    client.sends(READ)
    server.gets(READ)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZE"


def test_a_copy_is_lost(play: Keeping) -> None:
    client, server = served(play, query("copy t from stdin"))
    server.sends(COPY_IN)
    client.gets(COPY_IN)
    client.sends(copy_data(b"1\n"))
    server.gets(copy_data(b"1\n"))
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZI"
    client.sends(copy_data(b"2\n"), build.frame(ord("c")))
    lives(play, client)


@pytest.mark.parametrize("asked", ["savepoint a", "release a", "rollback to savepoint a"])
def test_a_savepoint_is_lost_with_its_transaction(play: Keeping, asked: str) -> None:
    """What is sent behind it counts as little as what came before."""
    client, server = within(play)
    client.sends(query(asked))
    server.gets(query(asked))
    server.leaves()
    assert heard(client) == f"{BROKEN} ZE"
    waits_for_rollback(client)


# What ends.


def test_what_a_server_alone_had_ends_with_it(play: Keeping) -> None:
    client, server = served(play)
    server.backend.pinned = True
    server.leaves()
    assert heard(client) == "!08006"
    assert client.ended
    assert play.keeper.aftermath.lost == 1


def test_a_client_that_has_left_is_not_asked_for(play: Keeping) -> None:
    client = play.client()
    client.sends(READ + build.TERMINATE)
    server = opened(play)
    server.gets(READ)
    server.leaves()
    assert heard(client) == "" and client.ended
    assert not play.upstream.openings


# A primary that is none any more, and conflicts.


def standby(play: Keeping, message: bytes) -> tuple[Client, Server]:
    client = play.client()
    client.sends(message)
    server = play.opens({"in_hot_standby": "on", "server_version": "18.0"})
    client.read_all()
    server.gets(message)
    return client, server


def test_a_write_that_met_a_standby_is_asked_again_once(play: Keeping) -> None:
    client, server = standby(play, WRITE)
    server.sends(error("25006"), IDLE)
    client.gets_nothing()
    server.gets_end(build.TERMINATE)
    again = play.opens({"in_hot_standby": "off"})
    again.answers(WRITE, build.parameter_status("in_hot_standby", "on"), error("25006"), IDLE)
    assert heard(client).endswith("25006 ZI")


def test_a_name_that_it_has_given_meanwhile_is_given_again(play: Keeping) -> None:
    """The standby had prepared the statement before it refused to execute it."""
    insert = parse(b"s", b"insert into t values (1)")
    client = play.client()
    client.sends(insert, bind(b"s"), execute(), SYNC)
    server = play.opens({"in_hot_standby": "on", "server_version": "18.0"})
    client.read_all()
    asked = server.read_all()
    assert asked.startswith(b"P") and asked.endswith(SYNC)
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, error("25006"), IDLE)
    client.gets_nothing()
    server.gets_end(build.TERMINATE)
    again = play.opens({"in_hot_standby": "off"})
    again.answers(asked, PARSE_COMPLETE, BIND_COMPLETE, *WROTE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *WROTE)
    client.sends(bind(b"s"), execute(), SYNC)
    again.answers(asked[asked.index(b"B\0\0\0") :], BIND_COMPLETE, *WROTE)
    client.gets(BIND_COMPLETE, *WROTE)


def test_a_standby_in_the_place_of_the_primary_is_not_asked(play: Keeping) -> None:
    """Here nobody is held; else it would wait for a primary."""
    client, server = standby(play, WRITE)
    server.sends(error("25006"), IDLE)
    server.gets_end(build.TERMINATE)
    with play.connects({"in_hot_standby": "on"}):
        assert heard(client) == "08001 ZI"


def test_a_standby_is_not_left_in_a_transaction_that_began_there(play: Keeping) -> None:
    insert = parse(b"", b"insert into t values (1)") + bind(b"") + execute()
    part = parse(b"", b"begin") + bind(b"") + execute() + insert + SYNC
    client, server = standby(play, part)
    begun = PARSE_COMPLETE + BIND_COMPLETE + complete("BEGIN")
    server.sends(begun, PARSE_COMPLETE, BIND_COMPLETE, error("25006"), build.ready_for_query(b"E"))
    client.gets_nothing()
    server.gets_end()
    again = play.opens({"in_hot_standby": "off"})
    rest = PARSE_COMPLETE + BIND_COMPLETE + complete("INSERT 0 1") + build.ready_for_query(b"T")
    again.answers(part, begun, rest)
    client.gets(begun, rest)


def test_the_primary_may_be_read_only(play: Keeping) -> None:
    client, server = served(play)
    server.sends(error("25006"), IDLE)
    assert heard(client) == "25006 ZI"
    assert server.is_idle


def test_in_a_transaction_a_standby_is_told_of(play: Keeping) -> None:
    client, server = standby(play, BEGIN)
    server.sends(*BEGUN)
    client.gets(*BEGUN)
    client.sends(WRITE)
    server.answers(WRITE, error("25006"), build.ready_for_query(b"E"))
    assert heard(client) == "25006 ZE"


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"])
def test_a_conflict_of_what_is_marked(play: Keeping, sqlstate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[Any] = []
    monkeypatch.setattr(play.keeper, "later", lambda session, pause: paused.append((session, pause)))
    client, server = served(play, MARKED)
    for tries in range(3):
        server.sends(error(sqlstate), IDLE)
        client.gets_nothing()
        assert 0 < paused[tries][1] <= 0.05 * 2**tries
        paused[tries][0].try_again()
        play.loop.run()
        server.gets(MARKED)
    server.sends(error(sqlstate), IDLE)
    assert heard(client) == f"{sqlstate} ZI"


@pytest.mark.parametrize("message", [READ, WRITE], ids=["read", "write"])
def test_a_conflict_of_what_is_not(play: Keeping, message: bytes) -> None:
    client, server = served(play, message)
    server.sends(error("40001"), IDLE)
    assert heard(client) == "40001 ZI"


# What is done to a connection alone.


@pytest.mark.parametrize("last_words", [False, True])
@pytest.mark.parametrize("sql", ["set timezone = 'UTC'", "reset all", "discard all", "DEALLOCATE ALL"])
@pytest.mark.parametrize("simple", [False, True])
def test_what_went_with_its_connection_is_asked_again(
    play: Keeping, simple: bool, sql: str, last_words: bool
) -> None:
    asked = query(sql) if simple else extended(sql.encode())
    client, server = served(play, asked)
    server.sends(*((fatal(),) if last_words else ()))
    server.leaves()
    client.gets_nothing()
    again = opened(play)
    done = (*(() if simple else (PARSE_COMPLETE, BIND_COMPLETE)), complete(sql.upper()), IDLE)
    again.answers(asked, *done)
    client.gets(*done)


def test_names_given_back_are_given_back_again(play: Keeping) -> None:
    """The server is told of a client's own name, each time."""
    client, server = prepared(play, parse(b"mine", b"select a from t") + SYNC)
    gone = query("deallocate mine")
    client.sends(gone)
    said = server.read_all()
    assert gone in said and parse(b"mine", b"") in said
    server.leaves()
    client.gets_nothing()
    again = opened(play)
    assert again.read_all() == said
    again.sends(CLOSE_COMPLETE, PARSE_COMPLETE, complete("DEALLOCATE"), IDLE, CLOSE_COMPLETE, IDLE)
    client.gets(complete("DEALLOCATE"), IDLE)
    assert b"mine\0" not in client.session.statements


def test_what_sets_and_writes_is_not_asked_again(play: Keeping) -> None:
    client, server = served(play, query("set timezone = 'UTC'; insert into t values (1)"))
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZI"


# A BEGIN.


def extended(said: bytes) -> bytes:
    return parse(b"", said) + bind(b"") + execute() + SYNC


@pytest.mark.parametrize("last_words", [False, True])
@pytest.mark.parametrize(
    "begin",
    [BEGIN, query("start transaction isolation level serializable;"), extended(b"begin read only")],
)
def test_a_begin_is_asked_again(play: Keeping, begin: bytes, last_words: bool) -> None:
    client, server = served(play, begin)
    server.sends(*((fatal(),) if last_words else ()))
    server.leaves()
    client.gets_nothing()
    again = opened(play)
    begun = (*((PARSE_COMPLETE, BIND_COMPLETE) if begin.startswith(b"P") else ()), *BEGUN)
    again.answers(begin, *begun)
    client.gets(*begun)
    client.sends(WRITE)
    again.answers(WRITE, complete("INSERT 0 1"), TRANSACTION)
    client.gets(complete("INSERT 0 1"), TRANSACTION)
    client.sends(COMMIT)
    again.answers(COMMIT, complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)


def test_a_begin_that_cannot_be_asked_again_says_why(play: Keeping) -> None:
    client, server = served(play, BEGIN)
    server.leaves()
    play.fails(Unreachable("nobody is there"))
    assert heard(client) == "08001 ZI"


def test_a_begin_with_something_behind_it_is_not_asked_again(play: Keeping) -> None:
    """What came behind may have counted by itself, if the BEGIN has failed."""
    client, server = served(play, BEGIN + WRITE)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI {UNKNOWN} ZI"
    lives(play, client)


@pytest.mark.parametrize(
    "together",
    [
        query("begin; insert into t values (1)"),
        parse(b"", b"begin") + bind(b"") + execute() + extended(b"insert into t values (1)"),
        parse(b"", b"insert into t values (1)") + bind(b"") + execute() + extended(b"begin"),
    ],
)
def test_a_begin_that_does_not_stand_alone_is_not_asked_again(play: Keeping, together: bytes) -> None:
    client, server = served(play, together)
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZI"
    lives(play, client)


def test_a_begin_in_a_transaction_is_lost_with_it(play: Keeping) -> None:
    client, server = within(play)
    client.sends(BEGIN)
    server.gets(BEGIN)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZE"
    client.sends(ROLLBACK)
    client.gets(ROLLED_BACK)


def test_a_client_adrift_counts_as_in_a_transaction(play: Keeping) -> None:
    """For the time that it may take over it."""
    client, server = within(play)
    server.leaves()
    assert client.session.promised and client.session in play.lane.promised
    client.sends(ROLLBACK)
    client.gets(ROLLED_BACK)
    assert not client.session.promised


# In pieces.


def test_a_read_that_comes_in_pieces_is_asked_again(keepings: MakeKeeping) -> None:
    asked = parse(b"", b"select a from t") + bind(b"", b"x" * 300) + execute() + SYNC
    answer = (PARSE_COMPLETE, BIND_COMPLETE, row(b"1"), complete("SELECT 1"), IDLE)
    for at in range(1, len(asked), 7):
        play = keepings(size=1)
        knows(play)
        client = play.client()
        client.writes(asked[:at])
        if play.upstream.openings:
            server = opened(play)
            client.writes(asked[at:])
        else:
            client.writes(asked[at:])
            server = opened(play)
        server.gets(asked)
        server.leaves()
        opened(play).answers(asked, *answer)
        client.gets(*answer)


def test_byte_by_byte_too(keepings: MakeKeeping) -> None:
    play = keepings(size=1, piece=1)
    knows(play)
    asked = extended(b"select a from t")
    client = play.client()
    client.writes(asked[:1])
    client.sends(asked[1:])
    server = opened(play)
    server.gets(asked)
    server.leaves()
    opened(play).answers(asked, PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)


def test_a_long_one_is_not(play: Keeping) -> None:
    """No more is kept of each than 64 KiB."""
    asked = parse(b"", b"select a from t") + bind(b"", b"x" * 70_000) + execute() + SYNC
    client, server = client_and_server(play, asked[:40_000])
    client.writes(asked[40_000:])
    server.gets(asked)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI"
    lives(play, client)


def client_and_server(play: Keeping, first: bytes) -> tuple[Client, Server]:
    """It is connected when a part of it has come."""
    client = play.client()
    client.writes(first)
    return client, opened(play)


def test_what_comes_behind_a_whole_one_is_not_taken_for_it(play: Keeping) -> None:
    client, server = served(play, READ)
    client.writes(WRITE)
    server.gets(WRITE)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI {UNKNOWN} ZI"
    lives(play, client)


def test_a_statement_that_is_closed_behind_its_use_is_there_when_that_is_asked_again(play: Keeping) -> None:
    client, server = prepared(play, parse(b"mine", b"select a from t") + SYNC)
    close = build.frame(ord("C"), b"Smine\0")
    client.sends(bind(b"mine") + execute() + close + SYNC)
    asked = server.read_all()
    assert asked.startswith(b"B") and asked.endswith(SYNC)
    server.leaves()
    again = opened(play)
    repeated = again.read_all()
    assert repeated.startswith(b"P") and repeated.endswith(asked)
    again.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)
    client.gets(BIND_COMPLETE, complete("SELECT 0"), CLOSE_COMPLETE, IDLE)
    assert client.session.statements == {}


# Settings that nobody has read yet.


def while_it_is_asked(play: Keeping, *asked: bytes) -> tuple[Client, Server]:
    """The server is being asked what these have set."""
    client = play.client()
    for index, each in enumerate(asked):
        client.sends(each)
        if not index:
            server = opened(play)
        server.read_all()
        tail = (complete("SET"), IDLE)
        answer = (PARSE_COMPLETE, BIND_COMPLETE, *tail) if each.startswith(b"P") else tail
        server.sends(*answer)
        client.gets(*answer)
        assert len(asked) > 1 or b"current_setting" in server.read_all()
    return client, server


def has_set(play: Keeping, client: Client) -> dict[str, str]:
    """What the next connection is brought into, by its words."""
    client.sends(READ)
    server = opened(play)
    got = server.read_all()
    assert got.endswith(READ)
    change = got.removesuffix(READ)
    server.sends((PARSE_COMPLETE + BIND_COMPLETE + complete("SELECT 1")) * change.count(execute()), *ROWS)
    client.gets(*ROWS)
    values = dict(client.session.state.values)
    assert all(name.encode() in change for name in values)
    return values


@pytest.mark.parametrize(
    ("asked", "values"),
    [
        (query("set timezone = 'Asia/Tokyo'"), {"timezone": "Asia/Tokyo"}),
        (query("SET statement_timeout TO 5000;"), {"statement_timeout": "5000"}),
        (extended(b"set session My.Own = Word"), {"my.own": "word"}),
        (query('set search_path to "$user", a, b'), {"search_path": '"$user", a, b'}),
    ],
)
def test_what_a_set_has_plainly_said_is_known(play: Keeping, asked: bytes, values: dict[str, str]) -> None:
    client, server = while_it_is_asked(play, asked)
    server.leaves()
    client.gets_nothing()
    assert has_set(play, client) == values
    assert play.keeper.aftermath.kept == 1


@pytest.mark.parametrize(
    "asked",
    [
        "set timezone = 'it''s'",
        "set timezone = E'UTC'",
        "set search_path = 'A', pg_temp",
        "set datestyle = iso, dmy",
        "set timezone to default",
        "set time zone 'UTC'",
        "set role app",
        "set a.b = 007",
    ],
)
def test_what_it_has_not_plainly_said_is_not(play: Keeping, asked: str) -> None:
    client, server = while_it_is_asked(play, query(asked))
    server.leaves()
    assert heard(client) == "!08006"


def test_what_was_set_in_a_transaction_is_not_known(play: Keeping) -> None:
    """Whether it lasts is the server's business."""
    client, server = within(play)
    for asked, told in (
        (query("set timezone = 'UTC'"), complete("SET") + TRANSACTION),
        (COMMIT, complete("COMMIT") + IDLE),
    ):
        client.sends(asked)
        server.answers(asked, told)
        client.gets(told)
    server.read_all()
    server.leaves()
    assert heard(client) == "!08006"


def test_a_set_that_has_failed_at_its_end_has_set_nothing(play: Keeping) -> None:
    client = play.client()
    asked = extended(b"set timezone = 'UTC'")
    client.sends(asked)
    server = opened(play)
    server.answers(asked, PARSE_COMPLETE, BIND_COMPLETE, complete("SET"), error("23503"), IDLE)
    assert heard(client) == "1 2 C 23503 ZI"
    server.read_all()
    server.leaves()
    assert heard(client) == "!08006"


def test_a_set_whose_end_nobody_has_heard_of_has_set_nothing(play: Keeping) -> None:
    client, server = served(play, query("set timezone = 'UTC'"))
    server.sends(complete("SET"))
    client.gets(complete("SET"))
    server.leaves()
    assert heard(client) == f"{BROKEN} ZI"
    assert has_set(play, client) == {}


def test_another_way_to_set_it_makes_it_unknown_again(play: Keeping) -> None:
    client = play.client()
    first, second = query("set timezone = 'UTC'"), query("select set_config('timezone', 'Asia/Tokyo', false)")
    client.sends(first + second)
    server = opened(play)
    server.read_all()
    server.sends(complete("SET"), IDLE)
    client.gets(complete("SET"), IDLE)
    server.read_all()
    server.sends(complete("SELECT 1"), IDLE)
    client.gets(complete("SELECT 1"), IDLE)
    server.read_all()
    server.leaves()
    assert heard(client) == "!08006"


def test_a_read_behind_a_question_of_ours_is_asked_again(play: Keeping) -> None:
    client, server = while_it_is_asked(play, query("set timezone = 'Asia/Tokyo'"))
    client.sends(READ)
    server.gets(READ)
    server.leaves()
    client.gets_nothing()
    again = opened(play)
    got = again.read_all()
    assert got.endswith(READ) and b"timezone" in got.lower()
    again.sends((PARSE_COMPLETE + BIND_COMPLETE + complete("SELECT 1")) * got.count(execute()), *ROWS)
    client.gets(*ROWS)


# Before the catalog is known.


def puzzled(play: Keeping, asked: bytes = READ, *last_words: bytes) -> Client:
    """A client whose statement was lost, and may be a read; the catalog is asked for, in vain."""
    client, server = served(play, asked)
    if last_words:
        server.writes(b"".join(last_words))
    server.leaves()
    client.gets_nothing()
    opened(play).answers(QUERY, error(), IDLE)
    play.loop.pass_time(0.1)
    client.gets_nothing()
    return client


@pytest.mark.parametrize("last_words", [(), (columns(b"a"), fatal())])
def test_what_may_be_a_read_waits_until_that_is_known(
    keepings: MakeKeeping, last_words: tuple[bytes, ...]
) -> None:
    play = keepings(size=1)
    client = puzzled(play, READ, *last_words)
    knows(play)
    play.keeper.routes.circle(client.session).verdicts.clear()
    play.loop.pass_time(0.1)
    server = next(peer for peer in play.peers if isinstance(peer, Server) and not peer.gone)
    server.answers(READ, *ROWS)
    client.gets(*ROWS)
    assert play.keeper.aftermath.outcomes == {"replayed": 1}


def test_what_is_lost_while_everybody_is_suspected_waits_as_well(play: Keeping) -> None:
    """Functions have changed, and it is asked what they do."""
    client, server = served(play, READ)
    play.keeper.lookout.again(play.loop.time())
    server.writes(fatal())
    server.leaves()
    client.gets_nothing()
    play.loop.pass_time(0.1)
    client.gets_nothing()
    again = play.opens()
    again.answers(QUERY, error(), IDLE)
    client.gets_nothing()
    play.ticks(1.0)
    again.answers(suspects.query(), complete("SELECT"), IDLE)
    knows(play)
    play.keeper.routes.circle(client.session).verdicts.clear()
    play.loop.pass_time(0.1)
    again.answers(READ, *ROWS)
    client.gets(*ROWS)
    assert play.keeper.aftermath.outcomes == {"replayed": 1}


@pytest.mark.parametrize("asked", [query("select nobody_knows()"), extended(b"select nobody_knows()")])
def test_what_proves_to_be_none_is_not_asked_again(keepings: MakeKeeping, asked: bytes) -> None:
    play = keepings(size=1)
    client = puzzled(play, asked)
    knows(play)
    play.keeper.routes.circle(client.session).verdicts.clear()
    play.loop.pass_time(0.1)
    assert heard(client) == f"{UNKNOWN} ZI"
    client.sends(READ)
    server = next(peer for peer in play.peers if isinstance(peer, Server) and not peer.gone)
    server.answers(READ, *ROWS)
    client.gets(*ROWS)


def test_it_does_not_wait_for_ever(keepings: MakeKeeping) -> None:
    play = keepings(size=1)
    client = puzzled(play)
    for _ in range(300):
        play.loop.pass_time(0.02)
    assert heard(client) == f"{UNKNOWN} ZI"
    assert not play.keeper.aftermath.riddles
    next(peer for peer in play.peers if isinstance(peer, Server) and not peer.gone).gets(QUERY)


def test_nor_is_anything_kept_of_a_client_that_leaves(keepings: MakeKeeping) -> None:
    play = keepings(size=1)
    client = puzzled(play)
    client.leaves()
    play.loop.pass_time(0.1)
    assert client.session.closed and not play.keeper.aftermath.riddles


@pytest.mark.parametrize("asked", [WRITE, query("this is no SQL"), extended(b"select 1 into x")])
def test_what_cannot_be_a_read_waits_for_nothing(keepings: MakeKeeping, asked: bytes) -> None:
    client, server = served(keepings(size=1), asked)
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZI"


@pytest.mark.parametrize(
    ("behind", "parsed"),
    [
        (WRITE, b""),
        (READ, b""),
        (parse(b"", b"table t") + bind(b"") + execute() + SYNC, PARSE_COMPLETE + BIND_COMPLETE),
    ],
)
def test_what_is_asked_behind_its_last_words(play: Keeping, behind: bytes, parsed: bytes) -> None:
    """The connection has not ended yet, and nothing that is sent to it will be answered."""
    client, server = served(play, READ)
    server.sends(fatal())
    client.sends(behind)
    server.leaves()
    again = opened(play)
    again.gets(READ, behind)
    again.sends(*ROWS, parsed, complete("DONE"), IDLE)
    client.gets(*ROWS, parsed, complete("DONE"), IDLE)


# A pipeline, and the moments at which its connection changes.


COPY = query("copy t from stdin")
SET = query("set timezone = 'Asia/Tokyo'")


def has_gone(server: Server) -> None:
    """The server has closed an idle connection, which nobody has noticed yet."""
    server.gone = True
    server.sock.close()


@pytest.mark.parametrize("copy", [COPY, extended(b"copy t from stdin")])
@pytest.mark.parametrize("cut", [7, 100])
def test_a_copy_without_its_data_is_not_asked_again(play: Keeping, copy: bytes, cut: int) -> None:
    """Nothing of it was sent, but what came behind it would be missing."""
    client, server = served(play)
    server.sends(*WROTE)
    client.gets(*WROTE)
    has_gone(server)
    data = copy_data(b"1\n") + copy_data(b"2\n")
    client.sends(copy + data[:cut])
    client.sends(data[cut:] + build.frame(ord("c")))
    assert heard(client) == f"{BROKEN} ZI"
    lives(play, client)


def set_before(play: Keeping) -> Server:
    """A connection on which another client has set something, and goes on to the next."""
    other = play.client()
    other.sends(SET)
    server = opened(play)
    server.answers(SET, complete("SET"), IDLE)
    other.gets(complete("SET"), IDLE)
    server.read_all()
    server.sends(row(b"timezone", b"Asia/Tokyo".hex().encode()), complete("SELECT"), IDLE)
    assert server.is_idle
    return server


@pytest.mark.parametrize("farewell", [True, False])
def test_names_of_an_earlier_part_are_known_when_the_next_is_asked_again(
    play: Keeping, farewell: bool
) -> None:
    server, client = set_before(play), play.client()
    behind = READ if farewell else MARKED
    client.sends(parse(b"s", b"select a from t") + SYNC + behind)
    change = server.read_all()
    agreed = (PARSE_COMPLETE + BIND_COMPLETE + complete("SET")) * change.count(execute())
    server.writes(agreed + PARSE_COMPLETE + IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    server.gets(behind)
    if farewell:
        server.sends(fatal())
        server.leaves()
        again = opened(play)
    else:
        server.sends(error("40001"), IDLE)
        play.loop.pass_time(1)
        again = server
    again.answers(behind, *ROWS)
    client.gets(*ROWS)
    assert list(client.session.statements) == [b"s"]


def test_what_was_being_asked_is_not_forgotten_because_of_last_words(play: Keeping) -> None:
    client, server = while_it_is_asked(play, SET)
    client.sends(READ)
    server.gets(READ)
    server.sends(fatal())
    server.leaves()
    again = opened(play)
    got = again.read_all()
    assert got.endswith(READ) and b"Asia/Tokyo" in got
    again.sends((PARSE_COMPLETE + BIND_COMPLETE + complete("SELECT 1")) * got.count(execute()), *ROWS)
    client.gets(*ROWS)


def test_nor_is_what_was_still_to_be_asked(play: Keeping) -> None:
    client, server = served(play, SET)
    server.writes(complete("SET") + IDLE + fatal())
    server.leaves()
    client.gets(complete("SET"), IDLE)
    assert has_set(play, client) == {"timezone": "Asia/Tokyo"}


def test_a_name_that_is_given_again_while_its_client_is_surveyed(play: Keeping) -> None:
    asked = parse(b"s", b"select a from t") + SYNC
    client, server = prepared(play, asked)
    client.sends(SET)
    server.answers(SET, complete("SET"), IDLE)
    client.gets(complete("SET"), IDLE)
    server.read_all()
    client.sends(asked)
    assert server.read_all().startswith(parse(b"s", b""))
    client.gets_nothing()


def with_standby(play: Keeping) -> None:
    """There is a standby, so that a BEGIN is put off."""
    lane = Lane(play.keeper, (0.5, 60.0), 1, False, 100)
    lane.standby, lane.fresh_until = True, math.inf
    play.lane.choice = Choice(cast(Any, None), max_lag=math.inf)
    play.lane.choice.lanes = (lane,)


def test_several_parts_behind_a_begin_that_was_put_off(play: Keeping) -> None:
    with_standby(play)
    client = play.client()
    client.sends(BEGIN)
    client.gets(*BEGUN)
    client.sends(WRITE + WRITE)
    server = opened(play)
    server.read_all()
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("BEGIN"))
    server.gets(WRITE)
    server.leaves()
    assert heard(client) == f"{BROKEN} ZE 25P02 ZE"
    waits_for_rollback(client)


def test_a_transaction_behind_one_whose_begin_was_put_off(play: Keeping) -> None:
    with_standby(play)
    client = play.client()
    client.sends(BEGIN)
    client.gets(*BEGUN)
    client.sends(WRITE + COMMIT + WRITE + WRITE)
    server = opened(play)
    server.read_all()
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("BEGIN"))
    server.gets(COMMIT + WRITE + WRITE)
    server.sends(complete("INSERT 0 1"), TRANSACTION, complete("COMMIT"), IDLE)
    server.leaves()
    assert heard(client) == f"C ZT C ZI {UNKNOWN} ZI {UNKNOWN} ZI"


PART = parse(b"", b"select a from t") + bind(b"") + execute()


def test_what_was_done_before_in_the_same_part_may_last(play: Keeping) -> None:
    """The Sync behind it has been sent."""
    client, server = served(
        play, WRITE + extended(b"insert into t values (1)").removesuffix(SYNC) + PART + SYNC
    )
    server.sends(*WROTE, PARSE_COMPLETE, BIND_COMPLETE, complete("INSERT 0 1"))
    server.leaves()
    assert heard(client) == f"C ZI 1 2 C {UNKNOWN} ZI"


@pytest.mark.parametrize("more", [b"", PART])
@pytest.mark.parametrize(
    ("said", "tag", "told"),
    [
        (b"insert into t values (1)", "INSERT 0 1", f"{BROKEN} ZE"),
        (b"commit", "COMMIT", f"{UNKNOWN} ZI"),
        (b"prepare transaction 'x'", "PREPARE TRANSACTION", f"{UNKNOWN} ZI"),
    ],
)
def test_a_transaction_ends_with_what_may_have_ended_it(
    play: Keeping, said: bytes, tag: str, told: str, more: bytes
) -> None:
    client, server = within(play)
    asked = extended(said).removesuffix(SYNC) + more + SYNC
    client.sends(asked)
    server.gets(asked)
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete(tag))
    server.leaves()
    assert heard(client) == f"1 2 C {told}"


@pytest.mark.parametrize(("more", "told"), [(b"", "ZI"), (PART, f"{UNKNOWN} ZI")])
def test_and_with_a_rollback_nothing_has_to_last(play: Keeping, more: bytes, told: str) -> None:
    client, server = within(play)
    asked = extended(b"rollback").removesuffix(SYNC) + more + SYNC
    client.sends(asked)
    server.gets(asked)
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("ROLLBACK"))
    server.leaves()
    assert heard(client) == f"1 2 C {told}"
    lives(play, client)


def test_what_was_sought_in_vain_is_not_taken_for_what_comes_next(play: Keeping) -> None:
    """Its answer would have been kept, but it was refused while it waited."""
    shelf = Shelf(Cache(1 << 20), "shop")
    shelf.seen = shelf.definitions
    play.lane.cache = shelf
    routes = play.keeper.routes
    routes.config = msgspec.structs.replace(routes.config, cache=config.Cache())
    other, server = served(play)
    client = play.client()
    client.sends(query("/* pgambassador: cache=9s */ select a from t"))
    play.does(lambda: client.session.refuse(error("53300")))
    assert heard(client) == "53300 ZI"
    client.sends(FUNCTION_CALL)
    server.sends(*WROTE)
    other.gets(*WROTE)
    server.answers(FUNCTION_CALL, FUNCTION_RESULT, IDLE)
    client.gets(FUNCTION_RESULT, IDLE)
    server.read_all()


def test_settings_under_way_are_not_undone_for_a_statement(play: Keeping) -> None:
    """It is read as it was at first, and the connection led back: but not to what is just being changed."""
    server, client = set_before(play), play.client()
    asked = parse(b"s", b"select a from t") + SYNC
    client.sends(asked)
    change = server.read_all()
    agreed = (PARSE_COMPLETE + BIND_COMPLETE + complete("SET")) * change.count(execute())
    server.writes(agreed + PARSE_COMPLETE + IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    statement = client.session.statements[b"s"]
    statement.settings = Settings.of({"timezone": "Europe/Rome"})
    play.keeper.retire_idle("another one does not know it")
    server.read_all()
    client.sends(WRITE + SET + bind(b"s") + execute() + SYNC)
    got = opened(play).read_all()
    assert got.startswith(WRITE + SET) and b"set_config" not in got


def test_a_farewell_right_behind_a_refusal(play: Keeping) -> None:
    """The connection goes to nobody, though it owes nothing."""
    client, server = served(play, MARKED)
    server.writes(error("40001") + IDLE + fatal())
    play.loop.pass_time(1)
    server.gets_end()
    opened(play).answers(MARKED, *WROTE)
    client.gets(*WROTE)


def test_a_name_that_was_given_in_what_is_asked_again(play: Keeping) -> None:
    asked = parse(b"s", b"select a from t") + SYNC
    client = play.client()
    client.sends(asked)
    server = opened(play)
    server.read_all()
    server.sends(fatal())
    server.leaves()
    again = opened(play)
    got = again.read_all()
    assert got.count(b"select a from t") == 1 and parse(b"s", b"") not in got
    again.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)


def test_the_sync_of_a_copy_is_no_part_of_its_own(play: Keeping) -> None:
    """As on one connection whose COPY has failed before it began."""
    asked = extended(b"copy t from stdin") + copy_data(b"1\n") + build.frame(ord("c")) + SYNC
    client, server = served(play, asked)
    server.leaves()
    assert heard(client) == f"{UNKNOWN} ZI ZI"
    lives(play, client)


@pytest.mark.parametrize("last_words", [False, True])
@pytest.mark.parametrize("behind", [BEGIN, READ])
def test_what_was_asked_in_vain_is_not_forgotten(play: Keeping, behind: bytes, last_words: bool) -> None:
    """A cancel request has hit the question."""
    client, server = while_it_is_asked(play, SET)
    client.sends(behind)
    server.gets(behind)
    server.writes(error("57014") + IDLE + (b"".join(BEGUN) if behind is BEGIN else b""))
    client.read_all()
    server.sends(*((fatal(),) if last_words else ()))
    server.leaves()
    if behind is BEGIN:
        client.sends(ROLLBACK)
        assert heard(client).endswith("C ZI")
        assert has_set(play, client) == {"timezone": "Asia/Tokyo"}
    else:
        got = opened(play).read_all()
        assert got.endswith(READ) and b"Asia/Tokyo" in got


@pytest.mark.parametrize(("owed", "told"), [("S", b""), ("ES", b"08006"), ("q", b"08006")])
def test_who_shared_the_connection_has_only_read(play: Keeping, owed: str, told: bytes) -> None:
    """What it shared was looked at before, and is not kept when a part of the answer has been passed on."""
    client, server = served(play)
    loss = Loss(
        reason="the server closed the connection unexpectedly",
        farewell=None,
        owed=[(each, None) for each in owed] + ([("S", None)] if owed == "q" else []),
        request=None,
        unnamed=None,
        phase=Phase.ANSWERED,
        status="I",
        beginning=False,
        erred=False,
        executed=0,
        rode=True,
        open=False,
        overdue=False,
        asking=False,
        tries=0,
        sudden=0,
    )
    fate = play.keeper.aftermath.bereft(client.session, server.backend, loss)
    assert fate is not None and fate.answers.endswith(IDLE)
    assert told in fate.answers and (b"SERROR" in fate.answers) == bool(told)


def test_who_may_know_other_parameters_is_told_however_often_it_is_asked_again(play: Keeping) -> None:
    """It was told at its login what was known last, and the first connection dies before its answer."""
    client = play.client()
    client.session.bereaved = True
    client.sends(READ)
    other = {**PARAMETERS, "TimeZone": "Asia/Tokyo"}
    server = play.opens(other)
    server.gets(READ)
    server.leaves()
    server = play.opens(other)
    server.answers(READ, *ROWS)
    client.gets(*ROWS[:-1], parameter_status("TimeZone", "Asia/Tokyo"), IDLE)
    assert not client.session.bereaved
    client.sends(READ)
    server.answers(READ, *ROWS)
    client.gets(*ROWS)


def test_who_waits_while_its_server_becomes_another_is_told_alone(
    play: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, those who wait would have shared the next connection."""
    play.keeper.lane.batching = True
    monkeypatch.setattr(play.keeper.routes, "circle", Routes().circle)  # what it is that reads
    first, *others = [play.client() for _ in range(3)]

    def wait(server: Server) -> None:
        first.sends(BEGIN)
        server.answers(BEGIN, *BEGUN)
        first.gets(*BEGUN)
        for client in others:
            client.sends(READ)

    first.sends(READ)
    server = play.opens()
    server.answers(READ, *ROWS)
    first.gets(*ROWS)
    for _ in range(100):
        wait(server)
        first.sends(COMMIT)
        server.answers(COMMIT, complete("COMMIT"), IDLE)
        first.gets(complete("COMMIT"), IDLE)
        if server.read_all() == READ + READ:
            break
        server.sends(*ROWS)
        server.answers(READ, *ROWS)
        for client in others:
            client.gets(*ROWS)
    else:
        raise AssertionError("nobody shares")
    server.sends(*ROWS, *ROWS)
    for client in others:
        client.gets(*ROWS)
    wait(server)
    server.leaves()
    server = play.opens({**PARAMETERS, "TimeZone": "Asia/Tokyo"})
    for client in others:
        server.answers(READ, *ROWS)
        client.gets(*ROWS[:-1], parameter_status("TimeZone", "Asia/Tokyo"), IDLE)
    first.read_all()
