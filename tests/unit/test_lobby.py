"""A BEGIN of the extended protocol that does not say what its transaction does: who answers it, and how."""

from __future__ import annotations

from itertools import pairwise
from struct import pack
from time import monotonic
from typing import Any, cast

import pytest

from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.routing.decision import Decision
from pgambassador.wire import build
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    FAILED,
    FLUSH,
    IDLE,
    NO_DATA,
    PARSE_COMPLETE,
    SYNC,
    TRANSACTION,
    bind,
    close_portal,
    close_statement,
    columns,
    complete,
    describe,
    describe_portal,
    error,
    execute,
    parameter_description,
    parse,
    query,
)
from tests.playbook import Client, MakePlay, Server
from tests.policies import AGREED, Routed
from tests.unit.test_errands import ABORTED, BEGIN, REFUSED, WRITE, Split, kinds
from tests.unit.test_tollgate import Guard

HAS_BEGUN = AGREED.replace(complete("SET"), complete("BEGIN"))
BEGUN = PARSE_COMPLETE + BIND_COMPLETE + complete("BEGIN") + TRANSACTION
RESTRICT = b"set transaction read only"
NO_PARAMETERS = parameter_description()


def formats(statement: bytes, *fields: bytes) -> bytes:
    """A Bind with these formats, parameters and formats of columns."""
    return build.frame(ord("B"), b"\0" + statement + b"\0" + b"".join(fields))


NONE, TEXT, BINARY = pack("!h", 0), pack("!hh", 1, 0), pack("!hh", 1, 1)


def unnamed(text: bytes) -> bytes:
    return parse(b"", text) + bind(b"") + execute()


@pytest.fixture
def split(plays: MakePlay) -> Split:
    return Split(plays(policy=Routed(), limit=1))


def begins(client: Client, asked: bytes = unnamed(b"begin") + SYNC, told: bytes = BEGUN) -> None:
    client.sends(asked)
    client.gets(told)


def goes(client: Client, server: Server, asked: bytes = WRITE, begin: bytes = BEGIN) -> None:
    """What comes next goes there, behind the BEGIN."""
    client.sends(asked)
    server.answers((begin, asked), HAS_BEGUN, complete("X"), TRANSACTION)
    client.gets(complete("X"), TRANSACTION)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (unnamed(b"begin"), BEGUN),
        (
            parse(b"", b"start transaction") + bind(b"") + execute(),
            PARSE_COMPLETE + BIND_COMPLETE + complete("START TRANSACTION") + TRANSACTION,
        ),
        (parse(b"", b"begin") + bind(b"") + execute(b"", 1), BEGUN),
        (
            parse(b"", b"begin") + bind(b"") + describe_portal() + execute(),
            PARSE_COMPLETE + BIND_COMPLETE + NO_DATA + complete("BEGIN") + TRANSACTION,
        ),
        (
            parse(b"", b"begin") + describe(b"") + bind(b"") + execute(),
            PARSE_COMPLETE + NO_PARAMETERS + NO_DATA + BIND_COMPLETE + complete("BEGIN") + TRANSACTION,
        ),
        (
            parse(b"s", b"begin") + bind(b"s") + describe(b"s") + execute() + close_statement(b"s"),
            PARSE_COMPLETE + BIND_COMPLETE + NO_PARAMETERS + NO_DATA + complete("BEGIN") + CLOSE_COMPLETE
            + TRANSACTION,
        ),
        (parse(b"s" * 70, b"begin") + bind(b"s" * 65) + execute(), BEGUN),
        *(
            (parse(b"", b"begin") + formats(b"", first, NONE, last) + execute(), BEGUN)
            for first in (NONE, TEXT, BINARY) for last in (NONE, TEXT, BINARY)
        ),
    ],
)  # fmt: skip
def test_it_is_answered_and_goes_out_with_what_comes_next(split: Split, asked: bytes, told: bytes) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    begins(client, asked + SYNC, told)
    assert client.session.promised
    primary.gets_nothing()
    standby.gets_nothing()
    text = "start transaction" if b"start" in asked else "begin"
    goes(client, primary, begin=build.execution(text))
    assert client.holds(primary)


