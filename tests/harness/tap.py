"""A TCP relay that keeps what was said: to see what goes over the wire."""

from __future__ import annotations

import contextlib
import socket

from pgambassador.embedded.ports import HOST
from tests.harness.listening import Listening


class Tap(Listening):
    """Passes everything on, and keeps in `said` what each connection sent."""

    def __init__(self, port: int) -> None:
        self._target = (HOST, port)
        self.said: list[bytearray] = []
        super().__init__()

    def accepted(self, end: socket.socket) -> None:
        server = socket.create_connection(self._target)
        self.owns(server)
        heard = bytearray()
        self.said.append(heard)
        self.start(_pass_on, end, server, heard)
        self.start(_pass_on, server, end, None)


def _pass_on(source: socket.socket, sink: socket.socket, kept: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if kept is not None:
                kept += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
