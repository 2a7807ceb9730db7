"""When a server is asked what its functions do, and what follows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pgambassador.net.greeting import BASE
from pgambassador.net.lookout import AGAIN, EVERY
from pgambassador.protocol.settings import fence
from pgambassador.protocol.survey import ALL, TIES, question
from pgambassador.protocol.suspects import PROBE
from pgambassador.protocol.suspects import query as look
from tests.keeping import Keeping
from tests.messages import IDLE, complete, error, query, row
from tests.playbook import Client, Server
from tests.policies import AGREED

LOOK = look()
QUERY = query("x")
PRINT, OTHER_PRINT = row(b"print", b"1:1 2:2", b""), row(b"print", b"1:1 2:3", b"")
DONE = (complete("X"), IDLE)
BODY = row(b"body", b"select set_config('app.tenant', who, false)", b"")
NAME = row(b"name", b"tenant", b"")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    keeping = Keeping(idle_timeout=1e5)
    monkeypatch.setattr("pgambassador.net.openings.time", SimpleNamespace(monotonic=keeping.loop.time))
    yield keeping
    keeping.end()


def served(play: Keeping, *found: bytes) -> tuple[Client, Server]:
    """A client, and the connection that was asked before it came to the client."""
    client = play.client()
    client.sends(QUERY)
    server = play.opens(hides=found)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    return client, server


def runs(client: Client, server: Server, text: str, tag: str = "SELECT 1") -> None:
    client.sends(query(text))
    server.answers(query(text), complete(tag), IDLE)
    client.gets(complete(tag), IDLE)


def test_without_such_functions_nothing_is_asked(play: Keeping) -> None:
    client, server = served(play)
    assert not play.lane.wary
    runs(client, server, "select tenant('x')")
    assert server.is_idle


def test_a_statement_that_names_one_is_followed_by_a_question(play: Keeping) -> None:
    client, server = served(play, BODY, NAME)
    assert play.lane.wary
    runs(client, server, "select 1")
    assert server.is_idle
    runs(client, server, "select tenant('x')")
    play.surveys(server, question(frozenset({"app.tenant"}), ()), app__tenant="x")
    assert server.is_idle
    other = play.client()
    other.sends(QUERY)
    change, steps = fence(None, BASE)
    server.answers((change, QUERY), steps * AGREED, *DONE)
    other.gets(*DONE)


def test_and_about_ties_where_one_may_tie(play: Keeping) -> None:
    client, server = served(play, row(b"body", b"", b"ties"), NAME)
    runs(client, server, "select tenant('x')")
    server.answers(question(TIES, ()), complete("SELECT"), IDLE)
    assert server.is_idle


def test_functions_that_are_made_here_are_known_at_once(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "create function tenant() …", "CREATE FUNCTION")
    play.surveys(server, question(ALL | TIES, ()), role="none")  # it may have been used already
    server.answers(LOOK, BODY, NAME, complete("SELECT"), IDLE)
    assert bool(play.lane.wary)
    runs(client, server, "drop function tenant", "DROP FUNCTION")
    play.surveys(server, question(ALL | TIES | {"app.tenant"}, ()), app__tenant=None, role="none")
    server.answers(LOOK, BODY, NAME, complete("SELECT"), IDLE)
    runs(client, server, "create table t ()", "CREATE TABLE")
    play.surveys(server, question(ALL | TIES, ()), role="none")
    server.answers(LOOK, complete("SELECT"), IDLE)
    assert not play.lane.wary
    runs(client, server, "create table t ()", "CREATE TABLE")
    assert server.is_idle


def test_those_made_elsewhere_are_known_soon(play: Keeping) -> None:
    client, server = served(play, PRINT)
    runs(client, server, "select 1")
    play.ticks(EVERY - 0.5)
    assert server.is_idle
    play.ticks(EVERY + 0.1)
    server.answers(PROBE, PRINT, complete("SELECT"), IDLE)
    assert server.is_idle
    assert not play.lane.wary
    play.ticks(3 * EVERY)  # nobody has used the pool since
    assert server.is_idle
    runs(client, server, "select 1")
    play.ticks(3 * EVERY)
    server.answers(PROBE, OTHER_PRINT, complete("SELECT"), IDLE)
    assert bool(play.lane.wary)  # until it is known what has changed
    server.answers(LOOK, OTHER_PRINT, BODY, NAME, complete("SELECT"), IDLE)
    assert play.keeper.lookout.suspects.among(b"select tenant()")
    assert not play.keeper.lookout.suspects.among(b"select 1")


def test_a_look_comes_in_its_turn_where_all_connections_are_busy(play: Keeping) -> None:
    client, server = served(play, PRINT)
    runs(client, server, "select 1")
    client.sends(QUERY)
    play.ticks(2 * EVERY)
    other = play.client()
    other.sends(QUERY)
    server.answers(QUERY, *DONE)
    server.answers(PROBE, PRINT, complete("SELECT"), IDLE)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    other.gets(*DONE)


def test_what_takes_long_is_looked_at_seldom(play: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    late = SimpleNamespace(monotonic=lambda: time.monotonic() + 1.0)
    monkeypatch.setattr("pgambassador.net.lookout.time", late)
    client, server = served(play, PRINT)
    runs(client, server, "select 1")
    play.ticks(10)
    assert server.is_idle
    play.ticks(30)
    server.answers(PROBE, PRINT, complete("SELECT"), IDLE)


def test_a_look_that_fails(play: Keeping) -> None:
    client, server = served(play, PRINT)
    runs(client, server, "select 1")
    play.ticks(2 * EVERY)
    server.answers(PROBE, error("57014", "canceling statement due to statement timeout"), IDLE)
    assert bool(play.lane.wary)
    server.answers(LOOK, PRINT, complete("SELECT"), IDLE)
    assert not play.lane.wary


def test_where_the_answer_takes_too_long_everybody_is_suspected(
    play: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    client = play.client()
    client.sends(QUERY)
    server = play.opens(hides=(error("57014", "canceling statement due to statement timeout"),))
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.surveys(server, question(ALL | TIES, ()), role="none")
    assert "takes too long" in caplog.text
    assert bool(play.lane.wary) and server.is_idle
    play.ticks(AGAIN - 1)
    assert server.is_idle
    play.ticks(AGAIN + 1)
    server.answers(LOOK, complete("SELECT"), IDLE)
    assert not play.lane.wary


def test_strangers_are_told_of_once(play: Keeping, caplog: pytest.LogCaptureFixture) -> None:
    stranger = (
        row(b"body", b"EXECUTE", b"ties"),
        row(b"name", b"theirs", b""),
        row(b"strange", b"stranger", b""),
    )
    client, server = served(play, *stranger)
    assert "stranger" in caplog.text and "statements that name one" in caplog.text
    runs(client, server, "create function tenant() …", "CREATE FUNCTION")
    caplog.clear()
    play.surveys(server, question(ALL | TIES, ()), role="none")
    server.answers(LOOK, *stranger, complete("SELECT"), IDLE)
    assert "stranger" not in caplog.text


def test_those_made_elsewhere_are_known_in_time(play: Keeping) -> None:
    client, server = served(play)
    play.ticks(AGAIN - 1)
    play.ticks(AGAIN + 1)
    server.answers(LOOK, BODY, NAME, complete("SELECT"), IDLE)
    assert bool(play.lane.wary)
    play.ticks(3 * AGAIN)  # nobody has used the pool since
    assert server.is_idle
    runs(client, server, "select 1")
    play.ticks(3 * AGAIN)
    server.answers(LOOK, complete("SELECT"), IDLE)
    assert not play.lane.wary


def test_a_server_that_cannot_say(play: Keeping, caplog: pytest.LogCaptureFixture) -> None:
    client = play.client()
    client.sends(QUERY)
    server = play.opens(hides=(error("42P01", "no such catalog"),))
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    assert "no such catalog" in caplog.text
    assert not play.lane.wary
    assert server.is_idle


def test_a_connection_that_is_lost_meanwhile(play: Keeping) -> None:
    client = play.client()
    client.sends(QUERY)
    play.connects(hides=None).close()
    play.loop.run()
    server = Server(play, play.connects(hides=None), next(iter(play.keeper.backends)))
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.surveys(server, question(ALL | TIES, ()), role="none")  # anything may have been done
    assert bool(play.lane.wary)
    play.ticks(1)
    server.answers(LOOK, complete("SELECT"), IDLE)
    assert not play.lane.wary


def test_whoever_waits_is_not_kept_from_a_connection_by_what_is_to_be_asked(play: Keeping) -> None:
    """The only connection is lost, while the question waits for it or before that."""
    client = play.client()
    client.sends(QUERY)
    play.connects(hides=None).close()
    play.loop.run()
    server = Server(play, play.connects(hides=None), next(iter(play.keeper.backends)))
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.ticks(1)  # the question is behind the survey now
    assert play.lane.waiting == 1
    server.leaves()
    assert b"08006" in client.read_all()
    server = Server(play, play.connects(hides=None), next(iter(play.keeper.backends)))
    server.leaves()  # before it has answered: everybody is suspected still
    play.ticks(2)
    assert play.upstream.openings == [], "nobody is there who needs one"
    client = play.client()
    client.sends(QUERY)
    server = Server(play, play.connects(hides=None), next(iter(play.keeper.backends)))
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.surveys(server, question(ALL | TIES, ()), role="none")


def test_in_session_mode_nobody_needs_to_know() -> None:
    play = Keeping(mode="session")
    client = play.client()
    client.sends(QUERY)
    server = Server(play, play.connects(hides=None), next(iter(play.keeper.backends)))
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    play.end()


def test_tables_that_are_changed_elsewhere(play: Keeping) -> None:
    """Statements are asked for their rows again; functions are not looked at."""
    rows = [row(b"tables", b"%d:%d" % (each, each), b"") for each in range(2)]
    client, server = served(play, PRINT, rows[0])
    age = play.keeper.statements.age
    for turn, (found, changes) in enumerate(((rows[0], 0), (rows[1], 1), (rows[1], 1)), 1):
        runs(client, server, "select 1")
        play.ticks(2 * EVERY * turn)
        server.answers(PROBE, PRINT, found, complete("SELECT"), IDLE)
        assert server.is_idle
        assert play.keeper.statements.age == age + changes


def test_who_waits_for_a_connection_to_ask_keeps_nobody_from_opening_one(play: Keeping) -> None:
    """The only connection is lost while a look is waiting for it."""
    client, server = served(play, PRINT)
    runs(client, server, "select 1")
    client.sends(QUERY)
    play.ticks(2 * EVERY)
    server.gets(QUERY)
    server.leaves()
    client.read()
    other = play.client()
    other.sends(QUERY)
    again = Server(play, play.connects(hides=None), next(iter(play.keeper.backends)))
    again.answers(PROBE, PRINT, complete("SELECT"), IDLE)
    again.answers(QUERY, *DONE)
    other.gets(*DONE)
