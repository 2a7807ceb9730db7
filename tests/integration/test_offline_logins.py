"""Starts while a server is away: logins are answered with what it said of itself last, statements as ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.net.tasks import spawn
from pgambassador.wire import build
from tests.harness import HBA, USERS, Ambassador, Link, Wire, populate, several, wait_until

Make = Callable[..., Ambassador]
PASSWORD = USERS["app"].password
PATIENT = {"hold": "2min", "offline_logins": True}
"""Who is held at all is held to the end of a test."""
SETTINGS = {"timezone": "cet", "extra_float_digits": "3", "application_name": "one"}


@pytest.fixture(scope="module")
def own(workspace: Workspace) -> Postgres:
    """A server to stop."""
    made = workspace.primary("offline", hba=(*HBA, "hostssl all app 127.0.0.1/32 scram-sha-256"))
    populate(made)
    return made


@pytest.fixture
def server(own: Postgres) -> Iterator[Postgres]:
    if not own.running:
        own.start()
    yield own
    own.configure({"timezone": "UTC", "datestyle": "ISO, MDY"})
    if own.running:
        own.restart()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def config(server: Postgres, **parameters: str) -> dict[str, Any]:
    return {"clusters": {"main": {"url": server.url("app", PASSWORD, "app", **parameters)}}}


def start(make: Make, server: Postgres, state: Path, **more: Any) -> Ambassador:
    return make(config(server), **{"state": str(state), "failover": PATIENT, **more})


async def by_asyncpg(proxy: Ambassador, sql: str) -> Any:
    connection = await asyncpg.connect(proxy.dsn(), server_settings={"timezone": "CET"})
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def learn(proxy: Ambassador) -> None:
    """Every kind of client that comes later has been there before; then it ends."""
    with Wire.session(proxy.port), Wire.session(proxy.port, **SETTINGS):
        pass
    asyncio.run(by_asyncpg(proxy, "select 1"))
    with psycopg.connect(proxy.dsn(application_name="learns")) as connection:
        connection.execute("select 1")
    assert proxy.stop() == 0


def learnt(make: Make, server: Postgres, state: Path, **more: Any) -> Ambassador:
    """The next process: the server is away since before its start."""
    proxy = start(make, server, state, **more)
    learn(proxy)
    server.stop()
    proxy.start()
    return proxy


def held(proxy: Ambassador) -> float:
    """Clients that are; beside them the process itself waits for the pool of the URL."""
    return proxy.metrics().total("pgambassador_pool_held_clients") - 1


def remembered(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_last_known_good", what="parameters")


def said(proxy: Ambassador, part: str) -> list[dict[str, Any]]:
    return [line for line in proxy.log_lines() if part in line["message"]]


ANSWERED = "are answered with what its server said of itself on "


def test_a_login_without_the_server(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = start(ambassador, server, state)
    with Wire(proxy.port) as wire:
        before = wire.login(user="app", database="app", **SETTINGS).parameters
    learn(proxy)
    server.stop()
    proxy.start()
    assert remembered(proxy) == 0
    with Wire(proxy.port) as plain, Wire(proxy.port) as wire:
        assert plain.login(user="app", database="app").parameters["TimeZone"] == "UTC"
        told = wire.login(user="app", database="app", **{**SETTINGS, "application_name": "two"}).parameters
        assert told == {**before, "application_name": "two"} and told["TimeZone"] == "CET"
        assert remembered(proxy) == 1
        assert [line["level"] for line in said(proxy, ANSWERED)] == ["warning"]
        status, why = proxy.http("/readyz")
        assert status == 503 and "main" in why
        for each in (plain, wire):
            each.send(build.query("show timezone"))
        wait_until(lambda: held(proxy) == 2, "both statements are held")
        assert plain.quiet and wire.quiet
        server.start()
        assert plain.until("Z").value == "UTC"
        answer = wire.until("Z")
        assert answer.value == "CET" and answer.parameters == {}
    wait_until(lambda: remembered(proxy) == 0, "the server speaks for itself")
    assert said(proxy, "are answered by its server again")
    with Wire(proxy.port) as wire:
        assert wire.login(user="app", database="app", timezone="Asia/Tokyo").parameters["TimeZone"] == (
            "Asia/Tokyo"
        )


def test_drivers(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = learnt(ambassador, server, state)
    connection = psycopg.connect(proxy.dsn(), autocommit=True)
    version = connection.info.server_version

    async def main() -> None:
        other = await asyncpg.connect(proxy.dsn(), server_settings={"timezone": "CET"})
        asked = spawn(other.fetchval("select current_setting('timezone') || $1", "!"), "asks")
        await asyncio.to_thread(wait_until, lambda: held(proxy) == 1, "its statement is held")
        assert not asked.done()
        await asyncio.to_thread(server.start)
        assert await asked == "CET!"
        assert other.get_server_version().major == server.installation.major
        await other.close()

    asyncio.run(main())
    assert connection.execute("select 'served'").fetchone() == ("served",)
    assert version == connection.info.server_version
    connection.close()


def test_a_first_statement_that_is_not_held(ambassador: Make, server: Postgres, state: Path) -> None:
    """It fails, as that of a warm pool, and the session goes on."""
    proxy = learnt(ambassador, server, state, failover={**PATIENT, "hold": "off"})
    with Wire.session(proxy.port, **SETTINGS) as wire:
        assert "refused" in wire.ask("select 1").error.fields["M"]
        with Wire.session(proxy.port) as other:
            assert other.ask("select 1").kinds == "EZ"
        server.start()
        wait_until(lambda: wire.ask("show timezone").kinds == "TDCZ", "it is served", deadline=40)
        assert wire.ask("show timezone").value == "CET"


def test_breakers_keep_nobody_from_logging_in(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = learnt(ambassador, server, state, failover={**PATIENT, "hold": "off"}, breaker={"failures": 1})
    with Wire.session(proxy.port) as wire:
        wait_until(
            lambda: proxy.metrics().total("pgambassador_breaker_state", state="open"), "the breaker opens"
        )
        for _ in range(3):
            with Wire.session(proxy.port) as other:
                assert other.ask("select 1").error.sqlstate in ("57P03", "08001")
        server.start()
        wait_until(lambda: wire.ask("select 1").kinds == "TDCZ", "it is served", deadline=40)


@pytest.mark.parametrize("more", [{}, {"state": None}])
def test_who_does_not_ask_for_it_waits(
    ambassador: Make, server: Postgres, state: Path, more: dict[str, Any]
) -> None:
    proxy = learnt(ambassador, server, state)
    assert proxy.stop() == 0
    proxy.config.update(failover={"hold": "2min"}, **more)
    proxy.start()
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="app")
        wait_until(lambda: held(proxy) == 1, "the login is held")
        assert wire.quiet and not said(proxy, ANSWERED)
        server.start()
        assert wire.until("Z").kinds.endswith("KZ")


def test_what_is_not_known_waits(ambassador: Make, server: Postgres, state: Path) -> None:
    """Settings that nobody came with, and those that no server connection can be given later; other pools."""
    proxy = learnt(ambassador, server, state)
    strangers = [
        {"timezone": "Asia/Tokyo"},
        {"timezone": "cet", "app.token": "x"},
        {"ignore_system_indexes": "off"},
        {"database": "postgres"},
    ]
    wires = [Wire(proxy.port) for _ in strangers]
    with Wire.session(proxy.port):
        for wire, each in zip(wires, strangers, strict=True):
            wire.start(**{"user": "app", "database": "app", **each})
        wait_until(lambda: held(proxy) == len(wires), "all of them are held")
        assert all(wire.quiet for wire in wires)
        server.start()
        for wire in wires:
            assert wire.until("Z").kinds.endswith("KZ")
            wire.leave()


def test_what_the_server_refuses_ends_the_login(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = start(ambassador, server, state)
    learn(proxy)
    server.sql("alter role app password 'another'")
    try:
        proxy.start()
        with Wire(proxy.port) as wire:
            wire.start(user="app", database="app")
            assert wire.rest().error.sqlstate == "28P01"
        # The same after the server was away.
        assert proxy.stop() == 0
        server.stop()
        proxy.start()
        with Wire.session(proxy.port) as wire:
            server.start()
            assert wire.ask("select 1").error.sqlstate == "28P01"
            with Wire(proxy.port) as other:
                other.start(user="app", database="app")
                assert other.rest().error.sqlstate == "28P01"
    finally:
        if not server.running:
            server.start()
        server.sql(f"alter role app password '{PASSWORD}'")


def test_a_database_that_is_gone(ambassador: Make, server: Postgres, state: Path) -> None:
    server.sql("create database gone owner app")
    proxy = start(ambassador, server, state)
    with Wire.session(proxy.port, database="gone"):
        pass
    learn(proxy)
    server.sql("drop database gone")
    proxy.start()
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="gone")
        assert wire.rest().error.sqlstate == "3D000"


@pytest.mark.parametrize("size", [1, 20])
def test_a_server_that_has_changed_meanwhile(
    ambassador: Make, server: Postgres, state: Path, size: int
) -> None:
    """Each client is told what is not as it was told, with its first answer, also if they have to share."""
    proxy = learnt(ambassador, server, state, pool={"size": size})
    server.configure({"timezone": "Asia/Tokyo", "datestyle": "German, DMY"})
    wires = [Wire.session(proxy.port) for _ in range(6)]
    zoned = [Wire.session(proxy.port, **SETTINGS) for _ in range(2)]
    late = Wire.session(proxy.port)
    for wire in (*wires, *zoned):
        wire.send(build.query("show timezone"))
    wait_until(lambda: held(proxy) == 8, "all are held")
    server.start()
    for wire in wires:
        answer = wire.until("Z")
        assert answer.value == "Asia/Tokyo" and answer.kinds[-1] == "Z"
        assert answer.parameters == {"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"}
    for wire in zoned:
        answer = wire.until("Z")
        assert (answer.value, answer.parameters) == ("CET", {"DateStyle": "German, DMY"})
    assert late.quiet
    assert late.ask("select 1").parameters == {"TimeZone": "Asia/Tokyo", "DateStyle": "German, DMY"}
    for wire in (*wires, *zoned, late):
        answer = wire.ask("show datestyle")
        assert (answer.value, answer.parameters) == ("German, DMY", {})
        wire.leave()
    with Wire(proxy.port) as wire:
        assert wire.login(user="app", database="app").parameters["TimeZone"] == "Asia/Tokyo"


def test_who_comes_together_is_told_apart(ambassador: Make, server: Postgres, state: Path) -> None:
    """When the pool knows what is short, clients share its connection, but for their first statement."""
    proxy = learnt(ambassador, server, state, pool={"size": 1})
    server.configure({"timezone": "Asia/Tokyo"})

    def number(name: str) -> float:
        return proxy.metrics().total(f"pgambassador_{name}")

    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.session(proxy.port)) for _ in range(8)]
        other = stack.enter_context(Wire.session(proxy.port))
        server.start()

        def told(*clients: Wire) -> list[dict[str, str]]:
            """They ask while the only connection is in use."""
            other.ask("begin")
            for wire in clients:
                wire.send(build.query("select 1"))
            wait_until(lambda: number("pool_waiting_clients") == len(clients), "they wait")
            other.ask("commit")
            return [wire.until("Z").parameters for wire in clients]

        with Wire.session(proxy.port) as first, Wire.session(proxy.port) as second:

            def shared() -> bool:
                told(first, second)
                return number("batched_queries_total") > 0

            wait_until(shared, "what is short is known", deadline=30)
        assert told(*wires) == [{"TimeZone": "Asia/Tokyo"}] * 8
        before = number("batched_queries_total")
        assert told(*wires) == [{}] * 8
        assert number("batched_queries_total") > before


def test_in_the_extended_protocol(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = learnt(ambassador, server, state)
    server.configure({"timezone": "Asia/Tokyo"})
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection:
        told = connection.info.timezone
        assert str(told) == "UTC"
        server.start()
        row = connection.execute("select current_setting('timezone'), %s", (1,)).fetchone()
        assert row == ("Asia/Tokyo", 1)
        assert str(connection.info.timezone) == "Asia/Tokyo"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_settings_that_the_server_takes_no_more(
    ambassador: Make, server: Postgres, state: Path, mode: str
) -> None:
    """As if a time zone had gone with another version: the first statement says so; nobody else notices."""
    proxy = start(ambassador, server, state, pool={"mode": mode, "size": 3})
    settings = {"default_transaction_isolation": "serializable", "timezone": "Mars/Olympus"}
    learn_kept(proxy, state, settings, {"TimeZone": "Mars/Olympus"})
    server.stop()
    proxy.start()
    with Wire.session(proxy.port) as well, Wire(proxy.port) as wire:
        told = wire.login(user="app", database="app", **settings).parameters
        assert told["TimeZone"] == "Mars/Olympus"
        wire.send(build.query("show timezone"))
        wait_until(lambda: held(proxy) == 1, "its statement is held")
        server.start()
        error = wire.rest().error
        assert 'invalid value for parameter "TimeZone"' in error.fields["M"]
        assert error.fields["S"] == "FATAL"
        assert well.ask("show timezone").value == "UTC"
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="app", **settings)
        assert wire.rest().error.sqlstate == "22023"


def learn_kept(proxy: Ambassador, state: Path, settings: dict[str, str], told: dict[str, str]) -> None:
    """As if the server had once taken these settings."""
    import hashlib

    learn(proxy)
    head, _, content = (state / "parameters").read_text().partition("\n")
    found = json.loads(content)
    (pool,) = found["body"]["pools"]
    pool[6].append([settings, told])
    content = json.dumps(found)
    kind = head.split()[3]
    digest = hashlib.sha256(content.encode()).hexdigest()
    (state / "parameters").write_text(f"pgambassador state 1 {kind} {digest}\n{content}")


def test_a_server_that_says_nothing(ambassador: Make, server: Postgres, state: Path) -> None:
    """The first login waits until that is known, the next ones do not."""
    with Link(server.port) as link:
        url = server.url("app", PASSWORD, "app", connect_timeout="2")
        url = url.replace(f":{server.port}/", f":{link.port}/")
        proxy = ambassador({"clusters": {"main": {"url": url}}}, state=str(state), failover=PATIENT)
        learn(proxy)
        server.freeze()
        try:
            proxy.start()
            for _ in range(3):
                with Wire.session(proxy.port) as wire:
                    assert wire.quiet
            with Wire.session(proxy.port, **SETTINGS) as wire:
                wire.send(build.query("show timezone"))
                wait_until(lambda: held(proxy) == 1, "its statement is held")
                server.thaw()
                assert wire.until("Z").value == "CET"
        finally:
            server.thaw()


def test_who_only_the_server_knows_is_not_let_in(ambassador: Make, server: Postgres, state: Path) -> None:
    auth = {
        "users": {"postgres": server.password, "alice": "hers"},
        "query": {"database": "postgres", "user": "postgres"},
    }
    proxy = start(ambassador, server, state, auth=auth)
    known, asked = proxy.dsn("alice", password="hers"), proxy.dsn("app", password=PASSWORD)
    for dsn in (known, asked):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select current_user").fetchone() == ("app",)
    assert proxy.stop() == 0
    server.stop()
    proxy.start()
    with psycopg.connect(known), pytest.raises(psycopg.OperationalError, match="who may log in"):
        psycopg.connect(asked)
    with pytest.raises(psycopg.OperationalError, match="authentication"):
        psycopg.connect(proxy.dsn("alice", password="wrong"))


def test_no_secret_is_kept(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = start(ambassador, server, state)
    with Wire.session(proxy.port, **{"app.token": "s3cret", "timezone": "PST8PDT"}) as wire:
        assert wire.ask("show app.token").value == "s3cret"
    with Wire.session(proxy.port, application_name="s3cret\u00e9", timezone="PST8PDT"):
        pass
    learn(proxy)
    text = (state / "parameters").read_text()
    assert "CET" in text and "PST8PDT" not in text and "s3cret" not in text and PASSWORD not in text
    assert (state / "parameters").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_damaged_is_not_used(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = start(ambassador, server, state)
    learn(proxy)
    damaged = bytearray((state / "parameters").read_bytes())
    damaged[-5] ^= 1
    (state / "parameters").write_bytes(damaged)
    server.stop()
    proxy.start()
    assert said(proxy, "parameters is ignored: it is damaged")
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="app")
        wait_until(lambda: held(proxy) == 1, "the login is held")
        assert wire.quiet
        server.start()
        assert wire.until("Z").kinds.endswith("KZ")


def test_it_can_be_asked_for_by_a_reload(ambassador: Make, server: Postgres, state: Path) -> None:
    proxy = start(ambassador, server, state, failover={"hold": "2min"})
    learn(proxy)
    assert not (state / "parameters").exists()
    proxy.start()
    with Wire.session(proxy.port) as wire:
        wire.ask("select 1")
        proxy.reload(failover=PATIENT)
        wait_until(lambda: (state / "parameters").exists(), "it is kept", deadline=20)
    proxy.reload(state=None)
    proxy.wait_for_log(lambda line: "failover.offline_logins" in line["message"])


def test_with_a_standby(ambassador: Make, workspace: Workspace, state: Path) -> None:
    """The primary is away at the start. What answers reads meanwhile is not told; writes, what it becomes."""
    primary = workspace.primary("gone-primary", hba=HBA)
    populate(primary)
    standby = primary.replica("left-standby", {"timezone": "Asia/Tokyo"})
    try:
        config = {"clusters": {"main": {"url": several(primary, standby), "routing": {"reads": "replicas"}}}}
        proxy = ambassador(config, state=str(state), failover=PATIENT)
        learn(proxy)
        primary.kill()
        proxy.start()
        with Wire.session(proxy.port) as reads, Wire(proxy.port) as writes:
            assert writes.login(user="app", database="app").parameters["TimeZone"] == "UTC"
            reads.send(build.query("select current_setting('timezone')"))
            writes.send(build.query("create table back as select current_setting('timezone')"))
            wait_until(lambda: held(proxy) >= 1, "the write is held")
            standby.promote()
            answer = writes.until("Z")
            assert answer.parameters["TimeZone"] == "Asia/Tokyo" and answer.kinds[-2:] == "SZ"
            answer = reads.until("Z")
            told = {"TimeZone": "UTC", **answer.parameters}
            assert answer.value == told["TimeZone"]
            answer = reads.ask("select current_setting('timezone')")
            assert answer.value == {**told, **answer.parameters}["TimeZone"]
    finally:
        standby.stop()
        primary.stop()


@pytest.mark.parametrize("reached", [False, True])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_text_is_read_as_clients_were_told(
    ambassador: Make, server: Postgres, state: Path, mode: str, reached: bool
) -> None:
    """What it has quoted or encoded before it hears that the server does otherwise means the same."""
    more = {"pool": {"mode": mode}}
    proxy = start(ambassador, server, state, **more) if reached else learnt(ambassador, server, state, **more)
    with ExitStack() as stack:
        wire, given = (
            stack.enter_context(Wire.session(proxy.port, **settings))
            for settings in ({}, {"timezone": "cet", "extra_float_digits": "3"})
        )
        if reached:
            server.stop()
        server.configure({"standard_conforming_strings": "off", "client_encoding": "latin1"})
        for each in (wire, given):
            each.send(build.query("select 'a\\', length('\u00e9')"))
        server.start()
        try:
            for each in (wire, given):
                answer = each.until("Z")
                assert answer.rows == [["a\\", "1"]] and answer.parameters == {}
            with Wire(proxy.port) as late:
                told = late.login(user="app", database="app").parameters
                assert (told["standard_conforming_strings"], told["client_encoding"]) == ("off", "LATIN1")
            # It may go back to what is usual there, and hears of it.
            answer = wire.ask("reset standard_conforming_strings")
            assert answer.parameters == {"standard_conforming_strings": "off"}
        finally:
            server.configure({"standard_conforming_strings": "on", "client_encoding": "utf8"})
