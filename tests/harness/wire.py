"""A client with nothing between it and the socket: it can send what no driver would."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pgambassador.wire import build, parse

Where = int | str | tuple[str, int]


@dataclass(frozen=True)
class Message:
    kind: str
    payload: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of an error or a notice."""
        return parse.fields(self.payload)

    @property
    def sqlstate(self) -> str:
        return self.fields["C"]

    @property
    def values(self) -> list[str | None]:
        """Of a DataRow."""
        values: list[str | None] = []
        position = 2
        for _ in range(int.from_bytes(self.payload[:2], "big")):
            (size,) = struct.unpack_from("!i", self.payload, position)
            position += 4
            values.append(None if size < 0 else self.payload[position : position + size].decode())
            position += max(size, 0)
        return values


class Answer(list[Message]):
    """Messages as they came."""

    @property
    def kinds(self) -> str:
        return "".join(message.kind for message in self)

    @property
    def rows(self) -> list[list[str | None]]:
        return [message.values for message in self if message.kind == "D"]

    @property
    def value(self) -> str | None:
        """The only value of the only row."""
        ((value,),) = self.rows
        return value

    @property
    def error(self) -> Message:
        """The only error."""
        (message,) = (message for message in self if message.kind == "E")
        return message

    @property
    def parameters(self) -> dict[str, str]:
        """What ParameterStatus said."""
        return dict(parse.parameter_status(message.payload) for message in self if message.kind == "S")


class Wire:
    """`where` is a port on loopback, a host and a port, or the path of a Unix socket; `source` an address to
    come from. No wait is for ever."""

    def __init__(
        self, where: Where, *, timeout: float = 10.0, buffer: int | None = None, source: str | None = None
    ) -> None:
        if isinstance(where, str):
            self.socket = socket.socket(socket.AF_UNIX)
        else:
            where = ("127.0.0.1", where) if isinstance(where, int) else where
            self.socket = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(timeout)
        if source is not None:
            self.socket.bind((source, 0))
        self.socket.connect(where)
        self._received = bytearray()

    @classmethod
    def session(cls, where: Where, user: str = "app", database: str = "app", **parameters: str) -> Self:
        """Logged in where nobody has to give a password."""
        wire = cls(where)
        try:
            wire.login(user=user, database=database, **parameters)
        except BaseException:
            wire.socket.close()
            raise
        return wire

    def encrypt(self, context: ssl.SSLContext, *, direct: bool = False) -> None:
        """TLS from here on, by request or at once; the name is that of loopback."""
        if not direct:
            self.send(build.SSL_REQUEST)
            assert self.take(1) == b"S"
        self.socket = context.wrap_socket(self.socket, server_hostname="127.0.0.1")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def send_bytewise(self, data: bytes) -> None:
        for position in range(len(data)):
            self.socket.sendall(data[position : position + 1])

    def take(self, size: int) -> bytes:
        """Bytes that are no message."""
        while len(self._received) < size:
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionError(f"the connection ended after {bytes(self._received)!r}")
            self._received += part
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def receive(self) -> Message:
        head = self.take(5)
        return Message(chr(head[0]), self.take(int.from_bytes(head[1:], "big") - 4))

    def until(self, kind: str, times: int = 1) -> Answer:
        """What comes, the message of that kind included."""
        answer = Answer()
        while times:
            try:
                answer.append(self.receive())
            except ConnectionError as error:
                raise ConnectionError(f"the connection ended after {answer}") from error
            times -= answer[-1].kind == kind
        return answer

    def rest(self) -> Answer:
        """What comes before the other end closes."""
        answer = Answer()
        try:
            while True:
                answer.append(self.receive())
        except ConnectionError:
            assert not self._received, f"half a message: {bytes(self._received)!r}"
            return answer

    @property
    def quiet(self) -> bool:
        """Nothing has come that was not read."""
        timeout = self.socket.gettimeout()
        self.socket.setblocking(False)
        try:
            return not self._received and not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(timeout)

    def start(self, **parameters: str) -> None:
        """Send a start packet."""
        self.send(build.startup_message(parameters))

    def login(self, **parameters: str) -> Answer:
        """Start where nobody has to give a password; what comes up to ReadyForQuery."""
        self.start(**parameters)
        return self.until("Z")

    def ask(self, sql: str) -> Answer:
        """A simple query and its answer."""
        self.send(build.query(sql))
        return self.until("Z")

    def leave(self) -> None:
        """As clients should."""
        self.send(build.TERMINATE)
        self.socket.close()

    def vanish(self, *, reset: bool = False) -> None:
        """Without a word; `reset`: as if the machine had lost its memory."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
