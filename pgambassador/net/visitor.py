"""A client on its way in: its byte stream, and what TLS has proved of it, until it is a session.

1. Nothing is read beyond what the next step needs to know.
2. `certificate` is there only if OpenSSL has verified it against `tls.ca` in this very handshake.
3. Words of ours before the session go through TLS if there is TLS, and are never clear text in the middle
   of a handshake.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from pgambassador.auth import certificate
from pgambassador.auth.certificate import Certificate
from pgambassador.auth.client import succeeded
from pgambassador.auth.scram import Expected
from pgambassador.errors import ProtocolViolation, Refused
from pgambassador.net import tls
from pgambassador.net.channel import Channel
from pgambassador.net.gate import Gate
from pgambassador.net.herald import Newcomer
from pgambassador.net.sockets import Sockets
from pgambassador.net.stream import Stream
from pgambassador.net.talk import Gone, Talk
from pgambassador.net.word import Word
from pgambassador.wire.frames import Dialogue

if TYPE_CHECKING:
    from pgambassador.net.keeper import Keeper

__all__ = ["Gone", "Visitor"]

T = TypeVar("T")

READ_SIZE = 16_384


class Visitor(Stream):
    """`binding` is what SCRAM-SHA-256-PLUS binds to, None without TLS."""

    def __init__(self, newcomer: Newcomer, sockets: Sockets) -> None:
        super().__init__(newcomer.sock)
        self.address = newcomer.address
        self.newcomer = newcomer
        self._sockets = sockets
        self._word = Word(self._loop)
        self._watched = False
        self._met = False
        self._second: bytes | None = None
        self.is_unix = self.address == "unix"
        self.certificate: Certificate | None = None
        self.binding: bytes | None = None
        self.handshaking = False
        self.waits_in: Keeper | None = None  # the pool whose first connection its login waits for
        self.meanwhile: Callable[[], object] | None = None  # done while it answers what it is asked first
        # Once its start packet is there.
        self._channel: Channel | None = None
        self._talk: Talk | None = None

    @property
    def encrypted(self) -> bool:
        return self.tls is not None

    async def read(self) -> bytes:
        """What it says next; Gone at its end."""
        try:
            if self.tls is not None:
                data = await self.receive()
            else:
                data = await (self._receive_raw() if self._met else self._meet())
            if data:
                return data
        except ssl.SSLError:
            pass  # a broken record: nothing more can be believed
        raise Gone

    # Once its start packet is there, by the channel that its session will have.

    def begin(self, tail: bytes) -> None:
        """`tail` stood behind its start packet."""
        early = tail + self.newcomer.early + self.remainder()
        self._channel = Channel(self._sockets, self.sock, self.tls, self.incoming, self.outgoing)
        self._talk = Talk(self._loop, self._channel, early, self.newcomer)
        if self._watched:
            self._watched = False
            self._channel.resume_reading()

    @property
    def nonce(self) -> bytes | None:
        """Our part of the one that it has been told already."""
        return self.newcomer.nonce

    def expect(self, user: str | None, expected: Expected) -> None:
        """So it will have shown that it is `user` on the server; None: whatever it shows, it is nobody."""
        self.newcomer.expect(user, expected, succeeded(expected.final))

    def hold(self, dialogue: Dialogue[T], delay: Callable[[float], float]) -> Awaitable[T]:
        """The dialogue's result; see `Talk`."""
        assert self._talk is not None
        answer: Awaitable[T] = self._talk.hold(dialogue, delay)
        if self.meanwhile is not None:
            self.meanwhile()
        return answer

    def pause(self, seconds: float) -> Awaitable[None]:
        """Let time pass; Gone if it goes."""
        assert self._talk is not None
        pause: Awaitable[None] = self._talk.pause(seconds)
        return pause

    def say(self, data: bytes) -> None:
        """What is no part of a dialogue."""
        assert self._channel is not None
        self._channel.write(data)

    def rest(self) -> bytes:
        """What was sent behind the last message, for the session."""
        assert self._talk is not None
        return self._talk.rest()

    async def start_tls(self, gate: Gate, early: bytes, *, direct: bool) -> None:
        """The handshake, `early` being its first bytes. ssl.SSLError if it fails."""
        self.handshaking = True
        armour = gate.armour()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.incoming.write(early)
        made = armour.context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        await self.handshake(made)
        self.handshaking = False
        self.binding = armour.binding
        if direct and made.selected_alpn_protocol() != tls.ALPN:
            # Otherwise what speaks another protocol over TLS could be led here by an attacker.
            raise ProtocolViolation(
                f"the client began with TLS but did not offer the ALPN protocol {tls.ALPN}",
                hint="Connect with sslnegotiation=postgres, or by a client for PostgreSQL 17 or newer.",
            )
        if shown := made.getpeercert(binary_form=True):
            try:
                self.certificate = certificate.read_der(shown)
            except ValueError:
                raise Refused("the client's certificate cannot be read", hint="Use another.") from None

    def channel(self) -> Channel:
        """The relay's."""
        assert self._channel is not None
        return self._channel

    def done(self) -> None:
        """Its login is over: nothing is left to the garbage collector."""
        self.meanwhile = self.newcomer.behind = None

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            return
        self._unwatch()
        super().close()

    def last_words(self, data: bytes) -> None:
        """Say this and goodbye, in one piece, as far as the socket takes it at once."""
        if self.handshaking or (self._channel is not None and self._channel.pending):
            return
        if self.tls is not None:
            assert self.outgoing is not None
            try:
                self._encrypt(data)
                self.tls.unwrap()
            except ssl.SSLError:
                pass  # The peer's own notice is not waited for.
            data = self.outgoing.read()
        try:
            self.sock.send(data)
        except OSError:
            pass  # gone already, or not reading: nobody to tell

    async def _meet(self) -> bytes:
        """Its first words, and those behind the request for TLS that was answered already."""
        self._met = True
        if self._second is not None:
            return self._second
        try:
            data: bytes = await self.newcomer
        finally:
            if self.newcomer.watched:
                self._watched = True
                self._sockets.add_reader(self.sock.fileno(), self._on_readable)
        if self.newcomer.asked is None:
            return data
        self._met, self._second = False, data
        return self.newcomer.asked

    # By the relay's own watch: the event loop's would be told anew of each wait.

    async def _receive_raw(self, most: int = READ_SIZE) -> bytes:
        while True:
            if self._watched:
                await self._word
            try:
                return self.sock.recv(READ_SIZE)
            except (BlockingIOError, InterruptedError):
                if not self._watched:
                    self._watched = True
                    self._sockets.add_reader(self.sock.fileno(), self._on_readable)

    def send(self, data: bytes) -> Coroutine[Any, Any, None]:
        if self.tls is not None:
            return super().send(data)
        return self._send_raw(data, told=self.newcomer.says(data))

    async def _send_raw(self, data: bytes, *, told: bool = False) -> None:
        if told:
            return
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(data):
            await super()._send_raw(data[sent:])

    def _on_readable(self) -> None:
        if not self._word.heard():
            self._unwatch()  # nobody waits for what it says now

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._sockets.remove_reader(self.sock.fileno())

    def __repr__(self) -> str:
        return f"<Visitor {self.address}{' over TLS' if self.encrypted else ''}>"
