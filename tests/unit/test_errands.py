"""Where a client's next message goes: nothing is asked twice, nothing stays unanswered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pgambassador.net.aftermath import IN_FAILED, Second
from pgambassador.net.choice import Choice
from pgambassador.net.lane import Lane
from pgambassador.wire import build
from tests.crowd import READ, answer
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    FAILED,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TRANSACTION,
    bind,
    columns,
    complete,
    describe,
    error,
    execute,
    fatal,
    parameter_description,
    parameter_status,
    parse,
    query,
    row,
)
from tests.playbook import Client, MakePlay, Playbook, Server
from tests.policies import AGREED, QUESTION, Routed, switched

WRITE = query("write")
WROTE = complete("WRITE") + IDLE
BEGIN = build.execution("begin")
BEGUN = complete("BEGIN") + TRANSACTION
REFUSED = error("53300", "too many")
ABORTED = IN_FAILED
LIMITS = (0.5, 60.0)


class Split:
    """A pool on the primary and one on a standby that has replayed everything."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.lane = Lane(play.policy, LIMITS, 1, False, 100, 64 * 1024)
        self.lane.standby = True
        self.lane.fresh_until = math.inf
        self.choice = Choice(cast(Any, play.policy), max_lag=math.inf)
        self.choice.lanes = (self.lane,)
        play.lane.choice = self.choice

    def primary(self) -> Server:
        return self.play.server()

    def standby(self) -> Server:
        return self.play.server(lane=self.lane)

    def lags(self) -> None:
        self.lane.fresh_until = -2.0  # before it began

    def catches_up(self) -> None:
        self.lane.fresh_until = math.inf


@pytest.fixture
def split(plays: MakePlay) -> Split:
    return Split(plays(policy=Routed(), limit=1))


def known(client: Client, server: Server) -> None:
    """The client has a statement that the server knows, with rows that it has been told of."""
    shape = parameter_description() + columns(b"mark")
    client.writes(parse(b"s", b"select mark") + describe(b"s") + SYNC)
    server.answers(parse(b"pga_1", b"select mark") + describe(b"pga_1") + SYNC, PARSE_COMPLETE, shape, IDLE)
    client.gets(PARSE_COMPLETE, shape, IDLE)


def test_a_read_goes_to_the_standby_and_a_write_to_the_primary(split: Split) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.sends(READ)
    standby.answers(READ, answer())
    client.gets(answer())
    client.sends(WRITE)
    primary.answers(WRITE, WROTE)
    client.gets(WROTE)


def test_what_was_written_is_read_where_it_is(split: Split) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    split.lane.fresh_until = client.session.written_at + 0.5  # that of before it has written anything
    client.sends(WRITE)
    primary.answers(WRITE, WROTE)
    client.gets(WROTE)
    client.sends(READ)
    primary.answers(READ, answer())
    client.gets(answer())
    assert split.choice.stale == 1 and cast(Any, split.play.policy).wants_fresher == 1
    split.catches_up()
    client.sends(READ)
    standby.answers(READ, answer())
    client.gets(answer())


def test_a_parameter_behind_what_a_standby_refuses_is_no_answer(split: Split) -> None:
    """Servers tell of parameters before they are ready."""
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.sends(READ)
    standby.answers(READ, error("40001"), parameter_status("TimeZone", "UTC"), IDLE)
    primary.answers(READ, answer())
    client.gets(answer())
    assert standby.backend in split.lane.idle


def test_a_write_behind_a_read_of_the_same_connection_is_noticed(split: Split) -> None:
    """The first part only reads, and was sent to the primary for want of a standby."""
    primary, client = split.primary(), split.play.client()
    split.lags()
    client.writes(READ + WRITE)
    primary.answers((READ, WRITE), answer(), WROTE)
    client.gets(answer(), WROTE)
    assert client.session.written_at > 0


