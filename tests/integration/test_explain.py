"""`pgambassador explain`, as a user meets it: with servers that are asked, and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Authority, Postgres
from pgambassador.embedded.ports import HOST, free_port
from tests.harness import wait_until
from tests.integration.test_check import ambassador, url


def both(primary: Postgres, replica: Postgres, ca: Authority, **more: str) -> str:
    return url(primary, ca, **more).replace(
        f"{HOST}:{primary.port}", f"{HOST}:{primary.port},{HOST}:{replica.port}"
    )


def explained(*arguments: str) -> dict[str, Any]:
    done = ambassador("explain", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def table(primary: Postgres) -> str:
    primary.sql(
        "create table if not exists explained (n int);"
        "create or replace function explained_writes() returns int language sql as 'select 1'",
        database="app",
    )
    return "explained"


def test_without_a_server_it_is_said_on_what_it_was_decided():
    done = ambassador("explain", "select * from things where id = 1")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert lines["class"].strip() == "read"
    assert lines["goes"].strip() == "to a replica that is fresh enough"
    assert "no server was asked" in lines["note"]
    assert len(lines["fingerprint"].strip()) == 16


def test_a_read_goes_to_the_replica(primary, replica, ca, table):
    servers = both(primary, replica, ca)
    wait_until(lambda: replica.sql(f"select 1 from pg_class where relname = '{table}'", database="app"))
    found = explained(f"select * from {table}", servers)
    assert (found["class"], found["goes"]) == ("read", f"to {HOST}:{replica.port}")
    first, second = found["servers"]
    assert (first["role"], first["takes"], first["why"]) == ("primary", False, "reads go to replicas")
    assert (second["role"], second["takes"], second["why"]) == ("standby", True, None)
    assert 0 <= second["lag_seconds"] < 10


def test_the_catalog_is_asked(primary, replica, ca, table):
    found = explained(f"select explained_writes() from {table}", both(primary, replica, ca))
    assert found["goes"] == "to the primary"
    assert found["why"] == "calls explained_writes(), which is volatile"
    assert [each["takes"] for each in found["servers"]] == [True, False]


def test_a_replica_that_is_down(primary, ca, table):
    servers = url(primary, ca).replace(
        f"{HOST}:{primary.port}", f"{HOST}:{primary.port},{HOST}:{free_port()}"
    )
    found = explained(f"select * from {table}", servers)
    assert found["goes"] == "to the primary, since no replica will do"
    (first, second) = found["servers"]
    assert first["takes"] and not second["takes"]
    assert "refused" in second["why"].lower()


def test_a_replica_that_lags(primary, replica, ca, table):
    with psycopg.connect(replica.url(), autocommit=True) as standby:
        standby.execute("select pg_wal_replay_pause()")
        try:
            primary.sql(f"insert into {table} values (1)", database="app")
            found = explained(f"select * from {table}", both(primary, replica, ca))
        finally:
            standby.execute("select pg_wal_replay_resume()")
    assert found["goes"] == "to the primary, since no replica will do"
    assert found["servers"][1]["why"].startswith("it has not replayed yet what the primary had")


def test_rules_by_user_and_fingerprint(primary, replica, ca, table, tmp_path: Path):
    text = f"select n from {table}"
    mark = explained(text)["fingerprint"]
    routing = {
        "rules": [
            {"user": "reports", "application_name": "nightly", "route": "primary"},
            {"fingerprint": mark, "user": "other", "route": "primary"},
        ]
    }
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps({"clusters": {"main": {"url": both(primary, replica, ca), "routing": routing}}})
    )
    given = ("--config", str(config))
    assert explained(text, *given)["rule"] is None
    found = explained(text, *given, "--user", "reports", "--application-name", "nightly")
    assert (found["rule"], found["goes"]) == ("rule primary", "to the primary")
    found = explained(text, *given, "--user", "other")
    assert found["rule"] == f"rule primary for fingerprint {mark}"


def test_one_host(primary, ca):
    found = explained("select 1", url(primary, ca))
    assert (found["class"], found["goes"], found["servers"]) == ("read", "to the only server", [])
    assert found["note"] == "all statements go one way (the URL has one host)"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "required: SQL"),
        (("select 1", f"postgresql://app@{HOST}:1,{HOST}:2/app?sslmode=disable"), 1, "no server of the"),
        (("select 1", f"postgresql://app@{HOST}:1/app?sslmode=disable"), 1, "could not connect"),
        (("select 1", f"postgresql://{HOST}:1/app?sslmode=disable"), 2, "--user"),
    ],
)
def test_errors_are_sentences(arguments: tuple[str, ...], code: int, said: str):
    done = ambassador("explain", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_statement_that_does_not_parse():
    found = explained("selec 1")
    assert (found["class"], found["goes"], found["fingerprint"]) == ("unknown", "to the primary", None)
