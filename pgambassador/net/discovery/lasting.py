"""A source that has a memory: what it has found out is still known to the next process.

1. What was known is used until something is found out, and never after that.
2. It counts only for the same cluster: with these hosts, found in this way.
3. Where servers are is all that is remembered. What they are, they say themselves.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from pgambassador.auth.expiry import day
from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.config.discovery import Discovery
from pgambassador.net.discovery.source import MOST_SERVERS, Found, Source
from pgambassador.net.names import AGE

log = logging.getLogger(__name__)

_TEXT = re.compile(r"[^\x00-\x20\x7f]{0,255}")


class Lasting:
    """`found` is what the source has found out, or what an earlier process had; `at` when, in Unix time.
    `changes` counts how often it was something else. `recalled`: the source has not answered yet."""

    def __init__(
        self,
        source: Source,
        upstream: Upstream,
        options: Discovery,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._named = tuple(Found(endpoint) for endpoint in dict.fromkeys(upstream.endpoints))
        self._clock = clock
        self.of = hashlib.sha256(repr((options, upstream.endpoints)).encode()).hexdigest()
        """Which cluster it is, found in which way."""
        self.found: tuple[Found, ...] = ()
        self.at = 0.0
        self.changes = 0
        self.recalled = False
        self.in_use = False

    @property
    def every(self) -> float | None:
        return self._source.every

    async def find(self, reports: Mapping[Endpoint, Report]) -> tuple[Found, ...]:
        """As a source does it."""
        found = await self._source.find(reports)
        if self._source.sure:
            self.changes += found != self.found
            self.found, self.at, self.recalled, self.in_use = found, self._clock(), False, False
        elif self.recalled:
            self.in_use = True
            return _all(found, self.found)
        return found

    def before(self) -> tuple[Found, ...]:
        """What to go by if nothing was found yet: the likeliest primary first."""
        if self.recalled and not self.in_use:
            self.in_use = True
            log.warning("the servers that were known on %s are used until others are found", day(self.at))
        return _all(self.found, self._named)

    def recall(self, kept: Any) -> None:
        """What `memory` has told in an earlier process; raises ValueError, TypeError or LookupError for
        anything else."""
        at, found = kept["at"], tuple(_found(each) for each in kept["found"][:MOST_SERVERS])
        if not (isinstance(at, int | float) and math.isfinite(at)):
            raise ValueError
        now = self._clock()
        if kept["of"] == self.of and not self.found and found and now - at <= AGE:
            self.found, self.at, self.recalled = found, min(at, now), True

    def memory(self) -> dict[str, Any] | None:
        """None if there is nothing to remember."""
        if not self.found:
            return None
        servers = [
            [each.endpoint.host, each.endpoint.port, each.endpoint.hostaddr, each.zone, each.weight]
            for each in self.found
        ]
        return {"of": self.of, "at": self.at, "found": servers}

    def __repr__(self) -> str:
        return f"<Lasting {self._source!r} {len(self.found)} found{', recalled' if self.recalled else ''}>"


def _all(*found: tuple[Found, ...]) -> tuple[Found, ...]:
    """Each endpoint once."""
    unique = {each.endpoint: each for part in reversed(found) for each in part}
    order = dict.fromkeys(each.endpoint for part in found for each in part)
    return tuple(unique[endpoint] for endpoint in order)[:MOST_SERVERS]


def _found(kept: Any) -> Found:
    host, port, hostaddr, zone, weight = kept
    texts = all(isinstance(text, str) and _TEXT.fullmatch(text) for text in (host, hostaddr, zone))
    if not texts or not host or type(port) is not int or not 0 <= port <= 65_535:
        raise ValueError
    if not (isinstance(weight, int | float) and math.isfinite(weight) and weight >= 0):
        raise ValueError
    return Found(Endpoint(host, port, hostaddr), zone, float(weight))