NOT_ALONE = [
    unnamed(b"begin") + unnamed(b"begin") + SYNC,
    unnamed(b"begin") + unnamed(b"select mark") + SYNC,
    unnamed(b"begin") + unnamed(b"commit") + SYNC,
    unnamed(b"begin") + bind(b"") + execute() + SYNC,
    unnamed(b"begin") + FLUSH + SYNC,
    unnamed(b"begin") + describe_portal() + SYNC,
    unnamed(b"begin") + close_portal() + SYNC,
    unnamed(b"begin") + close_statement(b"s") + close_statement(b"t") + SYNC,
    unnamed(b"begin") + close_statement(b"s") + unnamed(RESTRICT) + SYNC,
    unnamed(b"begin") + build.frame(ord("C"), b"Ss") + SYNC,
    unnamed(b"begin") + build.frame(ord("C"), b"") + SYNC,
    unnamed(b"begin") + build.frame(ord("S"), b"x"),
    unnamed(b"select mark") + unnamed(b"begin") + SYNC,
    parse(b"", b"begin") + SYNC,
    parse(b"", b"begin") + bind(b"") + SYNC,
    parse(b"", b"begin") + execute() + SYNC,
    parse(b"", b"begin") + parse(b"s", b"begin") + bind(b"s") + execute() + SYNC,
    parse(b"", b"begin", [23]) + bind(b"", b"1") + execute() + SYNC,
    parse(b"", b"begin") + bind(b"", b"1") + execute() + SYNC,
    parse(b"s", b"begin") + bind(b"t") + execute() + SYNC,
    parse(b"s", b"begin") + describe(b"t") + bind(b"s") + execute() + SYNC,
    parse(b"", b"begin") + bind(b"", portal=b"p") + execute(b"p") + SYNC,
    parse(b"", b"begin") + bind(b"") + execute(b"p") + SYNC,
    parse(b"", b"begin") + bind(b"") + build.frame(ord("E"), b"\0" * 4) + SYNC,
    parse(b"", b"begin") + bind(b"") + describe_portal(b"p") + execute() + SYNC,
    parse(b"", b"begin") + describe_portal() + bind(b"") + execute() + SYNC,
    parse(b"", b"begin") + build.frame(ord("D"), b"") + bind(b"") + execute() + SYNC,
    parse(b"", b"begin") + formats(b"", pack("!hhh", 2, 0, 0), NONE, NONE) + execute() + SYNC,
    parse(b"", b"begin") + formats(b"", pack("!hh", 1, 2), NONE, NONE) + execute() + SYNC,
    parse(b"", b"begin") + formats(b"", NONE, NONE, pack("!hh", 1, 2)) + execute() + SYNC,
    parse(b"", b"begin") + formats(b"", NONE, NONE) + execute() + SYNC,
    parse(b"", b"begin") + formats(b"", NONE, NONE, NONE, b"\0") + execute() + SYNC,
    parse(b"", b"begin") + formats(b"", NONE, NONE, TEXT[:3]) + execute() + SYNC,
    build.frame(ord("P"), b"\0begin\0\0\0\0") + bind(b"") + execute() + SYNC,
    build.frame(ord("P"), b"\0begin\0\0") + bind(b"") + execute() + SYNC,
    parse(b"", b"begin /* prepare */") + bind(b"") + execute() + SYNC,
    bind(b"unknown") + execute() + SYNC,
]  # fmt: skip


@pytest.mark.parametrize("asked", NOT_ALONE)
def test_what_is_not_as_usual_the_primary_answers(split: Split, asked: bytes) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.writes(asked)
    assert primary.read_all().startswith(asked[:1])
    assert not client.session.promised
    standby.gets_nothing()
    client.gets_nothing()


