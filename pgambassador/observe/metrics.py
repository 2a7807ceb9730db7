"""The numbers of Prometheus, read from objects that count themselves.

Nothing is counted here. Every scrape walks over the pools and reads plain attributes; a scrape costs the data
path nothing but its own time.
"""

from __future__ import annotations

import itertools
import platform
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from pgambassador import __version__
from pgambassador.observe import families
from pgambassador.observe.families import of_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pgambassador.observe.stats import (
        CredentialStats,
        HearsayStats,
        KeepsakeStats,
        LogStats,
        PoolStats,
        ProxyStats,
        WatchStats,
    )

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0)
"""Upper bounds in seconds, inclusive; one more count, for what is longer, follows theirs in a histogram."""


_LABELS = ("cluster", "database", "user")

# Name, attribute, help; `state` where one family shows several attributes.
_GAUGES = (
    ("pgambassador_pool_size", "size", "Server connections that the pool may have."),
    ("pgambassador_pool_waiting_clients", "waiting", "Clients that wait for a server connection."),
    (
        "pgambassador_pool_held_clients",
        "held",
        "Clients that wait for a server that is away.",
    ),
    ("pgambassador_pool_paused", "paused", "Pools that are paused by hand."),
    ("pgambassador_pool_clients", "sessions", "Clients that use the pool."),
    ("pgambassador_routing_statements", "verdicts", "Statements of which it is remembered where they go."),
)
_STATES = ("idle", "active", "opening")
_COUNTERS = (
    ("pgambassador_queries", "queries", "Queries that were answered."),
    ("pgambassador_transactions", "transactions", "Transactions that ended."),
    ("pgambassador_query_errors", "errors", "Queries that the server answered with an error."),
    ("pgambassador_received_bytes", "bytes_received", "Bytes from clients to servers."),
    ("pgambassador_sent_bytes", "bytes_sent", "Bytes from servers to clients."),
    ("pgambassador_server_connects", "connects", "Server connections that were opened."),
    (
        "pgambassador_server_connect_failures",
        "connect_failures",
        "Server connections that could not be opened.",
    ),
    ("pgambassador_wait_timeouts", "wait_timeouts", "Clients that waited in vain for a server connection."),
    ("pgambassador_shed", "shed", "Clients that were refused because too many waited already."),
    (
        "pgambassador_clients_dismissed",
        "dismissed",
        "Statements and logins for which there was no server connection.",
    ),
    ("pgambassador_cancels", "cancels", "Cancel requests that were passed on."),
    ("pgambassador_routing_misses", "judged", "Statements that were looked into, not being remembered."),
    ("pgambassador_batches", "batches", "Writes to a server that several clients shared."),
    ("pgambassador_batched_queries", "batched", "Queries that were sent in these."),
    (
        "pgambassador_sessions_kept",
        "sessions_kept",
        "Sessions that went on when their server connection was lost.",
    ),
    ("pgambassador_sessions_lost", "sessions_lost", "Sessions that could not, and were ended."),
    ("pgambassador_repeated_queries", "repeated", "Queries that were sent again, unseen by their clients."),
)
_HISTOGRAMS = (
    (
        "pgambassador_query_duration_seconds",
        "query",
        "From when the server was given a query until the end of its answer.",
    ),
    ("pgambassador_wait_duration_seconds", "wait", "How long clients waited for a server connection."),
)


