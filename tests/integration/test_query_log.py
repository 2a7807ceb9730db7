"""The query log as its reader finds it: which statements, what is said of them, and what is left out."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import HOST
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.messages import COPY_DONE, SYNC, bind, copy_data, execute, parse

Line = dict[str, Any]
FIELDS = {
    "time", "client", "database", "user", "application_name", "query", "fingerprint", "duration_ms",
    "wait_ms", "rows", "bytes_in", "bytes_out", "server", "route", "why", "batched",
    "sqlstate", "slow",
}  # fmt: skip


class Log:
    """The file, and the ambassador that writes it."""

    def __init__(self, proxy: Ambassador, file: Path) -> None:
        self.proxy = proxy
        self.file = file

    def lines(self) -> list[Line]:
        text = self.file.read_text() if self.file.exists() else ""
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def find(self, text: str, count: int = 1) -> list[Line]:
        """Lines whose statement contains the text, as soon as there are so many."""

        def search() -> list[Line] | None:
            found = [line for line in self.lines() if text in line["query"]]
            return found if len(found) >= count else None

        found = wait_until(search, f"{count} lines about {text!r}")
        assert found is not None
        assert len(found) == count, found
        return found

    def one(self, text: str) -> Line:
        (line,) = self.find(text)
        return line


Open = Callable[..., Log]


@pytest.fixture
def opened(primary: Postgres, ambassador: Callable[..., Ambassador], tmp_path: Path) -> Open:
    """With these options of `query_log`, and those of the pool."""

    def make(pool: dict[str, Any] | None = None, **options: Any) -> Log:
        file = tmp_path / "queries"
        proxy = ambassador(
            primary.url("app", USERS["app"].password, "app"),
            pool=pool or {"size": 2},
            query_log={"file": str(file), **options},
        )
        return Log(proxy, file)

    return make


def test_what_is_said_of_a_statement(opened: Open, primary: Postgres) -> None:
    log = opened(slow="0s")
    with Wire.session(log.proxy.port, application_name="reader") as client:
        question = build.query("select i, 'secret' from generate_series(1, 20) i where i <> 13 -- a secret")
        client.send(question)
        client.until("Z")
        line = log.one("generate_series")
        host, port = client.socket.getsockname()
    assert set(line) == FIELDS
    assert line["query"] == "select i, $1 from generate_series($2, $3) i where i <> $4"
    assert re.fullmatch("[0-9a-f]{16}", line["fingerprint"])
    when = datetime.fromisoformat(line["time"])
    assert timedelta(0) <= datetime.now(UTC) - when < timedelta(seconds=30)
    assert line["client"] == f"{host}:{port}"
    assert (line["database"], line["user"], line["application_name"]) == ("app", "app", "reader")
    assert line["rows"] == 19
    assert 0 < line["duration_ms"] < 5000
    assert 0 <= line["wait_ms"] < 5000
    assert line["bytes_in"] == len(question)
    assert 19 * 20 < line["bytes_out"] < 2000
    assert line["server"] == f"{HOST}:{primary.port}"
    assert (line["route"], line["why"], line["batched"]) == ("", "", False)
    assert line["sqlstate"] == ""
    assert line["slow"] is True


@pytest.mark.parametrize("how", ["simple", "extended", "prepared", "copy in", "copy out"])
def test_every_kind_of_statement_is_logged_with_its_text_and_rows(how: str, opened: Open) -> None:
    log = opened(slow="0s")
    with Wire.session(log.proxy.port) as client:
        client.ask("drop table if exists noted; create table noted (t text)")
        if how == "simple":
            client.ask("insert into noted select 'x' from generate_series(1, 7)")
        elif how == "extended":
            sql = b"insert into noted select $1 from generate_series(1, 7)"
            client.send(parse(b"", sql), bind(b"", b"x"), execute(), SYNC)
            client.until("Z")
        elif how == "prepared":
            client.send(parse(b"p", b"insert into noted select $1 from generate_series(1, 7)"), SYNC)
            client.until("Z")
            client.send(bind(b"p", b"x"), execute(), SYNC)
            client.until("Z")
        elif how == "copy in":
            client.send(build.query("copy noted from stdin"), *[copy_data(b"x\n")] * 7, COPY_DONE)
            client.until("Z")
        else:
            client.ask("insert into noted select 'x' from generate_series(1, 7)")
            client.ask("copy noted to stdout")
    text = {"copy in": "copy noted from stdin", "copy out": "copy noted to stdout"}.get(
        how, "insert into noted select"
    )
    line = log.one(text)
    assert line["rows"] == 7
    assert line["fingerprint"]


def test_statements_of_a_pipeline_are_logged_one_by_one(opened: Open) -> None:
    log = opened(slow="0s")
    with Wire.session(log.proxy.port) as client:
        for index in range(5):
            client.send(parse(b"", b"select $1, %d as piped" % index), bind(b"", b"x"), execute())
        client.send(SYNC)
        client.until("Z")
    lines = log.find("piped", 5)
    assert all(line["query"] == "select $1, $2 as piped" for line in lines)
    assert len({line["fingerprint"] for line in lines}) == 1


def test_without_literals_no_value_is_seen(opened: Open) -> None:
    log = opened(slow="0s")
    with psycopg.connect(log.proxy.dsn(), autocommit=True) as connection:
        connection.execute("select 'hunter2', $$hunter2$$, E'hunter\\x32', 4711 /* hunter2 */ as marker")
        connection.execute("select %s as parameter", ("hunter2",))
        with pytest.raises(psycopg.Error):
            connection.execute("select 'hunter2'::int as failing")
    log.one("marker")
    log.one("parameter")
    log.one("failing")
    assert "hunter" not in log.file.read_text()
    assert "4711" not in log.file.read_text()


def test_with_literals_statements_are_as_written(opened: Open) -> None:
    log = opened(slow="0s", literals=True)
    with Wire.session(log.proxy.port) as client:
        client.ask("select  'as written', 42 /* all of it */")
    assert log.one("as written")["query"] == "select  'as written', 42 /* all of it */"


def test_errors_are_logged_with_their_sqlstate(opened: Open) -> None:
    log = opened(slow="off")
    with Wire.session(log.proxy.port) as client:
        client.ask("select 1 / 0 as divided")
        client.ask("select 'fine'")
        client.ask("this is no statement")
        client.send(parse(b"", b"select nonsense"), bind(b""), execute(), SYNC)
        client.until("Z")
        client.send(parse(b"", b"select $1::int as number"), bind(b"", b"none"), execute(), SYNC)
        client.until("Z")
    assert log.one("divided")["sqlstate"] == "22012"
    assert log.one("nonsense")["sqlstate"] == "42703"
    assert log.one("number")["sqlstate"] == "22P02"
    line = log.one("statement")
    assert (line["sqlstate"], line["fingerprint"], line["slow"]) == ("42601", None, False)
    assert len(log.lines()) == 4


def test_errors_can_be_left_out(opened: Open) -> None:
    log = opened(slow="300ms", errors=False)
    with Wire.session(log.proxy.port) as client:
        client.ask("select 1 / 0 as divided")
        client.ask("select pg_sleep(0.4), 'last'")
    log.one("pg_sleep")
    assert len(log.lines()) == 1


def test_only_slow_statements_are_logged(opened: Open) -> None:
    log = opened(slow="200ms")
    with Wire.session(log.proxy.port) as client:
        for _ in range(20):
            client.ask("select 'quick'")
        client.ask("select pg_sleep(0.3)")
        client.ask("select 'quick again'")
    line = log.one("pg_sleep")
    assert line["slow"] is True
    assert 300 <= line["duration_ms"] < 3000
    assert log.proxy.drain() == 0
    assert len(log.lines()) == 1


def test_a_sample_is_logged_besides(opened: Open) -> None:
    log = opened(slow="off", sample=0.3)
    with Wire.session(log.proxy.port) as client:
        for _ in range(600):
            client.ask("select 'sampled'")
    assert log.proxy.drain() == 0
    assert 100 < len(log.lines()) < 300  # 180 are expected; 11 is a standard deviation
    assert not any(line["slow"] for line in log.lines())


def test_the_time_in_the_queue_is_told_apart(opened: Open) -> None:
    log = opened({"size": 1}, slow="0s")
    with Wire.session(log.proxy.port) as holder, Wire.session(log.proxy.port) as client:
        holder.ask("begin")
        holder.send(build.query("select pg_sleep(0.4)"))
        client.send(build.query("select 'waited'"))
        wait_until(lambda: log.proxy.metrics().total("pgambassador_pool_waiting_clients") == 1)
        holder.until("Z")
        holder.ask("commit")
        client.until("Z")
    line = next(line for line in log.find("select $1") if line["wait_ms"] > 100)
    assert 100 < line["wait_ms"] < 5000
    assert line["duration_ms"] < 200


def test_the_application_name_follows_what_the_client_sets(opened: Open) -> None:
    log = opened(slow="0s")
    with Wire.session(log.proxy.port) as client:
        client.ask("select 1 as before")
        client.ask("set application_name = 'renamed'")
        client.ask("select 1 as after")
    assert log.one("as before")["application_name"] == ""
    assert log.one("as after")["application_name"] == "renamed"


def test_a_statement_of_a_client_that_waits_in_vain_is_no_statement_of_a_server(opened: Open) -> None:
    log = opened({"size": 1, "wait_timeout": "200ms"}, slow="0s")
    with Wire.session(log.proxy.port) as holder, Wire.session(log.proxy.port) as client:
        wait_until(lambda: holder.ask("begin").kinds == "CZ", "a connection, which may take longer to open")
        assert client.ask("select 'in vain'").error.sqlstate == "53300"
        holder.ask("select 'the last'")
        holder.ask("commit")
    log.one("commit")
    assert all(line["sqlstate"] in ("", "53300") for line in log.lines())


def test_it_stands_on_standard_error_among_the_other_lines(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), query_log={"slow": "0s"})
    with Wire.session(proxy.port) as client:
        client.ask("select 'on standard error' as marker")
    line = wait_until(lambda: [line for line in proxy.log_lines() if "marker" in line.get("query", "")])[0]
    assert set(line) == FIELDS


def test_text_of_any_kind_is_one_line_of_json(opened: Open) -> None:
    log = opened(slow="0s", literals=True)
    nasty = "select 'new\nline', '\x01\x7f\u2028', '\U0001f418', '\"', '\\' as nasty"
    with Wire.session(log.proxy.port) as client:
        client.ask(nasty)
        client.send(build.query(b"select '\xff\xfe' as broken"))
        client.until("Z")
    assert log.one("nasty")["query"] == nasty
    assert "broken" in log.one("broken")["query"]
    lines = log.file.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == 2


def test_long_statements_are_cut(opened: Open) -> None:
    log = opened(slow="0s")
    with Wire.session(log.proxy.port) as client:
        client.ask("select 1 as long, " + ", ".join(f"{i} as column_{i}" for i in range(1600)))
    line = log.one("as long")
    assert len(line["query"]) < 5000
    assert line["query"].endswith("…")


def test_a_log_that_nobody_reads_holds_nobody_up(
    primary: Postgres, ambassador: Callable[..., Ambassador], tmp_path: Path
) -> None:
    """A full pipe: statements are answered as ever, lines are counted as dropped."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        proxy = ambassador(
            primary.url("app", USERS["app"].password, "app"),
            query_log={"slow": "0s", "file": str(pipe), "literals": True},
        )
        text = "x" * 4000
        with Wire.session(proxy.port) as client:

            def dropped() -> bool:
                for _ in range(500):
                    client.send(build.query(f"select 1 /* {text} */"))
                for _ in range(500):
                    assert client.until("Z").value == "1"
                records = proxy.metrics().total("pgambassador_query_log_records_total", outcome="dropped")
                return records > 0

            wait_until(dropped, "lines that are dropped", deadline=30)
            assert client.ask("select 'quick'").value == "quick"
    finally:
        os.close(reader)


async def _ask_asyncpg(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.fetch("select $1::int + 1 as by_asyncpg", 1)
    await connection.close()


def test_a_driver_with_prepared_statements(opened: Open) -> None:
    log = opened(slow="0s")
    asyncio.run(_ask_asyncpg(log.proxy.dsn()))
    line = log.one("by_asyncpg")
    assert line["query"] == "select $1::int + $2 as by_asyncpg"
    assert line["rows"] == 1
