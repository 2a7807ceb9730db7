"""The tools of the tests, tested: a relay that breaks on demand, waiting, metrics."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pgambassador.embedded.ports import HOST, free_port, is_free
from pgambassador.embedded.server import Postgres
from tests.harness import USERS, Ambassador, Link, Metrics, psql, wait_until
from tests.harness.ledger import Ledger, Phase, Told, Trouble

BIG = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listener = socket.create_server((HOST, 0))

    def serve(end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            while data := end.recv(65536):
                end.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


@pytest.fixture
def relay(echo: int) -> Iterator[Link]:
    with Link(echo) as link:
        yield link


def connect(link: Link) -> socket.socket:
    return socket.create_connection((HOST, link.port), timeout=5)


def read(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = end.recv(size - len(data))
        if not part:
            break
        data += part
    return data


def test_passes_on_and_ends(relay: Link) -> None:
    with connect(relay) as client:
        writer = threading.Thread(target=client.sendall, args=(BIG,))
        writer.start()
        assert read(client, len(BIG)) == BIG
        writer.join()
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    wait_until(lambda: relay.connections == 0)
    assert relay.accepted == 1


def test_stalls_and_resumes(relay: Link) -> None:
    with connect(relay) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        relay.stall()
        client.sendall(b"b")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)
        relay.resume()
        client.settimeout(5)
        assert client.recv(1) == b"b"


def test_cuts(relay: Link) -> None:
    with connect(relay) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        relay.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(relay) as client:
        client.sendall(b"b")
        assert client.recv(1) == b"b"


def test_refuses_and_allows(relay: Link) -> None:
    with connect(relay) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(relay)
        client.sendall(b"b")
        assert client.recv(1) == b"b"
        relay.allow()
        connect(relay).close()


def test_delays(relay: Link) -> None:
    with connect(relay) as client:
        relay.delay(0.05)
        began = time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(BIG[:500_000],))
        sender.start()
        assert read(client, 500_000) == BIG[:500_000]
        sender.join()
        assert time.monotonic() - began > 0.1
        client.sendall(b"late")
        relay.delay(0)
        client.sendall(b", and in order")
        client.shutdown(socket.SHUT_WR)
        assert read(client, 99) == b"late, and in order"


def test_half_open(relay: Link) -> None:
    with connect(relay) as client:
        client.sendall(b"once")
        assert read(client, 4) == b"once"
        relay.half_open()
        client.sendall(b"is anybody there")
        assert relay.connections == 0
        with connect(relay) as other:
            other.sendall(b"new")
            assert read(other, 3) == b"new"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(5)
        relay.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_garbles(relay: Link) -> None:
    with connect(relay) as client:
        client.sendall(b"sense")
        assert read(client, 5) == b"sense"
        relay.garble(b"nonsense")
        client.sendall(b"sense")
        assert read(client, 13) == b"nonsensesense"


def test_a_target_that_is_away() -> None:
    with Link(free_port()) as link:
        with pytest.raises(ConnectionResetError), connect(link) as client:
            client.recv(1)
        wait_until(lambda: link.accepted == 1)
        assert repr(link).endswith("flowing, 0 connections>")


def test_waiting_fails_with_a_reason() -> None:
    with pytest.raises(AssertionError, match=r"the miracle did not happen within 0.01 s \(last: 0\)"):
        wait_until(lambda: 0, "the miracle", deadline=0.01)


def test_a_ledger_finds_out() -> None:
    """Whatever a table has that clients were told otherwise."""
    ledger = Ledger()
    ledger.intend("kept", "lost", "twice", "refused", "undone", "doubt", "half", "other half")
    ledger.tell(Told.COMMITTED, "kept", "lost", "twice")
    ledger.tell(Told.DOUBT, "doubt")
    ledger.tell(Told.DOUBT, "half", "other half")
    ledger.seen(["kept", "vanished"])
    found = ["kept", "twice", "twice", "undone", "doubt", "half", "invented"]
    assert sorted(ledger.compare(found)) == [
        "invented is there and was never written",
        "lost was committed and is lost",
        "of ('half', 'other half'), one transaction, only a part is there",
        "twice is there 2 times",
        "undone was refused and is there",
        "vanished was read and is not there",
    ]
    ledger.trouble(Trouble(Phase.READING, "08006", False))
    ledger.trouble(Trouble(Phase.READING, "57P01", True))
    ledger.trouble(Trouble(Phase.WRITING, "08006", True))
    promised = {Phase.READING: {"08006": False, "57P01": False}, Phase.WRITING: {"08006": True}}
    assert list(ledger.beyond(promised)) == ["reading 57P01, and the end: "]


def test_metrics() -> None:
    text = '# TYPE x counter\nx_total{a="1",b="2"} 3\nx_total{a="1",b="3"} 4\n# TYPE y gauge\ny 5\n'
    metrics = Metrics.parse(text)
    assert metrics.total("x_total") == metrics.total("x_total", a="1") == 7
    assert metrics.total("x_total", b="3") == 4
    assert metrics.total("y") == 5
    with pytest.raises(KeyError):
        metrics.total("z")


def test_a_free_port_is_free() -> None:
    port = free_port()
    assert is_free(port)
    with socket.create_server((HOST, port)):
        assert not is_free(port)


@pytest.mark.parametrize("forked", [True, False])
def test_the_ambassador_as_a_process(
    primary: Postgres, ambassador: Callable[..., Ambassador], forked: bool
) -> None:
    process = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 2}, start=False)
    if not forked:
        process.warm = None
    process.start()
    assert psql(process.dsn(), "select current_user, current_setting('port')") == f"app|{primary.port}"
    assert process.http("/livez")[0] == 200
    assert process.http("/nowhere")[0] == 404
    assert any(name.startswith("pgambassador_") for name, _ in process.metrics())
    started = process.wait_for_log(lambda line: "listens on" in line["message"])
    assert str(process.port) in started["message"]
    assert process.rss() > 10_000_000
    assert process.drain() == 0
    process.start()
    assert psql(process.dsn(), "select 1") == "1"
    process.send(signal.SIGTERM)
    assert process.wait() == 0
    process.start()
    assert process.kill() == -signal.SIGKILL
    assert not process.running


def test_an_ambassador_that_does_not_start_shows_why(ambassador: Callable[..., Ambassador]) -> None:
    process = ambassador({"lisen": []}, start=False)
    with pytest.raises(AssertionError, match="lisen"):
        process.start()
    assert process.returncode == 2


def test_through_a_link(link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    direct = primary.url("app", USERS["app"].password, "app")
    process = ambassador(direct.replace(str(primary.port), str(link.port)))
    assert psql(process.dsn(), "select 1") == "1"
    assert link.accepted > 0
