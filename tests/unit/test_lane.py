"""Who gets which connection, and what adds up."""

from __future__ import annotations

import time

import pytest

from pgambassador.net.backend import Backend
from pgambassador.net.lane import Borrower, Lane
from tests.messages import IDLE, TERMINATE, complete, fatal, notice, parameter_status, query
from tests.playbook import Client, MakePlay, Playbook, Server
from tests.policies import Policy

QUERY = query("x")
DONE = (complete("X"), IDLE)


def serve(server: Server, client: Client) -> None:
    server.answers(QUERY, *DONE)
    client.gets(*DONE)


def let_a_moment_pass(server: Server) -> None:
    """A connection that has just become idle is believed to live; the lane has its own clock."""
    while time.monotonic() <= server.backend.freed_at + 0.011:
        pass


def test_first_come_first_served(play: Playbook) -> None:
    clients = [play.client() for _ in range(4)]
    for each in clients:
        each.sends(QUERY)
    assert play.lane.waiting == 4
    assert play.lane.first_waiting() is clients[0].session
    server = play.server()
    for each in clients:
        serve(server, each)
    assert play.lane.waiting == 0
    assert sum(play.lane.wait_histogram) == 4


def test_who_gave_up_is_skipped(play: Playbook) -> None:
    first, second, third = (play.client() for _ in range(3))
    for each in (first, second, third):
        each.sends(QUERY)
    first.leaves()
    play.lane.forgo(second.session)
    assert play.lane.waiting == 1
    assert play.lane.first_waiting() is third.session
    serve(play.server(), third)
    assert not second.session.waiting
    assert play.lane.first_waiting() is None


def test_giving_up_twice_counts_once(play: Playbook) -> None:
    client = play.client()
    client.sends(QUERY)
    play.lane.forgo(client.session)
    play.lane.forgo(client.session)
    assert play.lane.waiting == 0


def test_the_policy_hears_of_a_need_only_below_the_limit(plays: MakePlay) -> None:
    play = plays(limit=2)
    first, second, third = (play.client() for _ in range(3))
    server = play.server()
    first.sends(QUERY)
    assert play.policy.heard == []
    second.sends(QUERY)
    assert play.policy.heard == [("wanted",)]
    other = play.server()
    third.sends(QUERY)
    assert play.policy.heard == [("wanted",)]
    serve(server, first)
    serve(other, second)
    serve(server, third)


def test_the_connection_used_last_is_used_next(plays: MakePlay) -> None:
    play = plays(limit=3)
    client = play.client()
    servers = [play.server() for _ in range(3)]
    for _ in range(3):
        client.sends(QUERY)
        serve(servers[2], client)
    assert [each.backend for each in servers] == play.lane.idle


def test_a_dead_idle_connection_is_never_handed_out(plays: MakePlay) -> None:
    """Its end has not been seen by the event loop yet."""
    play = plays(limit=2)
    client = play.client()
    living, dead = play.server(), play.server()
    let_a_moment_pass(dead)
    dead.sock.send(fatal())
    dead.sock.close()
    dead.gone = True
    client.sock.send(QUERY)
    client.session.on_readable()
    assert client.holds(living)
    play.loop.run()
    assert play.lane.total == 1
    serve(living, client)


def test_all_dead(plays: MakePlay) -> None:
    play = plays(limit=2)
    client = play.client()
    for _ in range(2):
        server = play.server()
        let_a_moment_pass(server)
        server.sock.close()
        server.gone = True
    client.sock.send(QUERY)
    client.session.on_readable()
    assert client.session.waiting
    assert play.lane.total == 0
    assert play.policy.count("wanted") == 1
    serve(play.server(), client)


@pytest.mark.parametrize("harmless", [parameter_status("TimeZone", "UTC"), notice("reloaded")])
def test_an_idle_connection_that_has_said_something_harmless(play: Playbook, harmless: bytes) -> None:
    client, server = play.client(), play.server()
    let_a_moment_pass(server)
    server.sock.send(harmless)
    client.sock.send(QUERY)
    client.session.on_readable()
    assert client.holds(server)
    serve(server, client)


def test_borrowing(play: Playbook) -> None:
    got: list[Backend | None] = []
    client, server = play.client(), play.server()
    play.lane.borrow(Borrower(got.append))
    assert got == [server.backend]
    assert play.lane.active == 1
    client.sends(QUERY)
    assert client.session.waiting
    server.backend.ask(b"", 0)
    serve(server, client)


