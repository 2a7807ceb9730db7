"""Where the servers of a cluster are found: what every way of finding them has in common.

1. A source says where servers are, never what they are: that they say themselves. Hints order the picture and
   weigh servers, no more.
2. What cannot be found out changes nothing: a source raises, and what was found before stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Protocol

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.config.discovery import Discovery

MOST_SERVERS: Final = 64


@dataclass(frozen=True, slots=True)
class Found:
    """A server. `zone` "": not known; `weight`: its share among the standbys."""

    endpoint: Endpoint
    zone: str = ""
    weight: float = 1.0


class Source(Protocol):
    """`every`: seconds until it is asked again; None: what it says never changes."""

    @property
    def every(self) -> float | None: ...
    @property
    def sure(self) -> bool:
        """Whether what it said last was found out, and is not just the hosts of the URL."""
        ...

    async def find(self, reports: Mapping[Endpoint, Report]) -> tuple[Found, ...]:
        """All servers, MOST_SERVERS at most, the likeliest primary first; raises AmbassadorError. `reports`
        are the last answers of those that answer now."""
        ...


def source_of(options: Discovery, upstream: Upstream) -> Source:
    """Raises ConfigError for what cannot be used."""
    module, _, name = options.maker.partition(":")
    made: Source = getattr(import_module(module), name)(options, upstream)
    return made
