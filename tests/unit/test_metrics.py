"""The numbers of Prometheus: every attribute of a pool arrives, with its name, labels and type."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgambassador import __version__
from pgambassador.auth.expiry import Ending
from pgambassador.cluster.upstream import Endpoint
from pgambassador.observe.metrics import BUCKETS, Metrics
from pgambassador.routing.cache import Cache

ENDINGS = [Ending("", "tls.certificate", 1800000000.0), Ending("main", "sslrootcert", 1900000000.5)]
WHERE = {"cluster": "main", "database": "shop", "user": 'a"b'}


def pool(**changes):
    numbers = {
        "size": 20,
        "idle": 1,
        "active": 2,
        "opening": 3,
        "waiting": 4,
        "sessions": 5,
        "queries": 60,
        "transactions": 50,
        "errors": 6,
        "bytes_received": 7000,
        "bytes_sent": 8000,
        "connects": 9,
        "connect_failures": 10,
        "wait_timeouts": 11,
        "shed": 24,
        "cancels": 12,
        "replica_queries": 40,
        "stale": 16,
        "without_replica": 17,
        "batches": 18,
        "batched": 19,
        "repeated": 21,
        "recalled": 3,
        "verdicts": 22,
        "judged": 23,
        "held": 24,
        "paused": 1,
        "dismissed": 25,
        "query_seconds": 1.5,
        "wait_seconds": 0.25,
        "closed": {"idle": 13, "lost": 14},
        "pins": {"LISTEN": 15},
        "timeouts": {"statement": 16},
        "sessions_kept": 24,
        "sessions_lost": 25,
        "aftermath": {"replayed": 26},
        "query_histogram": (0, 3) + (0,) * (len(BUCKETS) - 2) + (2,),
        "wait_histogram": (1,) + (0,) * len(BUCKETS),
    }
    return SimpleNamespace(**(WHERE | numbers | changes))


def keyring(**changes):
    numbers = {"refreshes": 5, "refresh_failures": 2, "failing": 1, "age": 60.5, "expires": 1700000900.0}
    return SimpleNamespace(cluster="main", provider="exec", **(numbers | changes))


def seen(host="db", role="standby", *, lag=0.5, well=True):
    server = SimpleNamespace(endpoint=Endpoint(host), role=role, well=well, weight=0.25)
    return SimpleNamespace(server=server, lag=lag, probes=31, failures=2)


def watch(*servers):
    return SimpleNamespace(name="main", discoveries=7, discovery_failures=1, servers=lambda: list(servers))


KEPT = SimpleNamespace(in_use={"addresses": 3, "servers": 1, "configuration": 0}, writes=5, failures=2)


class Servers:
    """What is known of a cluster's servers."""

    cluster = "main"

    def __iter__(self):
        breaker = SimpleNamespace(state="open", mode="dry", failures=8, opened=2)
        retries = SimpleNamespace(granted=5, denied=1)
        yield SimpleNamespace(server=Endpoint("db"), breaker=breaker, retries=retries, opening=4)


def scrape(
    *pools, query_log=None, keepsake=None, credentials=(), watches=(), caches=None, servers=(), **changes
):
    proxy = {
        "clients": 3,
        "logins": 7,
        "login_failures": 2,
        "rejected": {"too many clients": 1},
        "draining": False,
    }
    metrics = Metrics(
        SimpleNamespace(
            **(proxy | changes),
            pools=lambda: iter(pools),
            credentials=lambda: iter(credentials),
            watches=lambda: iter(watches),
            approaches=lambda: iter(servers),
            endings=lambda: ENDINGS,
            caches=caches or {},
            tolls=SimpleNamespace(refused={"limits.rates[0]": 8}, active=1, injected={"cut": 9}),
            memory=SimpleNamespace(held=4096, ended=2),
        ),
        query_log,
        keepsake=keepsake,
        started_at=1700000000.5,
    )
    text = metrics.render().decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", 20),
        ("pool_waiting_clients", 4),
        ("pool_clients", 5),
        ("queries_total", 60),
        ("transactions_total", 50),
        ("query_errors_total", 6),
        ("received_bytes_total", 7000),
        ("sent_bytes_total", 8000),
        ("server_connects_total", 9),
        ("server_connect_failures_total", 10),
        ("wait_timeouts_total", 11),
        ("shed_total", 24),
        ("cancels_total", 12),
        ("query_duration_seconds_sum", 1.5),
        ("query_duration_seconds_count", 5),
        ("wait_duration_seconds_sum", 0.25),
        ("wait_duration_seconds_count", 1),
        ("routing_statements", 22),
        ("routing_misses_total", 23),
        ("pool_held_clients", 24),
        ("pool_paused", 1),
        ("clients_dismissed_total", 25),
        ("batches_total", 18),
        ("batched_queries_total", 19),
        ("repeated_queries_total", 21),
        ("sessions_kept_total", 24),
        ("sessions_lost_total", 25),
    ],
)
def test_a_pool(name, value):
    assert scrape(pool())[f"pgambassador_{name}", *sorted(WHERE.items())] == value


