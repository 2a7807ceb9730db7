"""Transcripts: clients and servers joined through a lane, over socket pairs and a loop without a clock.

    client, server = play.client(), play.server()
    client.sends(query("select 1"))
    server.gets(query("select 1"))
    server.sends(complete("SELECT 1"), IDLE)
    client.gets(complete("SELECT 1"), IDLE)
    assert play.lane.idle == [server.backend]

`sends` writes in pieces of `play.piece` bytes, with a turn of the loop behind each, so that a test that runs
once with all at once and once byte by byte demands the same bytes of both. `gets` demands exactly these
messages, no more and no fewer; what nobody has demanded when the play ends is a failure too.
"""

from __future__ import annotations

import difflib
import socket
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from pgambassador.net.backend import Backend
from pgambassador.net.channel import Channel
from pgambassador.net.facts import Facts
from pgambassador.net.lane import Lane
from pgambassador.net.link import Link
from pgambassador.net.session import Session
from tests.loop import Loop
from tests.messages import show
from tests.policies import Policy

BASE = "base"


class Playbook:
    """`piece`: how many bytes `sends` writes at once, 0 for all."""

    def __init__(
        self,
        *,
        piece: int = 0,
        policy: Any = None,
        limit: int = 1,
        sticky: bool = False,
        statements: int = 100,
        high_water: int = 64 * 1024,
        lane: Lane | None = None,
        loop: Loop | None = None,
    ) -> None:
        self.loop = loop or Loop()
        self.piece = piece
        self.policy = policy or Policy()
        self.lane = lane or Lane(self.policy, (0.5, 60.0), limit, sticky, statements, high_water)
        self.peers: list[Peer] = []

    def client(self, state: object = BASE, *, early: bytes = b"", buffer: int = 0) -> Client:
        """A client that has logged in."""
        ours, theirs = _pair(buffer)
        facts = Facts("client", "app", "shop", "", len(self.peers), 0.0, cast(Any, state))
        session = Session(
            cast(Any, self.loop),
            Channel(cast(Any, self.loop), ours),
            self.lane,
            state,
            facts,
        )
        session.start(early)
        return Client(self, theirs, session)

    def server(
        self,
        state: object = BASE,
        *,
        early: bytes = b"",
        buffer: int = 0,
        add: bool = True,
        parameters: dict[str, str] | None = None,
        lane: Lane | None = None,
    ) -> Server:
        """A server connection that has been opened for the lane."""
        lane = lane or self.lane
        ours, theirs = _pair(buffer)
        link = cast(Link, SimpleNamespace(address=f"server{len(self.peers)}"))
        channel = Channel(cast(Any, self.loop), ours)
        backend = Backend(
            cast(Any, self.loop),
            channel,
            lane,
            link,
            dict(parameters or {}),
            state,
            early,
        )
        if add:
            lane.add(backend)
        return Server(self, theirs, backend)

    def end(self) -> None:
        """Nothing may be left that nobody has demanded."""
        self.loop.run()
        try:
            for peer in self.peers:
                peer.demand(b"", "nothing more")
            assert not self.loop.problems
        finally:
            for peer in self.peers:
                peer.clean_up()


class Peer:
    """The far end of a connection."""

    of_server: bool

    def __init__(self, play: Playbook, sock: socket.socket, channel: Channel) -> None:
        self.play, self.sock, self.channel = play, sock, channel
        self.ended = False
        self.gone = False
        play.peers.append(self)

    def sends(self, *messages: bytes) -> None:
        """Write these bytes, in the play's pieces."""
        data = b"".join(messages)
        piece = self.play.piece or len(data) or 1
        for i in range(0, len(data), piece):
            self.writes(data[i : i + piece])

    def writes(self, data: bytes) -> None:
        """Write these bytes at once; a peer that has been cut off speaks to nobody."""
        try:
            assert self.sock.send(data) == len(data)
        except BrokenPipeError:
            pass
        self.play.loop.run()

    def gets(self, *messages: bytes) -> None:
        """Exactly these messages have come since the last `gets`."""
        self.play.loop.run()
        self.demand(b"".join(messages), "these messages")

    def gets_nothing(self) -> None:
        self.gets()

    def gets_end(self, *messages: bytes) -> None:
        """Exactly these messages, and then the connection was closed."""
        self.gets(*messages)
        assert self.ended, f"the connection is still open: {self.channel!r}"

    def demand(self, expected: bytes, what: str) -> None:
        got = self.read_all()
        if got != expected:
            lines = difflib.unified_diff(
                show(expected, of_server=self._hears_server()),
                show(got, of_server=self._hears_server()),
                "expected",
                "came",
                lineterm="",
                n=100,
            )
            raise AssertionError(f"{type(self).__name__} should get {what}:\n" + "\n".join(lines))

    def read(self) -> bytes:
        """All that has come."""
        parts = []
        while not self.ended and not self.gone:
            try:
                part = self.sock.recv(1 << 20)
            except BlockingIOError:
                break
            except ConnectionResetError:
                part = b""
            self.ended = not part
            parts.append(part)
        return b"".join(parts)

    def read_all(self) -> bytes:
        """All that comes while the loop goes on; buffers between the two ends are small."""
        parts = [self.read()]
        while True:
            self.play.loop.run()
            if not (part := self.read()):
                return b"".join(parts)
            parts.append(part)

    def is_read(self) -> bool:
        """Whether what this peer sends is being read."""
        return self.channel.reading

    def leaves(self) -> None:
        """Close without a word."""
        self.gone = True
        self.sock.close()
        self.play.loop.run()

    def clean_up(self) -> None:
        self.sock.close()
        self.channel.close()

    def _hears_server(self) -> bool:
        return not self.of_server


class Client(Peer):
    of_server = False

    def __init__(self, play: Playbook, sock: socket.socket, session: Session) -> None:
        super().__init__(play, sock, session.channel)
        self.session = session

    def holds(self, server: Server) -> bool:
        return self.session.backend is server.backend


class Server(Peer):
    of_server = True

    def __init__(self, play: Playbook, sock: socket.socket, backend: Backend) -> None:
        super().__init__(play, sock, backend.channel)
        self.backend = backend

    @property
    def is_idle(self) -> bool:
        return self.backend in self.play.lane.idle

    def answers(self, asked: bytes | Sequence[bytes], *answer: bytes) -> None:
        """Get exactly this, and send that."""
        self.gets(*([asked] if isinstance(asked, bytes) else asked))
        self.sends(*answer)


def _pair(buffer: int) -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
        if buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    return ours, theirs


MakePlay = Callable[..., Playbook]