def test_borrowing_in_turn(play: Playbook) -> None:
    got: list[Backend | None] = []
    first, second = play.client(), play.client()
    first.sends(QUERY)
    borrower = Borrower(got.append)
    play.lane.borrow(borrower)
    second.sends(QUERY)
    assert borrower.waiting
    server = play.server()
    assert got == []
    serve(server, first)
    assert got == [server.backend]
    server.backend.ask(b"", 0)
    serve(server, second)


def test_a_borrower_that_gave_up(play: Playbook) -> None:
    borrower = Borrower(lambda backend: pytest.fail("granted"))
    play.lane.borrow(borrower)
    play.lane.forgo(borrower)
    assert play.server().is_idle


def test_who_borrows_for_us_is_no_client_that_waits(play: Playbook) -> None:
    """What is shown of the queue is about clients; the pool itself goes by all who wait."""
    client = play.client()
    client.sends(QUERY)
    asking, gone = (Borrower(lambda backend: backend.ask(b"", 0) if backend else None) for _ in range(2))
    for each in (gone, asking):
        play.lane.borrow(each)
    assert (play.lane.waiting, play.lane.clients_waiting) == (3, 1)
    play.lane.forgo(gone)
    assert (play.lane.waiting, play.lane.clients_waiting) == (2, 1)
    client.leaves()
    assert (play.lane.waiting, play.lane.clients_waiting) == (1, 0)
    server = play.server()
    assert (play.lane.waiting, play.lane.clients_waiting) == (0, 0)
    assert sum(play.lane.wait_histogram) == 0
    server.backend.close("over")
    server.gets_end(TERMINATE)
    play.lane.borrow(asking)
    assert (play.lane.waiting, play.lane.clients_waiting) == (1, 0)


def test_a_retiring_connection_does_not_come_back(play: Playbook) -> None:
    client, server = play.client(), play.server()
    client.sends(QUERY)
    server.backend.retiring = True
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    server.gets_end(TERMINATE)
    assert play.lane.total == 0


def test_of_a_contested_lane_the_policy_says_what_becomes_of_each_connection(play: Playbook) -> None:
    client, other, server = play.client(), play.client(), play.server()
    client.sends(QUERY)
    serve(server, client)
    assert play.policy.count("yields") == 0
    play.lane.contested = True
    client.sends(QUERY)
    serve(server, client)
    assert (play.policy.count("yields"), server.is_idle) == (1, True)
    play.policy.generous = True
    client.sends(QUERY)
    other.sends(QUERY)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    server.gets_end(TERMINATE)
    assert (play.policy.count("yields"), play.lane.total, play.lane.waiting) == (2, 0, 1)


def test_clients_are_counted(play: Playbook) -> None:
    clients = [play.client() for _ in range(3)]
    assert play.lane.sessions == 3
    clients[0].sends(TERMINATE)
    clients[0].gets_end()
    clients[1].leaves()
    assert play.lane.sessions == 1


def test_histograms() -> None:
    lane = Lane(Policy(), tuple(0.1 * i for i in range(1, 33)), 1, False, 1)
    assert lane.query_histogram == lane.wait_histogram == (0,) * 33
    with pytest.raises(ValueError, match="at most 32"):
        Lane(Policy(), tuple(0.1 * i for i in range(33)), 1, False, 1)


def test_waiting_is_measured(play: Playbook) -> None:
    client = play.client()
    client.sends(QUERY)
    waits: list[float] = []
    play.lane.sink = lambda session, note, seconds, waited, rows, sqlstate: waits.append(waited)
    play.lane.slow = 0.0
    server = play.server()
    serve(server, client)
    client.sends(QUERY)
    serve(server, client)
    assert waits[0] == play.lane.wait_seconds > 0
    assert waits[1] == 0


def test_repr_reads_like_a_log(play: Playbook) -> None:
    assert repr(play.lane) == "<Lane 0 active, 0 idle | 0 waiting>"
    client, other = play.client(), play.client()
    client.sends(QUERY)
    other.sends(QUERY)
    assert repr(play.lane) == "<Lane 0 active, 0 idle | 2 waiting>"
    server = play.server()
    assert repr(play.lane) == "<Lane 1 active, 0 idle | 1 waiting>"
    serve(server, client)
    serve(server, other)
    assert repr(play.lane) == "<Lane 0 active, 1 idle | 0 waiting>"
