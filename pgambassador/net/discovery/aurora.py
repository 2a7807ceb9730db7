"""The instances of an Aurora cluster, each under its own name, as the writer lists them.

Cluster endpoints are names that move with the writer, or from reader to reader, a while after the servers
have; so they are only how the first instance is found.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.config.discovery import AuroraDiscovery
from pgambassador.errors import ConfigError
from pgambassador.net.discovery.source import MOST_SERVERS, Found

_OWN = re.compile(
    r"[a-z0-9-]+\.(?:cluster-(?:ro-|custom-)?)?([a-z0-9]+(?:\.rds)?\.[a-z0-9-]+(?:\.rds)?\.amazonaws\.com(?:\.cn)?)"
)
_PATTERN = re.compile(r"\?\.[A-Za-z0-9.-]{1,200}")
_INSTANCE = re.compile(r"[a-z][a-z0-9-]{0,62}")


class Aurora:
    def __init__(self, options: AuroraDiscovery, upstream: Upstream) -> None:
        self.every = options.interval
        self._named = tuple(Found(endpoint) for endpoint in dict.fromkeys(upstream.endpoints))
        first = upstream.endpoints[0]
        self._port = first.port
        self._pattern = _pattern(first.host) if options.instances is None else options.instances
        if not _PATTERN.fullmatch(self._pattern):
            raise ConfigError(
                f"routing.discovery.instances cannot be {self._pattern!r}.",
                hint="Write a host with ? for the name: ?.xyz.eu-west-1.rds.amazonaws.com.",
            )
        self._instances: tuple[Found, ...] = ()

    async def find(self, reports: Mapping[Endpoint, Report]) -> tuple[Found, ...]:
        """Those of the last list that was seen; those of the URL before there is any."""
        listed = next((report for report in reports.values() if not report.standby and report.members), None)
        if listed is not None:
            names = [listed.instance, *sorted(set(listed.members) - {listed.instance})]
            self._instances = tuple(
                Found(Endpoint(self._pattern.replace("?", name), self._port))
                for name in names[:MOST_SERVERS]
                if _INSTANCE.fullmatch(name)
            )
        return self._instances or self._named

    @property
    def sure(self) -> bool:
        return bool(self._instances)


def _pattern(host: str) -> str:
    found = _OWN.fullmatch(host.lower())
    if found is None:
        raise ConfigError(
            f"The hosts of the Aurora instances cannot be told from {host!r}.",
            hint="Write routing.discovery.instances, such as ?.xyz.eu-west-1.rds.amazonaws.com.",
        )
    return f"?.{found[1]}"