@pytest.mark.parametrize("text", ["begin -- \xe4".encode(), b"begin /* \xff */"])
def test_what_may_be_text_in_no_encoding_is_the_servers(split: Split, text: bytes) -> None:
    """It could not be taken back."""
    primary, client = split.primary(), split.play.client()
    for asked in (query(text), unnamed(text) + SYNC):
        client.sends(asked)
        primary.answers(asked, error("22021"), IDLE)
        client.gets(error("22021"), IDLE)


def test_its_name_is_known_as_if_a_server_had_been_told_it(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    begins(client, parse(b"s", b"begin") + bind(b"s") + execute() + SYNC)
    assert list(client.session.statements) == [b"s"]
    goes(client, primary, query(b"write"))
    client.sends(query(b"commit"))
    primary.answers(query(b"commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)
    begins(client, bind(b"s") + execute() + SYNC, BIND_COMPLETE + complete("BEGIN") + TRANSACTION)
    client.sends(bind(b"s"), execute(), SYNC)
    ours = parse(b"pga_1", b"begin") + bind(b"pga_1") + execute() + SYNC
    primary.answers((BEGIN, ours), HAS_BEGUN, BEGUN)
    client.gets(BIND_COMPLETE, complete("BEGIN"), TRANSACTION)


def test_a_name_that_is_taken_is_the_servers_to_refuse(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    begins(client, parse(b"s", b"begin") + bind(b"s") + execute() + SYNC)
    goes(client, primary, query(b"write"))
    client.sends(query(b"commit"))
    primary.answers(query(b"commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)
    client.sends(parse(b"s", b"begin"), bind(b"s"), execute(), SYNC)
    assert parse(b"s", b"begin") in primary.read_all()
    client.gets_nothing()


@pytest.mark.parametrize("closes", [False, True])
def test_an_unnamed_one_is_bound_again(split: Split, closes: bool) -> None:
    primary, client = split.primary(), split.play.client()
    close, closed = (close_statement(b""), CLOSE_COMPLETE) if closes else (b"", b"")
    begins(client, unnamed(b"begin") + close + SYNC, BEGUN.removesuffix(TRANSACTION) + closed + TRANSACTION)
    again = bind(b"") + execute() + SYNC
    client.sends(again)
    if closes:
        primary.answers(
            (BEGIN, close, again), HAS_BEGUN, closed, error("26000"), FAILED,
        )  # fmt: skip
        client.gets(error("26000"), FAILED)
    else:
        primary.answers(
            (BEGIN, parse(b"", b"begin"), again), HAS_BEGUN, PARSE_COMPLETE, BIND_COMPLETE, complete("BEGIN"),
            TRANSACTION,
        )  # fmt: skip
        client.gets(BIND_COMPLETE, complete("BEGIN"), TRANSACTION)
    ended = query(b"rollback")
    client.sends(ended)
    primary.answers(ended, complete("ROLLBACK"), IDLE)
    client.gets(complete("ROLLBACK"), IDLE)


def test_an_unnamed_statement_outlives_a_begin_that_has_a_name(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    write = parse(b"", b"write") + SYNC
    client.sends(write)
    primary.answers(write, PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    begins(client, parse(b"s", b"begin") + bind(b"s") + execute() + SYNC)
    client.sends(bind(b""), execute(), SYNC)
    primary.answers(
        (BEGIN, parse(b"", b"write"), bind(b""), execute(), SYNC),
        HAS_BEGUN, PARSE_COMPLETE, BIND_COMPLETE, complete("X"), TRANSACTION,
    )  # fmt: skip
    client.gets(BIND_COMPLETE, complete("X"), TRANSACTION)


def test_its_portal_is_there_as_on_one_connection(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    begins(client)
    client.sends(execute(), SYNC)
    primary.answers((BEGIN, execute(), SYNC), HAS_BEGUN, error("55000"), FAILED)
    client.gets(error("55000"), FAILED)


def test_one_behind_another_is_the_servers(split: Split) -> None:
    """It is warned of."""
    primary, client = split.primary(), split.play.client()
    begins(client)
    asked = unnamed(b"begin") + SYNC
    client.sends(asked)
    primary.gets(BEGIN, asked)


def test_several_parts_at_once(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    write = unnamed(b"write") + SYNC
    client.writes(unnamed(b"begin") + SYNC + write + WRITE)
    primary.answers((BEGIN, write), HAS_BEGUN)
    primary.answers(
        WRITE, PARSE_COMPLETE, BIND_COMPLETE, complete("X"), TRANSACTION, complete("Y"), TRANSACTION
    )
    client.gets(BEGUN, PARSE_COMPLETE, BIND_COMPLETE, complete("X"), TRANSACTION, complete("Y"), TRANSACTION)


@pytest.mark.parametrize("ends", [b"commit", b"rollback"])
def test_its_end_right_behind_it(split: Split, ends: bytes) -> None:
    primary, client = split.primary(), split.play.client()
    begins(client)
    ended = unnamed(ends) + SYNC
    client.sends(ended)
    told = PARSE_COMPLETE + BIND_COMPLETE + complete(ends.decode().upper()) + IDLE
    primary.answers((BEGIN, ended), HAS_BEGUN, told)
    client.gets(told)
    assert primary.is_idle


def test_what_is_refused_before_it_was_sent_fails_the_transaction(split: Split) -> None:
    client = split.play.client()
    begins(client, parse(b"s", b"begin") + bind(b"s") + execute() + SYNC)
    client.sends(unnamed(b"write"), SYNC)
    client.session.refuse(REFUSED)
    client.gets(REFUSED, FAILED)
    client.sends(bind(b"s"), execute(), SYNC)
    client.gets(ABORTED, FAILED)
    client.sends(unnamed(b"commit"), SYNC)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, complete("ROLLBACK"), IDLE)
    client.sends(WRITE)
    primary = split.primary()
    primary.answers(WRITE, complete("X"), IDLE)
    client.gets(complete("X"), IDLE)


def begins_at_the_primary(split: Split) -> None:
    """Nothing is put off."""
    primary, client = split.primary(), split.play.client()
    asked = unnamed(b"begin") + SYNC
    client.sends(asked)
    primary.answers(asked, BEGUN)
    client.gets(BEGUN)


def test_who_stays_at_the_primary_begins_there(split: Split) -> None:
    cast(Any, split.play.policy).routes.route = "primary"
    begins_at_the_primary(split)


def test_without_standbys_nothing_is_put_off(split: Split) -> None:
    split.choice.lanes = ()
    begins_at_the_primary(split)


def test_where_sessions_keep_their_connections_nothing_is_put_off(plays: MakePlay) -> None:
    split = Split(plays(policy=Routed(), limit=1, sticky=True))
    begins_at_the_primary(split)


# What is made read only.


@pytest.mark.parametrize(
    "asked",
    [
        query(RESTRICT),
        unnamed(RESTRICT) + SYNC,
        parse(b"t", RESTRICT) + bind(b"t") + execute() + SYNC,
        unnamed(RESTRICT) + unnamed(b"select mark") + SYNC,
        unnamed(RESTRICT) + unnamed(b"select mark") + unnamed(b"select more") + SYNC,
    ],
)
def test_it_goes_to_a_standby_with_what_makes_it_read_only(split: Split, asked: bytes) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    begins(client)
    client.sends(asked)
    assert standby.read_all().startswith(BEGIN)
    primary.gets_nothing()


@pytest.mark.parametrize(
    "asked",
    [
        parse(b"", RESTRICT) + describe(b"") + SYNC,
        parse(b"t", RESTRICT) + describe(b"t") + SYNC,
        parse(b"t", RESTRICT) + unnamed(b"select mark") + SYNC,
        unnamed(b"select mark") + parse(b"t", RESTRICT) + SYNC,
        unnamed(b"select mark") + unnamed(RESTRICT) + SYNC,
        unnamed(RESTRICT) + unnamed(b"write") + SYNC,
        unnamed(RESTRICT) + unnamed(b"commit") + SYNC,
        unnamed(RESTRICT) + unnamed(b"begin") + SYNC,
        unnamed(RESTRICT) + close_statement(b"") + SYNC,
    ],
)
@pytest.mark.parametrize("begin", [query(b"begin"), unnamed(b"begin") + SYNC])
def test_what_only_prepares_that_or_does_more_does_not_take_it_there(
    split: Split, begin: bytes, asked: bytes
) -> None:
    """The transaction may go on to write."""
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.sends(begin)
    assert client.read_all()
    client.sends(asked)
    assert primary.read_all().startswith(BEGIN)
    standby.gets_nothing()


TOGETHER = [
    unnamed(b"begin") + unnamed(RESTRICT) + SYNC,
    unnamed(b"start transaction") + unnamed(RESTRICT) + SYNC,
    unnamed(b"begin") + parse(b"", RESTRICT) + bind(b"") + describe_portal() + execute(b"", 1) + SYNC,
    parse(b"s", b"begin") + bind(b"s") + execute() + unnamed(RESTRICT) + SYNC,
    parse(b"s", b"begin") + bind(b"s") + execute() + parse(b"t", RESTRICT) + bind(b"t") + execute() + SYNC,
    unnamed(b"begin") + unnamed(RESTRICT) + unnamed(b"select mark") + SYNC,
    unnamed(b"begin") + unnamed(RESTRICT) + unnamed(b"select mark") + unnamed(b"select more") + SYNC,
    unnamed(b"begin") + unnamed(RESTRICT) + unnamed(RESTRICT) + SYNC,
]


@pytest.mark.parametrize("asked", TOGETHER)
@pytest.mark.parametrize("fresh", [True, False])
def test_a_begin_and_what_makes_it_read_only_in_one_part(split: Split, asked: bytes, fresh: bool) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    if not fresh:
        split.lags()
    client.sends(asked)
    heard, other = (standby, primary) if fresh else (primary, standby)
    other.gets_nothing()
    assert heard.read_all()
    assert client.holds(heard) and not client.session.promised
    if not fresh:
        done = {"P": PARSE_COMPLETE, "B": BIND_COMPLETE, "E": complete("X"), "D": NO_DATA, "S": TRANSACTION}
        heard.sends(*(done[kind] for kind in kinds(asked)))
        assert client.read_all()
        ended = query(b"commit")
        client.sends(ended)
        heard.answers(ended, complete("COMMIT"), IDLE)
        client.gets(complete("COMMIT"), IDLE)
        assert client.session.written_at < 0


@pytest.mark.parametrize(
    "asked",
    [
        unnamed(b"begin") + parse(b"", RESTRICT) + SYNC,
        unnamed(b"begin") + parse(b"", RESTRICT) + bind(b"") + SYNC,
        unnamed(b"begin") + parse(b"t", RESTRICT) + unnamed(b"select mark") + SYNC,
        unnamed(b"begin") + unnamed(b"select mark") + unnamed(RESTRICT) + SYNC,
        unnamed(b"begin") + unnamed(RESTRICT) + unnamed(b"write") + SYNC,
        unnamed(b"begin") + unnamed(RESTRICT) + unnamed(b"commit") + SYNC,
        unnamed(b"begin") + unnamed(RESTRICT) + close_statement(b"") + SYNC,
        unnamed(b"begin") + parse(b"", RESTRICT) + bind(b"", b"1") + execute() + SYNC,
        unnamed(b"begin") + parse(b"", RESTRICT) + bind(b"", portal=b"p") + execute(b"p") + SYNC,
        unnamed(b"begin") + bind(b"t") + execute() + SYNC,
        parse(b"", b"begin") + parse(b"t", RESTRICT) + bind(b"") + execute() + bind(b"t") + execute() + SYNC,
        parse(b"", b"begin") + parse(b"t", RESTRICT) + bind(b"") + execute() + bind(b"") + execute() + SYNC,
        parse(b"", b"begin") + bind(b"") + unnamed(RESTRICT) + SYNC,
        unnamed(RESTRICT) + unnamed(b"begin") + SYNC,
        unnamed(b"begin") + unnamed(b"begin") + unnamed(RESTRICT) + SYNC,
    ],
)  # fmt: skip
def test_what_is_not_as_usual_about_them_is_the_primarys(split: Split, asked: bytes) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.writes(asked)
    assert primary.read_all()
    standby.gets_nothing()


def test_what_the_name_of_nothing_meant_before_is_not_what_is_executed(split: Split) -> None:
    """The second Bind is of the BEGIN."""
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    first = parse(b"", RESTRICT) + SYNC
    client.sends(first)
    server = standby if standby.read_all() else primary
    server.read_all()
    server.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    client.sends(unnamed(b"begin") + bind(b"") + execute() + SYNC)
    assert primary.read_all()
    standby.gets_nothing()


def test_the_two_are_known_by_name(split: Split) -> None:
    standby, client = split.standby(), split.play.client()
    both = [(b"s", b"begin"), (b"t", RESTRICT)]
    asked = b"".join(parse(name, text) + bind(name) + execute() for name, text in both) + SYNC
    for _turn in pairwise("abc"):
        client.sends(asked)
        assert standby.read_all()
        answer = (BIND_COMPLETE + complete("X")) * 2
        first = PARSE_COMPLETE + BIND_COMPLETE + complete("X")
        standby.sends(first * 2 if asked[:1] == b"P" else answer, TRANSACTION)
        assert client.read_all()
        ended = query(b"commit")
        client.sends(ended)
        standby.answers(ended, complete("COMMIT"), IDLE)
        client.gets(complete("COMMIT"), IDLE)
        asked = b"".join(bind(name) + execute() for name, _ in both) + SYNC


@pytest.mark.parametrize("begin", [query(b"begin"), unnamed(b"begin") + SYNC])
@pytest.mark.parametrize(
    ("parts", "wrote"),
    [
        ([query(RESTRICT), query(b"select mark")], False),
        ([unnamed(RESTRICT) + SYNC, query(b"select mark")], False),
        ([unnamed(RESTRICT) + SYNC, query(b"set transaction read write")], True),
        ([query(RESTRICT), query(b"write")], True),
        ([query(b"select mark")], True),
        ([parse(b"t", RESTRICT) + SYNC], True),
    ],
)
def test_what_is_made_read_only_writes_nothing(
    split: Split, begin: bytes, parts: list[bytes], wrote: bool
) -> None:
    """On the primary, while no standby is fresh; else who never pauses would stay there."""
    split.lags()
    primary, client = split.primary(), split.play.client()
    client.sends(begin)
    assert client.read_all()
    done = {
        "P": PARSE_COMPLETE, "B": BIND_COMPLETE, "E": complete("X"), "S": TRANSACTION,
        "Q": complete("X") + TRANSACTION,
    }  # fmt: skip
    before: tuple[bytes, ...] = (HAS_BEGUN,)
    for part in parts:
        client.sends(part)
        assert primary.read_all()
        primary.sends(*before, *(done[kind] for kind in kinds(part)))
        assert client.read_all()
        before = ()
    client.sends(query(b"commit"))
    primary.answers(query(b"commit"), complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)
    assert (client.session.written_at > 0) == wrote


def test_behind_a_begin_that_was_put_off_they_are_the_primarys(split: Split) -> None:
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    begins(client)
    asked = unnamed(b"begin") + unnamed(RESTRICT) + SYNC
    client.sends(asked)
    primary.gets(BEGIN, asked)
    standby.gets_nothing()


def test_a_simple_one_has_its_own_tag_too(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    client.sends(query(b"start transaction"))
    client.gets(complete("START TRANSACTION"), TRANSACTION)
    goes(client, primary, begin=build.execution("start transaction"))


def test_rows_of_a_standby_behind_it(split: Split) -> None:
    standby, client = split.standby(), split.play.client()
    begins(client)
    client.sends(query(RESTRICT))
    standby.answers((BEGIN, query(RESTRICT)), HAS_BEGUN, complete("SET"), TRANSACTION)
    client.gets(complete("SET"), TRANSACTION)
    client.sends(query(b"select mark"))
    standby.answers(query(b"select mark"), columns(b"mark"), complete("SELECT 0"), TRANSACTION)
    client.gets(columns(b"mark"), complete("SELECT 0"), TRANSACTION)
    assert client.session.written_at < 0


@pytest.mark.parametrize("begin", [query(b"begin -- hint"), unnamed(b"begin -- hint") + SYNC])
@pytest.mark.parametrize(
    ("before", "behind", "there"),
    [(None, None, True), (0.5, None, False), (60.0, None, True), (0.5, 60.0, True), (60.0, 0.5, False)],
)
def test_its_hints_hold_for_what_it_goes_out_with(
    split: Split,
    begin: bytes,
    before: float | None,
    behind: float | None,
    there: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That says where its transaction runs, and what it says itself comes first."""
    verdicts = {
        b"begin -- hint": Decision("transaction", "primary", "it begins", begins="unsaid", max_lag=before),
        RESTRICT: Decision("transaction", "any", "reads only", makes_read_only=True, max_lag=behind),
    }
    routes = cast(Any, split.play.policy).routes
    monkeypatch.setattr(routes, "verdicts", Verdicts(lambda text: Verdict(verdicts[text])))
    split.lane.fresh_until = monotonic() - 5
    primary, standby, client = split.primary(), split.standby(), split.play.client()
    client.sends(begin)
    assert client.read_all()
    client.sends(query(RESTRICT))
    assert (standby if there else primary).read_all()


def test_its_hint_says_how_long_it_waits(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is before what it goes out with."""
    decision = Decision("transaction", "primary", "it begins", begins="unsaid", wait_timeout=0.25)
    routes = cast(Any, split.play.policy).routes
    monkeypatch.setattr(
        routes, "verdicts", Verdicts(lambda text: Verdict(decision) if text == b"begin" else Verdict())
    )
    client = split.play.client()
    begins(client)
    client.sends(WRITE)
    assert client.session.waiting
    assert client.session.patience == 0.25


# What holds for whoever has been promised a transaction.


def test_who_leaves_does_so_at_its_end(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    begins(client)
    client.session.drain()
    assert not client.session.closed
    goes(client, primary)
    ended = query(b"commit")
    client.sends(ended)
    primary.answers(ended, complete("COMMIT"), IDLE)
    client.gets_end(complete("COMMIT"), IDLE)


def test_it_waits_within_its_transaction(split: Split) -> None:
    client = split.play.client()
    begins(client)
    assert client.session in split.play.lane.promised
    assert client.session.idle_since is not None


def test_it_is_judged_and_what_comes_behind_is_not(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    guard = Guard(REFUSED)
    cast(Any, client.session).guard = guard
    client.sends(unnamed(b"begin"), SYNC)
    client.gets(REFUSED, IDLE)
    assert not client.session.promised
    begins(client)
    goes(client, primary)
    assert guard.asked == [b"begin"] * 2


def test_if_it_fails_nothing_counts_by_itself(split: Split) -> None:
    primary, client = split.primary(), split.play.client()
    begins(client)
    write = unnamed(b"write") + SYNC
    client.sends(write)
    primary.answers((BEGIN, write), error("57014"))
    primary.gets_end()
    assert b"SFATAL" in client.read_all()
    assert client.ended
