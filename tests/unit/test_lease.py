"""Two pools of one cluster that share a limit, over socket pairs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgambassador.errors import Unreachable
from pgambassador.net import lease, patience
from pgambassador.pool.commons import Cap, Commons
from tests.keeping import Keeping
from tests.loop import Loop
from tests.messages import IDLE, TERMINATE, complete, query
from tests.playbook import Client, Server

QUERY = query("x")
DONE = (complete("X"), IDLE)


class Two:
    """Pools `a` and `b`; `cap` is for both."""

    def __init__(self, most: int) -> None:
        self.cap, self.commons = Cap("clusters.main.max_connections", "cluster main", most), Commons()
        loop = Loop()
        self.a, self.b = (Keeping(size=5, loop=loop, commons=self.commons, caps=[self.cap]) for _ in "ab")

    def end(self) -> None:
        for each in (self.a, self.b):
            assert each.keeper.lease is not None
            each.keeper.lease.stop()
            each.end()


@pytest.fixture
def two() -> Iterator[Two]:
    made = Two(1)
    yield made
    made.end()


def served(play: Keeping) -> tuple[Client, Server]:
    client = play.client()
    client.sends(QUERY)
    server = play.opens()
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    return client, server


def contested(play: Keeping) -> bool:
    return play.lane.contested


def unused(play: Keeping) -> bool:
    return play.keeper.unused


def test_a_place_is_free_when_the_server_has_let_go(two: Two) -> None:
    _, server = served(two.a)
    client = two.b.client()
    two.b.does(lambda: client.sends(QUERY))
    server.read_all()
    two.a.loop.run()
    assert (two.a.lane.total, two.cap.used, two.cap.leaving) == (0, 1, 1)
    assert (two.b.keeper.opening, two.b.upstream.openings) == (0, [])
    server.leaves()
    two.a.loop.run()
    two.b.loop.run()
    assert (two.cap.used, two.cap.leaving, two.b.keeper.opening) == (1, 0, 1)
    two.b.opens().answers(QUERY, *DONE)
    client.gets(*DONE)


def test_a_server_that_never_lets_go(two: Two) -> None:
    _, server = served(two.a)
    client = two.b.client()
    two.b.does(lambda: client.sends(QUERY))
    two.a.ticks(later=lease.PATIENCE - 1)
    assert two.cap.leaving == 1
    two.a.ticks(later=lease.PATIENCE + 1)
    two.b.loop.run()
    assert (two.cap.leaving, two.b.keeper.opening) == (0, 1)
    server.read_all()


def test_a_busy_connection_goes_to_who_waits_when_it_is_done(two: Two) -> None:
    client, server = served(two.a)
    client.sends(QUERY)
    other = two.b.client()
    two.b.does(lambda: other.sends(QUERY))
    assert contested(two.a)
    server.answers(QUERY, *DONE)
    client.gets(*DONE)
    server.gets(TERMINATE)
    server.leaves()
    two.a.loop.run()
    two.b.loop.run()
    assert two.b.keeper.opening == 1
    two.b.opens().answers(QUERY, *DONE)
    other.gets(*DONE)
    assert not contested(two.a)
    assert two.a.keeper.closed == {"another pool's turn": 1}


def test_who_waits_in_vain_hears_of_the_limit(two: Two) -> None:
    client, server = served(two.a)
    client.sends(QUERY)
    server.gets(QUERY)
    other = two.b.client()
    two.b.does(lambda: other.sends(QUERY))
    assert patience.shares(two.b.keeper)
    two.b.ticks(later=6)
    notice = other.read_all()
    assert notice[:1] == b"N" and b"clusters.main.max_connections" in notice
    two.b.ticks(later=121)
    told = other.read_all()
    assert b"C53300" in told and b"All 1 of cluster main" in told
    server.sends(*DONE)
    client.gets(*DONE)


def test_a_connection_that_does_not_come_about_gives_its_place_back(two: Two) -> None:
    client = two.a.client()
    client.sends(QUERY)
    assert two.cap.used == 1
    two.a.fails(Unreachable("down"))
    client.read_all()
    assert two.cap.used == 0
    other = two.b.client()
    two.b.does(lambda: other.sends(QUERY))
    two.b.opens().answers(QUERY, *DONE)
    other.gets(*DONE)


def test_a_pool_is_used_while_something_leaves(two: Two) -> None:
    client, server = served(two.a)
    client.sends(TERMINATE)
    client.gets_end()
    two.a.does(lambda: two.a.keeper.retire_idle("test"))
    two.a.keeper.clients.clear()
    server.gets(TERMINATE)
    assert not unused(two.a)
    server.leaves()
    two.a.loop.run()
    assert unused(two.a)
    assert two.a.keeper.lease is not None
    two.a.keeper.lease.end()
    assert list(two.cap.members) == [two.b.keeper.lease]