class Metrics(Collector):
    """The collector and its registry; `render` is a scrape."""

    def __init__(
        self,
        proxy: ProxyStats,
        query_log: LogStats | None,
        *,
        keepsake: KeepsakeStats | None = None,
        hearsay: HearsayStats | None = None,
        started_at: float | None = None,
    ) -> None:
        self._proxy = proxy
        self._query_log = query_log
        self._keepsake = keepsake
        self._hearsay = hearsay
        self._started_at = time.time() if started_at is None else started_at
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: the registry need not call `collect` to learn our names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from _of_pools(list(self._proxy.pools()))
        yield from _of_credentials(self._proxy.credentials())
        yield from _of_servers(list(self._proxy.watches()))
        if self._keepsake is not None:
            yield from families.of_keepsake(self._keepsake)
        yield from families.of_caches(self._proxy.caches)
        yield from families.of_tolls(self._proxy.tolls)
        yield from families.of_approaches(self._proxy.approaches())
        if self._hearsay is not None:
            yield from families.of_hearsay(self._hearsay)

    def _process(self) -> Iterator[Metric]:
        proxy = self._proxy
        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("pgambassador_build", "What is running.", value=build)
        yield GaugeMetricFamily(
            "pgambassador_start_time_seconds", "When it was started, in Unix time.", value=self._started_at
        )
        yield GaugeMetricFamily("pgambassador_clients", "Clients that are connected.", value=proxy.clients)
        yield GaugeMetricFamily(
            "pgambassador_draining", "1 while it waits for clients to leave.", value=int(proxy.draining)
        )
        yield GaugeMetricFamily(
            "pgambassador_buffered_bytes",
            "What is held for all clients together: of what they sent, and of what they have not read.",
            value=proxy.memory.held,
        )
        yield CounterMetricFamily(
            "pgambassador_memory_ended", "Clients that were ended to make room.", value=proxy.memory.ended
        )
        yield CounterMetricFamily("pgambassador_logins", "Clients that logged in.", value=proxy.logins)
        yield CounterMetricFamily(
            "pgambassador_login_failures", "Clients whose login failed.", value=proxy.login_failures
        )
        rejected = CounterMetricFamily(
            "pgambassador_clients_rejected", "Clients that were turned away.", labels=("reason",)
        )
        for reason, count in sorted(proxy.rejected.items()):
            rejected.add_metric((reason,), count)
        yield rejected
        ends = GaugeMetricFamily(
            "pgambassador_certificate_expiry_timestamp_seconds",
            "When the certificate in a configured file ends, in Unix time.",
            labels=("cluster", "role"),
        )
        for ending in proxy.endings():
            ends.add_metric((ending.cluster, ending.option), ending.at)
        yield ends
        log = self._query_log
        if log is not None:
            records = CounterMetricFamily(
                "pgambassador_query_log_records",
                "Query log records by what became of them.",
                labels=("outcome",),
            )
            for outcome in ("written", "dropped", "failed"):
                records.add_metric((outcome,), getattr(log, outcome))
            yield records


def _of_pools(pools: Sequence[PoolStats]) -> Iterator[Metric]:
    names = [(pool.cluster, pool.database, pool.user) for pool in pools]
    named = list(zip(names, pools, strict=True))
    yield from of_table(GaugeMetricFamily, _GAUGES, _LABELS, named)
    states = GaugeMetricFamily(
        "pgambassador_server_connections", "Server connections by state.", labels=(*_LABELS, "state")
    )
    closed = CounterMetricFamily(
        "pgambassador_server_disconnects", "Server connections that ended.", labels=(*_LABELS, "reason")
    )
    pins = CounterMetricFamily(
        "pgambassador_session_pins",
        "Sessions that had to keep their server connection.",
        labels=(*_LABELS, "reason"),
    )
    timeouts = CounterMetricFamily(
        "pgambassador_timeouts",
        "Statements, transactions and clients that took too long.",
        labels=(*_LABELS, "timeout"),
    )
    routed = CounterMetricFamily(
        "pgambassador_routed_queries", "Queries that were answered, by where.", labels=(*_LABELS, "target")
    )
    missed = CounterMetricFamily(
        "pgambassador_replica_misses",
        "Reads that no replica could have: none was fresh enough (stale), or none could be used (none).",
        labels=(*_LABELS, "reason"),
    )
    aftermath = CounterMetricFamily(
        "pgambassador_lost_statements",
        "Statements whose server connection was lost, or which met a standby or a conflict, by outcome.",
        labels=(*_LABELS, "outcome"),
    )
    for labels, pool in named:
        for outcome, count in sorted(pool.aftermath.items()):
            aftermath.add_metric((*labels, outcome), count)
        routed.add_metric((*labels, "primary"), pool.queries - pool.replica_queries - pool.recalled)
        routed.add_metric((*labels, "cache"), pool.recalled)
        routed.add_metric((*labels, "replica"), pool.replica_queries)
        missed.add_metric((*labels, "stale"), pool.stale)
        missed.add_metric((*labels, "none"), pool.without_replica)
        for state in _STATES:
            states.add_metric((*labels, state), getattr(pool, state))
        for reason, count in sorted(pool.closed.items()):
            closed.add_metric((*labels, reason), count)
        for reason, count in sorted(pool.pins.items()):
            pins.add_metric((*labels, reason), count)
        for name, count in sorted(pool.timeouts.items()):
            timeouts.add_metric((*labels, name), count)
    yield states
    yield closed
    yield pins
    yield timeouts
    yield aftermath
    yield routed
    yield missed
    yield from of_table(CounterMetricFamily, _COUNTERS, _LABELS, named)
    for name, attribute, text in _HISTOGRAMS:
        histogram = HistogramMetricFamily(name, text, labels=_LABELS)
        for labels, pool in named:
            buckets = _cumulated(getattr(pool, f"{attribute}_histogram"))
            histogram.add_metric(labels, buckets, sum_value=getattr(pool, f"{attribute}_seconds"))
        yield histogram


