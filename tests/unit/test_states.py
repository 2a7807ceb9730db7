"""What sessions have set follows them, and nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pgambassador.net.greeting import BASE
from pgambassador.protocol.settings import Settings, fence
from pgambassador.protocol.survey import ALL, RESTORED, TIES, question, restoration
from pgambassador.wire.build import aside
from tests.keeping import PARAMETERS, Keeping
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TERMINATE,
    TRANSACTION,
    bind,
    complete,
    error,
    execute,
    notification,
    parameter_status,
    parse,
    query,
    row,
)
from tests.playbook import Client, Server
from tests.policies import AGREED

QUERY = query("x")
DONE = (complete("X"), IDLE)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    keeping = Keeping()
    monkeypatch.setattr("pgambassador.net.openings.time", SimpleNamespace(monotonic=keeping.loop.time))
    yield keeping
    keeping.end()


def served(play: Keeping, settings: Settings = BASE) -> tuple[Client, Server]:
    """A client whose query was answered, and the connection that was opened for it."""
    client = play.client(settings)
    client.sends(QUERY)
    server = play.opens()
    change, steps = fence(BASE, settings)
    server.answers((change, QUERY), steps * AGREED, *DONE)
    client.gets(*DONE)
    return client, server


def runs(client: Client, server: Server, text: str, tag: str, *, before: bytes = b"", steps: int = 0) -> None:
    client.sends(query(text))
    server.answers((before, query(text)), steps * AGREED, complete(tag), IDLE)
    client.gets(complete(tag), IDLE)


def resets(client: Client, server: Server, text: str, tag: str, *reports: bytes) -> None:
    """A RESET alone is led back to the start packet at once."""
    back = restoration(text.encode(), client.session.facts.start.values)
    if not back:
        runs(client, server, text, tag)
        return
    client.sends(query(text))
    ours = [aside(statement, unnamed=False) for statement in back]
    sent = (*aside(text.encode()), *(each for both in ours for each in both), SYNC)
    begun = (CLOSE_COMPLETE, PARSE_COMPLETE, BIND_COMPLETE)
    done = (*begun, complete("X"), CLOSE_COMPLETE, CLOSE_COMPLETE)
    own = (*begun, complete(tag), *(CLOSE_COMPLETE for _ in range(4)))
    server.answers(sent, *own, *(done * len(back)), *reports, IDLE)
    client.gets(complete(tag), *reports, IDLE)


def test_a_set_follows_its_client_and_is_undone_for_others(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "set x.y = 1", "SET")
    play.surveys(server, question(frozenset({"x.y"}), ()), x__y="1")
    assert server.is_idle
    state = Settings.of({"x.y": "1"})
    assert client.session.state is state
    runs(client, server, "select 1", "SELECT 1")
    other = play.client()
    before, steps = fence(None, BASE)  # whatever the answer was
    runs(other, server, "select 2", "SELECT 1", before=before, steps=steps)
    before, steps = fence(BASE, state)
    runs(client, server, "select 3", "SELECT 1", before=before, steps=steps)


def test_what_was_set_in_a_transaction_is_asked_for_at_its_end(play: Keeping) -> None:
    client, server = served(play)
    for text, tag in (
        ("begin", "BEGIN"),
        ("set a = 1", "SET"),
        ("set local b = 1", "SET"),
        ("set c=1", "SET"),
    ):
        client.sends(query(text))
        server.answers(query(text), complete(tag), TRANSACTION)
        client.gets(complete(tag), TRANSACTION)
    runs(client, server, "rollback", "ROLLBACK")
    play.surveys(server, question(frozenset({"a", "c"}), ()), a="0", c=None)
    assert client.session.state is Settings.of({"a": "0"})


def test_what_the_client_sends_meanwhile_goes_on_behind(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "set a = 1", "SET")
    asked = question(frozenset({"a"}), ())
    client.sends(QUERY)
    server.gets(asked, QUERY)
    play.surveys(server, b"", a="1")
    assert client.holds(server)
    server.sends(*DONE)
    client.gets(*DONE)
    assert server.is_idle
    assert server.backend.state is client.session.state is Settings.of({"a": "1"})


@pytest.mark.parametrize("goodbye", [False, True])
def test_a_client_that_leaves_before_the_answer(play: Keeping, goodbye: bool) -> None:
    """Nobody asks for more; the next client has everything reset."""
    client, server = served(play)
    runs(client, server, "set a = 1", "SET")
    if goodbye:
        client.sends(TERMINATE)
    else:
        client.leaves()
    play.surveys(server, question(frozenset({"a"}), ()), a="1")
    assert server.is_idle
    other = play.client()
    before, steps = fence(None, BASE)
    runs(other, server, "select 1", "SELECT 1", before=before, steps=steps)
    if goodbye:
        client.gets_end()


def test_without_an_answer_the_client_keeps_its_connection(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "set statement_timeout = 1", "SET")
    for _ in range(3):
        server.answers(question(frozenset({"statement_timeout"}), ()), error("57014"), IDLE)
    assert server.backend.pinned and client.holds(server)
    runs(client, server, "select 1", "SELECT 1")
    client.sends(TERMINATE)
    client.gets_end()
    server.answers(query("DISCARD ALL"), complete("DISCARD ALL"), IDLE)
    assert server.is_idle


def test_a_cancel_that_hits_our_question_is_sent_again(play: Keeping) -> None:
    """It was meant for what the client has asked behind it."""
    client, server = served(play)
    runs(client, server, "set x.y = 1", "SET")
    asked = question(frozenset({"x.y"}), ())
    works = [server.backend.works]
    client.sends(QUERY)
    server.gets(asked, QUERY)
    works.append(server.backend.works)
    assert works == [False, True]
    play.loop.create_task(play.keeper.cancel(server.backend))
    play.loop.run()
    play.does(lambda: play.upstream.cancels[0][1].set_result(None))
    server.sends(error("57014"), IDLE)
    play.loop.run()
    (_, (_, again)) = play.upstream.cancels
    play.does(lambda: again.set_result(None))
    server.sends(error("57014"), IDLE)
    client.gets(error("57014"), IDLE)
    play.surveys(server, asked, x__y="1")
    assert server.is_idle
    assert len(play.upstream.cancels) == 2


def test_a_cancel_that_came_before_our_question_is_not(play: Keeping) -> None:
    client, server = served(play)
    client.sends(query("set x.y = 1"))
    server.gets(query("set x.y = 1"))
    play.loop.create_task(play.keeper.cancel(server.backend))
    play.loop.run()
    server.sends(complete("SET"), IDLE)
    client.gets(complete("SET"), IDLE)
    asked = question(frozenset({"x.y"}), ())
    server.answers(asked, error("57014"), IDLE)
    play.does(lambda: play.upstream.cancels[0][1].set_result(None))
    play.surveys(server, asked, x__y="1")
    assert len(play.upstream.cancels) == 1


def test_a_timeout_of_the_session_keeps_the_connection_until_it_is_off(play: Keeping) -> None:
    """The server would end the connection under another client."""
    client, server = served(play)
    asked = question(frozenset({"idle_session_timeout"}), ())
    runs(client, server, "set idle_session_timeout = 5", "SET")
    play.surveys(server, asked, idle_session_timeout="5")
    assert server.backend.pinned and client.holds(server)
    runs(client, server, "listen x", "LISTEN")
    server.answers(question(TIES, ()), complete("SELECT"), IDLE)
    assert server.backend.pinned
    runs(client, server, "set idle_session_timeout = 0", "SET")
    play.surveys(server, asked, idle_session_timeout="0")
    assert server.is_idle


STARTED = Settings.of({"timezone": "CET", "a": "1"})


def test_a_reset_leads_back_to_the_start_packet(play: Keeping) -> None:
    client, server = served(play, STARTED)
    client.session.facts.told["TimeZone"] = "CET"
    runs(client, server, "set a = 2", "SET")
    play.surveys(server, question(frozenset({"a"}), ()), a="2")
    resets(client, server, "reset timezone", "RESET", parameter_status("TimeZone", "EST"))
    # What it sends now comes behind.
    client.sends(QUERY)
    server.gets(question(ALL, ["a"], STARTED.values), QUERY)
    play.surveys(server, b"", a="2", timezone="CET", role="none")
    server.sends(*DONE)
    client.gets(*DONE)
    assert client.session.state is server.backend.state is Settings.of({"timezone": "CET", "a": "2"})


def test_of_a_session_that_has_set_nothing_a_reset_changes_nothing(play: Keeping) -> None:
    """Drivers' pools say RESET ALL all the time."""
    client, server = served(play)
    runs(client, server, "reset all", "RESET")
    assert server.is_idle


