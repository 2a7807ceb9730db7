"""Who is slow slows the other side down, and costs a bounded buffer: never memory, never a deadlock."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, wait_until
from tests.harness.activity import wait_blocked
from tests.messages import COPY_DONE, SYNC, bind, copy_data, execute, parse

MB = 1 << 20
MEMORY = 8 * MB
"""What a few clients may add: buffers of 256 kB for each (clients.buffer), and some of the allocator's."""
ROW = 1000
ROWS = 100_000
RESULTS = {
    "copy": f"copy (select repeat('x', {ROW}) from generate_series(1, {ROWS})) to stdout",
    "select": f"select repeat('x', {ROW}) from generate_series(1, {ROWS})",
}


@pytest.fixture(scope="module")
def proxy(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """Warm: it has seen some work, and holds the memory for it."""
    proxy = ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"size": 4})
    with Wire.session(proxy.port) as client:
        for _ in range(3):
            client.ask("select repeat('x', 1000) from generate_series(1, 2000)")
    return proxy


def slow(proxy: Ambassador) -> Wire:
    """A client whose buffer is small."""
    client = Wire(proxy.port, buffer=8192)
    client.login(user="app", database="app")
    return client


def skim(client: Wire, watch: Callable[[], None] = lambda: None) -> tuple[int, dict[str, int]]:
    """Read up to ReadyForQuery without keeping anything: bytes, and how many messages of each kind."""
    size, kinds, head, left = 0, dict[str, int](), b"", 0
    while not (left == 0 and kinds.get("Z")):
        data = client.socket.recv(MB)
        assert data, kinds
        size += len(data)
        watch()
        at = 0
        while at < len(data):
            if left:
                skipped = min(left, len(data) - at)
                at += skipped
                left -= skipped
                continue
            missing = 5 - len(head)
            head += data[at : at + missing]
            at += missing
            if len(head) == 5:
                kinds[chr(head[0])] = kinds.get(chr(head[0]), 0) + 1
                left = int.from_bytes(head[1:], "big") - 4
                head = b""
    return size, kinds


def flood(client: Wire, data: bytes, most: int) -> int:
    """Send until the other side has taken nothing for a while: bytes that were taken."""
    view = memoryview(data)
    sent = 0
    client.socket.setblocking(False)
    try:
        while sent < most:
            if not select.select([], [client.socket], [], 0.5)[1]:
                break
            position = sent % len(data)
            sent += client.socket.send(view[position:])
    finally:
        client.socket.settimeout(20)
    return sent


@pytest.mark.parametrize("result", RESULTS)
def test_a_huge_result_for_a_slow_reader_costs_no_memory(
    result: str, proxy: Ambassador, observer: Connection
) -> None:
    """100 MB: the server is held up until the client reads, others are served, and all of it arrives."""
    before = proxy.rss()
    with slow(proxy) as client, Wire.session(proxy.port) as other:
        client.send(build.query(RESULTS[result]))
        wait_blocked(observer, RESULTS[result][:30])
        assert proxy.rss() - before < MEMORY
        began = time.monotonic()
        assert other.ask("select 'meanwhile'").value == "meanwhile"
        assert time.monotonic() - began < 1
        highest = 0

        def watch() -> None:
            nonlocal highest
            highest = max(highest, proxy.rss())

        size, kinds = skim(client, watch)
        assert size > ROWS * ROW
        assert kinds["d" if result == "copy" else "D"] == ROWS
        assert highest - before < MEMORY
        assert client.ask("select 1").value == "1"


def test_many_slow_readers_cost_a_buffer_each(proxy: Ambassador, observer: Connection) -> None:
    before = proxy.rss()
    clients = [slow(proxy) for _ in range(4)]
    for index, client in enumerate(clients):
        client.send(build.query(f"{RESULTS['select']} -- reader {index}"))
    for index in range(len(clients)):
        wait_blocked(observer, f"-- reader {index}")
    assert proxy.rss() - before < MEMORY
    for client in clients:
        client.vanish()
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"


