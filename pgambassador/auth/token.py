"""How long a password that a server has accepted may be taken for good without asking again.

1. It is remembered as a keyed hash only, and dropped when a server refuses it.
2. Whose end can be read (a signed URL of AWS, a JSON Web Token) is good until then, and never for longer than
   `LONGEST`; any other password for `SHORT`.
3. Reading decides nothing: a server has accepted the password before anybody looks for its end.
"""

from __future__ import annotations

import base64
import json
import secrets
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qs

from pgambassador.auth.digest import hmac_sha256

SHORT: Final = 60.0
LONGEST: Final = 900.0
SIZE: Final = 10_000


class Accepted:
    """Passwords by what they open: a name stands for a password and whose it is, and with it are databases.
    `now` is wall-clock time in seconds since 1970."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._pepper = secrets.token_bytes(32)
        self._ends: dict[tuple[bytes, str], float] = {}

    def name(self, password: bytes, *where: str) -> bytes:
        """What stands for a password and whose it is; tells nothing of either."""
        parts = [*(each.encode("utf-8", "surrogateescape") for each in where), password]
        return hmac_sha256(self._pepper, b"".join(b"%d:" % len(part) + part for part in parts))

    def holds(self, name: bytes, database: str, now: float) -> bool:
        end = self._ends.get((name, database))
        # A clock that was set back must not make it good for longer.
        return end is not None and end - LONGEST <= now < end

    def add(self, name: bytes, database: str, password: bytes, now: float) -> None:
        end = token_end(password)
        self._ends.pop((name, database), None)
        self._ends[name, database] = now + SHORT if end is None else min(end, now + LONGEST)
        if len(self._ends) > self._size:
            del self._ends[next(iter(self._ends))]

    def drop(self, name: bytes) -> None:
        """It is good for no database any more."""
        for key in [key for key in self._ends if key[0] == name]:
            del self._ends[key]

    def __len__(self) -> int:
        return len(self._ends)

    def __repr__(self) -> str:
        return f"<Accepted {len(self)} of {self._size}>"


def token_end(password: bytes) -> float | None:
    """When a token ends, in seconds since 1970; None for a password that does not say."""
    try:
        text = password.decode("ascii")
    except UnicodeDecodeError:
        return None
    return _signed_url(text) if "X-Amz-Expires=" in text else _web_token(text)


def _signed_url(text: str) -> float | None:
    """host:port/?Action=connect&…&X-Amz-Date=20260101T000000Z&X-Amz-Expires=900&…"""
    try:
        fields = parse_qs(text.partition("?")[2], strict_parsing=True, max_num_fields=50)
        (begin,), (seconds,) = fields["X-Amz-Date"], fields["X-Amz-Expires"]
        at = datetime.strptime(begin, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return at.timestamp() + int(seconds)
    except (ValueError, KeyError, OverflowError):
        return None


def _web_token(text: str) -> float | None:
    """header.claims.signature, where the claims are JSON in base64 with `exp`."""
    parts = text.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