def test_what_a_drivers_pool_says_when_a_connection_is_given_back(play: Keeping) -> None:
    client, server = served(play, STARTED)
    text = "select pg_advisory_unlock_all(); close all; unlisten *; reset all"
    client.sends(query(text))
    tags = ("SELECT 1", "CLOSE CURSOR ALL", "UNLISTEN", "RESET")
    server.answers(query(text), *map(complete, tags), IDLE)
    client.gets(*map(complete, tags), IDLE)
    server.answers(question(RESTORED, (), STARTED.values), row(b"1"), row(b"CET"), complete("SELECT 2"), IDLE)
    assert server.is_idle


def test_nor_of_one_that_is_as_it_has_started(play: Keeping) -> None:
    client, server = served(play, STARTED)
    resets(client, server, "discard all", "DISCARD ALL")
    server.answers(question(RESTORED, (), STARTED.values), row(b"1"), row(b"CET"), complete("SELECT 2"), IDLE)
    assert server.is_idle
    runs(client, server, "x", "X")
    assert client.session.state is server.backend.state is STARTED


def test_who_the_server_logged_in_is_not_a_setting(play: Keeping) -> None:
    client, server = served(play)
    server.backend.link.parameters["session_authorization"] = "app"
    runs(client, server, "set session authorization default", "SET")
    play.surveys(server, question(ALL, ()), session_authorization="app", role="none", work_mem="1")
    assert client.session.state is Settings.of({"work_mem": "1"})


