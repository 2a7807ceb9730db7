"""The contract between the keyring and whatever knows a password: a file, a command, a cloud.

1. A provider asks its source anew each time. It keeps no secret, starts no task and needs no lock: that one
   question is asked at a time, ahead of time and again after a refusal is the keyring's business.
2. A source that blocks is asked in a thread, never on the event loop, and every question has a time limit.
3. Failures are `Unreachable` (ask again later) or `ConfigError` (ask somebody to repair it), each one
   sentence with its remedy. Nothing secret is in them.
4. Others add providers by the entry point group `pgambassador.credentials`: a callable that takes what was
   configured (one of ours its struct, any other the mapping of its own options) and returns the provider.
   It raises ConfigError if that cannot be used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pgambassador.auth.verifier import Borrowed
from pgambassador.config.providers import GROUP

__all__ = ["GROUP", "Login", "Provider", "Scope", "Secret", "Way", "scope"]

Scope = tuple[str | int, ...]


class Login(NamedTuple):
    """Whom a secret is for. `host` and `port` are those of the URL, which a token may be signed for."""

    host: str
    port: int
    user: str
    database: str


@dataclass(frozen=True, slots=True)
class Way:
    """A road to the server that is not libpq's: TLS from the first byte to another host and port, by a client
    certificate that was made for it. The connectors of Google's clouds are such roads."""

    host: str
    port: int
    roots: str
    """The CAs that may have signed the server's certificate, PEM."""
    certificate: str
    """The client's own chain, PEM."""
    key: str = field(repr=False)
    """The private key of `certificate`, PEM."""
    names: tuple[str, ...]
    """The server's certificate must name one of these: as an alternative name, or as its common name where it
    is no DNS name (it has a colon, as in PROJECT:INSTANCE)."""
    greeting: bytes = field(default=b"", repr=False)
    """Sent inside TLS before the start packet, if not empty."""
    understand: Callable[[bytes], int | None] | None = None
    """Reads the answer to `greeting`: how many bytes it took, None for "more"; raises if it is a refusal."""


class Secret(NamedTuple):
    """What a provider knows.

    `user` None: the one that was asked for. `password` None: the server asks for none; it may be
    what the login of a client has shown in its place. `not_after`:
    wall-clock time in seconds since 1970, with nothing taken off; None if the source does not say.
    `way` None: the hosts of the URL.
    """

    user: str | None
    password: bytes | Borrowed | None
    not_after: float | None = None
    way: Way | None = None

    def __repr__(self) -> str:
        return f"<Secret user={self.user!r} not_after={self.not_after}>"


class Provider(Protocol):
    """One configured source of secrets."""

    @property
    def per_host(self) -> bool:
        """Whether a secret is good for one host, port and user only; otherwise one serves the cluster."""

    @property
    def window(self) -> float:
        """Seconds for which a refused secret may be asked for again, because the source rotates it and tells
        the server first; 0 where a new one is either good or not."""

    async def fetch(self, login: Login) -> Secret:
        """The secret as it is now. Raises Unreachable or ConfigError. A provider that has a method
        `refused(login, secret)` is told of each secret that a server took for wrong; one that has `forget()`
        is told that what it keeps itself is to be asked for anew."""


def scope(provider: Provider, login: Login) -> Scope:
    """What a secret is good for: those logins that have the same one share it. A provider whose secrets
    differ from database to database as well says so by an attribute `per_database`, which is True."""
    if getattr(provider, "per_database", False):
        return login
    if provider.per_host:
        return login.host, login.port, login.user
    return (login.user,)
