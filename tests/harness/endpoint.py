"""An HTTP server that answers as it is told and keeps what it was asked."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import trustme
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """Instead of everything else."""
    hold: threading.Event | None = None
    """Sent first is `raw`, or nothing; then this is waited for."""


@contextmanager
def moto_server() -> Iterator[str]:
    """The address of a server that plays AWS."""
    server = ThreadedMotoServer(HOST, 0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    try:
        yield f"http://{HOST}:{port}"
    finally:
        server.stop()


class Endpoint:
    """`answer` is called in a thread of its own for each request; `requests` are those that have come."""

    def __init__(
        self, answer: Callable[[Request], Reply], certificate: trustme.LeafCert | None = None
    ) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self._scheme = "http"
        self._server = ThreadingHTTPServer((HOST, 0), self._handler())
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self._scheme = "https"
            # The handshake is the business of the thread that serves it, not of the one that accepts.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"{self._scheme}://{HOST}:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:  # whoever asked has gone
                    self.close_connection = True

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, self.rfile.read(length))
                endpoint.requests.append(request)
                reply = endpoint.answer(request)
                self.close_connection = True
                if reply.raw is not None:
                    self.wfile.write(reply.raw)
                    self.wfile.flush()
                if reply.hold is not None:
                    reply.hold.wait(30)
                if reply.raw is None:
                    self.send_response(reply.status)
                    for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(reply.body)

            do_GET = do_PUT = do_POST = _serve

            def log_message(self, format: str, *_: object) -> None:
                pass

        return Handler