def test_a_single_huge_row_costs_no_memory(proxy: Ambassador, observer: Connection) -> None:
    """One message of 64 MB is passed on in pieces."""
    before = proxy.rss()
    with slow(proxy) as client:
        client.send(build.query("select repeat('x', 64 * 1024 * 1024)"))
        wait_blocked(observer, "64 * 1024 * 1024")
        assert proxy.rss() - before < MEMORY
        size, kinds = skim(client)
        assert size > 64 * MB
        assert kinds == {"T": 1, "D": 1, "C": 1, "Z": 1}


def test_a_client_that_floods_a_stalled_server_is_held_up(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """What it may send ahead is what the sockets hold, and a bounded buffer; nothing of it is lost."""
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    proxy = ambassador(url, pool={"size": 1})
    message = copy_data(b"x" * 65000 + b"\n")
    with Wire.session(proxy.port) as client:
        client.ask("drop table if exists flooded; create unlogged table flooded (t text)")
        client.send(build.query("copy flooded from stdin"))
        client.until("G")
        client.send(message)
        before = proxy.rss()
        link.stall()
        sent = flood(client, message, 300 * MB)
        assert sent < 60 * MB
        assert proxy.rss() - before < MEMORY
        link.resume()
        client.send(message[sent % len(message) :], COPY_DONE)
        count = 2 + sent // len(message)
        assert client.until("Z")[0].payload == b"COPY %d\0" % count
        assert client.ask("select count(*), sum(length(t)) from flooded").rows == [
            [str(count), str(65000 * count)]
        ]
        client.ask("drop table flooded")


@pytest.mark.parametrize(
    "message",
    [
        build.query("select 'flood'"),
        parse(b"", b"select 'flood'") + bind(b"") + execute() + SYNC,
        parse(b"", b"select $1") + bind(b"", b"x" * 100_000) + execute() + SYNC,
    ],
    ids=["queries", "pipelines", "large parameters"],
)
def test_a_client_that_floods_while_it_waits_is_held_up(
    message: bytes, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    with Wire.session(proxy.port) as holder, Wire.session(proxy.port) as client:
        holder.ask("begin")
        before = proxy.rss()
        sent = flood(client, message * (MB // len(message) + 1), 200 * MB)
        assert sent < 40 * MB
        assert proxy.rss() - before < MEMORY
        client.vanish()
        assert holder.ask("commit").kinds == "CZ"
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_client_that_writes_a_long_pipeline_and_reads_late(
    mode: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Both directions fill up. Whoever reads at all gets everything, in order."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 1})
    rounds = 3000
    with slow(proxy) as client:
        client.socket.settimeout(30)
        before = proxy.rss()

        def write() -> None:
            for index in range(rounds):
                client.send(
                    parse(b"", b"select $1 || repeat('y', 3000)"),
                    bind(b"", b"%d " % index + b"x" * 10_000),
                    execute(),
                    SYNC,
                )

        writer = threading.Thread(target=write)
        writer.start()
        stuck = proxy.metrics().total("pgambassador_received_bytes_total")

        def held_up() -> bool:
            """The writer can go no further: nothing more is read from it."""
            nonlocal stuck
            last, stuck = stuck, proxy.metrics().total("pgambassador_received_bytes_total")
            return last == stuck > 0

        wait_until(held_up, "both directions are full", poll=0.3)
        assert writer.is_alive()
        assert proxy.rss() - before < MEMORY
        for index in range(rounds):
            answer = client.until("Z")
            assert answer.kinds == "12DCZ"
            assert str(answer.value).startswith(f"{index} ")
        writer.join()
        assert proxy.rss() - before < MEMORY


def test_a_client_that_stops_reading_and_leaves_frees_its_server_connection(
    proxy: Ambassador, observer: Connection
) -> None:
    for _ in range(4):
        client = slow(proxy)
        client.send(build.query(RESULTS["select"] + " -- leaves"))
        wait_blocked(observer, "-- leaves")
        client.socket.shutdown(socket.SHUT_RDWR)
        client.socket.close()

    def free() -> bool:
        metrics = proxy.metrics()
        return metrics.total("pgambassador_server_connections", state="active") == 0

    wait_until(free, "the server connections' return")