def test_a_change_of_settings_leaves_in_the_same_write(play: Keeping) -> None:
    _, server = served(play)
    before = BASE
    for settings in ({"application_name": "psql"}, {"role": "clerk"}, {"role": "clerk", "timezone": "CET"}):
        client = play.client(Settings.of(settings))
        client.sends(QUERY)
        change, steps = fence(before, client.session.state)
        server.answers((change, QUERY), steps * AGREED, *DONE)
        client.gets(*DONE)
        before = client.session.state


def test_a_client_is_told_only_what_is_news_to_it(play: Keeping) -> None:
    """A server reports what the change of settings has changed before the ReadyForQuery of the client."""
    _, server = served(play)
    client = play.client(Settings.of({"timezone": "CET"}))
    client.session.facts.told["TimeZone"] = "CET"
    client.sends(QUERY)
    change, steps = fence(BASE, client.session.state)
    server.gets(change, QUERY)
    server.sends(steps * AGREED, DONE[0], parameter_status("TimeZone", "CET"), *DONE[1:])
    client.gets(*DONE)
    client.sends(QUERY)
    server.answers(QUERY, DONE[0], parameter_status("TimeZone", "EET"), *DONE[1:])
    client.gets(DONE[0], parameter_status("TimeZone", "EET"), *DONE[1:])
    # No tag has said so: perhaps a function, perhaps the server's own configuration.
    play.surveys(server, question(ALL, (), {"timezone": "CET"}), timezone="EET", role="none")
    assert client.session.facts.told == {**PARAMETERS, "TimeZone": "EET"}
    assert client.session.state is Settings.of({"timezone": "EET"})