def test_where_queries_went_and_why_not_to_a_replica():
    found = scrape(pool())
    for name, label, value in (
        ("routed_queries_total", ("target", "primary"), 17),
        ("routed_queries_total", ("target", "cache"), 3),
        ("routed_queries_total", ("target", "replica"), 40),
        ("replica_misses_total", ("reason", "stale"), 16),
        ("replica_misses_total", ("reason", "none"), 17),
    ):
        assert found[f"pgambassador_{name}", *sorted([*WHERE.items(), label])] == value


def test_what_became_of_lost_statements():
    labels = sorted([*WHERE.items(), ("outcome", "replayed")])
    assert scrape(pool())["pgambassador_lost_statements_total", *labels] == 26


def test_the_servers_that_are_watched():
    found = scrape(watches=[watch(seen(), seen("old", "unknown", lag=None, well=False))])

    def of(name, server, **more):
        labels = {"cluster": "main", "server": f"{server}:5432", **more}
        return found.get((f"pgambassador_server_{name}", *sorted(labels.items())))

    assert [of("role", "db", role=role) for role in ("primary", "standby", "unknown")] == [0, 1, 0]
    assert (of("well", "db"), of("well", "old")) == (1, 0)
    assert (of("lag_seconds", "db"), of("lag_seconds", "old")) == (0.5, None)
    assert (of("weight", "db"), of("probes_total", "db"), of("probe_failures_total", "db")) == (0.25, 31, 2)
    for result, value in (("success", 7), ("failure", 1)):
        assert found["pgambassador_discoveries_total", ("cluster", "main"), ("result", result)] == value


def test_breakers_and_how_connections_are_opened():
    values = scrape(servers=[Servers()])
    where = (("cluster", "main"), ("server", "db:5432"))

    def value(name, **labels):
        return values[(f"pgambassador_{name}", *sorted((*where, *labels.items())))]

    states = {each: value("breaker_state", state=each) for each in ("closed", "open", "half-open")}
    assert states == {"closed": 0, "open": 1, "half-open": 0}
    assert value("breaker_forced", mode="dry") == 1
    assert (value("breaker_opened_total"), value("breaker_failures_total")) == (2, 8)
    assert value("server_opening") == 4
    assert value("server_retries_total", result="made") == 5
    assert value("server_retries_total", result="put off") == 1


def test_certificates_by_when_they_end():
    found = scrape()
    name = "pgambassador_certificate_expiry_timestamp_seconds"
    assert found[name, ("cluster", ""), ("role", "tls.certificate")] == 1800000000
    assert found[name, ("cluster", "main"), ("role", "sslrootcert")] == 1900000000.5


def test_connections_by_state_and_by_reason_of_their_end():
    found = scrape(pool())
    for state, value in (("idle", 1), ("active", 2), ("opening", 3)):
        labels = sorted({**WHERE, "state": state}.items())
        assert found["pgambassador_server_connections", *labels] == value
    for reason, value in (("idle", 13), ("lost", 14)):
        labels = sorted({**WHERE, "reason": reason}.items())
        assert found["pgambassador_server_disconnects_total", *labels] == value


def test_histograms_are_cumulated():
    found = scrape(pool())
    counts = [
        found["pgambassador_query_duration_seconds_bucket", *sorted({**WHERE, "le": le}.items())]
        for le in [*map(str, BUCKETS), "+Inf"]
    ]
    assert counts == [0] + [3] * (len(BUCKETS) - 1) + [5]


