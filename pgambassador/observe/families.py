"""What is told of all that stands beside the pools: caches, limits and faults, breakers, the next start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from pgambassador.observe.stats import ApproachesStats, CacheStats, HearsayStats, KeepsakeStats, TollStats


Table = tuple[tuple[str, str, str], ...]
"""For each family its name, the attribute that it shows, and its help."""


def of_table(
    family: type[GaugeMetricFamily | CounterMetricFamily],
    table: Table,
    labels: tuple[str, ...],
    things: Sequence[tuple[tuple[str, ...], object]],
) -> Iterator[Metric]:
    """`things` are what their labels say, and who has the attributes; one that is None is left out."""
    for name, attribute, text in table:
        made = family(name, text, labels=labels)
        for values, each in things:
            if (number := getattr(each, attribute)) is not None:
                made.add_metric(values, number)
        yield made


def of_keepsake(keepsake: KeepsakeStats) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "pgambassador_last_known_good",
        "What is gone by as it was known last: names of hosts, clusters, pools' logins, the configuration.",
        labels=("what",),
    )
    for what, count in sorted(keepsake.in_use.items()):
        used.add_metric((what,), count)
    yield used
    writes = CounterMetricFamily(
        "pgambassador_state_writes", "Files written for the next start.", labels=("result",)
    )
    writes.add_metric(("success",), keepsake.writes)
    writes.add_metric(("failure",), keepsake.failures)
    yield writes


def of_tolls(tolls: TollStats) -> Iterator[Metric]:
    refused = CounterMetricFamily(
        "pgambassador_rate_limited", "Statements that a rule of limits.rates has refused.", labels=("rule",)
    )
    for rule, count in tolls.refused.items():
        refused.add_metric((rule,), count)
    yield refused
    yield GaugeMetricFamily(
        "pgambassador_faults_active", "Faults on purpose that are on.", value=tolls.active
    )
    injected = CounterMetricFamily(
        "pgambassador_faults_injected", "What has gone wrong on purpose.", labels=("kind",)
    )
    for kind, count in sorted(tolls.injected.items()):
        injected.add_metric((kind,), count)
    yield injected


_CACHE_COUNTERS = (
    ("pgambassador_cache_hits", "hits", "Queries that were answered from the cache."),
    ("pgambassador_cache_misses", "misses", "Queries that would have been, had their answer been there."),
    ("pgambassador_cache_stores", "stored", "Answers that were put there."),
    ("pgambassador_cache_evictions", "evicted", "Answers that made room for others."),
    ("pgambassador_cache_invalidations", "invalidated", "Answers that a write has taken away."),
    ("pgambassador_cache_expirations", "expired", "Answers that were too old when they were asked for."),
)
_CACHE_GAUGES = (
    ("pgambassador_cache_bytes", "bytes", "What answers in the cache take."),
    ("pgambassador_cache_limit_bytes", "memory", "What they may take."),
)


def of_caches(caches: Mapping[str, CacheStats]) -> Iterator[Metric]:
    things = [((cluster,), cache) for cluster, cache in caches.items()]
    yield from of_table(CounterMetricFamily, _CACHE_COUNTERS, ("cluster",), things)
    yield from of_table(GaugeMetricFamily, _CACHE_GAUGES, ("cluster",), things)
    answers = GaugeMetricFamily(
        "pgambassador_cache_answers", "Answers that are in the cache.", labels=("cluster",)
    )
    for cluster, cache in caches.items():
        answers.add_metric((cluster,), len(cache))
    yield answers


_BREAKER = ("closed", "open", "half-open")


def of_approaches(clusters: Iterable[ApproachesStats]) -> Iterator[Metric]:
    labels = ("cluster", "server")
    state = GaugeMetricFamily(
        "pgambassador_breaker_state", "1 for what the server's breaker is.", labels=(*labels, "state")
    )
    forced = GaugeMetricFamily(
        "pgambassador_breaker_forced", "1 if it is set by hand, or a dry run.", labels=(*labels, "mode")
    )
    opened = CounterMetricFamily("pgambassador_breaker_opened", "How often it has opened.", labels=labels)
    failures = CounterMetricFamily(
        "pgambassador_breaker_failures", "What has counted against the server.", labels=labels
    )
    opening = GaugeMetricFamily(
        "pgambassador_server_opening", "Connections that are being opened to the server.", labels=labels
    )
    retries = CounterMetricFamily(
        "pgambassador_server_retries",
        "Attempts after a failure, by whether there was a budget for them.",
        labels=(*labels, "result"),
    )
    for cluster in clusters:
        for each in cluster:
            names = (cluster.cluster, str(each.server))
            for one in _BREAKER:
                state.add_metric((*names, one), int(each.breaker.state == one))
            if each.breaker.mode != "auto":
                forced.add_metric((*names, each.breaker.mode), 1)
            opened.add_metric(names, each.breaker.opened)
            failures.add_metric(names, each.breaker.failures)
            opening.add_metric(names, each.opening)
            retries.add_metric((*names, "made"), each.retries.granted)
            retries.add_metric((*names, "put off"), each.retries.denied)
    yield from (state, forced, opened, failures, opening, retries)


def of_hearsay(hearsay: HearsayStats) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pgambassador_breaker_store_up",
        "Whether the store of breaker.store is of use.",
        value=int(hearsay.up),
    )
    yield CounterMetricFamily(
        "pgambassador_breaker_store_failures", "What went wrong with it.", value=hearsay.failures
    )
    words = CounterMetricFamily(
        "pgambassador_breaker_words",
        "What was told others of sick servers, and heard.",
        labels=("direction",),
    )
    words.add_metric(("told",), hearsay.told)
    words.add_metric(("heard",), hearsay.heard)
    yield words
