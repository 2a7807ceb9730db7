"""What clients have brought to log in with, for pools whose URL and credentials have nothing of their own.

1. It is kept only where a pool needs it to open connections, and only after the client has been let in.
2. The newest counts. No more than `size` are kept; the one that was used longest ago goes first.
"""

from __future__ import annotations

from typing import Final

from pgambassador.auth.server import Secret

SIZE: Final = 10_000


class Wallet:
    """Secrets by (cluster, user of the server)."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._secrets: dict[tuple[str, str], Secret] = {}

    def put(self, cluster: str, user: str, secret: Secret) -> None:
        self._secrets.pop((cluster, user), None)
        self._secrets[cluster, user] = secret
        if len(self._secrets) > self._size:
            del self._secrets[next(iter(self._secrets))]

    def get(self, cluster: str, user: str) -> Secret | None:
        secret = self._secrets.pop((cluster, user), None)
        if secret is not None:
            self._secrets[cluster, user] = secret
        return secret

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return f"<Wallet {len(self)} of {self._size}>"
