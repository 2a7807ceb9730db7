"""Every way to reach a server and to log in to it, as the clients of the ambassador see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from psycopg import Connection

from pgambassador.embedded import Authority, Postgres
from pgambassador.embedded.ports import free_port
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, psql, wait_until

Start = Callable[..., Ambassador]
AT_ONCE = {"hold": "off"}
"""While the server is away nobody waits: it is the error that is looked at."""
WHO = (
    "select current_user, ssl, coalesce(version, '-'), inet_server_port() is not null"
    " from pg_stat_ssl where pid = pg_backend_pid()"
)


def refusal(proxy: Ambassador, user: str = "app", database: str = "app") -> dict[str, str]:
    """What a client hears that is not let in."""
    with Wire(proxy.port, timeout=20) as wire:
        wire.start(user=user, database=database)
        answer = wire.rest()
        assert answer.kinds.lstrip("R") == "E", answer
        assert answer.error.fields["S"] == "FATAL"
        return answer.error.fields


def who(proxy: Ambassador, user: str = "app") -> list[str | None]:
    with Wire.session(proxy.port, user) as wire:
        ((row),) = wire.ask(WHO).rows
        return row


def opened(proxy: Ambassador) -> int:
    return int(proxy.metrics().total("pgambassador_server_connections"))


# Ways to log in.


@pytest.mark.parametrize("name", ["app", "app_md5", "app_cleartext", "app_trust", "app_long", "app_token"])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_every_password_method_over_verified_tls(
    primary: Postgres, ambassador: Start, name: str, negotiation: str
) -> None:
    """SCRAM, md5, and in the clear within TLS; cloud tokens have ten thousand bytes."""
    user = USERS[name]
    proxy = ambassador(primary.url(name, user.password or None, "app", sslnegotiation=negotiation))
    assert who(proxy) == [name, "t", "TLSv1.3", "t"]
    assert psql(proxy.dsn(), "select current_user") == name
    assert "Traceback" not in proxy.output()
    assert not user.password or user.password not in proxy.output()


def test_a_client_certificate(primary: Postgres, ambassador: Start, ca: Authority, tmp_path: Path) -> None:
    certificate = ca.client(tmp_path, "app_cert")
    url = primary.url("app_cert", None, "app", sslcert=str(certificate.chain), sslkey=str(certificate.key))
    assert who(ambassador(url)) == ["app_cert", "t", "TLSv1.3", "t"]


@pytest.mark.parametrize(
    ("mode", "name", "encrypted"),
    [
        ("disable", "app_plain", "f"),
        ("prefer", "app", "t"),
        ("require", "app", "t"),
        ("verify-ca", "app", "t"),
        ("verify-full", "app", "t"),
    ],
)
def test_each_sslmode(primary: Postgres, ambassador: Start, mode: str, name: str, encrypted: str) -> None:
    url = primary.url(name, USERS[name].password, "app", sslmode=mode)
    proxy = ambassador(url)
    assert who(proxy)[:2] == [name, encrypted]
    warned = any(line["level"] == "warning" and "sslmode" in line["message"] for line in proxy.log_lines())
    assert warned == (mode != "verify-full")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_hosts_of_every_kind(primary: Postgres, ambassador: Start, host: str) -> None:
    url = primary.url("app", USERS["app"].password, "app").replace("127.0.0.1", host)
    assert who(ambassador(url))[0] == "app"


def test_a_unix_socket(primary: Postgres, ambassador: Start) -> None:
    folder = str(primary.socket_folder).replace("/", "%2F")
    secret = USERS["app"].password
    proxy = ambassador(f"postgresql://app:{secret}@{folder}:{primary.port}/app?sslmode=disable")
    assert who(proxy) == ["app", "f", "-", "f"]


# Several hosts.


@pytest.mark.parametrize("dead", ["refuses", "stalls", "unknown"])
def test_a_dead_first_host_is_passed_over(
    primary: Postgres, ambassador: Start, link: Link, dead: str
) -> None:
    first = {
        "refuses": f"127.0.0.1:{free_port()}",
        "stalls": f"127.0.0.1:{link.port}",
        "unknown": "no.invalid:1",
    }
    link.stall()
    url = primary.url("app", USERS["app"].password, "app", connect_timeout="2")
    proxy = ambassador(url.replace("@127.0.0.1", f"@{first[dead]},127.0.0.1"))
    started = time.monotonic()
    assert who(proxy)[0] == "app"
    assert time.monotonic() - started < 4
    assert (link.accepted > 0) == (dead == "stalls")


def test_connections_are_opened_side_by_side(primary: Postgres, ambassador: Start, link: Link) -> None:
    """Four clients that need a connection cause four logins at once, not one after the other."""
    url = primary.url("app", USERS["app"].password, "app").replace(str(primary.port), str(link.port))
    proxy = ambassador(url, pool={"size": 6})
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.session(proxy.port)) for _ in range(5)]
        wires[0].ask("begin")
        wait_until(lambda: opened(proxy) == link.connections, "nothing under way")
        idle = opened(proxy) - 1
        before = link.accepted
        link.stall()
        for wire in wires[1:]:
            wire.send(build.query("begin; select pg_backend_pid()"))
        wait_until(lambda: link.accepted == before + 4 - idle, "four logins under way")
        link.resume()
        pids = {wire.until("Z").value for wire in wires[1:]}
        assert len(pids) == 4


# What the server says reaches the client.


def test_the_servers_own_sqlstate_reaches_the_client(primary: Postgres, ambassador: Start) -> None:
    proxy = ambassador(primary.url())
    said = refusal(proxy, "postgres", "no_such_database")
    assert said["C"] == "3D000"
    assert said["M"] == 'database "no_such_database" does not exist'
    with Wire.session(proxy.port, "postgres", "postgres") as wire:
        assert wire.ask("select current_database()").value == "postgres"


def test_an_unknown_database_with_a_driver(primary: Postgres, ambassador: Start) -> None:
    proxy = ambassador(primary.url())

    async def main() -> None:
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(proxy.dsn("postgres", "no_such_database"))

    asyncio.run(main())


def test_a_database_outside_the_configuration_is_as_unknown(primary: Postgres, ambassador: Start) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(
        {"clusters": {"main": {"url": url}}, "databases": {"shop": {"database": "app"}}},
    )
    assert refusal(proxy, database="app")["C"] == "3D000"
    with Wire.session(proxy.port, database="shop") as wire:
        assert wire.ask("select current_database()").value == "app"


@pytest.mark.parametrize("name", ["app", "app_md5", "app_cleartext"])
def test_a_wrong_password_for_the_server(primary: Postgres, ambassador: Start, name: str) -> None:
    proxy = ambassador(primary.url(name, "wrong", "app"))
    for _ in range(2):
        said = refusal(proxy)
        assert said["C"] == "28P01"
        assert said["M"] == f'password authentication failed for user "{name}"'


def test_a_missing_hba_entry(primary: Postgres, ambassador: Start) -> None:
    proxy = ambassador(primary.url("nobody", "x", "app"))
    assert refusal(proxy)["C"] == "28000"


def test_a_limit_of_the_server(primary: Postgres, ambassador: Start, observer: Connection) -> None:
    observer.execute("alter role app_md5 connection limit 1")
    try:
        proxy = ambassador(primary.url("app_md5", USERS["app_md5"].password, "app"), pool={"size": 5})
        wait_until(lambda: opened(proxy) == 1)
        with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
            one.ask("begin")
            two.send(build.query("select 'patience'"))
            # There is a connection that will become free: the refusal of another is no reason to give up.
            wait_until(
                lambda: proxy.metrics().total("pgambassador_server_connect_failures_total") >= 1,
                "a refused connection",
            )
            assert one.ask("commit").kinds == "CZ"
            assert two.until("Z").value == "patience"
    finally:
        observer.execute("alter role app_md5 connection limit -1")


# Nobody there.


def test_no_server_that_listens(primary: Postgres, ambassador: Start) -> None:
    url = primary.url("app", USERS["app"].password, "app", connect_timeout="2")
    proxy = ambassador(url.replace(str(primary.port), str(free_port())), failover=AT_ONCE)
    for _ in range(3):
        started = time.monotonic()
        said = refusal(proxy)
        assert said["C"] == "57P03"
        assert "127.0.0.1" in said["M"]
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("when", ["tcp", "tls"])
def test_a_server_that_does_not_answer_costs_no_more_than_the_connect_timeout(
    primary: Postgres, ambassador: Start, link: Link, when: str
) -> None:
    url = primary.url(
        "app",
        USERS["app"].password,
        "app",
        connect_timeout="2",
        sslnegotiation="direct" if when == "tls" else "postgres",
    )
    link.stall()
    proxy = ambassador(url.replace(str(primary.port), str(link.port)), failover=AT_ONCE)
    started = time.monotonic()
    said = refusal(proxy)
    assert said["C"] == "57P03"
    assert time.monotonic() - started < 4
    link.resume()
    link.cut()
    wait_until(lambda: psql(proxy.dsn(), "select 1", check=False) == "1", "the first login")


def test_a_host_without_an_address(ambassador: Start) -> None:
    proxy = ambassador("postgresql://app@no.invalid/app?sslmode=require", failover=AT_ONCE)
    said = refusal(proxy)
    assert said["C"] == "57P03"
    assert "no.invalid" in said["M"]


def test_a_certificate_of_a_stranger(primary: Postgres, ambassador: Start, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    proxy = ambassador(primary.url("app", USERS["app"].password, "app", sslrootcert=str(stranger.root)))
    said = refusal(proxy)
    assert said["C"] == "57P03"
    assert "certificate" in said["M"]


def test_the_database_comes_back(primary: Postgres, ambassador: Start, link: Link) -> None:
    """Clients that come while it is away are told; those that come afterwards notice nothing."""
    url = primary.url("app", USERS["app"].password, "app").replace(str(primary.port), str(link.port))
    link.refuse()
    proxy = ambassador(url, failover=AT_ONCE)
    assert refusal(proxy)["C"] == "57P03"
    link.allow()

    def works() -> bool:
        try:
            with Wire.session(proxy.port) as wire:
                return wire.ask("select 1").value == "1"
        except ConnectionError:
            return False

    wait_until(works, "the first login")


# An older server.


def test_the_postgresql_of_this_machine(system_postgres: Postgres, ambassador: Start) -> None:
    for name in ("app", "app_md5", "app_cleartext", "app_long", "app_token"):
        proxy = ambassador(system_postgres.url(name, USERS[name].password, "app"))
        assert who(proxy)[:2] == [name, "t"]
    proxy = ambassador(system_postgres.url("app", "wrong", "app"))
    assert refusal(proxy)["C"] == "28P01"
