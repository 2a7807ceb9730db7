"""What the project wants to reach, in numbers, and whether a run reached it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.scenarios import BY_ONES, BY_TWOS, IN_TURN_BOUNDED, UNSHARED
from benchmarks.servers import DIRECT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.results import Ratio, Results

OURS = "pgambassador"


@dataclass(frozen=True)
class Verdict:
    what: str
    wanted: str
    measured: str
    reached: bool


def verdicts(results: Results, bouncer: str) -> Iterator[Verdict]:
    """Those that this run has the numbers for."""
    for load in results.loads("cpu"):
        if load.endswith(" 16"):
            ratio = results.ratio(load, OURS, bouncer, "cpu")
            yield from _at_most(f"CPU per query, {load} clients, of PgBouncer's", ratio, 1.0)
    for load in results.loads("tps"):
        if load.endswith((" 16", " 64")):
            ratio = results.ratio(load, OURS, bouncer, "tps")
            yield from _at_least(f"throughput, {load} clients, of PgBouncer's", ratio, 1.0)
    for load in results.loads("p50"):
        if load.endswith(" 1"):
            added = results.added(load, OURS, bouncer, DIRECT, "p50")
            yield from _at_most(f"added latency p50, {load} client, of what PgBouncer adds", added, 1.3)
    for load in results.loads("tps"):
        if load.endswith("pool 8"):
            ratio = results.ratio(load, OURS, bouncer, "tps")
            yield from _at_least(f"throughput, {load}, of PgBouncer's", ratio, 2.0)
            ratio = results.ratio(load, OURS, DIRECT, "tps")
            yield from _at_least(f"throughput, {load}, of a direct connection's", ratio, 1.0)
            ratio = results.ratio(load, OURS, bouncer, "p99")
            yield from _at_most(f"p99, {load}, of PgBouncer's", ratio, 1.0)
    yield from _at_least(
        "1 GiB COPY, speed, of PgBouncer's", results.ratio("copy", OURS, bouncer, "speed"), 0.9
    )
    for load in ("login", BY_TWOS, BY_ONES):
        ratio = results.ratio(load, OURS, bouncer, "tps")
        yield from _at_least(f"{load}: rate with SCRAM, of PgBouncer's", ratio, 1.0)
    yield from _below(
        "p99 while a server's password is renewed, of p99 else", results.median("renewal", OURS, "spike"), 1.2
    )
    yield from _below("RSS growth during the COPY, MB", results.median("copy", OURS, "growth"), 20)
    yield from _below("RSS without clients, MB", results.median("idle", OURS, "rss"), 60)
    yield from _below("RSS for each idle client, kB", results.median("idle", OURS, "per_client"), 10)
    yield from _below(
        "slow-down of active clients beside 2,000 idle ones", results.median("idle", OURS, "slowdown"), 1.1
    )

    for load in ("replicas", IN_TURN_BOUNDED):
        yield from _below(f"reads that the primary got, {load}, %", results.median(load, OURS, "reads"), 1)
    for load in ("mixed", "mixed, one shape"):
        ratio = results.between(load, f"{load}{UNSHARED}", OURS, "p99")
        yield from _at_most(f"p99 of the short ones, {load}, of that without batching", ratio, 1.0)
    known, replica = (results.median("routing", OURS, metric) for metric in ("known", "replica"))
    if known is not None and replica is not None:
        yield from _below("CPU that routing adds for a known shape, µs", known + replica, 1)


def _at_most(what: str, ratio: Ratio | None, limit: float) -> Iterator[Verdict]:
    if ratio:
        yield Verdict(what, f"≤ {limit:g} ×", str(ratio), ratio.value <= limit)


def _at_least(what: str, ratio: Ratio | None, limit: float) -> Iterator[Verdict]:
    if ratio:
        yield Verdict(what, f"≥ {limit:g} ×", str(ratio), ratio.value >= limit)


def _below(what: str, value: float | None, limit: float) -> Iterator[Verdict]:
    if value is not None:
        yield Verdict(what, f"≤ {limit:g}", f"**{value:.2f}**", value <= limit)
