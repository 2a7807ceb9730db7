"""What clients have brought to log in with, for pools whose URL and credentials have nothing of their own.

1. It is kept only where a pool needs it to open connections, and only when it has just been found right.
2. What lasts longer counts, and of two that last as long the newer. One that a server refuses is dropped.
3. No more than `size` are kept; the one that was used longest ago goes first.
"""

from __future__ import annotations

import math
from typing import Final

from pgambassador.auth.server import Secret

SIZE: Final = 10_000


class Wallet:
    """Secrets by (cluster, user of the server)."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._secrets: dict[tuple[str, str], tuple[Secret, float]] = {}

    def put(self, cluster: str, user: str, secret: Secret, end: float = math.inf) -> None:
        """`end`: when a token ends, in seconds since 1970."""
        held = self._secrets.pop((cluster, user), None)
        self._secrets[cluster, user] = held if held is not None and held[1] > end else (secret, end)
        if len(self._secrets) > self._size:
            del self._secrets[next(iter(self._secrets))]

    def get(self, cluster: str, user: str) -> Secret | None:
        held = self._secrets.pop((cluster, user), None)
        if held is None:
            return None
        self._secrets[cluster, user] = held
        return held[0]

    def drop(self, cluster: str, user: str, secret: Secret) -> None:
        """This one was refused; another one stays."""
        held = self._secrets.get((cluster, user))
        if held is not None and held[0] == secret:
            del self._secrets[cluster, user]

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return f"<Wallet {len(self)} of {self._size}>"
