"""Who is at the other end of a client's connection, as far as the connection itself tells.

1. An IPv4 address that comes as IPv6 (::ffff:10.0.0.1) is that IPv4 address, everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Self, TypeAlias

Host: TypeAlias = IPv4Address | IPv6Address

_SITE = 64  # bits of an IPv6 address that one site has; the rest it chooses itself


@dataclass(frozen=True, slots=True)
class Peer:
    """`host` None: a Unix socket, and `uid` the user at its other end, if the system tells. `common_name` is
    that of a client certificate, verified. `binding` is the hash for "tls-server-end-point"."""

    host: Host | None = None
    uid: int | None = None
    tls: bool = False
    common_name: str | None = None
    binding: bytes | None = field(default=None, repr=False)
    _site: str = field(default="", repr=False, compare=False)  # worth remembering: it is asked for often

    @classmethod
    def at(cls, address: str, uid: int | None = None) -> Self:
        """`address` as logs show it: 10.0.0.1:40000, [::1]:40000 or unix."""
        if address == "unix":
            return cls(None, uid, _site=cls(None, uid).site)
        host, site = _known(address.rpartition(":")[0])
        return cls(host, None, _site=site)

    @property
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

    @property
    def site(self) -> str:
        """Where it comes from, for counting: whoever has one IPv6 address has a whole network of them."""
        if self._site:
            return self._site
        if isinstance(self.host, IPv6Address):
            return str(ip_network((self.host, _SITE), strict=False))
        return self.name if self.uid is None else f"{self.name} {self.uid}"


@lru_cache(maxsize=4096)
def _known(text: str) -> tuple[Host, str]:
    host = plain(ip_address(text.strip("[]").partition("%")[0]))
    return host, Peer(host).site


def plain(host: Host) -> Host:
    mapped = host.ipv4_mapped if isinstance(host, IPv6Address) else None
    return mapped or host
