"""Where one pool's connections come from: the upstream, the login, and the way a cancel request takes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pgambassador.cluster.upstream import Upstream
from pgambassador.config import Credentials
from pgambassador.net import connector
from pgambassador.net.connector import Link
from pgambassador.net.credentials import provider_of


class Origin:
    """`fallback` is the password to use when neither the URL nor `credentials` has one; `params` are for the
    start packet, beside those of the URL."""

    def __init__(
        self,
        upstream: Upstream,
        credentials: Credentials | None,
        *,
        database: str,
        user: str,
        fallback: bytes | None,
        params: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.upstream = upstream
        self.database = database
        self.user = user
        self.params = {**upstream.params, **params}
        password = upstream.password.encode() if upstream.password is not None else fallback
        self._provider = provider_of(credentials, password)

    async def open(self) -> Link:
        """Log in; raises Unreachable or ServerRefused."""
        secret = await self._provider.secret()
        return await connector.connect(
            self.upstream,
            None if secret is None else secret.password,
            database=self.database,
            user=self.user if secret is None or secret.user is None else secret.user,
            params=self.params,
            timeout=self.upstream.connect_timeout,
        )

    async def cancel(self, link: Link) -> None:
        """Send the cancel request for a connection; returns when the server has taken it."""
        await connector.send_cancel(self.upstream, link)
