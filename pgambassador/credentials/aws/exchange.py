"""One question to an HTTP server and its answer, for AWS's endpoints without a library of theirs. It blocks.

1. The time is limited as a whole, the answer in its size, however slowly or generously a server gives it.
2. Redirects are not followed and proxies not asked: these servers know neither, and secrets pass here.
3. Nothing of what was sent or received is in an error.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
from collections.abc import Mapping
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pgambassador.config.plain import read

LIMIT = 1 << 20
"""Bytes of an answer, its headers included."""
_CHUNK = 65_536


class Answer(NamedTuple):
    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


class NoAnswer(Exception):
    """Its text says why, as the end of a sentence about the server: "it did not answer within 2 s"."""


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    *,
    seconds: float,
    roots: str | None = None,
) -> Answer:
    """The answer, whatever its status, or NoAnswer. `roots`: a PEM file of CAs instead of the system's;
    ConfigError if it cannot be read."""
    deadline = monotonic() + seconds
    try:
        return _ask(method, url, headers, body, deadline, roots)
    except TimeoutError:
        reason = f"it did not answer within {seconds:g} s"
    except _TooMuch:
        reason = f"its answer is longer than {LIMIT} bytes"
    except socket.gaierror:
        reason = "its host name was not found"
    except ConnectionRefusedError:
        reason = "it refused the connection"
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate was not accepted ({error.verify_message[:200]})"
    except ssl.SSLError:
        reason = "the TLS handshake with it failed"
    except (http.client.HTTPException, ValueError):
        reason = "it does not speak HTTP as it should"
    except OSError as error:
        reason = f"it cannot be reached ({(error.strerror or 'unknown error').lower()})"
    raise NoAnswer(reason) from None


class _TooMuch(Exception):
    pass


class _Input(io.RawIOBase):
    """What a socket has to say, with a deadline and a limit."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._left = LIMIT

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(_left(self._deadline))
        count = self._sock.recv_into(buffer, min(len(buffer), _CHUNK))
        self._left -= count
        if self._left < 0:
            raise _TooMuch
        return count


class _Pipe:
    """What http.client takes for a socket; the real one is closed elsewhere."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Input(self._sock, self._deadline))

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(_left(self._deadline))
        self._sock.sendall(data)

    def close(self) -> None:
        pass


def _ask(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None, deadline: float, roots: str | None
) -> Answer:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname, port), _left(deadline)) as plain:
        sock = plain
        if parts.scheme == "https":
            if roots is not None:
                read(roots, "AWS_CA_BUNDLE")
            plain.settimeout(_left(deadline))
            sock = ssl.create_default_context(cafile=roots).wrap_socket(plain, server_hostname=parts.hostname)
        with sock:
            connection = http.client.HTTPConnection(parts.hostname, port)
            connection.sock = _Pipe(sock, deadline)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            host = parts.netloc.rpartition("@")[2]
            connection.request(method, path, body, {"Host": host, "Connection": "close", **headers})
            with connection.getresponse() as response:
                return Answer(response.status, response.read())


def _left(deadline: float) -> float:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    return left