def test_what_the_server_does_not_report_is_reported_by_us(play: Keeping) -> None:
    """It says what differs from its last report, which the client before has had."""
    _, server = served(play)
    first, second = play.client(Settings.of({"timezone": "CET"})), play.client()
    before, steps = fence(BASE, first.session.state)
    first.session.facts.told["TimeZone"] = "CET"
    first.sends(QUERY)
    server.gets(before, QUERY)
    server.sends(steps * AGREED, DONE[0], parameter_status("TimeZone", "CET"), *DONE[1:])
    first.gets(*DONE)
    before, steps = fence(first.session.state, BASE)
    second.sends(query("set timezone = CET"))
    server.answers((before, query("set timezone = CET")), steps * AGREED, complete("SET"), IDLE)
    second.gets(complete("SET"), parameter_status("TimeZone", "CET"), IDLE)
    play.surveys(server, question(frozenset({"timezone"}), ()), timezone="CET")
    assert second.session.state is first.session.state


@pytest.mark.parametrize(
    ("text", "surveyed"),
    [
        ("do $$ begin perform 1; end $$", False),
        ("do $$ begin set a = 1; end $$", True),
        ("do $$ begin execute 'something'; end $$", True),
    ],
)
def test_a_block_that_may_have_set_something(play: Keeping, text: str, surveyed: bool) -> None:
    client, server = served(play)
    runs(client, server, text, "DO")
    if surveyed:
        play.surveys(server, question(ALL | TIES, ()), a="1")
    assert server.is_idle
    assert client.session.state is (Settings.of({"a": "1"}) if surveyed else BASE)


def test_what_a_procedure_may_have_set_is_undone_for_others(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "call p()", "CALL")
    runs(client, server, "select 1", "SELECT 1")
    before, steps = fence(None, BASE)
    runs(play.client(), server, "select 1", "SELECT 1", before=before, steps=steps)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("select set_config('a.b', '1', false)", frozenset({"a.b"})),
        ("select set_config('a.b', '1', true)", frozenset()),
        ("select set_config(name, '1', false) from t", ALL),
    ],
)
def test_a_call_of_set_config(play: Keeping, text: str, names: frozenset[str]) -> None:
    client, server = served(play)
    runs(client, server, text, "SELECT 1")
    if names:
        play.surveys(server, question(names, ()), a__b="1")
        assert client.session.state is Settings.of({"a.b": "1"})
    assert server.is_idle


def test_the_name_of_an_application_is_known(play: Keeping) -> None:
    client, server = served(play)
    client.sends(query("set application_name = psql"))
    report = parameter_status("application_name", "psql")
    server.answers(query("set application_name = psql"), complete("SET"), report, IDLE)
    client.gets(complete("SET"), report, IDLE)
    assert client.session.facts.application_name == "psql"
    play.surveys(server, question(frozenset({"application_name"}), ()), application_name="psql")


def test_what_the_client_has_called_meanwhile_is_asked_for_again(play: Keeping) -> None:
    """An answer is about what came before its question."""
    client, server = served(play)
    runs(client, server, "set a = 1", "SET")
    call = query("select set_config('b', '2', false)")
    client.sends(call)
    server.gets(question(frozenset({"a"}), ()), call)
    play.surveys(server, b"", a="1")
    assert server.backend.marked_by is client.session
    server.sends(complete("SELECT 1"), IDLE)
    client.gets(complete("SELECT 1"), IDLE)
    play.surveys(server, question(frozenset({"b"}), ()), b="2")
    assert client.session.state is server.backend.state is Settings.of({"a": "1", "b": "2"})
    assert server.backend.marked_by is client.session


# What cannot be set again elsewhere.

ASKED = question(TIES, ())


def finds(play: Keeping, server: Server, *ties: str) -> None:
    """The server is asked what there is, and finds these."""
    server.answers(ASKED, *(row(b"!" + tie.encode(), b"") for tie in ties), complete("SELECT"), IDLE)


