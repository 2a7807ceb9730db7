"""A connection to a server that is logged in, from who opens it to who uses it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pgambassador.cluster.upstream import Endpoint
from pgambassador.errors import AmbassadorError
from pgambassador.net.transport import Address


@dataclass(slots=True)
class Link:
    """A connection that is logged in; its socket and its TLS are the relay's from here on."""

    sock: socket.socket
    tls: ssl.SSLObject | None
    incoming: ssl.MemoryBIO | None
    outgoing: ssl.MemoryBIO | None
    peer: Address
    pid: int
    key: bytes = field(repr=False)
    parameters: dict[str, str] = field(repr=False)
    asked: bool = True
    """Whether the server wanted a password, or what stands for it."""
    leftover: bytes = field(default=b"", repr=False)
    """What the server has sent after the login's ReadyForQuery, decrypted; nearly always empty."""
    retire_at: float | None = None
    """When to replace it because its secret expires, in Unix time; None if that does not matter."""
    instance: Endpoint | None = None
    """What its secret knew the way to, if it came by one."""

    @property
    def address(self) -> str:
        """As in "10.0.0.1:5432", for logs."""
        return str(self.peer)

    @property
    def endpoint(self) -> Endpoint:
        return self.peer.endpoint

    @property
    def tls_version(self) -> str | None:
        return self.tls.version() if self.tls is not None else None

    def close(self) -> None:
        self.sock.close()


class Upstream(Protocol):
    """How connections to this pool's server are opened; see `Origin`."""

    async def open(self, *, held: bool = False) -> Link: ...
    async def cancel(self, link: Link) -> None: ...
    async def knock(self, link: Link) -> bool: ...
    def broke(self, link: Link, why: str) -> None: ...
    def admits(self, now: float, *, held: bool) -> bool: ...
    def shut(self, now: float) -> AmbassadorError | None: ...
    def may_retry(self, now: float) -> bool: ...
    def sick_since(self) -> float | None: ...
    @property
    def named_once(self) -> bool: ...
    def prefer(self, endpoint: Endpoint | None) -> None: ...
    def begin_like(self, parameters: Mapping[str, str]) -> None: ...
