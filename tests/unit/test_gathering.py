"""Clients that speak in one turn of the reactor, while connections are idle: they need not have one each."""

from __future__ import annotations

import select
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pgambassador.net.reactor import Reactor
from tests.crowd import READ, Queue, answer, answers, extended, extended_answer, heard, one, part
from tests.loop import Loop
from tests.messages import IDLE, SYNC, complete, query
from tests.playbook import Client, Playbook, Server
from tests.policies import Routed

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has no epoll")

SQL = b"select mark"
ASKED = extended(SQL)


class Reacting(Loop):
    """Sockets are read by a reactor."""

    def __init__(self) -> None:
        super().__init__()
        self._reactor: Reactor | None = None
        self._reactor = Reactor(cast(Any, self), Reactor(cast(Any, self)))

    def add_reader(self, fd: int, call: Any, *args: object) -> None:
        if self._reactor is None:
            super().add_reader(fd, call, *args)
        else:
            self._reactor.add_reader(fd, call)

    def remove_reader(self, fd: int) -> bool:
        if fd in self.readers:
            return super().remove_reader(fd)
        assert self._reactor is not None
        self._reactor.remove_reader(fd)
        return True

    def close(self) -> None:
        assert self._reactor is not None
        self._reactor.close()


@pytest.fixture
def play() -> Iterator[Playbook]:
    loop = Reacting()
    play = Playbook(policy=Routed(), limit=3, loop=loop)
    play.lane.batching = True
    play.lane.together = 60.0
    play.lane.at_work = 100.0
    yield play
    play.end()
    loop.close()


@pytest.fixture
def servers(play: Playbook) -> list[Server]:
    """Three of them, idle; the statement is known to be brief."""
    play.lane.limit = 1
    queue = Queue(play)
    queue.moves()
    takes(play, 1e-6)
    play.lane.limit = 3
    queue.holder.leaves()
    return [queue.server, play.server(), play.server()]


def takes(play: Playbook, seconds: float) -> None:
    """So long is a server busy with the statement."""
    for _ in range(1000):
        play.policy.routes.verdicts.of(SQL).took(seconds, True, False)


def speak(play: Playbook, clients: list[Client], *asked: bytes) -> None:
    """All of them at once."""
    for client, each in zip(clients, asked, strict=True):
        client.sock.send(each)
    play.loop.run()


def test_they_share_one(play: Playbook, servers: list[Server]) -> None:
    clients = [play.client() for _ in range(3)]
    speak(play, clients, ASKED, ASKED, READ)
    servers[2].answers((heard(2), SYNC, READ), answers(b"0", b"1"), IDLE, answer(b"2"))
    clients[0].gets(extended_answer(b"0"))
    clients[1].gets(extended_answer(b"1"))
    clients[2].gets(answer(b"2"))
    assert len(play.lane.idle) == 3 and play.lane.waiting == 0
    assert play.lane.batched == 3
    # They did not wait.
    assert sum(play.lane.wait_histogram[1:]) == 0


def test_few_have_one_each(play: Playbook, servers: list[Server]) -> None:
    """Until there have been more lately."""
    play.lane.at_work = 0.0
    clients = [play.client() for _ in range(3)]
    speak(play, clients, READ, READ, READ)
    for client, server in zip(clients, reversed(servers), strict=True):
        server.answers(READ, answer(b"x"))
        client.gets(answer(b"x"))
    many = [*clients, play.client(), play.client()]
    speak(play, many, *([READ] * 5))
    servers[0].answers(one(*[READ] * 5), *[part(b"y")] * 5, IDLE)
    for client in many:
        client.gets(answer(b"y"))
    assert 4 < play.lane.at_work <= 5


def test_who_speaks_alone_goes_at_once(play: Playbook, servers: list[Server]) -> None:
    client = play.client()
    client.sends(READ)
    servers[2].answers(READ, answer(b"1"))
    client.gets(answer(b"1"))
    assert play.lane.batches == 0 and not play.lane.waiting


