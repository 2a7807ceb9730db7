"""Starts during an outage: of the DNS, of what names the servers, and of the configuration file."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Postgres
from tests.harness import USERS, Ambassador, wait_until
from tests.harness.endpoint import Endpoint as Site
from tests.harness.endpoint import Reply, Request
from tests.harness.names import NameServer, missing

Make = Callable[..., Ambassador]
PASSWORD = USERS["app"].password
SOON = {"hold": "1s"}
"""Where clients wait in vain."""


@pytest.fixture
def names(tmp_path: Path) -> NameServer:
    if why := missing():
        pytest.skip(why)
    tmp_path.chmod(0o755)
    return NameServer(tmp_path)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def named(primary: Postgres, **parameters: str) -> str:
    """By a name that its certificate has, and without the password."""
    url = primary.url("app", PASSWORD, "app", **parameters)
    return url.replace("127.0.0.1", "localhost").replace(f":{PASSWORD}@", "@")


def config(primary: Postgres, **cluster: Any) -> dict[str, Any]:
    made = {"url": named(primary), "credentials": {"provider": "env", "variable": "DB_PASSWORD"}, **cluster}
    return {"clusters": {"main": made}}


def answer(proxy: Ambassador) -> str:
    """Of the server, or the error."""
    try:
        with psycopg.connect(proxy.dsn(), connect_timeout=15) as connection:
            row = connection.execute("select 'served'").fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.OperationalError as error:
        return str(error)


def served(proxy: Ambassador) -> None:
    wait_until(lambda: answer(proxy) == "served", "a client is served", deadline=20)


def in_use(proxy: Ambassador, what: str) -> float:
    return proxy.metrics().total("pgambassador_last_known_good", what=what)


def log(proxy: Ambassador, level: str) -> list[str]:
    return [line["message"] for line in proxy.log_lines() if line.get("level") == level]


def kept(state: Path) -> set[str]:
    return set(os.listdir(state)) if state.exists() else set()


def start(make: Make, setting: dict[str, Any], names: NameServer | None = None, **more: Any) -> Ambassador:
    proxy = make(setting, start=False, **more)
    proxy.environment["DB_PASSWORD"] = PASSWORD
    if names is not None:
        proxy.environment.update(names.environment)
    proxy.start()
    return proxy


# --- Names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outage", ["again", "gone", "silent"])
def test_a_start_without_dns(
    primary: Postgres, ambassador: Make, names: NameServer, state: Path, outage: str
) -> None:
    names.say(localhost="127.0.0.1")
    first = start(ambassador, config(primary), names, state=str(state))
    served(first)
    assert first.stop() == 0
    assert kept(state) == {"addresses"}
    names.say(localhost=outage)
    second = start(ambassador, config(primary), names, state=str(state))
    served(second)
    assert in_use(second, "addresses") == 1
    assert second.http("/readyz")[0] == 200
    assert [line for line in log(second, "warning") if "the addresses of localhost cannot" in line]
    names.say(localhost="127.0.0.1")
    wait_until(lambda: in_use(second, "addresses") == 0, "the name is told again", deadline=20)
    served(second)
    assert not [line for line in second.log_lines() if "Traceback" in str(line)]


def test_a_resolver_that_is_silent_does_not_delay_the_end(
    primary: Postgres, ambassador: Make, names: NameServer, state: Path
) -> None:
    names.say(localhost="127.0.0.1")
    proxy = start(ambassador, config(primary), names, state=str(state))
    served(proxy)
    assert proxy.stop() == 0
    names.say(localhost="silent")
    proxy.start()
    served(proxy)
    assert proxy.stop() == 0


def test_without_a_directory_such_a_start_fails(
    primary: Postgres, ambassador: Make, names: NameServer
) -> None:
    names.say(localhost="again")
    proxy = start(ambassador, config(primary), names, failover=SOON)
    assert "the host name was not found" in answer(proxy)
    assert "last_known_good" not in proxy.http("/metrics")[1]


def test_a_dns_that_fails_later(primary: Postgres, ambassador: Make, names: NameServer, state: Path) -> None:
    """Each session has a server connection of its own, opened while nobody answers."""
    names.say(localhost="127.0.0.1")
    proxy = start(ambassador, config(primary), names, state=str(state), pool={"mode": "session", "size": 5})
    with psycopg.connect(proxy.dsn()) as one:
        one.execute("select 1")
        names.say(localhost="gone")
        with psycopg.connect(proxy.dsn()) as two:
            assert two.execute("select 2").fetchone() == (2,)
    assert in_use(proxy, "addresses") == 1


def test_a_certificate_is_asked_for_as_ever(
    primary: Postgres, ambassador: Make, names: NameServer, state: Path
) -> None:
    """At the address that was known there is a server now which cannot show that it is the right one."""
    names.say(**{"db.other.example": "127.0.0.1"})
    setting = config(primary, url=named(primary).replace("localhost", "db.other.example"))
    for outage in ("127.0.0.1", "again"):
        names.say(**{"db.other.example": outage})
        proxy = start(ambassador, setting, names, state=str(state))
        wait_until(lambda: "certificate" in answer(proxy), "the certificate is refused")  # noqa: B023
        assert proxy.stop() == 0


# --- Servers ------------------------------------------------------------------------------------------------


@pytest.fixture
def members(primary: Postgres, replica: Postgres) -> Iterator[tuple[Site, threading.Event]]:
    """Patroni's interface, and whether it answers."""
    up = threading.Event()
    up.set()

    def patroni(request: Request) -> Reply:
        assert request.path == "/cluster"
        listed = [
            {"name": str(n), "role": "replica" if n else "leader", "host": "127.0.0.1", "port": server.port}
            for n, server in enumerate((primary, replica))
        ]
        return Reply(200 if up.is_set() else 503, json.dumps({"members": listed}).encode())

    with Site(patroni) as site:
        yield site, up


