"""The standbys of one cluster, and a pool on each of them beside every pool on the primary.

1. A standby takes reads while the watch calls it well; it is out at once when it does not, and what waits for
   it goes to the primary.
2. A standby's pool is made when the first statement may need it, and opens connections when one does.
3. What the watch knows of freshness goes straight into the pools' lanes, where it is compared for each read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pgambassador.net.balancing import chooser
from pgambassador.net.choice import Choice, Writes
from pgambassador.net.watch import Watch

if TYPE_CHECKING:
    from pgambassador.cluster.topology import Server, Topology
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.config import Cluster
    from pgambassador.net.branch import Branch
    from pgambassador.net.keeper import Keeper
    from pgambassador.net.link import Link
    from pgambassador.net.origin import Origin

    Make = Callable[[Endpoint, Callable[[int], bool]], Branch]


class Branches:
    """`watch` begins with the first pool, whose way it takes to the servers. `forgotten(keeper, branch)` is
    called when a standby is no server of the cluster any more, and nobody uses its pool."""

    def __init__(
        self, name: str, cluster: Cluster, forgotten: Callable[[Keeper, Branch], None] = lambda *_: None
    ) -> None:
        self._forgotten = forgotten
        self.routing = cluster.routing
        self.keepers: dict[Keeper, Make] = {}
        self._led: set[Keeper] = set()
        self.watch = Watch(name, cluster, self._open, self._changed, self._moved)
        self._writes = Writes()
        self._origin: Origin | None = None
        self._leader: Endpoint | None = None

    def choice(self) -> Choice:
        """For a pool on the primary."""
        level = self.routing.consistency
        return Choice(
            self,
            max_lag=self.routing.max_lag,
            writes=self._writes,
            everybody=level == "global",
            eventual=level in ("eventual", "bounded"),
            strict=self.routing.without_replica == "error",
            choose=chooser(self.routing.balance),
        )

    def adopt(self, keeper: Keeper, origin: Origin, branch: Make) -> None:
        """A pool on the primary; `branch` makes one beside it."""
        self.keepers[keeper] = branch
        keeper.lane.choice = self.choice()
        keeper.alarm, keeper.recognises = self.watch.alarm, self.watch.recognises
        origin.prefer(self.watch.topology.leader)
        self._attach(keeper, self.watch.topology)
        if self._origin is None:
            self._origin = origin
            self.watch.start()

    def lead(self, keeper: Keeper, origin: Origin) -> None:
        """A pool on the primary that has no use for standbys."""
        self._led.add(keeper)
        keeper.alarm, keeper.recognises = self.watch.alarm, self.watch.recognises
        origin.prefer(self.watch.topology.leader)

    def release(self, keeper: Keeper) -> None:
        """It is forgotten."""
        self.keepers.pop(keeper, None)
        self._led.discard(keeper)

    def stop(self) -> None:
        self.watch.stop()

    async def _open(self, endpoint: Endpoint) -> Link:
        assert self._origin is not None
        return await self._origin.at(endpoint).watch()

    def fresher_wanted(self, now: float) -> None:
        """A read went to the primary because no standby was fresh enough for it."""
        self.watch.wanted(now)

    def _changed(self, topology: Topology) -> None:
        before, self._leader = self._leader, topology.leader or self._leader
        for keeper in (*self.keepers, *self._led):
            keeper.upstream.prefer(topology.leader)
            if keeper in self.keepers:
                self._attach(keeper, topology)
            if self._leader is not None and self._leader != before:
                if before is not None:
                    keeper.follow(self._leader)
                else:
                    keeper.at_once()

    def _moved(self, endpoint: Endpoint, fresh_until: float) -> None:
        for keeper in self.keepers:
            branch = keeper.branches.get(endpoint)
            if branch is not None:
                branch.lane.fresh_until = fresh_until

    def _attach(self, keeper: Keeper, topology: Topology) -> None:
        """Which pools take the reads of this one's clients."""
        usable = {server.endpoint: server for server in topology.standbys if server.well}
        lanes = []
        for endpoint, server in usable.items():
            branch = keeper.branches.get(endpoint)
            if branch is None:
                branch = keeper.branches[endpoint] = self.keepers[keeper](
                    endpoint, partial(self.watch.recognises, endpoint)
                )
                branch.lane.fresh_until = self.watch.freshness.fresh_until(endpoint)
            self._rate(branch, server)
            lanes.append(branch.lane)
        choice = keeper.lane.choice
        assert choice is not None
        choice.lanes = tuple(lanes)
        if self.routing.balance == "least-outstanding":
            uneven = len({server.weight for server in usable.values()} - {0}) > 1
            choice.choose = (choice.choose or chooser(self.routing.balance, uneven=True)) if uneven else None
        for endpoint, branch in list(keeper.branches.items()):
            if endpoint not in usable:
                branch.divert()
                branch.retire_idle("its standby is not to be used")
                if topology.at(endpoint) is None and branch.unused:
                    del keeper.branches[endpoint]
                    self._forgotten(keeper, branch)

    def _rate(self, branch: Branch, server: Server) -> None:
        if branch.life != server.life:
            branch.life = server.life
            branch.retire("its server is another one now")
        branch.rate(server.weight, int(self.routing.zone is not None and server.zone != self.routing.zone))
