"""Rules, and the methods that no list of users is needed for, with real clients."""

from __future__ import annotations

import asyncio
import getpass
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg import Connection

from pgambassador.auth.verifier import make_verifier
from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import HOST, free_port
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, psql, wait_until


def refusal(dsn: str) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect(dsn, connect_timeout=10)
    return str(caught.value)


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture(scope="module")
def ruled(primary: Postgres, ambassadors: Callable[..., Ambassador], sockets: Path) -> Ambassador:
    port = free_port()
    return ambassadors(
        primary.url("app", USERS["app"].password, "app"),
        listen=[f"{HOST}:{port}", f"unix:{sockets}"],
        auth={
            "users": {"alice": "alice-secret", "bob": "bob-secret"},
            "map": {getpass.getuser(): "robot"},
            "rules": [
                {"address": "local", "user": "guest", "method": "trust"},
                {"address": "local", "method": "peer"},
                {"address": "loopback", "user": "alice", "database": "app", "method": "scram-sha-256"},
                {"address": "loopback", "user": "bob", "method": "md5"},
                {"address": "loopback", "user": "eve", "method": "reject"},
                {"address": "10.0.0.0/8", "method": "trust"},
                {"address": "10.1.0.0/16", "method": "reject"},
            ],
        },
    )


def tcp(proxy: Ambassador, user: str, password: str, database: str = "app") -> str:
    port = proxy.config["listen"][0].rpartition(":")[2]
    return f"postgresql://{user}:{password}@{HOST}:{port}/{database}"


def unix(proxy: Ambassador, folder: Path, user: str) -> str:
    port = proxy.config["listen"][0].rpartition(":")[2]
    return f"host={folder} port={port} user={user} dbname=app"


def test_by_user_and_database(ruled: Ambassador) -> None:
    assert psql(tcp(ruled, "alice", "alice-secret"), "select 'alice'") == "alice"
    assert psql(tcp(ruled, "bob", "bob-secret"), "select 'bob'") == "bob"
    assert (
        'no entry in auth.rules for host "127.0.0.1", user "alice", database "other", no encryption'
        in refusal(tcp(ruled, "alice", "alice-secret", "other"))
    )
    assert 'auth.rules rejects connection for host "127.0.0.1", user "eve"' in refusal(tcp(ruled, "eve", "x"))
    said = refusal(tcp(ruled, "alice", "alice-secret", "other"))
    assert 'no entry in auth.rules for host "127.0.0.1", user "alice", database "other", no enc' in said
    assert 'auth.rules rejects connection for host "127.0.0.1", user "eve"' in refusal(tcp(ruled, "eve", "x"))
    assert 'no entry in auth.rules for host "127.0.0.1", user "mallory"' in refusal(
        tcp(ruled, "mallory", "x")
    )


def test_with_asyncpg(ruled: Ambassador) -> None:
    async def main() -> list[object]:
        found = []
        for user in ("alice", "bob"):
            connection = await asyncpg.connect(tcp(ruled, user, f"{user}-secret"))
            found.append(await connection.fetchval("select 7"))
            await connection.close()
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(tcp(ruled, "eve", "x"))
        return found

    assert asyncio.run(main()) == [7, 7]


def test_the_user_of_this_machine(ruled: Ambassador, sockets: Path) -> None:
    for user in (getpass.getuser(), "robot", "guest"):
        assert psql(unix(ruled, sockets, user), "select 1") == "1"
    said = refusal(unix(ruled, sockets, "alice"))
    assert 'Peer authentication failed for user "alice"' in said


def test_what_is_probably_not_meant_is_said_at_the_start(ruled: Ambassador) -> None:
    warnings = [line["message"] for line in ruled.log_lines() if line["level"] == "warning"]
    assert [each for each in warnings if each.startswith("auth.rules")] == [
        "auth.rules[6] never matches: auth.rules[5] before it matches all that it would",
        "auth.rules[5] trusts clients of other machines: they are whoever they say they are",
    ]


# --- the server decides


