"""Who goes when the queue of a pool is full, and who comes first in it."""

from __future__ import annotations

from typing import Any

from pgambassador.wire import parse
from tests.keeping import Keeping
from tests.messages import IDLE, complete, query
from tests.playbook import Client, Server

QUERY = query("x")
DONE = (complete("X"), IDLE)


class Full(Keeping):
    """Clients come with a priority; `refused` are those that have been told so."""

    def comes(self, priority: int = 0) -> Client:
        client = self.client()
        client.session.priority = priority
        return client

    def asks(self, priority: int = 0) -> Client:
        client = self.comes(priority)
        client.sends(QUERY)
        return client


def refused(client: Client) -> bool:
    if client.session.waiting:
        return False
    data: Any = client.read()
    fields = parse.fields(data[5:])
    assert fields["C"] == "53300"
    assert "too many clients wait" in fields["M"]
    assert "pool.max_waiting" in fields["H"]
    assert data.endswith(IDLE)
    return True


def serve(server: Server, *clients: Client) -> None:
    for each in clients:
        server.answers(QUERY, *DONE)
        each.gets(*DONE)


def test_the_newest_is_refused_and_keeps_its_session() -> None:
    play = Full(max_waiting=2)
    first, second, third = (play.asks() for _ in range(3))
    assert refused(third)
    assert play.keeper.shed == 1
    assert play.lane.waiting == 2
    server = play.opens()
    serve(server, first, second)
    third.sends(QUERY)
    serve(server, third)
    play.end()


def test_one_of_a_lower_priority_goes_first() -> None:
    play = Full(max_waiting=3)
    old, new, normal = play.asks(-1), play.asks(-1), play.asks()
    high = play.asks(1)
    assert refused(new)
    other = play.asks()
    assert refused(old)
    late = play.asks(-1)
    assert refused(late)
    last = play.asks(1)
    assert refused(other)
    assert play.lane.waiting == 3
    assert play.keeper.shed == 4
    serve(play.opens(), high, last, normal)
    play.end()


def test_what_it_has_sent_ahead_takes_no_other_place() -> None:
    play = Full(max_waiting=1)
    low = play.comes(-1)
    low.sends(QUERY, QUERY, QUERY)
    high = play.asks(1)
    assert play.lane.waiting == 1
    assert not low.session.waiting
    assert play.keeper.shed == 3
    low.read()
    serve(play.opens(), high)
    play.end()


def test_high_is_served_before_normal_before_low() -> None:
    play = Full()
    low, normal, high, other = play.asks(-1), play.asks(), play.asks(1), play.asks(1)
    assert play.lane.first_waiting() is low.session
    assert [len(list(queue)) for queue in play.lane.queues()] == [2, 1, 1]
    server = play.opens()
    serve(server, high, other, normal, low)
    assert play.lane.first_waiting() is None
    assert len(play.lane.queues()) == 1
    play.end()


def test_who_gave_up_leaves_the_order_as_it_was() -> None:
    play = Full()
    low, high, normal = play.asks(-1), play.asks(1), play.asks()
    high.leaves()
    server = play.opens()
    serve(server, normal, low)
    play.end()
