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
        "cancels": 12,
        "replica_queries": 40,
        "stale": 16,
        "without_replica": 17,
        "batches": 18,
        "batched": 19,
        "repeated": 21,
        "verdicts": 22,
        "judged": 23,
        "query_seconds": 1.5,
        "wait_seconds": 0.25,
        "closed": {"idle": 13, "lost": 14},
        "pins": {"LISTEN": 15},
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


def scrape(*pools, query_log=None, credentials=(), watches=(), **changes):
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
            endings=lambda: ENDINGS,
        ),
        query_log,
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
        ("cancels_total", 12),
        ("query_duration_seconds_sum", 1.5),
        ("query_duration_seconds_count", 5),
        ("wait_duration_seconds_sum", 0.25),
        ("wait_duration_seconds_count", 1),
        ("routing_statements", 22),
        ("routing_misses_total", 23),
        ("batches_total", 18),
        ("batched_queries_total", 19),
        ("repeated_queries_total", 21),
    ],
)
def test_a_pool(name, value):
    assert scrape(pool())[f"pgambassador_{name}", *sorted(WHERE.items())] == value


def test_where_queries_went_and_why_not_to_a_replica():
    found = scrape(pool())
    for name, label, value in (
        ("routed_queries_total", ("target", "primary"), 20),
        ("routed_queries_total", ("target", "replica"), 40),
        ("replica_misses_total", ("reason", "stale"), 16),
        ("replica_misses_total", ("reason", "none"), 17),
    ):
        assert found[f"pgambassador_{name}", *sorted([*WHERE.items(), label])] == value


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


def test_names_have_our_prefix_and_no_log_means_no_log_numbers():
    names = {name[0] for name in scrape(pool())}
    assert {name for name in names if not name.startswith(("pgambassador_", "process_"))} == set()
    assert "pgambassador_query_log_records_total" not in names


def test_every_metric_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text("utf-8")
    for name in {
        name[0]
        for name in scrape(
            pool(), query_log=SimpleNamespace(written=0, dropped=0, failed=0), credentials=[keyring()]
        )
    }:
        family = re.sub(r"(_seconds)_(sum|count|bucket)$", r"\1", name)
        assert f"| `{family}" in text or name.startswith("process_"), (
            f"{family} is missing from docs/observability.md"
        )
