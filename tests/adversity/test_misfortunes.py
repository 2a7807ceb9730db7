"""Servers that are full, slow, somewhere else, or no PostgreSQL at all: one clear error, and recovery."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import HOST
from pgambassador.wire import build
from tests.adversity.scenes import MIB
from tests.harness import HBA, USERS, Ambassador, Link, Wire, populate, wait_until
from tests.harness.faults import Crowd
from tests.harness.ledger import CREATE
from tests.harness.load import Load
from tests.harness.mumbler import Mumbler, Speech, hesitates, rambles, says
from tests.messages import notice

NOISE = random.Random(7).randbytes(5000)
URL = "postgresql://app_plain:plain-secret@{host}:{port}/app?sslmode={mode}&connect_timeout=2"


# Strangers.


STRANGERS: dict[str, tuple[str, Speech]] = {
    "another protocol": ("disable", says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")),
    "noise": ("disable", says(NOISE)),
    "nothing": ("disable", hesitates()),
    "half a message": ("disable", hesitates(b"R\0\0\0\x08\0")),
    "a message without end": ("disable", rambles(b"R\x7f\xff\xff\xff" + bytes(60_000))),
    "notices without end": ("disable", rambles(notice("and another thing"), 0.0005)),
    "one byte at a time": ("disable", rambles(b"R", 0.05)),
    "no negotiation": ("require", says(b"?")),
    "an error in place of TLS": ("require", says(build.error_response("FATAL", "0A000", "no"))),
    "noise in place of TLS": ("require", says(b"S" + NOISE)),
    "half a handshake": ("require", hesitates(b"S\x16\x03\x03\x00\x7a")),
}


def test_strangers_at_the_servers_address(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """An error of class 08 or 57 in the time that was set, in bounded memory; then the servers are back."""
    with contextlib.ExitStack() as stack:
        strangers = {name: stack.enter_context(Mumbler(speech)) for name, (_, speech) in STRANGERS.items()}
        clusters = {
            name: {"url": URL.format(host=HOST, port=stranger.port, mode=STRANGERS[name][0])}
            for name, stranger in strangers.items()
        }
        databases = {name: {"cluster": name, "database": "app"} for name in clusters}
        proxy = ambassador({"clusters": clusters, "databases": databases}, pool={"wait_timeout": "4s"})
        memory = proxy.rss()
        clients = {name: stack.enter_context(Wire(proxy.port, timeout=20)) for name in strangers}
        for name, client in clients.items():
            client.start(user="app_plain", database=name)
        for name, client in clients.items():
            answer = client.rest()
            assert answer.kinds == "E", (name, answer)
            assert answer.error.sqlstate[:2] in ("08", "57", "53"), (name, answer.error.fields)
            assert strangers[name].heard
        assert proxy.http("/livez")[0] == 200
        assert proxy.rss() < memory + 32 * MIB
    with contextlib.ExitStack() as stack:
        for stranger in strangers.values():
            stack.enter_context(Link(primary.port, where=(HOST, stranger.port)))

        def back(name: str) -> bool:
            with Wire(proxy.port, timeout=20) as client:
                client.start(user="app_plain", database=name)
                return client.receive().kind == "R"

        with ThreadPoolExecutor(len(strangers)) as pool:
            for each in [
                pool.submit(wait_until, partial(back, name), f"the return of {name}", deadline=20.0, poll=0.1)
                for name in strangers
            ]:
                each.result()


# Full.


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own, if this user may have one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
def test_a_full_disk(workspace: Workspace, ambassador: Callable[..., Ambassador]) -> None:
    """The server's own error passes, the session goes on, and nobody else is held up."""
    server = workspace.primary("full", hba=HBA)
    populate(server)
    with small_disk(server.folder / "small", "4m") as disk:
        server._account.give(disk)
        server.sql(f"create tablespace small location '{disk}'")
        server.sql("grant create on tablespace small to app")
        server.sql("create table large (a text) tablespace small; grant all on large to app", database="app")
        proxy = ambassador(server.url("app", USERS["app"].password, "app"), pool={"size": 2})
        fill = "insert into large select repeat(md5(random()::text), 100) from generate_series(1, 100000)"
        with Wire.session(proxy.port) as client, Wire.session(proxy.port) as neighbour:
            for _ in range(8):
                answer = client.ask(fill)
                assert (answer.kinds, answer.error.sqlstate) == ("EZ", "53100"), answer
                assert neighbour.ask("select 1").value == "1"
            client.ask("begin")
            assert client.ask(fill).error.sqlstate == "53100"
            assert client.ask("rollback").kinds == "CZ"
            server.sql("drop table large", database="app")
            assert client.ask("create table large (a text) tablespace small").kinds == "CZ"
            assert client.ask("insert into large values ('small')").kinds == "CZ"
        ended = {key: n for key, n in proxy.metrics().items() if key[0].endswith("server_disconnects_total")}
        assert not any(ended.values()), ended
    server.stop(immediate=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
def test_a_disk_that_is_full_of_wal(workspace: Workspace, ambassador: Callable[..., Ambassador]) -> None:
    """The server panics, and stays down until there is room; what was committed before is there."""
    server = workspace.primary("panics", {"wal_keep_size": "0", "min_wal_size": "32MB"}, hba=HBA)
    populate(server)
    server.sql(CREATE, database="app")
    server.stop()
    wal = server.data / "pg_wal"
    with small_disk(server.folder / "wal", "160m") as disk:
        ballast = disk / "ballast"
        for path in wal.iterdir():
            shutil.move(path, disk / path.name)
        for path in (disk, *disk.rglob("*")):
            server._account.give(path)
        wal.rmdir()
        wal.symlink_to(disk)
        server.start()
        proxy = ambassador(
            server.url("app", USERS["app"].password, "app"), pool={"size": 3, "wait_timeout": "5s"}
        )
        with Load(proxy, "panic", drivers=2, raw=2) as load:
            load.everybody(5, "before")
            with contextlib.suppress(OSError), ballast.open("wb", 0) as file:
                while True:
                    file.write(bytes(MIB))
            with (
                psycopg.connect(server.url(), autocommit=True) as connection,
                pytest.raises(psycopg.OperationalError),
            ):
                connection.execute(
                    "create table w as select repeat('x', 500) from generate_series(1, 400000)"
                )
            wait_until(lambda: not server.running, "the server's end", deadline=30)
            ballast.unlink()
            server.start()
            load.everybody(5, "when there is room", 30)
        with psycopg.connect(server.url(database="app")) as connection:
            found = [key for (key,) in connection.execute("select key from deeds")]
        assert not load.ledger.compare(found), load.ledger.summary()
        assert not load.ledger.wrong, load.ledger.wrong[:10]
        server.stop(immediate=True)


def test_others_have_all_the_connections(workspace: Workspace, ambassador: Callable[..., Ambassador]) -> None:
    """Clients wait for those that there are; an error comes only when there is none for too long."""
    server = workspace.primary("crowded", {"max_connections": "8"}, hba=HBA)
    populate(server)
    proxy = ambassador(
        server.url("app", USERS["app"].password, "app"), pool={"size": 6, "wait_timeout": "20s"}
    )
    crowd = Crowd(server)
    clients = [Wire.session(proxy.port) for _ in range(6)]
    assert clients[0].ask("begin").kinds == "CZ"
    crowd.come(terminating=False)
    try:
        # One connection is ours: the others want one each, at the same time.
        for client in clients[1:]:
            client.send(build.query("select 'here'"))
        assert clients[0].ask("commit").kinds == "CZ"
        for client in clients[1:]:
            answer = client.until("Z")
            assert answer.kinds == "TDCZ", answer
    finally:
        crowd.go()
    for client in clients:
        assert client.ask("select 'here'").value == "here"
        client.leave()
    server.stop(immediate=True)


# Slow.


def test_a_slow_link(primary: Postgres, link: Link, ambassador: Callable[..., Ambassador]) -> None:
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    link.delay(0.05)
    proxy = ambassador(url, pool={"size": 2})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.send(*[build.query(f"select {index}") for index in range(20)])
        began = time.monotonic()
        assert [client.until("Z").value for _ in range(20)] == [str(index) for index in range(20)]
        assert other.ask("select repeat('x', 500000)").value == "x" * 500_000
        assert time.monotonic() - began > 0.1
    assert proxy.metrics().total("pgambassador_server_connect_failures_total") == 0


# Somewhere else.


def _may_mount_alone() -> bool:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _may_mount_alone(), reason="an /etc/hosts of one's own takes root and unshare")
def test_a_name_that_leads_somewhere_else(
    workspace: Workspace, tmp_path: Path, ambassador: Callable[..., Ambassador]
) -> None:
    """The primary moves to another address, and its name after it; the old address answers nobody."""
    name = "db.moving.test"
    server = workspace.primary("moving", hba=HBA)
    server.certify(hosts=(name,))
    server.reload()
    populate(server)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.2 {name}\n")
    with Link(server.port, where=("127.0.0.2", 0)) as old:
        url = server.url("app", USERS["app"].password, "app", connect_timeout="2")
        url = url.replace(f"{HOST}:{server.port}", f"{name}:{old.port}")
        proxy = ambassador(
            {
                "clusters": {
                    "main": {"url": url, "routing": {"discovery": {"by": "dns", "interval": "100ms"}}}
                }
            },
            pool={"size": 2, "wait_timeout": "10s"},
            start=False,
        )
        inside = f'mount --bind "{hosts}" /etc/hosts && exec "$0" "$@"'
        proxy.command = ("unshare", "--mount", "sh", "-c", inside, sys.executable, "-m", "pgambassador")
        proxy.start()
        with Wire.session(proxy.port) as client:
            assert client.ask("select 'at the old place'").value == "at the old place"
            with Link(server.port, where=("127.0.0.3", old.port)) as new:
                old.refuse()
                old.cut()
                hosts.write_text(f"127.0.0.3 {name}\n")

                def moved() -> bool:
                    return client.ask("select 'at the new place'").kinds == "TDCZ"

                wait_until(moved, "an answer from the new place", deadline=20)
                assert new.accepted
    server.stop(immediate=True)