def test_a_transaction_that_reads_on_a_standby_writes_nothing(split: Split) -> None:
    standby, client = split.standby(), split.play.client()
    for asked, told in (
        (query("begin read only"), BEGUN),
        (READ, columns(b"mark") + complete("SELECT 0") + TRANSACTION),
        (query("commit"), complete("COMMIT") + IDLE),
    ):
        client.sends(asked)
        standby.answers(asked, told)
        client.gets(told)
    assert client.session.written_at < 0
    assert standby.backend in split.lane.idle


def unnamed(text: bytes) -> bytes:
    return parse(b"", text) + bind(b"") + execute()


def kinds(data: bytes) -> Iterator[str]:
    while data:
        yield chr(data[0])
        data = data[1 + int.from_bytes(data[1:5], "big") :]


BEGINS, READS, ENDS = query("begin read only"), query("select mark"), query("commit")


@pytest.mark.parametrize(
    ("parts", "wrote"),
    [
        ([BEGINS, READS, ENDS], False),
        ([BEGINS, READS, READS, query("rollback")], False),
        ([unnamed(b"begin read only") + unnamed(b"select mark") + SYNC, unnamed(b"commit") + SYNC], False),
        ([BEGINS, unnamed(b"select mark") + unnamed(b"commit") + SYNC], False),
        ([BEGINS, query("set transaction read write"), READS, ENDS], True),
        ([BEGINS, READS, WRITE, ENDS], True),
        ([BEGINS, unnamed(b"commit") + unnamed(b"write") + SYNC], True),
        ([BEGINS, unnamed(b"commit") + SYNC + unnamed(b"write") + SYNC], True),
        ([BEGINS, READS + ENDS + WRITE], True),
        ([unnamed(b"begin read only") + unnamed(b"write") + SYNC, ENDS], True),
        ([READS + READS], False),
        ([READS + WRITE], True),
    ],
)  # fmt: skip
def test_what_counts_as_written(split: Split, parts: list[bytes], wrote: bool) -> None:
    """On the primary, while no standby is fresh: what only reads keeps nobody there."""
    split.lags()
    primary, client = split.primary(), split.play.client()
    done = {
        "P": PARSE_COMPLETE, "B": BIND_COMPLETE, "E": complete("X"), "S": TRANSACTION,
        "Q": complete("X") + TRANSACTION,
    }  # fmt: skip
    for part in parts:
        client.writes(part)
        primary.read_all()
        answers = b"".join(done[kind] for kind in kinds(part))
        primary.sends(answers.removesuffix(TRANSACTION) + IDLE if part is parts[-1] else answers)
        assert client.read_all()
    assert primary.is_idle and not client.session.closed
    assert (client.session.written_at > 0) == wrote


def test_everybody_counts_what_was_written_through_another_pool(split: Split, plays: MakePlay) -> None:
    split.choice.everybody = True
    other = Choice(cast(Any, split.play.policy), max_lag=math.inf, writes=split.choice.writes, everybody=True)
    primary, client = split.primary(), split.play.client()
    # It keeps its connection: what it asks next is under way.
    client.writes(WRITE + WRITE)
    primary.answers((WRITE, WRITE), WROTE)
    client.gets(WROTE)
    assert not primary.is_idle
    other.lanes = (split.lane,)
    split.lane.fresh_until = 1.0
    assert other.which(-1, 2.0) is None
    primary.sends(WROTE)
    client.gets(WROTE)


# A BEGIN that is put off.