def test_a_start_without_patroni_and_dns(
    primary: Postgres,
    replica: Postgres,
    ambassador: Make,
    names: NameServer,
    state: Path,
    members: tuple[Site, threading.Event],
) -> None:
    """The URL's own host is known by name only; the servers were found by Patroni."""
    site, up = members
    discovery = {"by": "patroni", "urls": [site.url], "interval": "200ms"}
    setting = config(primary, routing={"discovery": discovery})
    names.say(localhost="127.0.0.1")
    first = start(ambassador, setting, names, state=str(state))
    served(first)
    wait_until(lambda: "servers" in kept(state), "the servers are kept")
    assert first.stop() == 0
    (state / "addresses").unlink()
    up.clear()
    names.say(localhost="again")
    second = start(ambassador, setting, names, state=str(state))
    served(second)
    assert in_use(second, "servers") == 1
    assert [line for line in log(second, "warning") if "the servers that were known on" in line]
    well = lambda port: second.metrics().total(  # noqa: E731
        "pgambassador_server_well", cluster="main", server=f"127.0.0.1:{port}"
    )
    wait_until(lambda: well(primary.port) and well(replica.port), "both servers are well")
    up.set()
    wait_until(lambda: in_use(second, "servers") == 0, "what was known is replaced")
    assert second.stop() == 0
    # Without a memory: nothing.
    up.clear()
    third = start(ambassador, setting, names, failover=SOON)
    assert "the host name was not found" in answer(third)


# --- The configuration --------------------------------------------------------------------------------------

LAST = "running on the last good configuration, of "


def again(proxy: Ambassador, text: str | None) -> Ambassador:
    """The same with another file, or without one."""
    if text is None:
        proxy.config_file.unlink()
    else:
        proxy.config_file.write_text(text)
    proxy.start(ready=False, write=False)
    return proxy


def with_state(make: Make, setting: dict[str, Any], state: Path) -> Ambassador:
    proxy = make(setting, start=False)
    proxy.environment.update(DB_PASSWORD=PASSWORD, PGAMBASSADOR_STATE=str(state))
    proxy.start()
    return proxy


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        '{"clusters": {"main": {"ur',
        "clusters: {main: {port: 1}}",
        "clusters: {main: {url: 'postgresql://db.example/shop?sslrootcert=/not/there'}}",
        "{clusters: {main: {url: 'postgresql://db.example/shop'}}, tls: {certificate: /not/there}}",
    ],
)
def test_a_start_without_a_good_file(
    primary: Postgres, ambassador: Make, state: Path, text: str | None
) -> None:
    proxy = with_state(ambassador, config(primary), state)
    served(proxy)
    wait_until(lambda: "configuration" in kept(state), "the configuration is kept")
    assert proxy.stop() == 0
    good = proxy.config_file.read_text()
    proxy.stderr.unlink()
    again(proxy, text)
    wait_until(proxy._started, "it starts all the same", deadline=20)
    served(proxy)
    status, why = proxy.http("/readyz")
    assert status == 200 and LAST in why
    assert in_use(proxy, "configuration") == 1
    assert [line for line in log(proxy, "error") if line.startswith(LAST)]
    # A reload that fails changes nothing; one that works ends it.
    proxy.send(1)
    proxy.wait_for_log(lambda line: "stays as it was" in line["message"])
    assert LAST in proxy.http("/readyz")[1]
    proxy.config_file.write_text(good)
    proxy.send(1)
    wait_until(lambda: proxy.http("/readyz")[1].strip() == "ready", "it is as the file says")
    assert in_use(proxy, "configuration") == 0


