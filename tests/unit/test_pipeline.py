"""What is told and asked again of pipelines that use one name for two statements."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pgambassador.wire import build
from tests.keeping import Keeping
from tests.messages import (
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    bind,
    close_statement,
    complete,
    execute,
    parse,
    query,
)
from tests.playbook import Client, Server
from tests.unit.test_wake import (
    MARKED,
    READ,
    WRITE,
    WROTE,
    MakeKeeping,
    heard,
    keepings,
    knows,
    opened,
    within,
)

__all__ = ["keepings"]

INSERT, SELECT = b"insert into t values (1)", b"select a from t"


@pytest.fixture
def play(keepings: MakeKeeping) -> Keeping:
    made = keepings(size=1)
    knows(made)
    return made


def prepared(play: Keeping, *frames: bytes) -> tuple[Client, Server]:
    """A client that has parsed this, and the connection that it did it on."""
    client = play.client()
    client.sends(*frames, SYNC)
    server = opened(play)
    assert server.read_all()
    server.sends(PARSE_COMPLETE * len(frames), IDLE)
    client.gets(PARSE_COMPLETE * len(frames), IDLE)
    return client, server


def test_an_unnamed_statement_that_is_redefined_behind_its_execution(play: Keeping) -> None:
    client, server = prepared(play, parse(b"", INSERT))
    asked = bind(b"") + execute() + parse(b"", SELECT) + SYNC
    client.sends(asked)
    server.gets(asked)
    server.leaves()
    assert heard(client) == "08007 ZI"


def test_a_statement_that_is_closed_and_redefined_behind_its_execution(play: Keeping) -> None:
    client, server = prepared(play, parse(b"s", INSERT))
    client.sends(bind(b"s"), execute(), close_statement(b"s"), parse(b"s", SELECT), SYNC)
    assert server.read_all()
    server.leaves()
    assert heard(client) == "08007 ZI"


def test_a_read_whose_name_is_closed_and_redefined_behind_its_execution(play: Keeping) -> None:
    """It is asked again with the statement that it meant, or not at all."""
    client, server = prepared(play, parse(b"s", SELECT))
    client.sends(bind(b"s"), execute(), close_statement(b"s"), parse(b"s", b"select a, a from t"), SYNC)
    assert server.read_all()
    server.leaves()
    told = heard(client)
    if told == "":
        again = opened(play)
        asked = again.read_all()
        assert SELECT in asked, asked
    else:
        assert told in ("08006 ZI", "08007 ZI")


def test_two_portals_of_one_part(play: Keeping) -> None:
    """What the unnamed portal executes is not what was bound last."""
    client, server = prepared(play, parse(b"i", INSERT), parse(b"r", SELECT))
    first = bind(b"i") + bind(b"r", portal=b"p") + execute() + execute(b"p") + SYNC
    client.sends(first, READ)
    assert server.read_all()
    server.leaves()
    assert heard(client).startswith("08007 ZI")


@pytest.mark.parametrize("end", ["\r", "\r ;"])
def test_a_comment_ends_with_its_line_whatever_ends_that(play: Keeping, end: str) -> None:
    client = play.client()
    asked = query(f"rollback -- x{end}; insert into t values (1)")
    client.sends(asked)
    server = opened(play)
    server.gets(asked)
    server.leaves()
    assert heard(client) == "08007 ZI"


def test_what_follows_such_a_comment_in_a_lost_transaction_is_done(play: Keeping) -> None:
    client, server = within(play)
    server.leaves()
    asked = query("rollback -- x\r; insert into t values (1)")
    client.sends(asked)
    assert heard(client) == "", "it was answered, and nothing was done"
    server = opened(play)
    server.answers(asked, complete("ROLLBACK"), complete("INSERT 0 1"), IDLE)
    client.gets(complete("ROLLBACK"), complete("INSERT 0 1"), IDLE)


def test_what_is_refused_behind_a_repetition_was_not_done(play: Keeping) -> None:
    client = play.client()
    client.sends(MARKED)
    server = opened(play)
    server.gets(MARKED)
    server.leaves()
    opened(play).answers(MARKED, *WROTE)
    client.gets(*WROTE)
    refusal = build.error_response("ERROR", "53400", "too many statements")
    client.session.guard = SimpleNamespace(judge=lambda session, text, now: refusal)
    client.sends(WRITE)
    assert heard(client) == "53400 ZI"
