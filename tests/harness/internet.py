"""The part of the internet that a test has made: HTTPS sites under their real names, behind a proxy.

1. Clients find them by HTTPS_PROXY, and trust them by the CA that `environment` names. Plain HTTP to the
   `port` itself reaches the site "machine", which stands for a metadata server.
2. A site checks what it is asked. What it finds wrong fails the test at the end, whoever swallowed it.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from pgambassador.embedded import Authority
from pgambassador.embedded.ports import HOST

MACHINE = "machine"


@dataclass(frozen=True)
class Asked:
    host: str
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """Their names in lower case."""
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        assert self.headers["content-type"].startswith("application/json")
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    @property
    def form(self) -> dict[str, str]:
        assert self.headers["content-type"].startswith("application/x-www-form-urlencoded")
        return dict(parse_qsl(self.body.decode(), strict_parsing=True))


@dataclass(frozen=True)
class Told:
    content: Any = field(default_factory=dict)
    """JSON, or bytes as they are."""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Site = Callable[[Asked], Told]


class Internet:
    def __init__(self, folder: Path, sites: Mapping[str, Site]) -> None:
        self.sites = dict(sites)
        self.asked: list[Asked] = []
        self.mistakes: list[str] = []
        self._folder = folder
        self._authority = Authority(folder, "internet")
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HTTPS_PROXY": f"http://{self.address}",
            "https_proxy": f"http://{self.address}",
            "NO_PROXY": HOST,
            "REQUESTS_CA_BUNDLE": str(self._authority.root),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        assert not self.mistakes, self.mistakes

    def paths(self, host: str) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked if asked.host == host]

    def answer(self, asked: Asked) -> Told:
        self.asked.append(asked)
        try:
            return self.sites[asked.host](asked)
        except Exception as error:
            self.mistakes.append(f"{asked.method} {asked.host}{asked.path}: {error!r}")
            return Told({"error": "mistake"}, 400)

    def context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if host not in self._contexts:
                certificate = self._authority.server(self._folder, host, hosts=(host,))
                made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                made.load_cert_chain(certificate.chain, certificate.key)
                self._contexts[host] = made
            return self._contexts[host]


def _handler(internet: Internet) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        host = MACHINE

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_CONNECT(self) -> None:
            self.host = self.path.removesuffix(":443")
            self.send_response(200)
            self.end_headers()
            try:
                secured = internet.context(self.host).wrap_socket(self.connection, server_side=True)
            except OSError as error:
                internet.mistakes.append(f"TLS with {self.host}: {error!r}")
                self.close_connection = True
                return
            for file in (self.rfile, self.wfile):
                file.close()
            self.connection = self.request = secured
            self.rfile = secured.makefile("rb")
            self.wfile = secured.makefile("wb", 0)  # type: ignore[assignment]
            self.close_connection = False

        def finish(self) -> None:
            with contextlib.suppress(OSError):
                super().finish()
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.connection.close()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            told = internet.answer(
                Asked(
                    self.host,
                    self.command,
                    url.path,
                    dict(parse_qsl(url.query, strict_parsing=bool(url.query))),
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(int(self.headers.get("Content-Length", 0))),
                )
            )
            data = told.content if isinstance(told.content, bytes) else json.dumps(told.content).encode()
            self.send_response(told.status)
            kind = "text/plain" if isinstance(told.content, bytes) else "application/json"
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(data)),
                **told.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET

    return Handler