def test_the_first_start_with_a_bad_file_fails(primary: Postgres, ambassador: Make, state: Path) -> None:
    proxy = ambassador(config(primary), start=False)
    proxy.environment.update(DB_PASSWORD=PASSWORD, PGAMBASSADOR_STATE=str(state))
    again(proxy, "clusters: {")
    assert proxy.wait() == 2
    assert "is not valid YAML" in proxy.output()


def test_what_the_environment_says_counts_as_ever(primary: Postgres, ambassador: Make, state: Path) -> None:
    proxy = with_state(ambassador, config(primary), state)
    wait_until(lambda: "configuration" in kept(state), "the configuration is kept")
    assert proxy.stop() == 0
    proxy.environment["PGAMBASSADOR_POOL__SIZE"] = "x"
    proxy.stderr.unlink()
    again(proxy, None)
    assert proxy.wait() == 2
    assert "cannot be read" in proxy.output()
    proxy.environment["PGAMBASSADOR_POOL__SIZE"] = "3"
    again(proxy, "")
    wait_until(proxy._started, "it starts", deadline=20)
    served(proxy)
    assert proxy.metrics().total("pgambassador_pool_size", cluster="main", database="app", user="app") == 3


def test_no_secret_is_kept(primary: Postgres, ambassador: Make, state: Path) -> None:
    """Not even as a part of a file that could be of use."""
    url = named(primary).replace("//app@", f"//app:{PASSWORD}@")
    setting = {"clusters": {"main": {"url": url}}, "auth": {"users": {"alice": "hers-alone"}}}
    proxy = with_state(ambassador, setting, state)
    with psycopg.connect(proxy.dsn("alice", password="hers-alone")) as alice:
        alice.execute("select 1")
    told = proxy.wait_for_log(lambda line: "is not kept" in line["message"])["message"]
    assert "clusters.main.url" in told and "auth.users.alice" in told
    proxy.reload(drain_timeout="1s")
    proxy.wait_for_log(lambda line: "applied: drain_timeout" in line["message"])
    assert proxy.stop() == 0
    assert "addresses" in kept(state)
    for each in state.iterdir():
        assert PASSWORD not in each.read_text() and "hers-alone" not in each.read_text()
    assert PASSWORD not in proxy.output() and "hers-alone" not in proxy.output()


# --- What stands in the directory ---------------------------------------------------------------------------


def test_files_that_are_damaged_change_nothing(
    primary: Postgres, ambassador: Make, names: NameServer, state: Path
) -> None:
    names.say(localhost="127.0.0.1")
    proxy = with_state(ambassador, config(primary), state)
    served(proxy)
    wait_until(lambda: "configuration" in kept(state), "the configuration is kept")
    assert proxy.stop() == 0
    (state / "servers").write_bytes(random.Random(7).randbytes(5000))
    (state / "servers").chmod(0o600)
    damaged = bytearray((state / "addresses").read_bytes())
    damaged[-3] ^= 1
    (state / "addresses").write_bytes(damaged)
    proxy.start()
    served(proxy)
    warned = [line for line in log(proxy, "warning") if "is ignored" in line]
    assert len(warned) == 2 and "damaged" in warned[0] and "another format" in warned[1]
    assert proxy.stop() == 0
    (state / "configuration").chmod(0o644)
    again(proxy, None)
    assert proxy.wait() == 2
    assert "cannot be read" in proxy.output()


def test_a_directory_that_is_of_no_use(primary: Postgres, ambassador: Make, tmp_path: Path) -> None:
    proxy = start(ambassador, config(primary), state=str(tmp_path / "not" / "there"))
    served(proxy)
    wait_until(lambda: [line for line in log(proxy, "warning") if "nothing can be kept" in line], "a warning")
    count = proxy.metrics().total("pgambassador_state_writes_total", result="failure")
    assert count >= 1
    assert proxy.http("/readyz")[0] == 200
