"""What stands before a cloud's PostgreSQL: TLS 1.3 with a client certificate, perhaps a word, the server."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from pathlib import Path
from typing import Self

from pgambassador.embedded.ports import HOST


class Doorman:
    """Listens on `port` and leads those who have a certificate of `roots` to the server in plain text.

    `word`: whether the metadata exchange of AlloyDB comes first; it is answered by `reply`.
    """

    def __init__(
        self,
        server: int,
        certificate: Path,
        roots: str,
        *,
        where: tuple[str, int] = (HOST, 0),
        word: bool = False,
        reply: bytes = b"\x08\x01",
    ) -> None:
        self.reply = reply
        self.guests: list[str] = []
        """The common names of their certificates."""
        self.words: list[dict[int, bytes | int]] = []
        self.first: list[bytes] = []
        """What they said first after that."""
        self.names: list[str | None] = []
        self.refused: list[str] = []
        self._server = server
        self._word = word
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._tls.load_cert_chain(certificate)
        self._tls.verify_mode = ssl.CERT_REQUIRED
        self._tls.load_verify_locations(cadata=roots)
        self._tls.set_alpn_protocols(["postgresql"])
        self._tls.sni_callback = lambda sock, name, context: self.names.append(name)
        self._listener = socket.create_server(where)
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.settimeout(20)
                self._open.append(sock)
                self._start(self._receive, sock)

    def _start(self, what, *arguments) -> None:
        thread = threading.Thread(target=what, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _receive(self, sock: socket.socket) -> None:
        try:
            guest = self._tls.wrap_socket(sock, server_side=True)
        except (ssl.SSLError, OSError) as error:
            self.refused.append(getattr(error, "verify_message", "") or str(error))
            sock.close()
            return
        self._open.append(guest)
        try:
            assert guest.version() == "TLSv1.3"
            assert guest.selected_alpn_protocol() is None
            subject = (guest.getpeercert() or {})["subject"]
            self.guests += [str(value) for ((name, value),) in subject if name == "commonName"]  # type: ignore[str-unpack,misc]
            if self._word and not self._exchange(guest):
                guest.close()
                return
            server = socket.create_connection((HOST, self._server), timeout=20)
            self._open.append(server)
            first = guest.recv(65536)
            if first:
                self.first.append(first)
            server.sendall(first)
        except OSError as error:
            self.refused.append(str(error))
            guest.close()
            return
        with contextlib.suppress(OSError):
            _pass_on(guest, server)
        guest.close()

    def _exchange(self, guest: ssl.SSLSocket) -> bool:
        size = int.from_bytes(_exactly(guest, 4), "big")
        assert 0 < size < 16384
        self.words.append(fields(_exactly(guest, size)))
        guest.sendall(len(self.reply).to_bytes(4, "big") + self.reply)
        return self.reply[:2] == b"\x08\x01"


def fields(message: bytes) -> dict[int, bytes | int]:
    """A protobuf message of varints and bytes by its field numbers."""
    found: dict[int, bytes | int] = {}
    rest = list(message)

    def number() -> int:
        value, shift = 0, 0
        while True:
            byte = rest.pop(0)
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while rest:
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            assert key & 7 == 2
            size = number()
            found[key >> 3] = bytes(rest[:size])
            assert len(rest) >= size
            del rest[:size]
    return found


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise OSError("the guest left in the middle of a word")
        data += piece
    return data


def _pass_on(guest: ssl.SSLSocket, server: socket.socket) -> None:
    """Until one of them leaves. One thread for both directions: a TLS session belongs to one."""
    while True:
        ready = [guest] if guest.pending() else select.select([guest, server], [], [], 30)[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (server if source is guest else guest).sendall(data)