def test_the_buckets_are_in_order_and_not_too_many():
    assert list(BUCKETS) == sorted(set(BUCKETS))
    assert (BUCKETS[0], BUCKETS[-1], len(BUCKETS)) == (0.0001, 10.0, 14)


def test_several_pools_and_none():
    found = scrape(pool(), pool(database="other", queries=1))
    assert found["pgambassador_queries_total", *sorted({**WHERE, "database": "other"}.items())] == 1
    assert not [name for name in scrape() if name[0].startswith("pgambassador_pool")]


def test_the_process():
    log = SimpleNamespace(written=5, dropped=6, failed=7)
    found = scrape(query_log=log, draining=True)
    assert found["pgambassador_clients",] == 3
    assert found["pgambassador_draining",] == 1
    assert found["pgambassador_logins_total",] == 7
    assert found["pgambassador_login_failures_total",] == 2
    assert found["pgambassador_clients_rejected_total", ("reason", "too many clients")] == 1
    assert found["pgambassador_query_log_records_total", ("outcome", "dropped")] == 6
    assert found["pgambassador_rate_limited_total", ("rule", "limits.rates[0]")] == 8
    assert found["pgambassador_faults_active",] == 1
    assert found["pgambassador_faults_injected_total", ("kind", "cut")] == 9
    assert found["pgambassador_buffered_bytes",] == 4096
    assert found["pgambassador_memory_ended_total",] == 2
    assert found["pgambassador_start_time_seconds",] == 1700000000.5
    assert [
        name for name in found if name[0] == "pgambassador_build_info" and ("version", __version__) in name
    ]


def test_secrets():
    found = scrape(credentials=[keyring()])
    labels = (("cluster", "main"), ("provider", "exec"))
    assert found["pgambassador_credential_refreshes_total", *labels, ("result", "success")] == 5
    assert found["pgambassador_credential_refreshes_total", *labels, ("result", "failure")] == 2
    assert found["pgambassador_credential_failures", *labels] == 1
    assert found["pgambassador_credential_age_seconds", *labels] == 60.5
    assert found["pgambassador_credential_expiry_timestamp_seconds", *labels] == 1700000900
    found = scrape(credentials=[keyring(age=None, expires=None)])
    ages = ("pgambassador_credential_age_seconds", "pgambassador_credential_expiry_timestamp_seconds")
    assert not [name for name in found if name[0] in ages]


def test_what_is_kept_for_the_next_start():
    found = scrape(keepsake=KEPT)
    assert found["pgambassador_last_known_good", ("what", "addresses")] == 3
    assert found["pgambassador_last_known_good", ("what", "configuration")] == 0
    assert found["pgambassador_state_writes_total", ("result", "success")] == 5
    assert found["pgambassador_state_writes_total", ("result", "failure")] == 2
    assert "pgambassador_last_known_good" not in {name[0] for name in scrape()}


def test_names_have_our_prefix_and_no_log_means_no_log_numbers():
    names = {name[0] for name in scrape(pool())}
    assert {name for name in names if not name.startswith(("pgambassador_", "process_"))} == set()
    assert "pgambassador_query_log_records_total" not in names


def test_every_metric_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text("utf-8")
    for name in {
        name[0]
        for name in scrape(
            pool(),
            query_log=SimpleNamespace(written=0, dropped=0, failed=0),
            keepsake=KEPT,
            credentials=[keyring()],
        )
    }:
        family = re.sub(r"(_seconds)_(sum|count|bucket)$", r"\1", name)
        assert f"| `{family}" in text or name.startswith("process_"), (
            f"{family} is missing from docs/observability.md"
        )


def test_caches():
    cache = Cache(1 << 20)
    cache.hits, cache.misses, cache.stored, cache.evicted = 5, 4, 3, 2
    samples = scrape(caches={"main": cache})
    where = ("cluster", "main")
    assert samples["pgambassador_cache_hits_total", where] == 5
    assert samples["pgambassador_cache_misses_total", where] == 4
    assert samples["pgambassador_cache_stores_total", where] == 3
    assert samples["pgambassador_cache_evictions_total", where] == 2
    assert samples["pgambassador_cache_limit_bytes", where] == 1 << 20
    assert samples["pgambassador_cache_answers", where] == samples["pgambassador_cache_bytes", where] == 0