def test_a_session_keeps_its_connection_while_something_is_there(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "create temp table t ()", "CREATE TABLE")
    finds(play, server, "temporary object")
    assert client.holds(server) and play.keeper.pins == {"temporary object": 1}
    runs(client, server, "select 1", "SELECT 1")
    assert client.holds(server)
    runs(client, server, "drop table t", "DROP TABLE")
    finds(play, server)
    assert server.is_idle and not server.backend.tied
    runs(client, server, "drop table t", "DROP TABLE")
    assert server.is_idle


def test_a_notification_beside_the_answer_is_for_who_listens(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "listen news", "LISTEN")
    server.gets(ASKED)
    server.sends(row(b"!LISTEN", b""), complete("SELECT 1"), notification(b"news"), IDLE)
    client.gets(notification(b"news"))


def test_several_ties_end_one_by_one(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "select pg_advisory_lock(1)", "SELECT 1")
    finds(play, server, "advisory lock")
    runs(client, server, "listen news", "LISTEN")
    finds(play, server, "advisory lock", "LISTEN")
    assert play.keeper.pins == {"advisory lock": 1, "LISTEN": 1}
    runs(client, server, "select pg_advisory_unlock(1)", "SELECT 1")
    finds(play, server, "LISTEN")
    assert client.holds(server)
    runs(client, server, "unlisten *", "UNLISTEN")
    finds(play, server)
    assert server.is_idle


def test_an_answer_does_not_untie_what_came_behind_its_question(play: Keeping) -> None:
    client, server = served(play)
    lock, unlock = query("select pg_advisory_lock(1)"), query("select pg_advisory_unlock(1)")
    runs(client, server, "select pg_advisory_lock(1)", "SELECT 1")
    finds(play, server, "advisory lock")
    runs(client, server, "select pg_advisory_unlock(1)", "SELECT 1")
    client.sends(lock)
    server.gets(ASKED, lock)
    server.sends(complete("SELECT 0"), IDLE)
    assert server.backend.tied and not server.backend.pinned
    server.sends(complete("SELECT 1"), IDLE)
    client.gets(complete("SELECT 1"), IDLE)
    client.sends(unlock)
    server.gets(ASKED, unlock)
    server.sends(row(b"!advisory lock", b""), complete("SELECT 1"), IDLE, complete("SELECT 1"), IDLE)
    client.gets(complete("SELECT 1"), IDLE)
    finds(play, server)
    assert server.is_idle and play.keeper.pins == {"advisory lock": 2}


def test_what_never_came_to_be_does_not_tie(play: Keeping) -> None:
    client, server = served(play)
    for text, tag in (
        ("begin", "BEGIN"),
        ("create temp table t ()", "CREATE TABLE"),
        ("listen news", "LISTEN"),
    ):
        client.sends(query(text))
        server.answers(query(text), complete(tag), TRANSACTION)
        client.gets(complete(tag), TRANSACTION)
    runs(client, server, "rollback", "ROLLBACK")
    finds(play, server)
    assert server.is_idle and not play.keeper.pins


def test_a_library_stays_loaded(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, "load 'auto_explain'", "LOAD")
    finds(play, server)
    assert client.holds(server) and play.keeper.pins == {"LOAD": 1}


@pytest.mark.parametrize("when", ["before the answer", "after it"])
def test_who_leaves_leaves_nothing_behind(play: Keeping, when: str) -> None:
    client, server = served(play)
    runs(client, server, "select pg_advisory_lock(1)", "SELECT 1")
    if when == "before the answer":
        client.leaves()
        server.answers((ASKED, query("DISCARD ALL")), row(b"!advisory lock", b""), complete("SELECT"), IDLE)
    else:
        finds(play, server, "advisory lock")
        client.leaves()
        server.gets(query("DISCARD ALL"))
    assert server.backend.resetting
    server.sends(complete("DISCARD ALL"), IDLE)
    assert server.is_idle and not server.backend.tied


