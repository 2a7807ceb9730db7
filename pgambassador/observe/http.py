"""A small HTTP server for metrics and health checks.

1. It answers GET and HEAD, one request for each connection.
2. Size and time of a request and the number of connections are bounded; what exceeds them gets a status or is
   closed.
3. Health is told by callables that return (well, sentence); 503 carries the sentence.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("pgambassador.http")

REQUEST_LIMIT = 8192
CONNECTIONS_LIMIT = 64
TEXT = "text/plain; charset=utf-8"


class Reply(NamedTuple):
    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


class HttpServer:
    """/metrics, and Kubernetes' /livez, /readyz and /startupz. Further `pages` are added by their path."""

    def __init__(
        self,
        metrics: Callable[[], bytes],
        *,
        ready: Callable[[], tuple[bool, str]],
        started: Callable[[], bool],
        timeout: float = 5.0,
    ) -> None:
        self.pages: dict[str, Callable[[], Reply]] = {
            "/metrics": lambda: Reply(HTTPStatus.OK, metrics(), CONTENT_TYPE_LATEST),
            "/livez": lambda: _health(True, "alive"),
            "/readyz": lambda: _health(*ready()),
            "/startupz": lambda: _health(True, "started") if started() else _health(False, "starting"),
        }
        self._timeout = timeout
        self._server: asyncio.Server | None = None
        self._open = 0

    def __repr__(self) -> str:
        return f"<HttpServer {', '.join(f'{host}:{port}' for host, port in self.addresses())}>"

    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens, with the port that was given where 0 was asked for."""
        sockets = self._server.sockets if self._server is not None else ()
        return [sock.getsockname()[:2] for sock in sockets]

    async def start(self, host: str, port: int) -> None:
        """Listens, or raises OSError."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=REQUEST_LIMIT)

    async def close(self) -> None:
        """No new connections; the few open ones end by themselves, and are not waited for."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_LIMIT:
                async with asyncio.timeout(self._timeout * 2):
                    await self._answer(reader, writer)
        except (TimeoutError, OSError):
            pass  # a client that does not read, or left
        finally:
            self._open -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, allow = "GET", ""
        try:
            async with asyncio.timeout(self._timeout):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            reply = _failure(HTTPStatus.REQUEST_TIMEOUT)
        except asyncio.LimitOverrunError:
            reply = _failure(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except asyncio.IncompleteReadError:
            return
        else:
            method, reply = self._reply(head)
            allow = "Allow: GET, HEAD\r\n" if reply.status is HTTPStatus.METHOD_NOT_ALLOWED else ""
        status, body, content_type = reply
        writer.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{allow}"
            "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode(
                "ascii"
            )
            + (b"" if method == "HEAD" else body)
        )
        await writer.drain()

    def _reply(self, head: bytes) -> tuple[str, Reply]:
        """The method and the answer to a request's head."""
        line = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(line) != 3 or not line[2].startswith("HTTP/"):
            return "GET", _failure(HTTPStatus.BAD_REQUEST)
        method, target, version = line
        if version not in ("HTTP/1.0", "HTTP/1.1"):
            return method, _failure(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        page = self.pages.get(target.partition("?")[0])
        if page is None:
            known = ", ".join(self.pages)
            return method, Reply(
                HTTPStatus.NOT_FOUND, f"There is nothing here; there are: {known}\n".encode()
            )
        if method not in ("GET", "HEAD"):
            return method, _failure(HTTPStatus.METHOD_NOT_ALLOWED)
        try:
            return method, page()
        except Exception:
            logger.exception("The page %s failed.", target.partition("?")[0])
            return method, _failure(HTTPStatus.INTERNAL_SERVER_ERROR)


def _failure(status: HTTPStatus) -> Reply:
    return Reply(status, f"{status.phrase}\n".encode())


def _health(well: bool, sentence: str) -> Reply:
    return Reply(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, f"{sentence}\n".encode())