def test_who_may_not_share_has_one_of_its_own(play: Playbook, servers: list[Server]) -> None:
    clients = [play.client() for _ in range(3)]
    speak(play, clients, READ, query("write"), READ)
    servers[2].answers(query("write"), complete("WRITE"), IDLE)
    servers[1].answers(one(READ, READ), part(b"0"), part(b"2"), IDLE)
    clients[0].gets(answer(b"0"))
    clients[1].gets(complete("WRITE"), IDLE)
    clients[2].gets(answer(b"2"))


def test_those_in_another_state_have_one_of_their_own(play: Playbook, servers: list[Server]) -> None:
    clients = [play.client(), play.client("else"), play.client()]
    speak(play, clients, READ, READ, READ)
    servers[2].answers(READ, answer(b"0"))
    clients[0].gets(answer(b"0"))
    read = servers[1].read_all()
    assert read.endswith(READ) and b"else" in read
    servers[0].answers(READ, answer(b"2"))
    clients[2].gets(answer(b"2"))
    servers[1].leaves()
    clients[1].read_all()


def test_more_than_go_together_have_several(play: Playbook, servers: list[Server]) -> None:
    clients = [play.client() for _ in range(10)]
    speak(play, clients, *([READ] * 10))
    servers[2].answers(one(*[READ] * 8), *(part(b"%d" % number) for number in range(8)), IDLE)
    servers[1].answers(one(READ, READ), part(b"8"), part(b"9"), IDLE)
    for number, client in enumerate(clients):
        client.gets(answer(b"%d" % number))


def test_of_very_many_a_third_goes_together(play: Playbook, servers: list[Server]) -> None:
    """Of all who share a connection then, so that three servers' processes are at work."""
    before = [play.client() for _ in range(10)]
    speak(play, before, *([READ] * 10))
    clients = [play.client() for _ in range(20)]
    speak(play, clients, *([READ] * 20))
    servers[0].answers(one(*[READ] * 10), *(part(b"%d" % number) for number in range(10)), IDLE)
    for number, client in enumerate(clients[:10]):
        client.gets(answer(b"%d" % number))
    for client in (*before, *clients[10:]):
        client.gets_nothing()
    for server in servers:
        server.leaves()


def test_no_more_than_are_soon_done_go_together(play: Playbook, servers: list[Server]) -> None:
    takes(play, 0.001)
    clients = [play.client() for _ in range(4)]
    speak(play, clients, *([READ] * 4))
    for first in (0, 2):
        servers[2 - first // 2].answers(one(READ, READ), part(b"%d" % first), part(b"%d" % (first + 1)), IDLE)
    for number, client in enumerate(clients):
        client.gets(answer(b"%d" % number))


def test_more_than_there_are_connections_for_wait(play: Playbook, servers: list[Server]) -> None:
    for server in servers[1:]:
        server.leaves()
    play.lane.limit = 1
    clients = [play.client() for _ in range(9)]
    speak(play, clients, *([READ] * 9))
    servers[0].answers(one(*[READ] * 8), *(part(b"%d" % number) for number in range(8)), IDLE)
    servers[0].answers(READ, answer(b"8"))
    for number, client in enumerate(clients):
        client.gets(answer(b"%d" % number))


def test_who_leaves_in_the_same_turn_is_not_asked_for(play: Playbook, servers: list[Server]) -> None:
    clients = [play.client() for _ in range(3)]
    last = clients[2]
    # Hearing of another ends it, before the turn is over.
    clients[1].session.policy.left = lambda session, reason: last.session.close("too")
    clients[1].sock.close()
    clients[1].gone = True
    speak(play, [clients[0], last], READ, READ)
    servers[2].answers(READ, answer(b"0"))
    clients[0].gets(answer(b"0"))
    assert not play.lane.waiting


def test_a_switch_turns_it_off(play: Playbook, servers: list[Server]) -> None:
    play.lane.batching = False
    clients = [play.client() for _ in range(2)]
    speak(play, clients, READ, READ)
    for client, server in zip(clients, (servers[2], servers[1]), strict=True):
        server.answers(READ, answer(b"x"))
        client.gets(answer(b"x"))
