"""What a client is told at its login."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pgambassador.config.failover import Failover
from pgambassador.errors import ServerRefused, Unreachable
from pgambassador.net.backend import Backend
from pgambassador.net.greeting import BASE, reports_of
from pgambassador.net.lane import Borrower
from pgambassador.net.memoirs import Memoirs
from pgambassador.protocol.settings import Settings, fence
from tests.keeping import PARAMETERS, Keeping
from tests.messages import IDLE, complete, error, parameter_status, query
from tests.playbook import Server
from tests.policies import AGREED

DOWN = Unreachable("db.example refused the connection")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    keeping = Keeping()
    monkeypatch.setattr("pgambassador.net.openings.time", SimpleNamespace(monotonic=keeping.loop.time))
    yield keeping
    keeping.end()


@pytest.fixture
def server(play: Keeping) -> Server:
    """The pool has been used."""
    first = play.greets()
    server = play.opens()
    assert first.result()[:2] == (BASE, PARAMETERS)
    return server


def agrees(server: Server, *reported: bytes) -> None:
    """The server takes whatever it was asked to set."""
    asked = server.read_all()
    assert asked.startswith(b"Q")
    server.sends(complete("SELECT 1"), *reported, IDLE)


def test_the_first_client_waits_for_the_first_connection(play: Keeping) -> None:
    tasks = [play.greets(), play.greets()]
    assert not any(task.done() for task in tasks)
    assert (play.keeper.greeting.waiting, len(play.upstream.openings)) == (2, 1)
    play.opens()
    assert [task.result()[:2] for task in tasks] == [(BASE, PARAMETERS)] * 2
    assert play.keeper.greeting.waiting == 0


def test_and_hears_why_there_is_none(play: Keeping) -> None:
    task = play.greets()
    play.fails(DOWN)
    assert task.exception() is DOWN


def test_who_comes_right_behind_a_failure_hears_the_same(play: Keeping) -> None:
    play.greets().add_done_callback(lambda task: task.exception())
    play.fails(DOWN)
    task = play.greets()
    assert task.exception() is DOWN
    assert play.upstream.openings == []
    play.loop.pass_time(1)
    assert not play.greets().done()


def test_who_gives_up_is_not_waited_for(play: Keeping) -> None:
    task = play.greets()
    task.cancel()
    play.loop.run()
    assert play.keeper.greeting.waiting == 0


def test_settings_are_tried_out_once(play: Keeping, server: Server) -> None:
    settings = Settings.of({"timezone": "cet"})
    task = play.greets(settings)
    agrees(server, parameter_status("TimeZone", "CET"))
    told = {**PARAMETERS, "TimeZone": "CET"}
    assert task.result()[:2] == (Settings.of({"timezone": "CET"}), told)
    assert server.is_idle
    again = play.greets(settings)
    server.gets_nothing()
    assert again.result() == task.result()


def test_a_setting_that_the_server_refuses(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"timezone": "nowhere"}))
    server.read_all()
    server.sends(error("22023", "invalid value for parameter"), IDLE)
    refusal = task.exception()
    assert isinstance(refusal, ServerRefused)
    assert (refusal.sqlstate, refusal.message) == ("22023", "invalid value for parameter")
    assert server.is_idle
    # It is asked again: a setting may be made possible meanwhile.
    task = play.greets(Settings.of({"timezone": "nowhere"}))
    agrees(server)
    assert task.result()


def test_what_equals_the_servers_own_costs_nothing_later(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"timezone": "utc"}))
    agrees(server)
    settings, told, reports = task.result()
    assert reports == reports_of(told)
    assert (settings, told) == (Settings.of({"timezone": "UTC"}), PARAMETERS)
    other, client = play.client(), play.client(settings)
    change, steps = fence(Settings.of({"timezone": "utc"}), BASE)  # the trial is undone once
    for each in (other, client, other, client):
        each.sends(query("x"))
        server.answers((change, query("x")), steps * AGREED, complete("X"), IDLE)
        each.gets(complete("X"), IDLE)
        change, steps = b"", 0


def test_the_name_of_an_application_needs_no_trial(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"application_name": "psql"}))
    server.gets_nothing()
    assert task.result()[:2] == (
        Settings.of({"application_name": "psql"}),
        {**PARAMETERS, "application_name": "psql"},
    )


def test_unless_the_server_would_spell_it_otherwise(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"application_name": "caf\u00e9"}))
    agrees(server, parameter_status("application_name", r"caf\xc3\xa9"))
    assert task.result()[1]["application_name"] == r"caf\xc3\xa9"


def test_a_trial_waits_its_turn(play: Keeping, server: Server) -> None:
    client = play.client()
    client.sends(query("x"))
    server.gets(query("x"))
    task = play.greets(Settings.of({"timezone": "CET"}))
    server.gets_nothing()
    server.sends(complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    agrees(server, parameter_status("TimeZone", "CET"))
    assert task.result()


def test_a_login_that_ends_while_it_waits_for_its_trial(play: Keeping, server: Server) -> None:
    client = play.client()
    client.sends(query("x"))
    server.gets(query("x"))
    task = play.greets(Settings.of({"timezone": "CET"}))
    task.cancel()
    play.loop.run()
    server.sends(complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    assert server.is_idle
    with pytest.raises(asyncio.CancelledError):
        task.result()


def test_a_login_that_ends_during_its_trial(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"timezone": "CET"}))
    task.cancel()
    play.loop.run()
    agrees(server, parameter_status("TimeZone", "CET"))
    assert server.is_idle


def test_a_connection_lost_during_a_trial(play: Keeping, server: Server) -> None:
    """It says nothing about the settings: another connection is asked, but not for ever."""
    task = play.greets(Settings.of({"timezone": "CET"}))
    for _ in range(2):
        server.read_all()
        server.leaves()
        assert not task.done()
        server = play.opens()
    server.read_all()
    server.leaves()
    assert isinstance(task.exception(), Unreachable)


def test_what_is_told_is_not_the_next_ones(play: Keeping, server: Server) -> None:
    """The connection goes on at once; what the next one makes of it may come before the login's turn does."""
    task = play.greets(Settings.of({"timezone": "CET"}))

    def next_one(backend: Backend | None) -> None:
        assert backend is server.backend
        backend.parameters["TimeZone"] = "Asia/Tokyo"

    play.does(lambda: play.keeper.lane.borrow(Borrower(next_one)))
    agrees(server, parameter_status("TimeZone", "CET"))
    assert server.backend.parameters["TimeZone"] == "Asia/Tokyo"
    assert task.result()[:2] == (Settings.of({"timezone": "CET"}), {**PARAMETERS, "TimeZone": "CET"})


