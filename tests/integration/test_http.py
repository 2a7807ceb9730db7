"""The HTTP endpoint over loopback: pages, refusals, bounds."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest

from pgambassador.observe import http
from pgambassador.observe.http import HttpServer, Reply

READY = (True, "ready")


def converse(*requests: bytes, timeout: float = 5.0, more: dict | None = None) -> list[bytes]:
    """What the server answers to each request, on a connection of its own."""

    async def main() -> list[bytes]:
        server = HttpServer(
            lambda: b"a_metric 1\n", ready=lambda: READY, started=lambda: READY[0], timeout=timeout
        )
        server.pages.update(more or {})
        await server.start("127.0.0.1", 0)
        port = server.addresses()[0][1]
        assert repr(server) == f"<HttpServer 127.0.0.1:{port}>"
        answers = []
        try:
            for request in requests:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request)
                answers.append(await asyncio.wait_for(reader.read(), 10))
                writer.close()
        finally:
            await server.close()
        return answers

    return asyncio.run(main())


def get(path: str, method: str = "GET", **options) -> tuple[int, dict[str, str], bytes]:
    (answer,) = converse(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), **options)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["Connection"] == "close"
    assert method == "HEAD" or int(headers["Content-Length"]) == len(body)
    return int(first.split()[1]), headers, body


def test_metrics():
    status, headers, body = get("/metrics?name=x")
    assert (status, body) == (200, b"a_metric 1\n")
    assert headers["Content-Type"].startswith("text/plain; version=")


def test_head_has_no_body_but_its_length():
    status, headers, body = get("/metrics", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "11")


def test_health():
    assert get("/livez")[::2] == (200, b"alive\n")
    assert get("/readyz")[::2] == (200, b"ready\n")
    assert get("/startupz")[::2] == (200, b"started\n")


def test_not_ready_says_why(monkeypatch):
    monkeypatch.setitem(globals(), "READY", (False, "no server of cluster main can be reached"))
    assert get("/readyz")[::2] == (503, b"no server of cluster main can be reached\n")
    assert get("/startupz")[::2] == (503, b"starting\n")


def test_what_is_refused():
    assert get("/nothing")[0] == 404
    status, headers, _ = get("/metrics", "POST")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_page_that_fails_is_a_status(caplog):
    def broken() -> Reply:
        raise ZeroDivisionError

    assert get("/broken", more={"/broken": broken})[0] == 500
    assert "The page /broken failed." in caplog.text


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x00\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 505),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /" + b"x" * 20_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n\xff", 400),
    ],
)
def test_bad_requests(request_, status):
    (answer,) = converse(request_)
    assert int(answer.split()[1]) == status


def test_a_request_that_never_ends_is_timed_out():
    (answer,) = converse(b"GET /metrics HTTP/1.1\r\n", timeout=0.05)
    assert int(answer.split()[1]) == HTTPStatus.REQUEST_TIMEOUT


def test_too_many_connections_are_closed(monkeypatch):
    monkeypatch.setattr(http, "CONNECTIONS_LIMIT", 0)
    assert converse(b"") == [b""]