_CREDENTIALS = (
    (
        "pgambassador_credential_failures",
        "failing",
        "How often a provider has failed since it last gave a secret.",
    ),
    ("pgambassador_credential_age_seconds", "age", "Since the oldest secret was fetched."),
    (
        "pgambassador_credential_expiry_timestamp_seconds",
        "expires",
        "When the first of the secrets expires, in Unix time.",
    ),
)


def _of_credentials(keyrings: Iterable[CredentialStats]) -> Iterator[Metric]:
    labels = ("cluster", "provider")
    things = [((each.cluster, each.provider), each) for each in keyrings]
    refreshes = CounterMetricFamily(
        "pgambassador_credential_refreshes",
        "How often a provider was asked for a secret, by what came of it.",
        labels=(*labels, "result"),
    )
    for names, each in things:
        refreshes.add_metric((*names, "success"), each.refreshes)
        refreshes.add_metric((*names, "failure"), each.refresh_failures)
    yield refreshes
    yield from of_table(GaugeMetricFamily, _CREDENTIALS, labels, things)


_ROLES = ("primary", "standby", "unknown")


def _of_servers(watches: Sequence[WatchStats]) -> Iterator[Metric]:
    labels = ("cluster", "server")
    role = GaugeMetricFamily(
        "pgambassador_server_role", "1 for what the server is.", labels=(*labels, "role")
    )
    well = GaugeMetricFamily("pgambassador_server_well", "1 if it may have statements.", labels=labels)
    lag = GaugeMetricFamily(
        "pgambassador_server_lag_seconds", "For how long a replica has shown nothing newer.", labels=labels
    )
    weight = GaugeMetricFamily("pgambassador_server_weight", "Its share of the reads.", labels=labels)
    probes = CounterMetricFamily(
        "pgambassador_server_probes", "Questions about its role that it has answered.", labels=labels
    )
    failures = CounterMetricFamily(
        "pgambassador_server_probe_failures", "Questions that it has not.", labels=labels
    )
    searches = CounterMetricFamily(
        "pgambassador_discoveries",
        "How often a cluster's servers were looked for, by what came of it.",
        labels=("cluster", "result"),
    )
    for watch in watches:
        searches.add_metric((watch.name, "success"), watch.discoveries)
        searches.add_metric((watch.name, "failure"), watch.discovery_failures)
        for each in watch.servers():
            names = (watch.name, str(each.server.endpoint))
            for one in _ROLES:
                role.add_metric((*names, one), int(each.server.role == one))
            well.add_metric(names, int(each.server.well))
            weight.add_metric(names, each.server.weight)
            probes.add_metric(names, each.probes)
            failures.add_metric(names, each.failures)
            if each.lag is not None:
                lag.add_metric(names, each.lag)
    yield from (role, well, lag, weight, probes, failures, searches)


def _cumulated(counts: Sequence[int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
    return list(zip(bounds, itertools.accumulate(map(float, counts)), strict=True))
