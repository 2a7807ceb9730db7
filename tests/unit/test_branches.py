"""Pools on standbys: who takes reads, and where those go who wait when one does not any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from pgambassador.cluster.probe import IDENTITY
from pgambassador.cluster.topology import Server as Member
from pgambassador.cluster.topology import Topology
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config import Cluster, Pool
from pgambassador.config.routing import Routing
from pgambassador.config.secret import Secret
from pgambassador.errors import Unreachable
from pgambassador.net.branch import Branch
from pgambassador.net.branches import Branches
from pgambassador.net.statements import Statements
from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.routing.decision import Decision
from tests.keeping import PARAMETERS, Keeping, Upstream
from tests.messages import IDLE, complete, query, row
from tests.playbook import Server

A, B, C = Endpoint("a"), Endpoint("b"), Endpoint("c")
PRIMARY = Member(A, "primary", True, life=1)
READ = query("select mark")
DONE = (complete("SELECT 0"), IDLE)
GONE = Unreachable("nobody answers")


class Origin:
    def prefer(self, endpoint: object) -> None: ...


class Splitting(Keeping):
    """A pool on the primary, and those that the picture of the servers asks for beside it."""

    def __init__(self, **routing: Any) -> None:
        super().__init__(idle_timeout=1e5)
        self.routing = Routing(**routing)
        self.branches = Branches(
            "main", Cluster(url=Secret("postgresql://app@a,b,c/shop"), routing=self.routing)
        )
        self.branches.watch.start = lambda: None  # type: ignore[method-assign]
        self.lives: dict[int, bool] = {}
        self.origins: dict[Endpoint, Upstream] = {}
        self.keeper.routes.circle = lambda session: cast(Any, self)  # type: ignore[method-assign]
        self.verdicts = Verdicts(self._judge)
        self.route = None
        self.does(lambda: self.branches.adopt(self.keeper, cast(Any, Origin()), self._make))

    def _judge(self, text: bytes) -> Verdict:
        reads = text.startswith(b"select")
        return Verdict(Decision("read" if reads else "write", "replica" if reads else "primary", "so it is"))

    def _make(self, endpoint: Endpoint, recognises: Any) -> Branch:
        self.origins[endpoint] = Upstream(self.loop)
        branch = Branch(
            self.keeper,
            lambda life: self.lives.get(life, True),
            cluster="main",
            database="shop",
            user="app",
            config=Pool(size=1),
            upstream=self.origins[endpoint],
            statements=Statements(),
            departed=lambda session, reason: None,
            vacate=lambda text: None,
            buffer=65536,
            sockets=cast(Any, self.loop),
        )
        branch.lane.fresh_until = 1e300
        return branch

    def sees(self, *servers: Member) -> None:
        self.does(lambda: self.branches._changed(Topology((PRIMARY, *servers), A)))
        for branch in self.keeper.branches.values():
            branch.lane.fresh_until = 1e300

    def branch(self, endpoint: Endpoint) -> Branch:
        return self.keeper.branches[endpoint]

    def opens_at(self, endpoint: Endpoint, life: int = 7, **parameters: str) -> Server:
        """A connection to a standby, which is asked who it is."""
        own, self.upstream = self.upstream, self.origins[endpoint]
        keeper, self.keeper = self.keeper, self.branch(endpoint)
        try:
            server = self.opens({**PARAMETERS, **parameters}, hides=None)
        finally:
            self.upstream, self.keeper = own, keeper
        server.gets(IDENTITY)
        server.sends(row(b"%d" % life, b"t"), complete("SELECT 1"), IDLE)
        return server


def standby(endpoint: Endpoint, life: int = 7, well: bool = True, **more: Any) -> Member:
    return Member(endpoint, "standby", well, life=life, **more)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Iterator[Splitting]:
    splitting = Splitting()
    yield splitting
    splitting.end()


def lanes(play: Splitting) -> tuple[Any, ...]:
    assert play.lane.choice is not None
    return play.lane.choice.lanes


def test_standbys_that_are_well_take_reads(play: Splitting) -> None:
    assert lanes(play) == ()
    play.sees(standby(B), standby(C, well=False))
    assert lanes(play) == (play.branch(B).lane,)
    play.sees(standby(B), standby(C))
    assert lanes(play) == (play.branch(B).lane, play.branch(C).lane)
    play.sees(standby(C))
    assert lanes(play) == (play.branch(C).lane,)
    assert B not in play.keeper.branches


def test_a_weight_and_a_zone_are_those_of_the_picture() -> None:
    play = Splitting(zone="here")
    play.sees(standby(B, weight=3.0, zone="here"), standby(C, zone="there"))
    assert (play.branch(B).lane.weight, play.branch(B).lane.rank) == (3.0, 0)
    assert (play.branch(C).lane.weight, play.branch(C).lane.rank) == (1.0, 1)
    play.end()


def test_a_read_waits_for_a_connection_to_the_standby(play: Splitting) -> None:
    play.sees(standby(B))
    client = play.client()
    client.sends(READ)
    server = play.opens_at(B, in_hot_standby="on")
    server.answers(READ, *DONE)
    client.gets(*DONE)
    assert (
        server.backend.parameters["in_hot_standby"] == "off"
    )  # its client thinks that it talks to the primary


def test_who_waits_goes_to_the_primary_if_no_connection_can_be_opened(play: Splitting) -> None:
    play.sees(standby(B))
    clients = [play.client() for _ in range(3)]
    for client in clients:
        client.sends(READ)
    play.origins[B].openings.pop(0).set_exception(GONE)
    play.loop.run()
    assert play.branch(B).lane.waiting == 0 and play.lane.waiting == 3
    assert play.branch(B).lane.weight == 0
    server = play.opens()
    for client in reversed(clients):  # each comes before those who wait already
        server.answers(READ, *DONE)
        client.gets(*DONE)


def test_who_waits_goes_to_the_primary_if_another_server_answers(play: Splitting) -> None:
    """The connection that has shown it still counts when that is seen."""
    play.sees(standby(B))
    play.lives[8] = False
    client = play.client()
    client.sends(READ)
    stranger = play.opens_at(B, life=8)
    stranger.read_all()
    assert stranger.ended
    assert play.branch(B).lane.weight == 0
    server = play.opens()
    server.answers(READ, *DONE)
    client.gets(*DONE)


def test_who_waits_goes_to_the_primary_if_the_standby_is_not_to_be_used(play: Splitting) -> None:
    play.sees(standby(B))
    client = play.client()
    client.sends(READ)
    play.sees(standby(B, well=False))
    server = play.opens()
    server.answers(READ, *DONE)
    client.gets(*DONE)


def test_another_run_of_a_server_gets_new_connections(play: Splitting) -> None:
    play.sees(standby(B, life=7))
    client = play.client()
    client.sends(READ)
    server = play.opens_at(B)
    server.answers(READ, *DONE)
    client.gets(*DONE)
    play.sees(standby(B, life=9))
    server.read_all()
    assert server.ended


def test_what_is_known_of_freshness_goes_to_the_lane(play: Splitting) -> None:
    play.sees(standby(B))
    play.branches._moved(B, 12.5)
    play.branches._moved(C, 99.0)
    assert play.branch(B).lane.fresh_until == 12.5


def test_where_weights_differ_shares_are_dealt_out(play: Splitting) -> None:
    choice = play.keeper.lane.choice
    assert choice is not None

    def dealer(first: float, second: float) -> object:
        play.sees(standby(B, weight=first), standby(C, weight=second))
        return choice.choose

    assert dealer(1, 1) is None
    found = dealer(1, 0.5)
    assert found is not None
    assert dealer(2, 0.5) is found
    assert dealer(1, 0) is None


@pytest.mark.parametrize(
    ("routing", "everybody", "eventual", "strict"),
    [
        ({}, False, False, False),
        ({"consistency": "global"}, True, False, False),
        ({"consistency": "bounded"}, False, True, False),
        ({"consistency": "eventual", "without_replica": "error"}, False, True, True),
    ],
)
def test_what_the_configuration_means(
    routing: dict[str, Any], everybody: bool, eventual: bool, strict: bool
) -> None:
    play = Splitting(**routing)
    choice = play.branches.choice()
    assert (choice.everybody, choice.eventual, choice.strict) == (everybody, eventual, strict)
    assert choice.writes is play.branches.choice().writes  # those of all pools of the cluster
    play.end()


def test_without_a_replica_a_read_may_be_refused() -> None:
    play = Splitting(without_replica="error")
    client = play.client()
    client.sends(READ)
    assert b"no replica is fresh" in client.read_all()
    play.end()


def test_a_pool_that_is_forgotten_is_not_told_any_more(play: Splitting) -> None:
    play.branches.release(play.keeper)
    play.sees(standby(B))
    assert play.keeper.branches == {}
