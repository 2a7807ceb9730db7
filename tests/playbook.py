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
from pgambassador.net.parties import Statement
from pgambassador.net.session import Session
from pgambassador.net.statements import Statements
from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.routing.decision import Decision
from pgambassador.wire import build
from tests import messages
from tests.loop import Loop
from tests.messages import show

BASE = "base"
SWITCH = "SET state TO '{}'"
QUESTION = build.query("what is set?")
ROLLBACK = build.query("ROLLBACK")
WAIT = build.notice_response("NOTICE", "00000", "please wait")


class Policy:
    """Decides the least that is needed, and writes down what it was asked: `play.policy.heard`."""

    def __init__(self) -> None:
        self.old_news: set[tuple[str, str]] = set()
        self.heard: list[tuple[Any, ...]] = []
        self.known: dict[bytes, Statement] = {}
        self.statements = Statements()
        self.routes = Routes()
        self.generous = False
        self.fate: Any = None
        """What becomes of sessions whose connection is lost; without one they end."""
        self.second: Any = None

    def count(self, event: str) -> int:
        return sum(each[0] == event for each in self.heard)

    def statement(self, body: bytes, settings: object) -> Statement:
        if body not in self.known:
            name = b"pga_%d" % (len(self.known) + 1)
            frame = build.frame(ord("P"), name + b"\0" + body)
            self.known[body] = Statement(name, frame, body.partition(b"\0")[0])
        return self.known[body]

    def prepared(self, session: Session, backend: Backend, statement: Statement) -> None: ...

    def wanted(self) -> None:
        self.heard.append(("wanted",))

    def carries(self) -> None: ...

    def yields(self) -> bool:
        self.heard.append(("yields",))
        return self.generous

    def switch(self, backend: Backend, session: Session) -> tuple[bytes, int]:
        return switched(session.state), 1

    def reported(self, session: Session, backend: Backend, name: str, value: str) -> bool:
        self.heard.append(("reported", name, value))
        if (name, value) in self.old_news:
            return False
        session.state = backend.state = f"{name}={value}"
        return True

    def unreported(self, session: Session, backend: Backend) -> bytes:
        return b""

    def tagged(self, session: Session, backend: Backend, tag: str) -> None:
        self.heard.append(("tagged", tag))
        if tag == "SET":
            backend.marked_by = session
        elif tag == "LISTEN":
            backend.pinned = True
        elif tag == "DEALLOCATE ALL":
            backend.forget_statements(session)

    def pid_told(self, session: Session, backend: Backend, pid: bytes) -> bytes:
        return pid

    def called(self, session: Session, backend: Backend, text: bytes, bound: bytes = b"") -> None:
        self.heard.append(("called", text))
        backend.marked_by = session

    def led_back(self, session: Session, backend: Backend, text: bytes) -> list[bytes]:
        return [LED_BACK] if text.startswith(b"reset it") else []

    def question(self, session: Session, backend: Backend) -> bytes:
        return QUESTION

    def due(self, session: Session, backend: Backend, failed: bool) -> None: ...

    def answered(self, session: Session, backend: Backend, rows: list[bytes] | None) -> None:
        self.heard.append(("answered", rows))
        if rows is None:
            backend.pinned = True
        else:
            session.state = backend.state = b" ".join(rows)

    def abandoned(self, backend: Backend, half: bool) -> None:
        self.heard.append(("abandoned", half))
        if backend.finish_survey():
            return
        if half or not backend.clean:
            backend.close("abandoned")
        else:
            rollback = backend.transaction != "I"
            backend.ask(ROLLBACK if rollback else b"", int(rollback))

    def bereft(self, session: Session, backend: Backend, loss: Any) -> Any:
        self.heard.append(("bereft", loss))
        if self.fate is not None:
            return self.fate
        session.tell(build.error_response("FATAL", "08006", loss.reason))
        session.close(loss.reason)
        return None

    def refused(
        self,
        session: Session,
        backend: Backend,
        sqlstate: str,
        request: bytes,
        unnamed: bytes | None,
        tries: int,
    ) -> Any:
        self.heard.append(("refused", sqlstate, request, tries))
        return self.second

    def later(self, session: Session, pause: float) -> None:
        self.heard.append(("later", session, pause))

    def uncertain(self, error: bytes) -> bytes:
        return build.error_response("ERROR", "08007", "not known")

    def lost(self, backend: Backend, reason: str) -> None:
        self.heard.append(("lost", reason))

    def failed(self, session: Session, error: Any) -> None:
        session.tell(build.error_response("FATAL", error.sqlstate, error.message))
        session.close(error.message)

    def broke(self, who: Session | Backend, error: Exception) -> None:
        raise AssertionError(f"an error of ours in {who!r}") from error

    def drained(self, session: Session) -> None:
        session.close("drained")

    def left(self, session: Session, reason: str) -> None:
        self.heard.append(("left", reason))


class Routes:
    """Judges statements by how they begin, in place of what a database's catalog says."""

    no_replica = build.error_response("ERROR", "57P03", "no replica will do")
    route: str | None = None
    judge_as_writes = False

    def __init__(self) -> None:
        self.verdicts = Verdicts(self.judge)

    def circle(self, session: Session) -> Routes:
        return self

    def judge(self, text: bytes) -> Verdict:
        text = text.lower()
        if text.startswith(b"select") and self.judge_as_writes:
            decision = Decision("write", "primary", "writes now")
        elif text.startswith(b"ruled"):
            decision = Decision("unknown", "replica", "a rule says so")
        elif text.startswith(b"select"):
            decision = Decision("read", "replica", "reads", batchable=b"slow" not in text)
        elif text == b"begin read only":
            decision = Decision("transaction", "replica", "begins", begins="read only")
        elif text.startswith(b"begin"):
            decision = Decision("transaction", "primary", "begins", begins="unsaid")
        elif text.startswith(b"set transaction read only"):
            decision = Decision("transaction", "any", "makes it read only", makes_read_only=True)
        elif text in (b"commit", b"rollback"):
            decision = Decision("transaction", "any", "ends it", ends=True)
        else:
            decision = Decision("write", "primary", "writes")
        return Verdict(decision)


class Routed(Policy):
    """There are standbys, or connections that several clients share."""

    def __init__(self) -> None:
        super().__init__()
        self.wants_fresher = 0

    def joins(self, state: object) -> bool:
        return state != "serializable"

    def discreet(self, state: object) -> bool:
        return state != "log"

    def fresher_wanted(self, now: float) -> None:
        self.wants_fresher += 1


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


LED_BACK = b"select set_config('it', 'as the start packet said', false)"


def switched(state: object) -> bytes:
    """The messages with which `Policy` brings a server into a state."""
    return build.execution(SWITCH.format(state))


AGREED = messages.PARSE_COMPLETE + messages.BIND_COMPLETE + messages.complete("SET")
"""What a server answers to each statement of that."""

MakePlay = Callable[..., Playbook]