def test_in_session_mode_nothing_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Keeping(mode="session")
    monkeypatch.setattr("pgambassador.net.openings.time", SimpleNamespace(monotonic=play.loop.time))
    client, server = served(play)
    for text, tag in (
        ("create temp table t ()", "CREATE TABLE"),
        ("listen news", "LISTEN"),
        ("load 'x'", "LOAD"),
    ):
        runs(client, server, text, tag)
    server.gets_nothing()
    play.end()


def test_in_session_mode_only_a_reset_needs_to_be_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Keeping(mode="session")
    monkeypatch.setattr("pgambassador.net.openings.time", SimpleNamespace(monotonic=play.loop.time))
    client, server = served(play, STARTED)
    resets(client, server, "reset a", "RESET")
    server.answers(question(RESTORED, (), STARTED.values), row(b"1"), row(b"CET"), complete("SELECT 2"), IDLE)
    runs(client, server, "set a = 2", "SET")
    server.gets_nothing()
    resets(client, server, "reset b", "RESET")
    play.surveys(server, question(ALL, STARTED.values, STARTED.values), a="2", timezone="CET", role="none")
    runs(client, server, "select 1", "SELECT 1")
    play.end()


def test_who_needs_a_database_for_itself_gets_it(play: Keeping) -> None:
    """A server refuses to drop what anybody is connected to, idle connections of a pool included."""
    client, server = served(play)
    for text in (
        "drop database if exists shop",
        'CREATE DATABASE "copy" template shop',
        "alter database shop rename to x",
    ):
        runs(client, server, text, "X")
    runs(client, server, "select current_database()", "SELECT 1")
    assert [text.split()[0].lower() for text in play.vacated] == [b"drop", b"create", b"alter"]
    play.does(lambda: play.keeper.retire_idle("dropped"))
    server.gets_end(TERMINATE)
    assert play.keeper.closed == {"dropped": 1}


def test_who_has_set_much_keeps_its_connection_until_it_has_not(
    play: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgambassador.protocol.settings.LARGE", 1000)
    client, server = served(play)
    runs(client, server, "set a.b = 1", "SET")
    play.surveys(server, question(frozenset({"a.b"}), ()), a__b="x" * 1000)
    assert client.session.facts.ties == {"large settings"} and client.holds(server)
    runs(client, server, "set a.c = 1", "SET")  # it is not asked again for that
    resets(client, server, "reset all", "RESET")
    play.surveys(server, question(ALL | {"a.b", "a.c"}, ["a.b"]), a__b="")
    assert server.is_idle


def test_more_than_can_be_asked_for_keeps_the_connection(play: Keeping) -> None:
    client, server = served(play)
    client.sends(query("begin"))
    server.answers(query("begin"), complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    for number in range(2_001):
        assert not server.backend.pinned
        assert len(client.session.facts.doubts) == number
        text = f"set a.b{number} = 1"
        client.sends(query(text))
        server.answers(query(text), complete("SET"), TRANSACTION)
        client.gets(complete("SET"), TRANSACTION)
    assert server.backend.pinned and client.session.facts.ties == {"unknown settings"}


def test_a_very_long_name_is_not_asked_for(play: Keeping) -> None:
    client, server = served(play)
    runs(client, server, f"set a.{'b' * 300} = 1", "SET")
    play.surveys(server, question(ALL, ()))
    assert server.backend.pinned and client.session.facts.ties == {"unknown settings"}


def test_of_a_very_long_block_anything_is_believed(play: Keeping) -> None:
    client, server = served(play)
    text = b"do $$ begin " + b"x " * 40_000 + b" end $$"
    client.sends(parse(b"", text), bind(b""), execute(), SYNC)
    done = PARSE_COMPLETE, BIND_COMPLETE, complete("DO"), IDLE
    server.answers((parse(b"", text), bind(b""), execute(), SYNC), *done)
    client.gets(*done)
    play.surveys(server, question(ALL | TIES, ()))
