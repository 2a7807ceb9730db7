"""Who is at the other end of a client's connection, as far as the connection itself tells.

1. An IPv4 address that comes as IPv6 (::ffff:10.0.0.1) is that IPv4 address, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

Host: TypeAlias = IPv4Address | IPv6Address

_SITE = 64  # bits of an IPv6 address that one site has; the rest it chooses itself


@dataclass(frozen=True)
class Peer:
    """`host` None: a Unix socket, and `uid` the user at its other end, if the system tells. `common_name` is
    that of a client certificate, verified. `binding` is the hash for "tls-server-end-point"."""

    host: Host | None = None
    uid: int | None = None
    tls: bool = False
    common_name: str | None = None
    binding: bytes | None = field(default=None, repr=False)

    @staticmethod
    def at(address: str, uid: int | None = None) -> Peer:
        """`address` as logs show it: 10.0.0.1:40000, [::1]:40000 or unix."""
        return Peer(None, uid) if address == "unix" else _known(address.rpartition(":")[0])

    @cached_property
    def local(self) -> bool:
        """On this machine."""
        return self.host is None or self.host.is_loopback

    @property
    def confidential(self) -> bool:
        """Nobody else reads what it sends."""
        return self.tls or self.local

    @property
    def name(self) -> str:
        """As PostgreSQL's errors show it."""
        return "[local]" if self.host is None else str(self.host)

    @cached_property
    def site(self) -> str:
        """Where it comes from, for counting: whoever has one IPv6 address has a whole network of them."""
        if isinstance(self.host, IPv6Address):
            return str(ip_network((self.host, _SITE), strict=False))
        return self.name if self.uid is None else f"{self.name} {self.uid}"


@lru_cache(maxsize=4096)
def _known(text: str) -> Peer:
    return Peer(plain(ip_address(text.strip("[]").partition("%")[0])))


def plain(host: Host) -> Host:
    mapped = host.ipv4_mapped if isinstance(host, IPv6Address) else None
    return mapped or host
