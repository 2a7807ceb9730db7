"""Where clients come in: several addresses at once, IPv6, Unix sockets."""

from __future__ import annotations

import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.embedded.ports import free_port
from tests.harness import USERS, Ambassador, Wire, psql


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Short: the path of a socket may have a hundred bytes."""
    with tempfile.TemporaryDirectory(prefix="pgambassador-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def proxy(
    primary: Postgres, ambassadors: Callable[..., Ambassador], folder: Path, ports: tuple[int, int]
) -> Ambassador:
    first, second = ports
    ipv6 = [f"[::1]:{first}"] if _has_ipv6() else []
    return ambassadors(
        primary.url("app", USERS["app"].password, "app"),
        listen=[
            f"127.0.0.1:{first}",
            f"127.0.0.1:{second}",
            f"unix:{folder}/one",
            f"unix:{folder}/two",
            *ipv6,
        ],
    )


def test_every_address_leads_to_the_same_pool(
    proxy: Ambassador, folder: Path, ports: tuple[int, int]
) -> None:
    sockets = [f"{folder}/{name}/.s.PGSQL.{ports[0]}" for name in ("one", "two")]
    pids = set()
    places: list[int | str] = [*ports, *sockets]
    for where in places:
        with Wire.session(where) as wire:
            pids.add(wire.ask("select pg_backend_pid()").value)
    assert len(pids) == 1


@needs_ipv6
def test_ipv6(proxy: Ambassador, ports: tuple[int, int]) -> None:
    with Wire.session(("::1", ports[0])) as wire:
        assert wire.ask("select 1").value == "1"
    assert psql(f"postgresql://app@[::1]:{ports[0]}/app", "select 'six'") == "six"


def test_unix_sockets_as_drivers_find_them(proxy: Ambassador, folder: Path, ports: tuple[int, int]) -> None:
    assert psql(f"host={folder}/one port={ports[0]} user=app dbname=app", "select 'psql'") == "psql"
    with psycopg.connect(host=f"{folder}/two", port=ports[0], user="app", dbname="app") as connection:
        assert connection.execute("select 'psycopg'").fetchone() == ("psycopg",)


def test_anyone_may_use_a_unix_socket_as_with_postgresql(
    proxy: Ambassador, folder: Path, ports: tuple[int, int]
) -> None:
    mode = (folder / "one" / f".s.PGSQL.{ports[0]}").stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o777


def test_a_socket_left_behind_is_replaced_and_ours_is_removed(
    primary: Postgres, ambassador: Callable[..., Ambassador], folder: Path
) -> None:
    port = free_port()
    config = {"listen": [f"127.0.0.1:{port}", f"unix:{folder}"]}
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), **config)
    path = folder / f".s.PGSQL.{port}"
    proxy.kill()
    assert path.is_socket()
    proxy.start()
    with Wire.session(str(path)) as wire:
        assert wire.ask("select 1").value == "1"
    assert proxy.drain() == 0
    assert not path.exists()


def test_a_socket_that_somebody_listens_on_is_not_taken_away(
    primary: Postgres,
    ambassador: Callable[..., Ambassador],
    proxy: Ambassador,
    folder: Path,
    ports: tuple[int, int],
) -> None:
    second = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        start=False,
        listen=[f"unix:{folder}/one", f"127.0.0.1:{ports[0]}"],
    )
    second.start(ready=False)
    assert second.wait() != 0
    assert "Another program listens there" in second.output()
    with Wire.session(f"{folder}/one/.s.PGSQL.{ports[0]}") as wire:
        assert wire.ask("select 1").value == "1"
