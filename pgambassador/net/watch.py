"""The servers of one cluster under watch: where and what they are, and until when standbys are fresh.

1. All that is decided is decided elsewhere, over what is heard here: the primary (`cluster.topology`), and
   how fresh standbys are (`routing.freshness`).
2. `changed` is called with each new picture, `moved` with each new `fresh_until`, both in the event loop and
   never twice with the same. A standby takes nothing unless the picture says that it is well.
3. A silent primary stops nothing: its place is kept, standbys stay as fresh as they were.
4. A connection leads where the watch looks only if `recognises` says so: names and addresses may lead to
   several servers, and to others than a second ago.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping

from pgambassador.cluster.probe import Report
from pgambassador.cluster.topology import Election, Role, Server, Topology, objection
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.structs import Cluster
from pgambassador.errors import AmbassadorError, Unreachable
from pgambassador.net.discovery.lasting import Lasting
from pgambassador.net.discovery.source import MOST_SERVERS, Found, Source, source_of
from pgambassador.net.prober import Open, Prober
from pgambassador.net.standby import Seen, Standby
from pgambassador.net.tasks import spawn
from pgambassador.routing.freshness import NEVER, Freshness
from pgambassador.routing.pace import Pace

log = logging.getLogger(__name__)

PRIMARY_SLOWEST = 0.025
"""Seconds between questions to the primary while somebody always waits: each answer helps all of them."""
HUNTING = 0.1
"""Seconds between questions to a standby while there is no primary: it may have become one."""
SOONEST = 1.0
"""Seconds between two searches for servers, however much happens."""
TOLD_MARGIN = 1.0
"""Seconds added to a lag that a server tells: it is a measurement of the past, and clocks differ."""


class Watch:
    """Of one cluster. `open` gives a connection to one of its servers, for the watch's own use; `discoveries`
    and `discovery_failures` count."""

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        open: Open,
        changed: Callable[[Topology], None],
        moved: Callable[[Endpoint, float], None],
        *,
        source: Source | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.topology = Topology()
        self.freshness: Freshness[Endpoint] = Freshness(moved)
        self.probers: dict[Endpoint, Prober] = {}
        self.discoveries = 0
        self.discovery_failures = 0
        self._routing = cluster.routing
        self._upstream = cluster.upstream()
        self.source = Lasting(
            source or source_of(self._routing.discovery, self._upstream),
            self._upstream,
            self._routing.discovery,
        )
        self._found: dict[Endpoint, Found] = {}
        self._open = open
        self._changed = changed
        self._clock = clock
        self._election = Election()
        self._wish = NEVER
        self._complaint = ""
        self._weights = dict(self._routing.weights)
        self._drawn: object = None
        self._rivals = False
        self._alarmed = NEVER
        self._task: asyncio.Task[None] | None = None
        self._stirred = asyncio.Event()

    @property
    def standbys(self) -> dict[Endpoint, Standby]:
        return {server.endpoint: Standby(self, server) for server in self.topology.standbys}

    def servers(self) -> list[Seen]:
        """All of them, as they are at this moment."""
        now = self._clock()
        found = []
        for server in self.topology.servers:
            fresh, prober = self.freshness.fresh_until(server.endpoint), self.probers.get(server.endpoint)
            known = server.role == "standby" and fresh != NEVER
            found.append(
                Seen(
                    server,
                    max(0.0, now - fresh) if known else None,
                    prober.probes if prober is not None else 0,
                    prober.failures if prober is not None else 0,
                )
            )
        return found

    def start(self) -> None:
        self._task = spawn(self._discover(), f"finding the servers of {self.name}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for prober in self.probers.values():
            prober.stop()

    def wanted(self, now: float) -> None:
        """Somebody needs a standby that shows what was acknowledged until now. Cheap, and may be called for
        each statement."""
        newest = self.freshness.marks.newest
        waiting = newest is None or self._wish >= newest.asked
        self._wish = max(self._wish, now)
        if not waiting and self._election.leader is not None:
            self.probers[self._election.leader].wake()

    def recognises(self, endpoint: Endpoint, life: int) -> bool:
        """Whether a new connection leads to the server that is watched at its endpoint; `life` is what
        `probe.identity` told. If not, that is looked into. If it is the primary's, nothing is fresh until
        then, since writes may go where nobody looks."""
        prober = self.probers.get(endpoint)
        if prober is None:
            return False
        if prober.report is not None and prober.report.life == life:
            return True
        leads = endpoint == self._election.leader
        if leads:
            self.freshness.forget()
        prober.at_once(anew=leads)
        return False

    def alarm(self) -> None:
        """The primary is away, or none any more: who is it now? Many pools may find out at the same time."""
        now = self._clock()
        if now - self._alarmed < HUNTING:
            return
        self._alarmed = now
        for at, prober in self.probers.items():
            prober.at_once(anew=at == self._election.leader)
        self._stirred.set()

    @property
    def _hunts(self) -> bool:
        """Whether a primary is looked for: it may show itself at any moment, and clients wait."""
        leader = self.probers.get(self._election.leader) if self._election.leader is not None else None
        return leader is None or not leader.answering

    def weigh(self, where: str, weight: float) -> None:
        """Give the server at HOST:PORT another share, until this process ends."""
        self._weights[where] = weight
        self._draw()

    def reweigh(self, weights: Mapping[str, float]) -> None:
        """The configuration has others now."""
        self._weights = dict(weights)
        self._draw()

    # What probers say and ask.

    def heard(self, prober: Prober, report: Report, asked: float, heard: float) -> None:
        self._elect()
        at = prober.endpoint
        if at == self._election.leader:
            self.freshness.drop(at)
            self.freshness.mark(at, report, asked)
            self._bound(report, asked)
            for other in self.probers.values():
                if other is not prober and self.presses(other):
                    other.wake()
        elif report.standby:
            if report.position is not None and report.timeline:
                self.freshness.follow(at, report, heard)
            else:
                assumed = self._routing.probe.assumed_lag
                self.freshness.bound(at, report.life, asked - assumed if assumed is not None else NEVER)
            if not self.presses(prober):
                prober.pace.helped()
            if self.freshness.doubtful and self._election.leader is not None:
                self.probers[self._election.leader].wake()
        else:
            self.freshness.drop(at)
        self._draw()

    def silent(self, prober: Prober) -> None:
        if prober.endpoint == self._election.leader:
            self._stirred.set()
        self._elect()
        self._draw()
        if self._hunts:
            for other in self.probers.values():
                if other.answering:
                    other.wake()

    def presses(self, prober: Prober) -> bool:
        newest = self.freshness.marks.newest
        if self._hunts:
            return True
        if prober.endpoint == self._election.leader:
            return newest is not None and (newest.asked <= self._wish or self.freshness.doubtful)
        follower = self.freshness.followers.get(prober.endpoint)
        if newest is None or prober.report is None or not self.freshness.comparable(prober.report):
            return False
        if follower is None or follower.replayed is None:
            return True
        if follower.ahead:
            return False
        return follower.fresh_until < newest.asked and (
            follower.fresh_until <= self._wish or follower.fresh_until == NEVER
        )

    def _elect(self) -> None:
        if self._election.leader is None and not self._in_turn():
            return
        leader = self._election.hold(
            {at: prober.report if prober.answering else None for at, prober in self.probers.items()}
        )
        report = self.probers[leader].report if leader is not None else None
        self._rivals = report is not None and any(
            report.contradicts(other) for other in self._reports().values()
        )
        if self._rivals:
            self.freshness.lead(None, None)
        else:
            self.freshness.lead(leader, report)
        for at, prober in self.probers.items():
            if at != leader and self._hunts:
                prober.pace.slowest = HUNTING
            else:
                prober.pace.slowest = PRIMARY_SLOWEST if at == leader else self._routing.probe.interval

    def _in_turn(self) -> bool:
        """Whether those before the first primary have been asked: where there are several, order counts."""
        for prober in self.probers.values():
            if not prober.probes and not prober.failures:
                return False
            if prober.answering and prober.report is not None and not prober.report.standby:
                return True
        return True

    def _bound(self, report: Report, asked: float) -> None:
        """What the primary says of standbys that do not tell positions themselves."""
        for at, prober in self.probers.items():
            told = prober.report
            if told is not None and told.standby and (lag := report.lags.get(told.instance)) is not None:
                self.freshness.bound(at, told.life, asked - lag - TOLD_MARGIN, lag)

    # The picture.

    def _draw(self) -> None:
        leader = self._election.leader
        said = self.probers[leader].report if leader is not None else None
        seen = [
            (found, self._weights.get(str(at), found.weight), *self._judged(self.probers[at], said))
            for at, found in self._found.items()
        ]
        if (leader, seen) == self._drawn:
            return
        self._drawn = (leader, seen)
        servers = tuple(
            Server(
                endpoint=found.endpoint,
                role=role,
                well=not why,
                zone=self._routing.zones.get(str(found.endpoint), found.zone),
                weight=weight,
                life=life,
                objection=why,
            )
            for found, weight, role, life, why in seen
        )
        before, self.topology = self.topology, Topology(servers, leader)
        self._tell(before)
        self._changed(self.topology)

    def _judged(self, prober: Prober, leader: Report | None) -> tuple[Role, int, str]:
        """Its role, its life, and what speaks against it."""
        report, why = prober.report, prober.trouble
        if report is None:
            return "unknown", 0, why
        if not report.standby:
            if not why and prober.endpoint != self._election.leader:
                why = "it says that it is the primary, and is not the one that counts"
            return "primary", report.life, why
        if not why and self._rivals:
            why = "there are two primaries on one timeline, and nobody can tell which of them it follows"
        if not why:
            follower = self.freshness.followers.get(prober.endpoint)
            if follower is None:
                why = objection(report, leader)
            else:
                why = objection(
                    report, leader, ahead=follower.ahead, lag=follower.lag, most=self._routing.max_lag
                )
        return "standby", report.life, why

    def _tell(self, before: Topology) -> None:
        change = self.topology.changed(before)
        extra = {"cluster": self.name}
        for server in change.promoted:
            log.info("%s is the primary", server.endpoint, extra=extra)
        for server in change.demoted:
            log.warning("%s is not the primary any more", server.endpoint, extra=extra)
        for server in change.gone:
            log.info("%s is not a server of the cluster any more", server.endpoint, extra=extra)
        for server in change.well:
            log.info("%s answers, a %s", server.endpoint, server.role, extra=extra)
        for server in (*change.unwell, *change.new):
            if not server.well and server.role != "unknown":
                log.warning("%s gets no statements: %s", server.endpoint, server.objection, extra=extra)

    # Where servers are.

    async def _discover(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:
                log.exception("finding the servers of %s failed", self.name)
                self.discovery_failures += 1
            if (every := self.source.every) is None:
                return
            self._stirred.clear()
            await asyncio.sleep(min(every, SOONEST))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, every - SOONEST)):
                    await self._stirred.wait()

    async def _look(self) -> None:
        try:
            self._adopt(await self.source.find(self._reports()))
            self._complaint = ""
            self.discoveries += 1
        except AmbassadorError as error:
            self._complain(error.sentence())
            if not self._found:
                self._adopt(self.source.before())

    def _reports(self) -> dict[Endpoint, Report]:
        """The last answers of those that answer now."""
        return {
            at: prober.report for at, prober in self.probers.items() if prober.report and not prober.trouble
        }

    def _complain(self, why: str) -> None:
        """Once, however often."""
        self.discovery_failures += 1
        if why != self._complaint:
            log.error("cannot find the servers of %s: %s", self.name, why, extra={"cluster": self.name})
        self._complaint = why

    def _adopt(self, found: tuple[Found, ...]) -> None:
        if not found:
            raise Unreachable("none are found any more", hint="Those that were found before stay.")
        now = {each.endpoint: each for each in found[:MOST_SERVERS]}
        leader = self._election.leader
        others = (report for at, report in self._reports().items() if at in now)
        if leader in self._found and leader not in now and all(report.standby for report in others):
            now[leader] = self._found[leader]  # until another has taken its place
        if list(now.items()) == list(self._found.items()):
            return
        self._found = now
        for at in self.probers.keys() - now.keys():
            self.probers.pop(at).stop()
            self.freshness.drop(at)
        self.probers = {at: self.probers.get(at) or self._prober(at) for at in now}
        self._elect()
        self._draw()

    def _prober(self, at: Endpoint) -> Prober:
        probe = self._routing.probe
        prober = Prober(at, self._open, self, Pace(probe.interval), probe.timeout, self._clock)
        prober.start()
        return prober

    def __repr__(self) -> str:
        return f"<Watch {self.name} {self._election!r} {list(self.probers.values())!r}>"
