"""One socket, in plain text and in TLS: the same bytes, the same ends."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pgambassador.net import openssl
from pgambassador.net.channel import Channel
from tests.loop import Loop
from tests.tls import End, Plainly, ends

BIG = bytes(range(256)) * 4096


class Far:
    """The other end of the channel."""

    def __init__(self, sock: socket.socket, end: End | None) -> None:
        self.sock, self.end = sock, end
        self.ended = False

    def write(self, data: bytes) -> None:
        self.sock.sendall(self.sealed(data))

    def sealed(self, data: bytes) -> bytes:
        if self.end is None:
            return data
        self.end.tls.write(data)
        return self.end.outgoing.read()

    def read(self) -> bytes:
        """All that is there."""
        parts = []
        while not self.ended:
            try:
                part = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            self.ended = not part
            parts.append(part)
        return self.opened(b"".join(parts))

    def opened(self, data: bytes) -> bytes:
        if self.end is None:
            return data
        self.end.incoming.write(data)
        parts = []
        try:
            while part := self.end.tls.read(1 << 20):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            pass
        return b"".join(parts)


class Pair:
    def __init__(self, kind: str, buffer: int = 0) -> None:
        self.loop = Loop()
        self.heard: list[bytes] = []
        self.drained = 0
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
            if buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        if kind == "plain":
            self.channel = Channel(cast(Any, self.loop), ours)
            self.far = Far(theirs, None)
        else:
            newest = ssl.TLSVersion.TLSv1_2 if kind.endswith("12") else ssl.TLSVersion.TLSv1_3
            near, far = ends(newest=newest)
            if kind.startswith("server"):
                near, far = far, near
            tls: Any = Plainly(near.tls) if kind == "not borrowed" else near.tls
            self.channel = Channel(cast(Any, self.loop), ours, tls, near.incoming, near.outgoing)
            self.far = Far(theirs, far)
        self.channel.on_drained = self._drained
        assert self.channel.read() is None  # the session tickets of TLS 1.3

    def _drained(self) -> None:
        self.drained += 1

    def everything(self, most: int = 65536) -> bytes:
        """Read until there is nothing."""
        parts = []
        while part := self.channel.read(most):
            parts.append(part)
        return b"".join(parts)

    def fetch(self) -> bytes:
        """What the far end gets while the loop goes on."""
        parts: list[bytes] = []
        while True:
            self.loop.run()
            part = self.far.read()
            if not part and not self.channel.pending:
                return b"".join(parts)
            parts.append(part)


@pytest.fixture(params=["plain", "tls", "tls12", "not borrowed", "server", "server12"])
def pairs(request: pytest.FixtureRequest) -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(**options: Any) -> Pair:
        made.append(Pair(request.param, **options))
        return made[-1]

    yield make
    for each in made:
        each.far.sock.close()
        each.channel.close()


@pytest.fixture
def pair(pairs: Callable[..., Pair]) -> Pair:
    return pairs()


def test_bytes_go_both_ways(pair: Pair) -> None:
    pair.channel.write(b"to the far end")
    assert pair.far.read() == b"to the far end"
    assert pair.channel.read() is None
    pair.far.write(b"back")
    assert pair.channel.read() == b"back"
    assert pair.channel.read() is None
    assert (pair.channel.sent, pair.channel.received) == (14, 4)


def test_many_messages(pair: Pair) -> None:
    expected = b""
    for i in range(200):
        pair.far.write(b"%d " % i)
        expected += b"%d " % i
    assert pair.everything() == expected


def test_big_ones(pair: Pair) -> None:
    sent = got = b""
    for i in range(0, len(BIG), 100_000):
        pair.far.write(BIG[i : i + 100_000])
        sent += BIG[i : i + 100_000]
        got += pair.everything()
    assert got == sent == BIG


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_a_small_buffer_gets_it_all(pair: Pair, most: int) -> None:
    pair.far.write(BIG[:5000])
    assert pair.everything(most) == BIG[:5000]


def test_a_record_in_pieces(pair: Pair) -> None:
    data = pair.far.sealed(b"a few bytes")
    got = b""
    for i in range(len(data)):
        pair.far.sock.send(data[i : i + 1])
        got += pair.channel.read() or b""
    assert got == b"a few bytes"


def test_the_loop_is_told_what_the_socket_no_longer_says(pair: Pair) -> None:
    """Bytes that are decrypted and not yet delivered make no event."""
    got = []

    def on_readable() -> None:
        got.append(pair.channel.read(10))
        if len(got) == 1:
            pair.channel.pause_reading()

    pair.channel.on_readable = on_readable
    pair.far.write(b"0123456789abcdef")
    pair.channel.resume_reading()
    pair.loop.run()
    assert got == [b"0123456789"]
    pair.channel.resume_reading()
    pair.loop.run()
    assert got[1] == b"abcdef"
    assert pair.channel.reading


def test_pausing_twice_and_resuming_twice(pair: Pair) -> None:
    pair.channel.on_readable = lambda: pair.heard.append(pair.channel.read() or b"")
    pair.channel.resume_reading()
    pair.channel.resume_reading()
    pair.far.write(b"one")
    pair.loop.run()
    pair.channel.pause_reading()
    pair.channel.pause_reading()
    pair.far.write(b"two")
    pair.loop.run()
    assert pair.heard == [b"one"]
    pair.channel.resume_reading()
    pair.loop.run()
    assert pair.heard == [b"one", b"two"]


def test_what_the_kernel_does_not_take_is_kept(pairs: Callable[..., Pair]) -> None:
    pair = pairs(buffer=4096)
    pair.channel.write(BIG)
    assert pair.channel.writing
    assert pair.channel.pending > 500_000
    pair.channel.write(b"behind it")
    assert pair.fetch() == BIG + b"behind it"
    assert (pair.channel.pending, pair.channel.writing) == (0, False)
    assert pair.drained == 1


def test_drained_is_said_once_each_time(pairs: Callable[..., Pair]) -> None:
    pair = pairs(buffer=4096)
    pair.channel.write(b"short")
    assert pair.fetch() == b"short"
    assert pair.drained == 0
    for times in (1, 2):
        pair.channel.write(BIG)
        assert pair.fetch() == BIG
        assert pair.drained == times


def test_what_is_staged_leaves_with_the_next_write(pair: Pair) -> None:
    pair.channel.hold(b"one ")
    pair.channel.hold(b"two ")
    assert pair.far.read() == b""
    assert pair.channel.pending == 8
    pair.channel.write(b"three")
    assert pair.far.read() == b"one two three"
    assert pair.channel.pending == 0
    assert pair.channel.sent == 13


def test_staging_alone_leaves_with_an_empty_write(pair: Pair) -> None:
    pair.channel.hold(b"alone")
    pair.channel.write(b"")
    assert pair.far.read() == b"alone"
    pair.channel.write(b"")
    assert pair.far.read() == b""


def test_staging_grows(pair: Pair) -> None:
    for i in range(0, 200_000, 1000):
        pair.channel.hold(BIG[i : i + 1000])
    pair.channel.write(b"end")
    assert pair.fetch() == BIG[:200_000] + b"end"


def test_the_end_is_said(pair: Pair) -> None:
    pair.far.write(b"last words")
    pair.far.sock.close()
    assert pair.channel.read() == b"last words"
    assert pair.channel.read() == b""


def test_the_end_wakes_the_reader(pair: Pair) -> None:
    def on_readable() -> None:
        got = pair.channel.read()
        pair.heard.append(got or b"end")
        if not got:
            pair.channel.close()

    pair.channel.on_readable = on_readable
    pair.far.write(b"x")
    pair.far.sock.close()
    pair.channel.resume_reading()
    pair.loop.run()
    assert pair.heard == [b"x", b"end"]


def test_a_reset_is_a_broken_socket(pair: Pair) -> None:
    pair.channel.write(b"never read")
    pair.far.sock.close()
    with pytest.raises(ConnectionError):
        pair.channel.read()


def test_a_failed_write_calls_the_reader_once(pair: Pair) -> None:
    calls = []
    pair.channel.on_readable = lambda: calls.append(pair.channel.broken)
    pair.far.sock.close()
    pair.channel.write(b"x")
    pair.channel.write(b"y")
    pair.loop.run()
    assert calls == [True]
    assert repr(pair.channel).endswith("broken pending=0>")
    with pytest.raises(ConnectionError):
        pair.channel.read()


def test_what_breaks_is_told_to_who_listens_by_then(pair: Pair) -> None:
    calls: list[str] = []
    pair.channel.on_readable = lambda: calls.append("before")
    pair.far.sock.close()
    pair.channel.write(b"x")
    pair.channel.write(b"y")
    pair.channel.on_readable = lambda: calls.append("now")
    pair.loop.run()
    assert set(calls) == {"now"}
    pair.channel.on_readable = lambda: calls.append("later")
    pair.loop.run()
    assert calls[-1] == "later", "and to who comes afterwards, whom the socket may not tell"


def test_a_socket_that_breaks_with_a_backlog(pairs: Callable[..., Pair]) -> None:
    pair = pairs(buffer=4096)
    calls = []
    pair.channel.on_readable = lambda: calls.append(pair.channel.broken)
    pair.channel.write(BIG)
    pair.far.sock.close()
    pair.loop.run()
    assert calls == [True]
    assert (pair.channel.pending, pair.channel.writing) == (0, False)
    assert pair.loop.writers == {}


def test_close(pair: Pair) -> None:
    pair.channel.resume_reading()
    pair.channel.on_readable = lambda: pytest.fail("closed")
    pair.channel.hold(b"too late")
    pair.channel.close()
    pair.channel.close()
    assert pair.loop.readers == {}
    assert pair.channel.sock.fileno() == -1
    pair.channel.write(b"nothing")
    pair.channel.hold(b"nothing")
    pair.channel.write(b"nothing")
    assert pair.channel.pending == 0
    pair.channel.resume_reading()
    assert pair.loop.readers == {}
    pair.channel.on_writable()
    with pytest.raises(ConnectionError):
        pair.channel.read()
    assert pair.far.read() == b""
    assert pair.far.ended
    assert "closed" in repr(pair.channel)


def test_close_with_a_backlog(pairs: Callable[..., Pair]) -> None:
    pair = pairs(buffer=4096)
    pair.channel.write(BIG)
    pair.channel.close()
    assert pair.loop.writers == {}


def test_repr(pair: Pair) -> None:
    pair.channel.hold(b"abc")
    tls = "" if pair.far.end is None else "tls "
    assert repr(pair.channel) == f"<Channel fd={pair.channel.fd} {tls}open pending=3>"


# TLS alone.


def test_openssl_is_called_directly_where_it_can_be() -> None:
    for kind in ("tls", "tls12", "not borrowed", "plain", "server"):
        pair = Pair(kind)
        assert pair.channel.borrowed == (openssl.available and kind.startswith(("tls", "server")))
        pair.far.sock.close()
        pair.channel.close()


@pytest.fixture(params=["tls", "tls12", "not borrowed", "server", "server12"])
def secure(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(request.param)
    yield pair
    pair.far.sock.close()
    pair.channel.close()


def test_a_close_notify_is_the_end(secure: Pair) -> None:
    assert secure.far.end is not None
    data = secure.far.sealed(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        secure.far.end.tls.unwrap()
    secure.far.sock.send(data + secure.far.end.outgoing.read())
    assert secure.channel.read() == b"last words"
    assert secure.channel.read() == b""


def test_close_sends_a_close_notify(secure: Pair) -> None:
    assert secure.far.end is not None
    secure.channel.close()
    secure.far.end.incoming.write(secure.far.sock.recv(4096))
    # b"" is a clean end; anything else would raise.
    assert _read_end(secure.far.end) == b""


def test_no_close_notify_is_forced_upon_a_full_socket() -> None:
    pair = Pair("tls", buffer=4096)
    pair.channel.write(BIG)
    pair.channel.close()
    assert pair.far.end is not None
    got = pair.far.read()
    assert BIG.startswith(got)
    with pytest.raises(ssl.SSLWantReadError):
        pair.far.end.tls.read(1)
    pair.far.sock.close()


@pytest.mark.parametrize("noise", [b"\x17\x03\x03\x00\x20" + 32 * b"x", b"E\0\0\0\x20" + 32 * b"x"])
def test_a_record_that_is_none_ends_it(secure: Pair, noise: bytes) -> None:
    secure.far.write(b"good")
    secure.far.sock.send(noise)
    assert secure.channel.read() == b"good"
    assert secure.channel.read() == b""


def test_a_record_that_was_cut_off(secure: Pair) -> None:
    data = secure.far.sealed(b"a whole record")
    secure.far.sock.send(data[:-3])
    assert secure.channel.read() is None
    secure.far.sock.close()
    assert secure.channel.read() == b""


def test_what_came_with_the_handshake_is_announced() -> None:
    """The server's first records may lie behind its last flight."""
    near, far = ends()
    far.tls.write(b"hello")
    near.incoming.write(far.outgoing.read())
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = Loop()
    heard: list[bytes | None] = []
    channel = Channel(cast(Any, loop), ours, near.tls, near.incoming, near.outgoing)
    channel.on_readable = lambda: heard.append(channel.read())
    channel.resume_reading()
    loop.run()
    assert heard == [b"hello"]
    channel.close()
    theirs.close()


class Bothered:
    """As OpenSSL is when its peer asks for another handshake again and again: each read leaves an alert."""

    def __init__(self, outgoing: ssl.MemoryBIO) -> None:
        self.outgoing = outgoing

    def read(self, size: int, into: memoryview) -> int:
        self.outgoing.write(b"alert" * 1000)
        raise ssl.SSLWantReadError

    write = unwrap = read


def test_alerts_leave_at_once_and_are_not_piled_up() -> None:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    outgoing = ssl.MemoryBIO()
    loop: Any = Loop()
    channel = Channel(loop, ours, cast(Any, Bothered(outgoing)), ssl.MemoryBIO(), outgoing)
    theirs.send(b"again")
    assert channel.read() is None
    assert theirs.recv(10) == b"alertalert"
    with pytest.raises(ConnectionError, match="broken"):
        for _ in range(100):
            theirs.send(b"again")
            assert channel.read() is None
            assert channel.pending < 200_000
    assert channel.broken
    channel.close()
    theirs.close()


def _read_end(end: End) -> bytes:
    try:
        return end.tls.read(1)
    except ssl.SSLZeroReturnError:
        return b""
