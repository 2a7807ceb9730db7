"""The addresses behind names, asked again and again: a server for each.

1. A server's certificate is still that of the name by which it was found.
2. What is named once more is there at once; what is not named any more stays for `linger`: a resolver may
   show one address at a time, or none for a moment.
3. An SRV record comes over an unprotected network, so that a name in it counts only within the domain of the
   name that was asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.config.discovery import DnsDiscovery
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable
from pgambassador.net import names
from pgambassador.net.discovery.source import MOST_SERVERS, Found

TIMEOUT = 5.0
"""For one name."""


@dataclass(frozen=True, slots=True)
class Service:
    """One line of an SRV record: a lower `priority` comes first."""

    host: str
    port: int
    priority: int
    weight: int


Lookup = Callable[[Endpoint], Awaitable[list[str]]]
"""The addresses of a host."""
Services = Callable[[str], Awaitable[list[Service]]]


async def addresses(endpoint: Endpoint) -> list[str]:
    return [str(address.sockaddr[0]) for address in await names.resolve(endpoint)]


class Dns:
    sure = True

    def __init__(
        self,
        options: DnsDiscovery,
        upstream: Upstream,
        *,
        lookup: Lookup = addresses,
        services: Services | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._hosts = [Found(endpoint) for endpoint in upstream.endpoints]
        self._lookup = lookup
        self._services = services or (_resolver() if options.srv else None)
        self._clock = clock
        self._seen: dict[Endpoint, tuple[Found, float]] = {}

    @property
    def every(self) -> float:
        return self._options.interval

    async def find(self, reports: Mapping[Endpoint, Report]) -> tuple[Found, ...]:
        """Raises the last failure if nothing at all was found by now."""
        failure: AmbassadorError | None = None
        named: list[Found] = []
        try:
            hosts = await self._asked()
        except AmbassadorError as error:
            failure, hosts = error, []
        for result in await asyncio.gather(*(self._addresses(host) for host in hosts)):
            if isinstance(result, AmbassadorError):
                failure = result
            else:
                named += result
        now = self._clock()
        fresh = {found.endpoint: (found, now) for found in named}
        old = {at: seen for at, seen in self._seen.items() if now - seen[1] <= self._options.linger}
        if not fresh and failure is not None:
            raise failure
        # In the order of the names; what is not named any more comes last.
        self._seen = {**fresh, **{at: seen for at, seen in old.items() if at not in fresh}}
        return tuple(found for found, _ in self._seen.values())[:MOST_SERVERS]

    async def _asked(self) -> list[Found]:
        name = self._options.srv
        if name is None or self._services is None:
            return self._hosts
        lines = sorted(await self._services(name), key=lambda line: (line.priority, -line.weight, line.host))[
            :MOST_SERVERS
        ]
        domain = _domain(name)
        for line in lines:
            if not f".{line.host}".lower().endswith(f".{domain}"):
                raise Unreachable(
                    f"the SRV record {name} names a host outside of {domain}",
                    hint="Name servers of its own domain there, or write them into the URL.",
                )
        weighed = any(line.weight for line in lines)
        return [
            Found(Endpoint(line.host, line.port), weight=float(line.weight) if weighed else 1.0)
            for line in lines
        ]

    async def _addresses(self, host: Found) -> list[Found] | AmbassadorError:
        endpoint = host.endpoint
        if endpoint.is_unix or endpoint.hostaddr:
            return [host]
        try:
            async with asyncio.timeout(TIMEOUT):
                found = await self._lookup(endpoint)
        except AmbassadorError as error:
            return Unreachable(f"{endpoint}: {error.message}", hint=error.hint)
        except TimeoutError:
            return Unreachable(
                f"{endpoint}: its address was not found within {TIMEOUT:g} s", hint="Check the DNS."
            )
        return [replace(host, endpoint=replace(endpoint, hostaddr=address)) for address in found]


def _domain(name: str) -> str:
    """Where the hosts of an SRV record may lie: beside the host that it speaks of."""
    labels = [label for label in name.lower().rstrip(".").split(".") if not label.startswith("_")]
    if len(labels) < 2:
        raise ConfigError(
            f"routing.discovery.srv cannot be {name!r}.", hint="Write _postgresql._tcp.NAME.DOMAIN."
        )
    return ".".join(labels[1:] if len(labels) > 2 else labels)


def _resolver() -> Services:
    try:
        import dns.asyncresolver
        import dns.exception
    except ImportError:
        raise ConfigError(
            "SRV records cannot be asked for without the package dnspython.",
            hint="Run pip install 'pgambassador[dns]'.",
        ) from None
    resolver = dns.asyncresolver.get_default_resolver()

    async def services(name: str) -> list[Service]:
        try:
            answer: Any = await resolver.resolve(name, "SRV", lifetime=TIMEOUT)
        except dns.exception.DNSException as error:
            raise Unreachable(
                f"the SRV record {name} was not found ({type(error).__name__})", hint="Check the DNS."
            ) from None
        return [
            Service(line.target.to_text(omit_final_dot=True), line.port, line.priority, line.weight)
            for line in answer
        ]

    return services