@pytest.fixture(scope="module")
def asking(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    url = primary.url("app", "unused", "app").replace("app:unused@", "")
    return ambassadors(url, auth={"rules": [{"address": "loopback", "method": "upstream"}]})


@pytest.mark.parametrize("user", ["app", "app_md5", "app_cleartext", "app_token"])
def test_a_password_that_only_the_server_knows(asking: Ambassador, user: str) -> None:
    """SCRAM, md5 and clear text at the server; the last is a token of 10 kB."""
    dsn = asking.dsn(user, password=USERS[user].password)
    for _ in range(2):
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select current_user").fetchone() == (user,)
    assert psql(dsn, "select current_user") == user

    async def fetch() -> object:
        connection = await asyncpg.connect(dsn)
        try:
            return await connection.fetchval("select current_user")
        finally:
            await connection.close()

    assert asyncio.run(fetch()) == user
    assert USERS[user].password not in asking.output()


@pytest.mark.parametrize("user", ["app", "nobody_at_all", "app_trust"])
def test_a_password_that_shows_nothing(asking: Ambassador, user: str) -> None:
    """Wrong, of an unknown user, or of one whom the server lets in anyhow."""
    said = refusal(asking.dsn(user, password="a-wrong-secret"))
    assert f'password authentication failed for user "{user}"' in said or "no pg_hba.conf entry" in said
    assert "a-wrong-secret" not in asking.output()


def test_the_pool_is_the_users_own(asking: Ambassador) -> None:
    names = {pool for pool in ("app", "app_md5") if login(asking, pool) == pool}
    assert names == {"app", "app_md5"}


def login(proxy: Ambassador, user: str) -> str:
    return psql(proxy.dsn(user, password=USERS[user].password), "select current_user")


@pytest.fixture(scope="module")
def strict(workspace: Workspace) -> Iterator[Postgres]:
    """It lets everybody in, with a password."""
    server = workspace.primary(
        "strict", hba=("local all all scram-sha-256", "hostssl all all all scram-sha-256")
    )
    yield server
    server.stop()


def connections(server: Postgres, user: str) -> str:
    return server.sql(f"select count(*) from pg_stat_activity where usename = '{user}'")


def test_a_revoked_password_does_not_take_the_place_of_the_new_one(
    strict: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """It is still believed for a moment, but no pool logs in with it; and what a pool has been refused with
    is believed no longer."""
    strict.sql("create role revoked login password 'one'")
    url = strict.url("app", "unused", "postgres").replace("app:unused@", "")
    proxy = ambassador(url, auth={"rules": [{"address": "loopback", "method": "upstream"}]})

    def open_to(password: str) -> Connection:
        dsn = proxy.dsn("revoked", "postgres", password=password)
        return psycopg.connect(dsn, autocommit=True)

    def end_all() -> None:
        strict.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'revoked'")
        wait_until(lambda: connections(strict, "revoked") == "0")
        wait_until(lambda: proxy.metrics().total("pgambassador_server_connections") == 0)

    open_to("one").close()
    strict.sql("alter role revoked password 'two'")
    with open_to("two") as new:
        open_to("one").close()
        end_all()
        assert new.execute("select current_user").fetchone() == ("revoked",)
    strict.sql("alter role revoked password 'three'")
    with open_to("two") as new:
        end_all()
        with pytest.raises(psycopg.Error, match="password authentication failed"):
            new.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        open_to("two")
    open_to("three").close()


def test_a_server_that_makes_it_expensive_holds_up_nobody(
    strict: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """A verifier of a million iterations: while keys are derived for guesses, the loop goes on."""
    keys = make_verifier(b"dear-secret", b"0123456789abcdef", 1_000_000)
    salt, stored, key = (b64encode(each).decode() for each in (keys.salt, keys.stored_key, keys.server_key))
    strict.sql(f"create role dear login password 'SCRAM-SHA-256$1000000:{salt}${stored}:{key}'")
    proxy = ambassador(
        strict.url("app", "unused", "postgres").replace("app:unused@", ""),
        auth={
            "users": {"postgres": strict.password},
            "rules": [
                {"address": "loopback", "user": "postgres", "method": "trust"},
                {"address": "loopback", "method": "upstream"},
            ],
        },
    )
    with (
        psycopg.connect(proxy.dsn("postgres", "postgres"), autocommit=True) as other,
        Wire(proxy.port) as guess,
    ):
        guess.start(user="dear", database="postgres")
        assert guess.receive().kind == "R"
        guess.send(build.password_message(b"guess"))
        answered = 0
        while guess.quiet:
            other.execute("select 1")
            answered += 1
        # Derived on the loop, all that time would be one statement's.
        assert answered > 20
        assert guess.receive().fields["M"] == 'password authentication failed for user "dear"'
    dsn = proxy.dsn("dear", "postgres", password="dear-secret")
    assert psql(dsn, "select current_user") == "dear"


def test_strangers_hear_nothing_of_what_lies_behind(ambassador: Callable[..., Ambassador]) -> None:
    port = free_port()
    proxy = ambassador(
        f"postgresql://127.0.0.1:{port}/?sslmode=disable",
        auth={"rules": [{"address": "loopback", "method": "upstream"}]},
    )
    said = refusal(proxy.dsn("anybody", password="guess"))
    assert "it cannot be checked just now whether the password is right" in said
    assert str(port) not in said.replace(f"port {proxy.port} ", "")
    proxy.wait_for_log(lambda line: f"127.0.0.1:{port}" in line["message"] and line["level"] == "error")


# --- users of the server by another name


def test_names_are_mapped(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    url = primary.url("app", "unused", "app").replace("app:unused@", "")
    proxy = ambassador(
        url,
        auth={
            "users": {"alice": "one", "bob": "two", "carol": "three", "app": USERS["app"].password},
            "map": {"alice": "app", "bob": "app"},
        },
    )
    for user, password in (("alice", "one"), ("bob", "two")):
        dsn = proxy.dsn(user, password=password)
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select current_user").fetchone() == ("app",)
    # They share one pool.
    pools = {
        dict(labels)["user"]
        for name, labels in proxy.metrics()
        if name == "pgambassador_server_connections" and dict(labels)["cluster"] == "main"
    }
    assert pools == {"app"}
    assert "carol" in refusal(proxy.dsn("carol", password="three"))  # the server does not know her


# --- storms


def test_one_address_does_not_fill_the_door(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """A failed login is answered later each time, to that address only."""
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"), auth={"users": {"alice": "alice-secret"}}
    )
    for _ in range(4):
        refusal(proxy.dsn("alice", password="wrong"))
    assert psql(proxy.dsn("alice", password="alice-secret"), "select 1") == "1"
    assert proxy.metrics().total("pgambassador_login_failures_total") == 4


def test_a_failure_that_nobody_waits_for(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """Those who fail and leave before they are told hold nobody else up, and are gone in the end."""
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"), auth={"method": "md5", "users": {"alice": "secret"}}
    )
    for _ in range(8):
        with Wire(proxy.port) as wire:
            wire.start(user="alice", database="app")
            wire.receive()
            wire.send(b"p\0\0\0\x08bad\0")
            wire.socket.shutdown(socket.SHUT_WR)
    assert psql(proxy.dsn("alice", password="secret"), "select 1") == "1"
    assert proxy.stop() == 0
