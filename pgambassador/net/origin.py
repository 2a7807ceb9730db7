"""Where one pool's connections come from: the upstream, the login, and the way a cancel request takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.credentials.keyring import Issued
from pgambassador.errors import ConfigError, ServerRefused
from pgambassador.net import connector
from pgambassador.net.connector import Keys
from pgambassador.net.derivation import Deriver
from pgambassador.net.link import Link
from pgambassador.protocol.settings import FIXED

_NOT_SET = FIXED | {"application_name"}


class Ring(Protocol):
    """What knows the cluster's secrets: its keyring."""

    @property
    def remedy(self) -> str | None: ...
    def attempt(self, user: str, database: str) -> Keys: ...


class Origin:
    """`params` are for the start packet, beside those of the URL. `only`: a secret of another user is not
    used, although the provider gives it. `deriver` where others share it: its memory is this pool's alone,
    so that nobody else's logins push its keys out."""

    def __init__(
        self,
        upstream: Upstream,
        keyring: Ring,
        *,
        database: str,
        user: str,
        params: Mapping[str, str] = MappingProxyType({}),
        only: bool = False,
        deriver: Deriver | None = None,
    ) -> None:
        self.deriver = deriver or Deriver()
        self.upstream = upstream
        self.keyring = keyring
        self.database = database
        self.user = user
        self.only = only
        self.params = {**upstream.params, **params}

    def prefer(self, endpoint: Endpoint | None) -> None:
        """Try this host before the others."""
        endpoints = self.upstream.endpoints
        if endpoint is not None and endpoint != endpoints[0]:
            rest = tuple(each for each in endpoints if each != endpoint)
            self.upstream = replace(self.upstream, endpoints=(endpoint, *rest))

    def begin_like(self, parameters: Mapping[str, str]) -> None:
        """What clients have not set shall be as another server reports it."""
        told = {name: value for name, value in parameters.items() if name.lower() not in _NOT_SET}
        self.params = {**told, **self.params}

    def at(self, endpoint: Endpoint) -> Origin:
        """The same way to one server, whatever it is."""
        upstream = replace(self.upstream, endpoints=(endpoint,), target_session_attrs="any")
        return Origin(
            upstream,
            self.keyring,
            database=self.database,
            user=self.user,
            params=self.params,
            only=self.only,
            deriver=self.deriver,
        )

    async def open(self) -> Link:
        """Log in; raises Unreachable, ConfigError or ServerRefused."""
        try:
            return await connector.connect(
                self.upstream,
                self._attempt(),
                database=self.database,
                user=self.user,
                params=self.params,
                timeout=self.upstream.connect_timeout,
                deriver=self.deriver,
            )
        except ServerRefused as refusal:
            # The class of "Invalid Authorization Specification".
            if refusal.sqlstate.startswith("28") and self.keyring.remedy:
                refusal.remedy = self.keyring.remedy
            raise

    def _attempt(self) -> Keys:
        keys = self.keyring.attempt(self.user, self.database)
        return _Own(keys, self.user) if self.only else keys

    async def cancel(self, link: Link) -> None:
        """Send the cancel request for a connection; returns when the server has taken it."""
        road = None
        if (instance := link.instance) is not None:
            issued = await self.keyring.attempt(self.user, self.database).issued(instance.host, instance.port)
            road = issued.secret.way
        await connector.send_cancel(self.upstream, link, road=road)


class _Own:
    """Keys of one user and nobody else."""

    def __init__(self, keys: Keys, user: str) -> None:
        self._keys = keys
        self._user = user

    async def issued(self, host: str, port: int) -> Issued:
        issued = await self._keys.issued(host, port)
        if issued.secret.user not in (None, self._user):
            raise ConfigError(
                f"databases.….user is {self._user!r}, but the credentials of its cluster are those of"
                f" {issued.secret.user!r}",
                hint="Give that user a cluster of its own, with credentials of its own.",
            )
        return issued

    async def refused(self, host: str, port: int) -> bool:
        return await self._keys.refused(host, port)
