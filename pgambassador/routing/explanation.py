"""Where a statement goes and why, in words for people and in values for machines.

1. Nothing is decided here: a decision and a picture of the servers are put side by side, as the relay does it
   for a session that has written nothing, or last at `written_at`.
2. A server's `why` is a part of a sentence about it; it is empty only where it would take the statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pgambassador.cluster.topology import Server, Topology
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.routing import Routing
from pgambassador.routing.decision import Decision
from pgambassador.routing.freshness import NEVER

_READS_ELSEWHERE: Final = "reads go to replicas"
_NOT_A_READ: Final = "the statement is not for replicas"


@dataclass(frozen=True, slots=True)
class Standing:
    """A server, and whether it would take the statement now. `lag`: seconds, None if not known."""

    server: str
    role: str
    lag: float | None
    takes: bool
    why: str = ""

    def sentence(self) -> str:
        lag = "" if self.lag is None else f", shows all that is older than {self.lag:.1f} s"
        return f"{self.server}, {self.role}{lag}: {'yes' if self.takes else 'no'}" + (
            f", {self.why}" if self.why else ""
        )


def wants_replica(decision: Decision) -> bool:
    return decision.target == "replica" or (decision.kind == "read" and decision.target == "any")


def standings(
    decision: Decision,
    topology: Topology,
    fresh_until: Callable[[Endpoint], float],
    routing: Routing,
    *,
    now: float,
    written_at: float = NEVER,
) -> tuple[Standing, ...]:
    """Of all servers, in the picture's order. Times are of the monotonic clock."""
    reads = wants_replica(decision)
    found = []
    for server in topology.servers:
        lag = None
        if server.role == "standby" and (fresh := fresh_until(server.endpoint)) != NEVER:
            lag = max(0.0, now - fresh)
        why = ""
        if server.endpoint == topology.leader:
            why = server.objection
        elif not server.well or server.role != "standby":
            why = server.objection or "it is not known what it is"
        elif not reads:
            why = _NOT_A_READ
        else:
            why = _unfit(decision, server, lag, routing, now - written_at)
        found.append(Standing(str(server.endpoint), server.role, lag, not why, why))
    at_primary = not reads or routing.without_replica == "primary"
    others = any(
        each.takes
        for each, server in zip(found, topology.servers, strict=True)
        if server.endpoint != topology.leader
    )
    for index, server in enumerate(topology.servers):
        if (
            server.endpoint == topology.leader
            and not found[index].why
            and reads
            and (others or not at_primary)
        ):
            why = _READS_ELSEWHERE if others else "reads never go there (routing.without_replica)"
            found[index] = Standing(str(server.endpoint), server.role, None, False, why)
    return tuple(found)


def _unfit(decision: Decision, server: Server, lag: float | None, routing: Routing, since: float) -> str:
    """Why a standby that is well does not take a read; `since` the last write are so many seconds."""
    most = routing.max_lag if decision.max_lag is None else decision.max_lag
    if server.weight <= 0:
        return "its weight is 0"
    if lag is None:
        return "it has not replayed yet what the primary had when it was first asked"
    if lag > most:
        return f"at most {most:g} s are allowed"
    if routing.consistency not in ("eventual", "bounded") and since <= lag:
        return "it may not show yet what was written last"
    return ""


@dataclass(frozen=True, slots=True)
class Explanation:
    """All of it. `splits`: reads may go elsewhere than writes; `note` is what else there is to say."""

    decision: Decision
    fingerprint: str
    servers: Sequence[Standing] = ()
    splits: bool = True
    note: str = ""

    @property
    def destination(self) -> str:
        """A sentence part behind "It goes"."""
        decision = self.decision
        if not self.splits:
            return "to the only server"
        if decision.begins == "unsaid":
            return "to a replica if SET TRANSACTION READ ONLY comes next, else to the primary"
        if decision.ends or (decision.target == "any" and decision.kind != "read"):
            return "to where its transaction is, else to the primary"
        if not wants_replica(decision):
            return "to the primary"
        if not self.servers:
            return "to a replica that is fresh enough"
        able = [each.server for each in self.servers if each.takes and each.role == "standby"]
        if able:
            return f"to {'one of ' if len(able) > 1 else ''}{', '.join(able)}"
        if any(each.takes for each in self.servers):
            return "to the primary, since no replica will do"
        return "nowhere, since no replica will do"

    def rows(self) -> list[tuple[str, str]]:
        """What it is called, and what it is."""
        decision = self.decision
        parses = decision.reason != "cannot be parsed"
        found = [
            ("class", decision.kind),
            ("target", decision.target),
            ("goes", self.destination),
            ("why", f"it {decision.reason}"),
            ("rule", decision.rule or "none"),
            (
                "fingerprint",
                self.fingerprint or f"none: it {'is not looked at' if parses else 'does not parse'}",
            ),
        ]
        if decision.max_lag is not None:
            found.append(("max_lag", f"{decision.max_lag:g} s"))
        if decision.cache is not None:
            found.append(("cache", f"{decision.cache:g} s"))
        found.append(("batched", "if short and clients wait" if decision.batchable else "never"))
        found += [("server", each.sentence()) for each in self.servers]
        return found + ([("note", self.note)] if self.note else [])

    def values(self) -> dict[str, Any]:
        """The same for machines."""
        decision = self.decision
        return {
            "class": decision.kind,
            "target": decision.target,
            "goes": self.destination,
            "why": decision.reason,
            "rule": decision.rule or None,
            "fingerprint": self.fingerprint or None,
            "max_lag_seconds": decision.max_lag,
            "cache_seconds": decision.cache,
            "batchable": decision.batchable,
            "idempotent": decision.idempotent,
            "tables": sorted(decision.tables),
            "servers": [
                {
                    "server": each.server,
                    "role": each.role,
                    "lag_seconds": None if each.lag is None else round(each.lag, 3),
                    "takes": each.takes,
                    "why": each.why or None,
                }
                for each in self.servers
            ],
            "note": self.note or None,
        }
