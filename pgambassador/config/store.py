"""The URL of the store that a fleet shares: what may be in it, and what of it may be shown."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pgambassador.config.secret import Secret
from pgambassador.errors import ConfigError

PORT = 6379
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_HINT = "As in redis://cache.example:6379/0; rediss:// for TLS, unix:///run/redis.sock?db=0 for a socket."


class StoreUrl(NamedTuple):
    """`shown` is without user and password; `files` are those for TLS, by redis-py's names. For `unix` the
    host is a path."""

    scheme: str
    host: str
    port: int
    database: int
    user: str | None
    password: Secret | None
    files: dict[str, str]
    shown: str


def parse_store(url: Secret) -> StoreUrl:
    """ConfigError if it is none; nothing of it is told, as it may hold a password."""
    try:
        parts = urlsplit(url.reveal())
        port = parts.port or PORT
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise ConfigError("breaker.store is not a URL.", hint=_HINT) from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigError("breaker.store must begin with redis://, rediss:// or unix://.", hint=_HINT)
    local = parts.scheme == "unix"
    allowed = {"redis": (), "rediss": _FILES, "unix": ("db",)}[parts.scheme]
    if strange := [name for name in query if name not in allowed]:
        raise ConfigError(
            f"breaker.store has an option that is not known: {strange[0][:40]}.",
            hint=f"Known for {parts.scheme}:// are: {', '.join(allowed) or 'none'}.",
        )
    database = query.get("db", "") if local else parts.path.strip("/")
    host = unquote(parts.path) if local else parts.hostname or ""
    if not host or parts.fragment or not re.fullmatch(r"[0-9]{0,5}", database, re.ASCII):
        raise ConfigError("breaker.store names no host, or no database by its number.", hint=_HINT)
    where = host if local else f"{f'[{host}]' if ':' in host else host}:{port}"
    return StoreUrl(
        parts.scheme,
        host,
        port,
        int(database or 0),
        unquote(parts.username) if parts.username else None,
        Secret(unquote(parts.password)) if parts.password else None,
        {name: query[name] for name in _FILES if name in query},
        f"{parts.scheme}://{where}",
    )