def test_another_version_of_the_server_is_asked_again(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"timezone": "CET"}))
    agrees(server, parameter_status("TimeZone", "CET"))
    assert task.result()
    server.leaves()
    client = play.client()
    client.sends(query("x"))
    newer = play.opens({**PARAMETERS, "server_version": "19.0"})
    newer.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), parameter_status("server_version", "19.0"), IDLE)
    task = play.greets(Settings.of({"timezone": "CET"}))
    agrees(newer, parameter_status("TimeZone", "CET"))
    assert task.result()[1]["server_version"] == "19.0"


def test_what_was_tried_out_tells_of_what_the_server_says_now(play: Keeping, server: Server) -> None:
    """Of the same version: what was given is as it was, and what was not is as it is now."""
    utc = Settings.of({"timezone": "utc"})
    login = play.greets(utc)
    agrees(server)
    assert login.result()[1] == PARAMETERS
    server.leaves()
    client = play.client()
    client.sends(query("x"))
    play.opens({**PARAMETERS, "TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"}).read_all()
    assert play.greets(utc).result()[1] == {**PARAMETERS, "DateStyle": "German, DMY"}


# --- While a server is away that was never reached ----------------------------------------------------------

AWAY = Unreachable("db.example refused the connection", passing=True)
WRONG = Unreachable("db.example has another certificate")
CET = Settings.of({"timezone": "CET"})
CET_TOLD = {**PARAMETERS, "TimeZone": "CET"}


