"""Pools' numbers, as the metrics read them: those that grow with each statement are the lane's.

1. Only names of the configuration are labels. What else clients name goes by `OTHER`, all together, so that
   nobody can make the number of series grow.
2. What pools have counted that are forgotten stays in the sums, so that no counter goes back.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pgambassador.config import EVERY_OTHER as OTHER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgambassador.config import Config
    from pgambassador.net.keeper import Keeper

Labels = tuple[str, str, str]
_SUMS = (
    "size",
    "idle",
    "active",
    "opening",
    "waiting",
    "sessions",
    "queries",
    "transactions",
    "errors",
    "bytes_received",
    "bytes_sent",
    "connects",
    "connect_failures",
    "wait_timeouts",
    "shed",
    "cancels",
    "query_seconds",
    "wait_seconds",
    "replica_queries",
    "stale",
    "without_replica",
    "batches",
    "batched",
    "repeated",
    "recalled",
    "verdicts",
    "judged",
    "sessions_kept",
    "sessions_lost",
    "held",
    "paused",
    "dismissed",
)


class Numbers:
    """A picture of a keeper at this moment."""

    size: int
    idle: int
    active: int
    opening: int
    waiting: int
    sessions: int
    queries: int
    transactions: int
    errors: int
    bytes_received: int
    bytes_sent: int
    connects: int
    connect_failures: int
    wait_timeouts: int
    shed: int
    cancels: int
    query_seconds: float
    wait_seconds: float
    replica_queries: int
    stale: int
    without_replica: int
    batches: int
    batched: int
    repeated: int
    recalled: int
    verdicts: int
    judged: int
    sessions_kept: int
    sessions_lost: int
    held: int
    paused: int
    dismissed: int

    def __init__(self, keeper: Keeper, labels: Labels | None = None) -> None:
        lane = keeper.lane
        self.cluster, self.database, self.user = labels or (keeper.cluster, keeper.database, keeper.user)
        self.size = keeper.config.size
        self.idle = len(lane.idle)
        self.waiting = lane.clients_waiting
        self.sessions = len(keeper.clients)
        for name in ("active", "queries", "transactions", "errors", "bytes_received"):
            setattr(self, name, getattr(lane, name))
        for name in ("bytes_sent", "query_seconds", "wait_seconds"):
            setattr(self, name, getattr(lane, name))
        for name in ("opening", "connects", "connect_failures", "wait_timeouts", "shed", "cancels"):
            setattr(self, name, getattr(keeper, name))
        for name in ("batches", "batched", "repeated", "recalled"):
            setattr(self, name, getattr(lane, name))
        self.replica_queries = lane.queries if lane.standby else 0
        choice = lane.choice
        self.stale, self.without_replica = (0, 0) if choice is None else (choice.stale, choice.none)
        self.verdicts, self.judged = len(keeper.routes), keeper.routes.judged
        away = keeper.outage.since is not None and not lane.total
        self.held = self.waiting + keeper.greeting.waiting if away else 0
        self.paused, self.dismissed = int(keeper.paused), keeper.dismissed
        self.query_histogram = lane.query_histogram
        self.wait_histogram = lane.wait_histogram
        self.closed = Counter(keeper.closed)
        self.pins = Counter(keeper.pins)
        self.timeouts = Counter(keeper.timekeeper.counts)
        self.aftermath = Counter(keeper.aftermath.outcomes)
        self.sessions_kept, self.sessions_lost = keeper.aftermath.kept, keeper.aftermath.lost

    def add(self, other: Numbers) -> None:
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("query_histogram", "wait_histogram"):
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            setattr(self, name, tuple(a + b for a, b in pairs))
        self.closed.update(other.closed)
        self.pins.update(other.pins)
        self.timeouts.update(other.timeouts)
        self.aftermath.update(other.aftermath)


class Register:
    """What pools are called in the metrics, and what those have counted that are gone."""

    def __init__(self, config: Config) -> None:
        self._past: dict[Labels, Numbers] = {}
        self._databases: set[tuple[str, str]] = set()
        self._users = {*config.users, *config.auth.map.values()} - {OTHER}
        for name, cluster in config.clusters.items():
            upstream = cluster.upstream()
            self._databases.add((name, upstream.database or OTHER))
            self._users.add(upstream.user or OTHER)
        for name, database in config.databases.items():
            target = config.target(name)
            assert target is not None
            self._databases.add((target.cluster, target.database))
            self._users.add(database.user or OTHER)

    def labels(self, cluster: str, database: str, user: str, listed: bool) -> Labels:
        """`listed`: the lists of users have this one."""
        known = (cluster, database) in self._databases
        return cluster, database if known else OTHER, user if listed or user in self._users else OTHER

    def retire(self, numbers: Numbers) -> None:
        """A pool without clients and connections is forgotten."""
        numbers.size = 0
        labels = numbers.cluster, numbers.database, numbers.user
        if labels in self._past:
            self._past[labels].add(numbers)
        else:
            self._past[labels] = numbers

    def sums(self, pools: Iterable[Numbers]) -> list[Numbers]:
        """One for each set of labels."""
        found: dict[Labels, Numbers] = {}
        for each in pools:
            labels = each.cluster, each.database, each.user
            if labels in found:
                found[labels].add(each)
            else:
                found[labels] = each
        for labels, past in self._past.items():
            if labels in found:
                found[labels].add(past)
            else:
                found[labels] = past
        return list(found.values())
