"""What a client is told at its login."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from pgambassador.errors import ServerRefused, Unreachable
from pgambassador.net.backend import Backend
from pgambassador.net.greeting import BASE
from pgambassador.net.lane import Borrower
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
    assert first.result() == (BASE, PARAMETERS)
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
    assert [task.result() for task in tasks] == [(BASE, PARAMETERS)] * 2
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
    assert task.result() == (Settings.of({"timezone": "CET"}), told)
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
    settings, told = task.result()
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
    assert task.result() == (
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
    assert task.result() == (Settings.of({"timezone": "CET"}), {**PARAMETERS, "TimeZone": "CET"})


def test_another_version_of_the_server_is_asked_again(play: Keeping, server: Server) -> None:
    task = play.greets(Settings.of({"timezone": "CET"}))
    agrees(server, parameter_status("TimeZone", "CET"))
    assert task.result()
    server.leaves()
    client = play.client()
    client.sends(query("x"))
    newer = play.opens({**PARAMETERS, "server_version": "19.0"})
    newer.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    task = play.greets(Settings.of({"timezone": "CET"}))
    agrees(newer, parameter_status("TimeZone", "CET"))
    assert task.result()[1]["server_version"] == "19.0"