class Memory:
    """What was known last; `on` as it is configured."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **failover: Any) -> None:
        self.now = 1_700_000_000.0
        self.memoirs = Memoirs({}, {}, True, lambda: self.now)
        memoir = self.memoirs.of("main", "shop", "app")
        assert memoir is not None
        memoir.learn(PARAMETERS)
        memoir.note(CET, {"TimeZone": "CET"})
        self.memoir = memoir
        self.play = Keeping(failover=Failover(**failover))
        self.play.keeper.greeting.memoir = memoir
        clock = SimpleNamespace(monotonic=self.play.loop.time)
        monkeypatch.setattr("pgambassador.net.openings.time", clock)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    memory = Memory(monkeypatch)
    yield memory
    memory.play.end()


def test_what_was_known_is_told_when_the_first_attempt_has_failed(
    memory: Memory, caplog: pytest.LogCaptureFixture
) -> None:
    play, greeting = memory.play, memory.play.keeper.greeting
    plain, cet, stranger = play.greets(), play.greets(CET), play.greets(Settings.of({"timezone": "x"}))
    named = play.greets(CET.with_value("application_name", "psql"))
    assert [each.done() for each in (plain, cet, stranger, named)] == [False] * 4
    play.fails(AWAY)
    assert plain.result()[:2] == (BASE, PARAMETERS)
    assert cet.result()[:2] == (CET, CET_TOLD)
    assert named.result()[1] == {**CET_TOLD, "application_name": "psql"}
    assert not stranger.done() and greeting.waiting == 1
    # It is known now.
    assert play.greets().result()[:2] == (BASE, PARAMETERS)
    assert greeting.remembers and greeting.parameters is None
    assert len([each for each in caplog.records if "said of itself on 2023-11-14" in each.message]) == 1
    assert caplog.records[-1].__dict__["database"] == "shop"


@pytest.mark.parametrize("hold", [None, 10.0])
def test_whether_anybody_is_held_does_not_matter(monkeypatch: pytest.MonkeyPatch, hold: float | None) -> None:
    play = Memory(monkeypatch, hold=hold).play
    login = play.greets()
    play.fails(AWAY)
    assert login.result()[:2] == (BASE, PARAMETERS)
    play.loop.pass_time(11)
    assert play.greets().result()[:2] == (BASE, PARAMETERS)
    play.end()


def test_what_waiting_does_not_mend_is_told(memory: Memory) -> None:
    task = memory.play.greets()
    memory.play.fails(WRONG)
    assert task.exception() is WRONG
    assert memory.play.greets().exception() is WRONG
    assert not memory.play.keeper.greeting.remembers


def test_also_if_the_server_was_away_before(memory: Memory) -> None:
    play = memory.play
    play.client()  # for whom the pool goes on trying
    first = play.greets()
    play.fails(AWAY)
    assert first.result()[:2] == (BASE, PARAMETERS)
    play.loop.pass_time(1)
    play.ticks(1)
    play.fails(WRONG)
    task = play.greets()
    assert task.exception() is WRONG


def test_also_if_others_find_out_that_it_is_away(memory: Memory) -> None:
    """What this pool has heard last is not that."""
    play = memory.play
    first = play.greets()
    play.fails(WRONG)
    assert first.exception() is WRONG
    play.upstream.sick = time.monotonic()
    task = play.greets()
    assert not task.done() and not play.keeper.greeting.remembers


def test_a_breaker_that_is_open_says_it_at_once(memory: Memory) -> None:
    play = memory.play
    play.upstream.admitting, play.upstream.closed = False, AWAY
    assert play.greets(CET).result()[:2] == (CET, CET_TOLD)
    assert play.upstream.openings == []
    assert play.greets(Settings.of({"timezone": "x"})).exception() is AWAY


def test_so_do_other_pools(memory: Memory) -> None:
    memory.play.upstream.sick = memory.play.loop.time()
    assert memory.play.greets(CET).result()[:2] == (CET, CET_TOLD)


@pytest.mark.parametrize("hold", [None, 10.0])
def test_while_it_waits_for_its_own_attempt(monkeypatch: pytest.MonkeyPatch, hold: float | None) -> None:
    play = Memory(monkeypatch, hold=hold).play
    cet, stranger = play.greets(CET), play.greets(Settings.of({"timezone": "x"}))
    assert [cet.done(), stranger.done()] == [False] * 2
    if hold is None:
        play.upstream.closed = AWAY
    else:
        play.upstream.sick = play.loop.time()
    play.ticks()
    assert cet.result()[:2] == (CET, CET_TOLD)
    assert stranger.done() == (hold is None)
    assert hold is not None or stranger.exception() is AWAY
    play.end()


@pytest.mark.parametrize(("on", "later"), [(False, 0.0), (True, 90_000.0)])
def test_who_does_not_want_it_or_it_is_too_old(memory: Memory, on: bool, later: float) -> None:
    memory.memoirs.on = on
    memory.now += later
    login = memory.play.greets()
    memory.play.fails(AWAY)
    assert not login.done()


def test_the_first_connection_is_waited_for_all_the_same(memory: Memory) -> None:
    play = memory.play
    reached = play.loop.create_task(play.keeper.greeting.reached())
    login = play.greets()
    play.fails(AWAY)
    assert login.done() and not reached.done()
    play.loop.pass_time(1)
    play.ticks()
    play.opens()
    assert reached.done() and reached.exception() is None


def test_the_server_speaks_for_itself_again(memory: Memory) -> None:
    play, greeting = memory.play, memory.play.keeper.greeting
    play.greets()
    play.fails(AWAY)
    other, client = play.client(), play.client()
    client.sends(query("x"))
    play.loop.pass_time(1)
    play.ticks()
    told = {**PARAMETERS, "TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"}
    server = play.opens(told)
    assert greeting.parameters == told and not greeting.remembers
    server.answers(query("x"), complete("X"), IDLE)
    news = (parameter_status("TimeZone", "Asia/Tokyo"), parameter_status("DateStyle", "German, DMY"))
    client.gets(complete("X"), *news, IDLE)
    client.sends(query("x"))
    server.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    other.sends(query("y"))
    server.answers(query("y"), complete("Y"), IDLE)
    other.gets(complete("Y"), *news, IDLE)
    # What was tried out before counts for nothing now, and what it is now is remembered.
    again = play.greets(CET)
    agrees(server, parameter_status("TimeZone", "CET"))
    assert again.result()[:2] == (CET, {**told, "TimeZone": "CET"})
    assert memory.memoir.told(BASE) == told


def test_who_does_not_want_it_pays_nothing(memory: Memory) -> None:
    """A login of a pool that knows its settings is one call."""
    play = memory.play
    play.greets()
    play.opens()
    memory.memoirs.on = False
    named = Settings.of({"application_name": "psql"})
    words = play.greets(named).result()
    again = play.keeper.greeting.words(named)
    calls: list[str] = []
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name) if event == "call" else None)
    try:
        again.send(None)
    except StopIteration as answer:
        sys.setprofile(None)
        assert answer.value == words
    finally:
        sys.setprofile(None)
    assert calls == ["words"]


def test_what_is_learnt_is_remembered(memory: Memory) -> None:
    play, memoir = memory.play, memory.memoir
    play.greets()
    server = play.opens()
    settings = Settings.of({"timezone": "cet", "application_name": "psql"})
    login = play.greets(settings)
    agrees(server, parameter_status("TimeZone", "CET"))
    assert login.result()
    assert memoir.told(Settings.of({"timezone": "cet"})) == CET_TOLD
    for number in range(15):
        memoir.note(Settings.of({"lock_timeout": str(number)}), {})
    assert play.greets(settings).result() == login.result()  # and so it is not the oldest
    memoir.note(Settings.of({"lock_timeout": "99"}), {})
    assert memoir.told(Settings.of({"timezone": "cet"})) == CET_TOLD and memoir.told(CET) is None
    memory.now += 1000
    play.keeper.greeting.remind()
    assert memoir.at == memory.now
    server.leaves()
    memory.now += 1000
    play.keeper.greeting.remind()
    assert memoir.at == memory.now - 1000
