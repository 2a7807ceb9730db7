"""A client at the door, over a pair of sockets: what TLS proves of it, and what it hears."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pgambassador.config import Tls
from pgambassador.embedded import Authority, Certificate
from pgambassador.errors import ProtocolViolation
from pgambassador.net.gate import Gate
from pgambassador.net.tasks import spawn
from pgambassador.net.visitor import Gone, Visitor
from pgambassador.wire.frames import Dialogue
from tests.newcomers import newcomer

Talk = Callable[[Visitor, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def gate(ca: Authority, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    ours = ca.server(tmp_path_factory.mktemp("ours"), hosts=("gate.example",))
    return Gate(Tls(certificate=str(ours.chain), key=str(ours.key), ca=str(ca.root)))


def context(
    ca: Authority, certificate: Certificate | None = None, alpn: str = "postgresql"
) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(ca.root))
    made.set_alpn_protocols([alpn])
    if certificate is not None:
        made.load_cert_chain(certificate.chain, certificate.key)
    return made


def meet(talk: Talk, gate: Gate | None = None, theirs: ssl.SSLContext | None = None) -> None:
    """With a gate the handshake comes first; the visitor's part of it may fail."""

    async def run() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        visitor = Visitor(newcomer(near, "10.0.0.1:40000"), asyncio.get_running_loop())
        assert (visitor.encrypted, visitor.certificate, visitor.binding) == (False, None, None)
        opened = asyncio.open_connection(
            sock=far, ssl=theirs, server_hostname="gate.example" if theirs else None
        )
        if gate is None:
            reader, writer = await opened
        else:
            opening = asyncio.gather(visitor.start_tls(gate, b"", direct=True), return_exceptions=True)
            reader, writer = await opened
            (failure,) = await opening
            if failure is not None:
                visitor.last_words(b"sorry")
                visitor.close()
                assert await reader.read() == b"sorry"
                writer.close()
                raise failure
        try:
            await talk(visitor, reader, writer)
        finally:
            writer.close()
            visitor.close()

    asyncio.run(run())


def test_what_a_certificate_says(ca: Authority, gate: Gate, tmp_path: Path) -> None:
    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = visitor.certificate
        assert found is not None
        assert (found.common_name, found.dns, found.emails) == ("alice", ("client.example",), ())
        assert "CN=alice" in found.subject.split(",")
        assert visitor.binding == gate.armour().binding is not None
        assert visitor.encrypted
        assert repr(visitor) == "<Visitor 10.0.0.1:40000 over TLS>"

    meet(talk, gate, context(ca, ca.client(tmp_path, "alice")))


def test_without_a_certificate(ca: Authority, gate: Gate) -> None:
    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert visitor.certificate is None
        assert visitor.binding is not None

    meet(talk, gate, context(ca))


def test_another_protocol_is_told_so_through_tls(ca: Authority, gate: Gate) -> None:
    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("it got in")

    with pytest.raises(ProtocolViolation, match="ALPN"):
        meet(talk, gate, context(ca, alpn="http/1.1"))


@pytest.mark.parametrize("over_tls", [False, True])
def test_bytes_go_both_ways_and_none_is_lost(ca: Authority, gate: Gate, over_tls: bool) -> None:
    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"start")
        assert await visitor.read() == b"start"
        big = bytes(range(256)) * 400
        await visitor.send(big)
        assert await reader.readexactly(len(big)) == big
        writer.write(big[:50_000])
        got = bytearray()
        while len(got) < 16_384:
            got += await visitor.read()
        if over_tls:
            got += visitor.remainder()
        while len(got) < 50_000:
            got += await visitor.read()
        assert got == big[:50_000]
        assert visitor.remainder() == b""
        visitor.last_words(b"bye")
        visitor.close()
        assert await reader.read() == b"bye"

    meet(talk, *((gate, context(ca)) if over_tls else (None, None)))


@pytest.mark.parametrize("over_tls", [False, True])
def test_the_end(ca: Authority, gate: Gate, over_tls: bool) -> None:
    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with pytest.raises(Gone):
            await visitor.read()
        visitor.last_words(b"to nobody")

    meet(talk, *((gate, context(ca)) if over_tls else (None, None)))


