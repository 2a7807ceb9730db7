"""The servers that the URL names, each under its name."""

from __future__ import annotations

from collections.abc import Mapping

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.config.discovery import HostsDiscovery
from pgambassador.net.discovery.source import Found


class Hosts:
    every = None
    sure = False

    def __init__(self, options: HostsDiscovery, upstream: Upstream) -> None:
        self._found = tuple(Found(endpoint) for endpoint in dict.fromkeys(upstream.endpoints))

    async def find(self, reports: Mapping[Endpoint, Report]) -> tuple[Found, ...]:
        return self._found
