"""The members of a Patroni cluster, as the REST interface of any of them lists them.

1. Certificates of https are verified; redirects are not followed, proxies not used. An answer is bounded.
2. What it says of roles is not used: a member says that itself, sooner. `noloadbalance` is a weight of 0, and
   the tag `zone` a zone.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import RDS, SYSTEM, Endpoint, Upstream
from pgambassador.config.discovery import PatroniDiscovery
from pgambassador.config.plain import content
from pgambassador.credentials.blocking import ask
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable
from pgambassador.net.discovery.source import MOST_SERVERS, Found

LIMIT = 1 << 20
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,255}")
_LEADERS = ("leader", "master", "primary", "standby_leader")


class Patroni:
    sure = True

    def __init__(self, options: PatroniDiscovery, upstream: Upstream) -> None:
        self.every = options.interval
        self._timeout = options.timeout
        self._urls = [_url(text) for text in options.urls]
        vouched = upstream.checks_name and upstream.sslrootcert in (SYSTEM, RDS)
        if vouched and any(url.scheme == "http" for url in self._urls):
            raise ConfigError(
                "routing.discovery.urls has http://, which anyone on the way can answer, and the URL's"
                f" sslrootcert={upstream.sslrootcert} vouches for strangers.",
                hint="Use https://, or name the CA of your database with sslrootcert=FILE.",
            )
        self._context = _context(options.ca) if any(url.scheme == "https" for url in self._urls) else None

    async def find(self, reports: Mapping[Endpoint, Report]) -> tuple[Found, ...]:
        failures: list[str] = []
        for url in list(self._urls):
            try:
                found = members(await self._asked(url))
            except AmbassadorError as error:
                failures.append(f"{url.netloc}: {error.message}")
                continue
            # Who has answered is asked first the next time.
            self._urls.remove(url)
            self._urls.insert(0, url)
            return found
        raise Unreachable(
            "; ".join(failures), hint="Check routing.discovery.urls, and that Patroni runs there."
        )

    async def _asked(self, url: SplitResult) -> bytes:
        connection = self._connection(url)
        path = url.path.rstrip("/") + "/cluster"
        try:
            return await ask(lambda: _get(connection, path), seconds=self._timeout, whom=url.netloc)
        finally:
            # A thread that still waits for a slow answer ends by it.
            if (sock := connection.sock) is not None:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        assert url.hostname is not None
        if url.scheme == "http":
            return http.client.HTTPConnection(url.hostname, url.port, timeout=self._timeout)
        return http.client.HTTPSConnection(
            url.hostname, url.port, timeout=self._timeout, context=self._context
        )


def _get(connection: http.client.HTTPConnection, path: str) -> bytes:
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        with connection.getresponse() as response:
            data = response.read(LIMIT + 1)
            if response.status != 200:
                raise Unreachable(f"it answers with status {response.status}")
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"its certificate was not accepted ({error.verify_message})") from None
    except (OSError, ValueError, http.client.HTTPException):
        raise Unreachable("no answer") from None
    finally:
        connection.close()
    if len(data) > LIMIT:
        raise Unreachable("its answer is too long")
    return data


def members(data: bytes) -> tuple[Found, ...]:
    """Those that have an address, the leader first."""
    try:
        listed = json.loads(data)["members"]
        leading = [each for each in listed if each.get("role") in _LEADERS]
        others = [each for each in listed if each not in leading]
        found = [_member(each) for each in (*leading, *others) if each.get("host")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Unreachable("its answer is not a list of members") from None
    return tuple(found[:MOST_SERVERS])


def _member(said: Mapping[str, Any]) -> Found:
    host, port, tags = said["host"], int(said.get("port") or 5432), said.get("tags") or {}
    if not _HOST.fullmatch(host) or not 1 <= port <= 65_535:
        raise ValueError
    zone = tags.get("zone")
    return Found(
        Endpoint(host, port),
        zone=zone if isinstance(zone, str) else "",
        weight=0.0 if tags.get("noloadbalance") in (True, "true") else 1.0,
    )


def _url(text: str) -> SplitResult:
    url = urlsplit(text)
    try:
        sound = url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 0) >= 0
    except ValueError:
        sound = False
    if not sound or url.username or url.query or url.fragment:
        raise ConfigError("routing.discovery.urls has one that is not of the form http(s)://HOST:PORT.")
    return url


def _context(ca: str | None) -> ssl.SSLContext:
    try:
        if ca is not None:
            content(ca)
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError):
        raise ConfigError(
            f"routing.discovery.ca: the file {ca} cannot be used.", hint="Name a PEM file with certificates."
        ) from None