@pytest.mark.parametrize("over_tls", [False, True])
def test_its_messages(ca: Authority, gate: Gate, over_tls: bool) -> None:
    def dialogue() -> Dialogue[bytes]:
        _, first = yield b"first?"
        _, second = yield b"second?"
        return first + second

    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"start")
        assert await visitor.read() == b"start"
        visitor.begin(b"p\0\0\0\5")
        writer.write(b"1")
        answer = visitor.hold(dialogue(), lambda now: 0.0)
        assert await reader.readexactly(6) == b"first?"
        assert await reader.readexactly(7) == b"second?"
        writer.write(b"p\0\0\0\0052" + b"behind it")
        assert await answer == b"12"
        await visitor.pause(0.0)
        channel = visitor.channel()
        assert visitor.rest() + (channel.read() or b"") == b"behind it"
        visitor.say(b"welcome")
        assert await reader.readexactly(7) == b"welcome"
        visitor.last_words(b"bye")
        if not over_tls:
            visitor.close()
        assert await reader.read() == b"bye", "the end of TLS comes with it"
        visitor.close()
        assert channel.closed

    meet(talk, *((gate, context(ca)) if over_tls else (None, None)))


@pytest.mark.parametrize("over_tls", [False, True])
def test_much_behind_its_last_message_is_somebody_elses(ca: Authority, gate: Gate, over_tls: bool) -> None:
    much = bytes(range(256)) * 300

    def dialogue() -> Dialogue[bytes]:
        _, answer = yield b"?"
        return answer

    async def talk(visitor: Visitor, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"start")
        assert await visitor.read() == b"start"
        visitor.begin(b"")
        answer = visitor.hold(dialogue(), lambda now: 0.0)
        writer.write(b"p\0\0\0\5!" + much)
        assert await answer == b"!"
        # As a session: from now on it is told, also of what is decrypted and makes no noise any more.
        channel = visitor.channel()
        found, whole = bytearray(visitor.rest()), asyncio.Event()

        def on_readable() -> None:
            while data := channel.read(10_000):
                found.extend(data)
            if len(found) in (len(much), 2 * len(much)):
                whole.set()

        channel.on_readable = on_readable
        channel.resume_reading()
        async with asyncio.timeout(10):
            await whole.wait()
            whole.clear()
            writer.write(much)
            await whole.wait()
        assert found == 2 * much
        channel.close()

    meet(talk, *((gate, context(ca)) if over_tls else (None, None)))


def test_a_handshake_without_a_word_in_clear_text(gate: Gate) -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        visitor = Visitor(newcomer(near, "unix"), asyncio.get_running_loop())
        assert visitor.is_unix
        far.send(b"\x16\3\1\0\5hello")  # a record, and no handshake in it
        with pytest.raises(ssl.SSLError):
            await visitor.start_tls(gate, b"", direct=False)
        assert visitor.handshaking
        visitor.last_words(b"an error in clear text")
        visitor.close()
        said = far.recv(100)
        assert said[:1] == b"\x15"  # an alert
        assert b"clear" not in said
        far.close()

    asyncio.run(run())


class Watch:
    """The event loop's watch of sockets, and which of them it watches."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.watched: set[int] = set()
        self.given_up = asyncio.Event()
        self._add, self._remove = loop.add_reader, loop.remove_reader
        self.add_writer, self.remove_writer, self.call_soon = (
            loop.add_writer,
            loop.remove_writer,
            loop.call_soon,
        )

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.watched.add(fd)
        self._add(fd, callback)

    def remove_reader(self, fd: int) -> None:
        self.watched.remove(fd)
        self._remove(fd)
        self.given_up.set()


def test_who_speaks_while_nobody_listens_costs_nothing() -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        watch = Watch()
        visitor = Visitor(newcomer(near, "unix", watch), watch)
        waiting = spawn(visitor.read(), "a test")
        await asyncio.sleep(0)
        assert watch.watched == {near.fileno()}
        far.send(b"one")
        assert await waiting == b"one"
        assert watch.watched  # for the next word
        far.send(b"two")
        async with asyncio.timeout(10):
            await watch.given_up.wait()
        assert await visitor.read() == b"two"
        waiting = spawn(visitor.read(), "a test")
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        visitor.close()
        assert not watch.watched
        far.close()

    asyncio.run(run())


def test_what_comes_as_the_wait_for_it_ends_is_not_lost() -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        watch = Watch()
        visitor = Visitor(newcomer(near, "unix", watch), watch)
        waiting = spawn(visitor.read(), "a test")
        await asyncio.sleep(0)
        far.send(b"one")
        asyncio.get_running_loop().call_soon(visitor._on_readable)  # the loop finds it as the time is over
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert await visitor.read() == b"one"
        visitor.close()
        far.close()

    asyncio.run(run())