def test_a_begin_goes_out_with_what_comes_next(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    client.sends(query("begin"))
    client.gets(BEGUN)
    primary.gets_nothing()
    client.sends(WRITE)
    primary.answers(
        (BEGIN, WRITE), AGREED.replace(complete("SET"), complete("BEGIN")), complete("W"), TRANSACTION
    )
    client.gets(complete("W"), TRANSACTION)
    assert client.holds(primary)
    client.sends(query("commit"))
    primary.answers(query("commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)


def test_if_the_begin_fails_nothing_counts_by_itself(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    client.sends(query("begin"))
    client.gets(BEGUN)
    client.sends(WRITE)
    primary.answers((BEGIN, WRITE), error("57014"))
    primary.gets_end()
    assert b"SFATAL" in client.read_all()
    assert client.ended


def test_what_is_refused_before_its_begin_was_sent_fails_the_transaction(split: Split) -> None:
    """Else what the client has sent behind it would count by itself."""
    client = split.play.client()
    client.sends(query("begin"))
    client.gets(BEGUN)
    client.sends(WRITE)
    client.session.refuse(REFUSED)
    client.gets(REFUSED, FAILED)
    client.sends(WRITE)
    client.gets(ABORTED, FAILED)
    client.writes(parse(b"", b"write") + bind(b"") + execute() + SYNC)
    client.gets(ABORTED, FAILED)
    client.sends(query("commit"))
    client.gets(complete("ROLLBACK"), IDLE)
    client.sends(WRITE)
    split.primary().answers(WRITE, WROTE)
    client.gets(WROTE)


@pytest.mark.parametrize("named", [True, False])
def test_its_end_may_be_prepared_while_servers_are_away(split: Split, named: bool) -> None:
    primary, client = split.primary(), split.play.client()
    if named:
        client.writes(parse(b"r", b"rollback") + SYNC)
        primary.answers(parse(b"pga_1", b"rollback") + SYNC, PARSE_COMPLETE, IDLE)
        client.gets(PARSE_COMPLETE, IDLE)
    primary.leaves()
    client.sends(query("begin"))
    client.gets(BEGUN)
    client.sends(WRITE)
    client.session.refuse(REFUSED)
    client.gets(REFUSED, FAILED)
    client.sends(SYNC)
    client.gets(FAILED)
    asked = bind(b"r") if named else parse(b"", b"rollback") + bind(b"")
    client.writes(asked + execute() + SYNC)
    client.gets(b"" if named else PARSE_COMPLETE, BIND_COMPLETE, complete("ROLLBACK"), IDLE)
    assert not client.session.promised and not client.session.waiting
    client.sends(WRITE)
    split.primary().answers(WRITE, WROTE)
    client.gets(WROTE)


def test_what_a_server_has_of_an_unnamed_statement_is_not_what_was_parsed_here(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    write = parse(b"", b"write") + bind(b"") + execute() + SYNC
    client.writes(write)
    primary.answers(write, PARSE_COMPLETE, BIND_COMPLETE, WROTE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, WROTE)
    client.sends(query("begin"))
    client.gets(BEGUN)
    client.writes(bind(b"") + execute() + SYNC)
    begun = AGREED.replace(complete("SET"), complete("BEGIN"))
    # The BEGIN has ended it, as on one connection.
    close = build.frame(ord("C"), b"S\0")
    primary.answers((BEGIN, close, bind(b""), execute(), SYNC), begun, CLOSE_COMPLETE, error("26000"), FAILED)
    client.gets(error("26000"), FAILED)
    client.sends(query("rollback"))
    primary.answers(query("rollback"), complete("ROLLBACK"), IDLE)
    client.gets(complete("ROLLBACK"), IDLE)


def test_what_comes_behind_a_transaction_is_not_of_it(split: Split) -> None:
    """Its connection was kept for a question of ours."""
    primary, client = split.primary(), split.play.client()
    client.sends(query("begin"))
    client.gets(BEGUN)
    begun = AGREED.replace(complete("SET"), complete("BEGIN"))
    client.sends(WRITE)
    primary.answers((BEGIN, WRITE), begun, complete("W"), TRANSACTION)
    client.gets(complete("W"), TRANSACTION)
    client.sends(query("commit"))
    primary.backend.curious = True
    primary.answers(query("commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)
    primary.gets(QUESTION)
    client.sends(WRITE)
    primary.gets(WRITE)
    primary.leaves()
    client.read_all()
    (loss,) = (heard[1] for heard in cast(Any, split.play.policy).heard if heard[0] == "bereft")
    assert (loss.beginning, loss.status, loss.request, loss.asking) == (False, "I", WRITE, True)


def test_one_that_is_made_read_only_waits_for_a_standby_in_another_state(split: Split) -> None:
    client = split.play.client("other")
    client.sends(query("begin"))
    client.gets(BEGUN)
    client.sends(query("set transaction read only"))
    standby = split.standby()
    standby.answers(
        (switched("other"), BEGIN, query("set transaction read only")),
        AGREED, AGREED.replace(complete("SET"), complete("BEGIN")), complete("X"), TRANSACTION,
    )  # fmt: skip
    client.gets(complete("X"), TRANSACTION)
    client.sends(query("commit"))
    standby.answers(query("commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)


def test_a_read_only_transaction_waits_for_a_standby_in_another_state(split: Split) -> None:
    """What brings the connection into that state has no Sync: nothing is answered before the client's own."""
    client = split.play.client("other")
    client.sends(query("begin read only"))
    standby = split.standby()
    standby.answers((switched("other"), query("begin read only")), AGREED, BEGUN)
    client.gets(BEGUN)
    client.sends(query("commit"))
    standby.answers(query("commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)


# What a standby cannot do.


@pytest.mark.parametrize("sqlstate", ["25006", "40001", "40P01", "42P01"])
@pytest.mark.parametrize("waits", [False, True])
def test_what_a_standby_refuses_is_asked_of_the_primary(split: Split, sqlstate: str, waits: bool) -> None:
    client = split.play.client("other" if waits else "base")
    asked = parse(b"", b"select mark") + bind(b"") + execute() + SYNC
    standby = None if waits else split.standby()
    client.writes(asked)
    before = (switched("other"),) if waits else ()
    agreed = (AGREED,) if waits else ()
    standby = standby or split.standby()
    standby.gets(*before, asked)
    standby.sends(*agreed)
    standby.writes(PARSE_COMPLETE + BIND_COMPLETE + error(sqlstate) + IDLE)
    primary = split.primary()
    primary.gets(*before, asked)
    primary.sends(*agreed, PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)
    assert standby.backend in split.lane.idle and primary.is_idle


def test_nothing_is_faked_for_who_has_to_ask_again(split: Split) -> None:
    """The standby knows the statement: its Parse would be answered by us, and then by the primary too."""
    standby, client, other = split.standby(), split.play.client(), split.play.client()
    known(other, standby)
    asked = parse(b"s", b"select mark") + bind(b"s") + execute() + SYNC
    client.writes(asked)
    standby.answers(bind(b"pga_1") + execute() + SYNC, error("25006"), IDLE)
    client.gets_nothing()
    primary = split.primary()
    primary.answers(
        parse(b"pga_1", b"select mark") + bind(b"pga_1") + execute() + SYNC,
        PARSE_COMPLETE, BIND_COMPLETE, row(b"1"), complete("S"), IDLE,
    )  # fmt: skip
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, row(b"1"), complete("S"), IDLE)
    assert list(client.session.statements) == [b"s"]


def test_what_is_faked_comes_with_an_answer_that_is_passed_on(split: Split) -> None:
    standby, client, other = split.standby(), split.play.client(), split.play.client()
    known(other, standby)
    client.writes(parse(b"s", b"select mark") + bind(b"s") + execute() + SYNC)
    standby.answers(bind(b"pga_1") + execute() + SYNC, BIND_COMPLETE, row(b"1"), complete("S"), IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, row(b"1"), complete("S"), IDLE)
    client.writes(parse(b"t", b"select mark") + bind(b"t") + execute() + SYNC)
    standby.answers(bind(b"pga_1") + execute() + SYNC, error("22012"), IDLE)
    client.gets(PARSE_COMPLETE, error("22012"), IDLE)


STOPS = build.notice_response(
    "WARNING", "57P01", "terminating connection because of immediate shutdown command"
)


@pytest.mark.parametrize(
    "last_words", [fatal("40001"), STOPS, b""], ids=["says why", "stops", "says nothing"]
)
def test_if_the_standby_dies_the_primary_is_asked(split: Split, last_words: bytes) -> None:
    standby, client = split.standby(), split.play.client()
    asked = parse(b"", b"select mark") + bind(b"") + execute() + SYNC
    client.writes(asked)
    standby.gets(asked)
    standby.writes((PARSE_COMPLETE + BIND_COMPLETE if last_words == fatal("40001") else b"") + last_words)
    standby.leaves()
    primary = split.primary()
    primary.answers(asked, PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)


def test_who_has_sent_more_is_not_overtaken_by_its_own_sync(split: Split) -> None:
    """Its first part is not asked again: the answer to what it has sent behind would come before."""
    standby, client = split.standby(), split.play.client()
    client.writes(READ)
    client.sends(SYNC)
    standby.answers((READ, SYNC), error("40001"), IDLE, IDLE)
    client.gets(error("40001"), IDLE, IDLE)


def test_what_follows_and_has_not_been_sent_comes_behind_what_is_repeated(split: Split) -> None:
    standby, client = split.standby(), split.play.client()
    client.writes(READ)
    client.sends(WRITE)  # it waits for the standby's answer
    standby.answers(READ, error("40001"), IDLE)
    primary = split.primary()
    primary.answers((READ, WRITE), answer(), WROTE)
    client.gets(answer(), WROTE)
    assert client.session.written_at > 0


def test_a_write_behind_a_read_waits_for_its_answer(split: Split) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.writes(READ + READ + WRITE + READ)
    standby.gets(READ, READ)
    primary.gets_nothing()
    split.lane.fresh_until = 1.0
    standby.sends(answer(b"1"), answer(b"2"))
    primary.answers((WRITE, READ), WROTE, answer(b"3"))
    client.gets(answer(b"1"), answer(b"2"), WROTE, answer(b"3"))


def test_a_write_behind_a_read_is_done_though_the_standby_keeps_its_client(split: Split) -> None:
    standby, client = split.standby(), split.play.client()
    client.writes(READ + WRITE)
    standby.gets(READ)
    standby.backend.pinned = True
    standby.sends(answer())
    client.gets(answer())
    standby.answers(WRITE, error("25006"), IDLE)
    client.gets(error("25006"), IDLE)
    standby.backend.pinned = False


@pytest.mark.parametrize("but", ["", "it has locks there", "it is cancelled"])
def test_what_was_sent_to_a_standby_in_vain_is_asked_of_the_primary(split: Split, but: str) -> None:
    ruled = query("ruled")
    split.play.policy.second = Second(0.0, False)
    standby, primary, client = split.standby(), split.primary(), split.play.client()
    client.writes(ruled)
    standby.gets(ruled)
    if but == "it has locks there":
        standby.backend.tied = True
    elif but:
        standby.backend.cancel_begins()
    standby.sends(error("25006"), IDLE)
    if but:
        client.gets(error("25006"), IDLE)
    else:
        primary.answers(ruled, WROTE)
        client.gets(WROTE)
        assert not split.lane.active


# The standby has to be asked something before.


@pytest.mark.parametrize("dies", [True, False])
def test_what_was_asked_in_part_is_asked_once_more_and_not_twice(split: Split, dies: bool) -> None:
    """The Bind waits: does the table still have the rows that the client was told of?"""
    standby, client = split.standby(), split.play.client()
    known(client, standby)
    standby.leaves()
    standby = split.standby()
    split.play.policy.statements.forget()
    client.writes(bind(b"s") + execute() + SYNC + WRITE)
    # Two parts at once are not repeated; one is.
    probe = parse(b"pga_1", b"select mark") + build.describe_statement(b"pga_1") + build.FLUSH
    standby.answers(probe, PARSE_COMPLETE, parameter_description(), columns(b"mark"))
    standby.answers(bind(b"pga_1") + execute() + SYNC, BIND_COMPLETE, row(b"1"), complete("S"), IDLE)
    client.gets(BIND_COMPLETE, row(b"1"), complete("S"), IDLE)
    primary = split.primary()
    primary.answers(WRITE, WROTE)
    client.gets(WROTE)

    split.catches_up()
    standby.leaves()
    standby = split.standby()
    split.play.policy.statements.forget()
    client.writes(bind(b"s") + execute() + SYNC)
    standby.gets(probe)
    if dies:
        standby.leaves()
    else:
        standby.sends(error("42P01"))
        standby.answers(SYNC, IDLE)
        assert standby.backend in split.lane.idle
    primary.answers(probe, PARSE_COMPLETE, parameter_description(), columns(b"mark"))
    primary.answers(bind(b"pga_1") + execute() + SYNC, BIND_COMPLETE, row(b"2"), complete("S"), IDLE)
    client.gets(BIND_COMPLETE, row(b"2"), complete("S"), IDLE)


# Waiting for a standby.


def test_who_is_sent_from_a_standby_to_the_primary_waits_there_alone(split: Split) -> None:
    holder, client = split.play.client(), split.play.client()
    primary = split.primary()
    holder.sends(WRITE)
    primary.gets(WRITE)
    client.sends(READ)
    assert split.lane.first_waiting() is client.session
    client.session.divert()
    assert split.lane.first_waiting() is None and split.lane.waiting == 0
    assert split.play.lane.first_waiting() is client.session
    standby = split.standby()
    assert standby.backend in split.lane.idle
    primary.sends(WROTE)
    holder.gets(WROTE)
    primary.answers(READ, answer())
    client.gets(answer())


def test_who_was_refused_at_a_standby_and_writes_then_is_not_called_there(split: Split) -> None:
    holder, client = split.play.client(), split.play.client()
    primary = split.primary()
    holder.sends(WRITE)
    primary.gets(WRITE)
    client.sends(READ)
    client.session.refuse(REFUSED)
    client.gets(REFUSED, IDLE)
    client.sends(WRITE)
    standby = split.standby()
    standby.gets_nothing()
    primary.sends(WROTE)
    holder.gets(WROTE)
    primary.answers(WRITE, WROTE)
    client.gets(WROTE)
    assert split.lane.waiting == split.play.lane.waiting == 0


def test_who_leaves_while_it_waits_for_a_standby_is_forgotten(split: Split) -> None:
    first, second = split.play.client(), split.play.client()
    first.sends(READ)
    second.sends(READ)
    first.leaves()
    standby = split.standby()
    standby.answers(READ, answer())
    second.gets(answer())


def test_nothing_is_repeated_within_a_transaction(split: Split) -> None:
    standby, client = split.standby(), split.play.client()
    client.sends(query("begin read only"))
    standby.answers(query("begin read only"), BEGUN)
    client.gets(BEGUN)
    client.sends(READ)
    standby.answers(READ, error("40001"), FAILED)
    client.gets(error("40001"), FAILED)
    client.sends(query("rollback"))
    standby.answers(query("rollback"), complete("ROLLBACK"), IDLE)
    client.gets(complete("ROLLBACK"), IDLE)


def test_riders_on_a_standby_are_repeated_too(split: Split) -> None:
    split.lane.batching = True
    standby, probe, holder = split.standby(), split.play.client(), split.play.client()
    # The statement is known to be brief when it has been so.
    known_verdict = split.play.policy.routes.verdicts.of(b"select mark")
    for _ in range(1000):
        if 0 <= known_verdict.seconds < 0.001:
            break
        probe.writes(READ)
        standby.gets(READ)
        standby.writes(answer())
        probe.gets(answer())
    holder.writes(query("begin read only"))
    standby.answers(query("begin read only"), BEGUN)
    holder.gets(BEGUN)
    clients = [split.play.client() for _ in range(3)]
    for client in clients:
        client.writes(READ)
    holder.writes(query("commit"))
    standby.answers(query("commit"), complete("COMMIT"), IDLE)
    holder.gets(complete("COMMIT"), IDLE)
    standby.answers((READ, READ, READ), answer(b"0"), error("25006"), IDLE, error("40001"), IDLE)
    clients[0].gets(answer(b"0"))
    primary = split.primary()
    # Who asks again comes before all others.
    primary.answers(READ, answer(b"2"))
    clients[2].gets(answer(b"2"))
    primary.answers(READ, answer(b"1"))
    clients[1].gets(answer(b"1"))


def test_a_close_and_a_sync_need_no_server_within_a_transaction_that_is_put_off(split: Split) -> None:
    client = split.play.client()
    client.sends(query("begin"), SYNC, build.close_statement(b"none"), SYNC)
    client.gets(BEGUN, TRANSACTION, CLOSE_COMPLETE, TRANSACTION)
