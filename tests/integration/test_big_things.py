"""Huge values and results go through in pieces; rows may end anywhere in a buffer or a TLS record."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire
from tests.messages import SYNC, bind, close_statement, describe_portal, execute, parse

KB, MB = 1 << 10, 1 << 20
MEMORY = 30 * MB
"""What the process may grow by at its highest, whatever the size of the value."""
HEAD = 5 + 2 + 4
"""Of a DataRow with one column: kind and length, number of columns, length of the value."""
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")


@pytest.fixture(scope="module", params=["transaction", "session"])
def proxy(
    request: pytest.FixtureRequest, primary: Postgres, ambassadors: Callable[..., Ambassador]
) -> Ambassador:
    """Warm: it holds the memory for some work."""
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassadors(url, pool={"mode": request.param, "size": 2})
    with Wire.session(proxy.port) as client:
        for _ in range(3):
            client.ask("select repeat('x', 1000) from generate_series(1, 2000)")
    return proxy


def peak(proxy: Ambassador) -> int:
    """Bytes: the most memory that it has ever held."""
    status = Path(f"/proc/{proxy.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * KB


class Reader:
    """Reads messages without keeping them."""

    def __init__(self, client: Wire) -> None:
        self.buffer = bytearray(MB)
        self.socket = client.socket
        self.have = memoryview(b"")
        self.total = 0

    def piece(self, most: int) -> memoryview:
        if not self.have:
            count = self.socket.recv_into(self.buffer)
            assert count, "the connection ended"
            self.total += count
            self.have = memoryview(self.buffer)[:count]
        piece, self.have = self.have[:most], self.have[most:]
        return piece

    def head(self) -> tuple[str, int]:
        """The next message's kind, and the size of what follows."""
        head = b""
        while len(head) < 5:
            head += self.piece(5 - len(head))
        return chr(head[0]), int.from_bytes(head[1:], "big") - 4

    def skip(self, size: int, seen: Callable[[memoryview], object] = len) -> None:
        while size:
            piece = self.piece(size)
            seen(piece)
            size -= len(piece)


@needs_proc
@pytest.mark.parametrize("name", [b"", b"named"], ids=["unnamed", "named"])
def test_a_hundred_megabytes_there_and_back(proxy: Ambassador, name: bytes) -> None:
    block = Random(1).randbytes(MB // 2).hex().encode()
    value = block * 100
    expected, found = zlib.crc32(value), 0

    def seen(piece: memoryview) -> None:
        nonlocal found
        found = zlib.crc32(piece, found)

    with Wire.session(proxy.port) as client:
        client.socket.settimeout(30)
        before = peak(proxy)
        message = parse(name, b"select $1::text") + bind(name, value) + execute() + SYNC
        writer = threading.Thread(target=client.socket.sendall, args=(message,))
        writer.start()
        reader = Reader(client)
        kinds = ""
        while not kinds.endswith("Z"):
            kind, size = reader.head()
            kinds += kind
            if kind == "D":
                assert size == HEAD - 5 + len(value)
                reader.skip(HEAD - 5)
                size -= HEAD - 5
            reader.skip(size, seen if kind == "D" else len)
        writer.join()
        assert kinds == "12DCZ"
        assert found == expected
        assert peak(proxy) - before < MEMORY
        assert client.ask("select 1").value == "1"


@needs_proc
@pytest.mark.slow
def test_a_result_of_a_gigabyte(proxy: Ambassador) -> None:
    rows, size = 10 * KB, 105 * 1000
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.socket.settimeout(30)
        before = peak(proxy)
        client.send(build.query(f"select repeat('x', {size}) from generate_series(1, {rows})"))
        reader = Reader(client)
        kinds: dict[str, int] = {}
        while "Z" not in kinds:
            kind, length = reader.head()
            assert kind != "D" or length == HEAD - 5 + size
            kinds[kind] = kinds.get(kind, 0) + 1
            reader.skip(length)
            if kind == "D" and kinds[kind] == rows // 2:
                assert other.ask("select 'meanwhile'").value == "meanwhile"
        assert kinds == {"T": 1, "D": rows, "C": 1, "Z": 1}
        assert reader.total > 1024 * MB
        assert peak(proxy) - before < MEMORY


# Boundaries.

BOUNDARIES = [16 * KB, 64 * KB, 128 * KB, 256 * KB]
"""A TLS record, a read, a buffer, and two."""


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_rows_that_end_around_a_boundary(proxy: Ambassador, boundary: int) -> None:
    """Alone behind a short message, and one behind the other, so that the ends are everywhere."""
    sizes = range(boundary - HEAD - 8, boundary - HEAD + 9)
    with Wire.session(proxy.port) as client:
        for size in sizes:
            answer = client.ask(f"select rpad('{size}', {size - 1}, 'x') || 'y'")
            assert answer.kinds == "TDCZ"
            assert answer.value == str(size).ljust(size - 1, "x") + "y"
        series = f"generate_series({sizes.start}, {sizes.stop - 1})"
        answer = client.ask(f"select rpad(n::text, n - 1, 'x') || 'y' from {series} n")
        assert answer.kinds == "T" + "D" * len(sizes) + "CZ"
        assert answer.rows == [[str(size).ljust(size - 1, "x") + "y"] for size in sizes]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_messages_that_end_around_a_boundary(proxy: Ambassador, boundary: int) -> None:
    """What a client sends: simple queries, statements, and parameters. The next message follows at once."""
    with Wire.session(proxy.port) as client:
        for size in range(boundary - 8, boundary + 9):
            query = build.query("select length('')")
            text = "x" * (size - len(query))
            query = build.query(f"select length('{text}')")
            short = parse(b"", b"select 0, ''")
            statement = parse(b"", b"select 0, '" + b"z" * (size - len(short)) + b"'")
            parameter = bind(b"two", b"p" * (size - len(bind(b"two", b""))))
            assert len(query) == len(statement) == len(parameter) == size
            client.send(query, query, statement, bind(b""), execute(), SYNC)
            client.send(parse(b"two", b"select $1"), parameter, describe_portal(), execute(), SYNC, query)
            for _ in range(2):
                assert client.until("Z").value == str(len(text))
            assert client.until("Z").rows == [["0", "z" * (size - len(short))]]
            answer = client.until("Z")
            assert (answer.kinds, len(answer.value or "")) == ("12TDCZ", size - len(bind(b"two", b"")))
            assert client.until("Z").value == str(len(text))
            client.send(close_statement(b"two"), SYNC)
            assert client.until("Z").kinds == "3Z"
