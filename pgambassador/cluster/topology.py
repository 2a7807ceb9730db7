"""Which servers a cluster has, and which of them is the primary: immutable pictures, and who draws the next.

1. Roles are what servers say of themselves; that of a server that is silent is the last it had.
2. Of several that say they are the primary, one is: the newest timeline wins, then the one that is it
   already. A timeline that was left behind never comes back: a primary that was replaced and does not know it
   yet gets no statements.
3. A server of another cluster (by its system identifier: a logical replica, a copy of its own) never takes
   the place of the primary, unless it has the primary's address or nothing is left of what was known. As
   long as nothing is known, the first one counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint

Role = Literal["primary", "standby", "unknown"]


@dataclass(frozen=True, slots=True)
class Server:
    """One of them. `well`: it may have statements; if not, `objection` says why, as a part of a sentence."""

    endpoint: Endpoint
    role: Role = "unknown"
    well: bool = False
    zone: str = ""
    weight: float = 1.0
    life: int = 0
    """Which run of which server it is, as `probe.identity` tells; 0: not known."""
    objection: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """What a picture has that the one before had not; servers as they are now, those `gone` as they were.

    `replaced` are those with another `life`: whatever was connected to them is connected to something else.
    """

    new: tuple[Server, ...] = ()
    gone: tuple[Server, ...] = ()
    promoted: tuple[Server, ...] = ()
    demoted: tuple[Server, ...] = ()
    replaced: tuple[Server, ...] = ()
    well: tuple[Server, ...] = ()
    unwell: tuple[Server, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A picture. `leader` is where writes go, silent or not; None before the first is found."""

    servers: tuple[Server, ...] = ()
    leader: Endpoint | None = None

    @property
    def primary(self) -> Server | None:
        return self.at(self.leader) if self.leader is not None else None

    @property
    def standbys(self) -> tuple[Server, ...]:
        return tuple(server for server in self.servers if server.role == "standby")

    def at(self, endpoint: Endpoint) -> Server | None:
        return next((server for server in self.servers if server.endpoint == endpoint), None)

    def changed(self, before: Topology) -> Change:
        """What is different from `before`."""
        pairs = [(server, before.at(server.endpoint)) for server in self.servers]
        known = [(server, old) for server, old in pairs if old is not None]

        def leads(server: Server | None, of: Topology) -> bool:
            return server is not None and server.endpoint == of.leader

        return Change(
            new=tuple(server for server, old in pairs if old is None),
            gone=tuple(old for old in before.servers if self.at(old.endpoint) is None),
            promoted=tuple(s for s, old in pairs if leads(s, self) and not leads(old, before)),
            demoted=tuple(s for s, old in known if leads(old, before) and not leads(s, self)),
            replaced=tuple(s for s, old in known if old.life and s.life != old.life),
            well=tuple(s for s, old in pairs if s.well and not (old is not None and old.well)),
            unwell=tuple(s for s, old in known if old.well and not s.well),
        )


class Election:
    """Who the primary is, out of what servers said last."""

    def __init__(self) -> None:
        self.leader: Endpoint | None = None
        self.system = ""
        self.timeline = 0
        """The newest that a primary had."""
        self._ours: frozenset[Endpoint] = frozenset()

    def hold(self, reports: Mapping[Endpoint, Report | None]) -> Endpoint | None:
        """`reports` in the order of preference: the answer of each server, None from those that are silent.
        Returns the leader, which stays while it is silent and nobody takes its place."""
        primaries = {at: report for at, report in reports.items() if report and not report.standby}
        if not self.system:
            self.system = next((report.system for report in primaries.values()), "")
        own = {at: report for at, report in primaries.items() if self._is_ours(report)}
        newest = max((report.timeline for report in own.values()), default=-1)
        if newest >= self.timeline:
            first = [at for at, report in own.items() if report.timeline == newest]
            self._elect(self.leader if self.leader in first else first[0], own)
        elif self.leader in primaries:
            self._renew(primaries, self.leader)  # at its address is something else now
        elif self._ours and self._ours.isdisjoint(reports):
            self._renew(primaries, None)
        elif self.leader is not None and (self.leader not in reports or reports[self.leader] is not None):
            self.leader = None  # it is gone, or a standby
        if self.leader is not None:
            ours = {at for at, report in reports.items() if report and self._is_ours(report)}
            self._ours = (self._ours | ours) & frozenset(reports)
        return self.leader

    def _is_ours(self, report: Report) -> bool:
        return not self.system or not report.system or report.system == self.system

    def _elect(self, leader: Endpoint | None, among: Mapping[Endpoint, Report]) -> None:
        assert leader is not None
        self.leader = leader
        self.timeline = max(self.timeline, among[leader].timeline)
        self.system = among[leader].system or self.system

    def _renew(self, primaries: Mapping[Endpoint, Report], preferred: Endpoint | None) -> None:
        """Nothing that was known counts any more."""
        self.leader, self.system, self.timeline, self._ours = None, "", 0, frozenset()
        if primaries:
            self._elect(preferred if preferred in primaries else next(iter(primaries)), primaries)

    def __repr__(self) -> str:
        return f"<Election {self.leader} timeline={self.timeline}>"


def objection(
    report: Report, leader: Report | None, *, ahead: bool = False, lag: float | None = None, most: float = 0.0
) -> str:
    """Why a standby that answers should have no statements, or "". `lag` is None where it is not known."""
    if leader is not None:
        if report.system and leader.system and report.system != leader.system:
            return "it belongs to another cluster than the primary"
        if report.timeline and leader.timeline and report.timeline != leader.timeline:
            if report.timeline < leader.timeline:
                return (
                    f"it is not known yet to follow the primary's timeline {leader.timeline}"
                    " (pg_read_all_stats would show it at once)"
                )
            return f"it follows timeline {report.timeline}, and the primary is on {leader.timeline}"
        if ahead:
            return "it is ahead of the primary, so it follows another one"
    if lag == float("inf"):
        return "it has yet to reach where the primary was when it was first asked"
    if lag is not None and lag > most:
        return f"it lags more than {most:g} s"
    return ""
