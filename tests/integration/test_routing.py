"""Where statements are sent, with a real primary and its standby as the judges of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.routing import catalog
from tests.harness import wait_until
from tests.routing import corpus

DATABASE = "routed"
QUESTION = catalog.QUERY[5:-1].decode()
READS = [each for each in corpus.STATEMENTS if (each.kind, each.target) == ("read", "replica")]


def ask(connection: Connection) -> list[corpus.Row]:
    return corpus.normal(
        (kind, names, detail or "") for kind, names, detail in connection.execute(QUESTION).fetchall()
    )


@pytest.fixture(scope="module")
def writer(primary: Postgres) -> Iterator[Connection]:
    """At the primary, in a database with the schema of the corpus."""
    primary.sql(f"drop database if exists {DATABASE} with (force)")
    primary.sql(f"create database {DATABASE}")
    with psycopg.connect(primary.url(database=DATABASE), autocommit=True) as connection:
        connection.execute(corpus.SCHEMA.read_bytes())
        yield connection


@pytest.fixture(scope="module")
def reader(writer: Connection, replica: Postgres) -> Iterator[Connection]:
    """At the standby, which has all that the primary had."""
    ((position,),) = writer.execute("select pg_current_wal_lsn()").fetchall()
    with psycopg.connect(replica.url(), autocommit=True) as connection:
        replayed = "select where pg_last_wal_replay_lsn() >= %s"
        wait_until(lambda: connection.execute(replayed, [position]).fetchall())
    with psycopg.connect(replica.url(database=DATABASE), autocommit=True) as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (True,)
        yield connection


def outcome(connection: Connection, text: str) -> str:
    """The SQLSTATE, or what came of it without the rows."""
    try:
        result = connection.pgconn.exec_(text.encode())
        while result.status == psycopg.pq.ExecStatus.COPY_OUT:
            while connection.pgconn.get_copy_data(0)[0] > 0:
                pass
            result = connection.pgconn.get_result() or result
            while connection.pgconn.get_result() is not None:
                pass
    finally:
        assert connection.pgconn.transaction_status == psycopg.pq.TransactionStatus.IDLE
    if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
        return (result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) or b"").decode()
    return "done"


def test_the_recorded_catalog_is_what_a_server_says(writer: Connection) -> None:
    """Which the unit tests rely on. PGAMBASSADOR_RECORD=1 records it anew."""
    said = ask(writer)
    if os.environ.get("PGAMBASSADOR_RECORD"):
        corpus.RECORDED.write_text(json.dumps(said, indent=0, ensure_ascii=False) + "\n")
    assert [list(each) for each in said] == json.loads(corpus.RECORDED.read_text())


@pytest.mark.parametrize("each", READS, ids=str)
def test_what_is_classed_as_a_read_works_on_a_standby(
    each: corpus.Statement, writer: Connection, reader: Connection
) -> None:
    assert outcome(reader, each.text) == outcome(writer, each.text)


def test_the_corpus_works_at_all(writer: Connection) -> None:
    """All but those that fail everywhere: with parameters that nobody gives."""
    failing = [each.text for each in READS if outcome(writer, each.text) != "done"]
    assert all("$1" in text for text in failing), failing


def test_the_corpus_has_every_command(primary: Postgres) -> None:
    installation = primary.installation
    listed = subprocess.run(
        [installation.folder / "psql", "-X", "-c", r"\h", primary.url()],
        env=installation.environment(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    _heading, _, body = listed.partition("\n")
    names = sorted({each.why for each in corpus.STATEMENTS if each.why.isupper()}, key=len, reverse=True)
    missing = re.sub(rf"(?<!\S)(?:{'|'.join(names)})(?!\S)", "", body).split()
    assert "ALTER" in body
    assert not missing
