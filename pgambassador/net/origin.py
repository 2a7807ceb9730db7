"""Where one pool's connections come from: the upstream, the login, and the way a cancel request takes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.credentials.keyring import Issued
from pgambassador.errors import AmbassadorError, ConfigError, ServerRefused, Unreachable
from pgambassador.net import connector
from pgambassador.net.approach import Approach, Approaches
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
        approaches: Approaches | None = None,
    ) -> None:
        self.deriver = deriver or Deriver()
        self.approaches = approaches
        self.upstream = upstream
        self.leader: Endpoint | None = None
        self.keyring = keyring
        self.database = database
        self.user = user
        self.only = only
        self.params = {**upstream.params, **params}

    def prefer(self, endpoint: Endpoint | None) -> None:
        """Try this host before the others: it is the primary, as far as is known."""
        self.leader = endpoint or self.leader
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
            approaches=self.approaches,
        )

    # What is known of the servers.

    def _known(self) -> list[Approach]:
        known = self.approaches
        return [] if known is None else [known.at(endpoint) for endpoint in self.upstream.endpoints]

    def _primary(self) -> Approach | None:
        """What is known of the primary, where nothing else will do."""
        if self.approaches is None or self.leader not in self.upstream.endpoints:
            return None
        if self.upstream.target_session_attrs not in ("read-write", "primary"):
            return None
        return self.approaches.at(self.leader)

    def _wanted(self, now: float) -> list[Approach]:
        """The same, when somebody wants a connection."""
        known = self._known()
        for each in known:
            each.vigil.wanted(self, now)
        return known

    def admits(self, now: float, *, held: bool) -> bool:
        """Whether an attempt may begin; `held`: somebody waits for it who is held."""
        known = self._wanted(now)
        return not known or any(each.breaker.admits(now, held=held) for each in known)

    def shut(self, now: float) -> AmbassadorError | None:
        """What is said to clients that nobody holds, while the primary's breaker is open, or those of all."""
        primary, known = self._primary(), self._known()
        if primary is not None and primary.breaker.shut:
            return primary.refusal(now)
        if not known or not all(each.breaker.shut for each in known):
            return None
        return known[0].refusal(now)

    def sick_since(self) -> float | None:
        """Since when the primary has failed, or all servers have, if breakers have opened by themselves."""
        if (primary := self._primary()) is not None:
            return primary.breaker.since if primary.breaker.state == "open" else None
        found = [each.breaker.since for each in self._known() if each.breaker.state == "open"]
        times = [since for since in found if since is not None]
        return max(times) if times and len(times) == len(self.upstream.endpoints) else None

    @property
    def named_once(self) -> bool:
        """Whether one name leads to whatever the server is, so that only it can say what that is."""
        return len(self.upstream.endpoints) == 1 and self.upstream.target_session_attrs == "any"

    def may_retry(self, now: float) -> bool:
        """Whether an attempt after a failure is within the first server's budget; it is spent."""
        known = self._known()
        return not known or known[0].may_retry(now)

    def broke(self, link: Link, why: str) -> None:
        """A connection broke at work."""
        if self.approaches is not None:
            self.approaches.at(link.instance or link.endpoint).unwell(why, attempt=False)

    async def knock(self, link: Link) -> bool:
        """Whether the server at the other end of a connection answers, in whatever words."""
        endpoint = link.instance or link.endpoint
        if link.instance is None and not endpoint.is_unix:
            endpoint = replace(endpoint, hostaddr=str(link.peer.sockaddr[0]))
        origin = self.at(endpoint)
        origin.approaches = None
        try:
            (await origin.open()).close()
        except Unreachable as error:
            if error.passing and self.approaches is not None:
                self.approaches.at(link.instance or link.endpoint).unwell(error.message)
            return not error.passing
        except AmbassadorError:
            return True
        return True

    async def watch(self) -> Link:
        """Log in as one who only watches: nothing stands in the way."""
        return await self._open(self.upstream, aside=True)

    async def open(self, *, held: bool = False) -> Link:
        """Log in; raises Unreachable, ConfigError or ServerRefused. `held`: somebody waits who is held."""
        known, now = self._known(), time.monotonic()
        may = tuple(each.server for each in known if each.breaker.admits(now, held=held))
        if known and not may:
            raise known[0].refusal(now)
        try:
            return await self._insist(replace(self.upstream, endpoints=may) if known else self.upstream)
        except AmbassadorError as error:
            self._wanted(now := time.monotonic())
            primary = self._primary()
            if error.passing and primary is not None and primary.server not in may:
                raise primary.refusal(now) from error  # the others are none
            raise

    async def _insist(self, upstream: Upstream) -> Link:
        """Made anew if a server turns out meanwhile to be back."""
        known = self.approaches
        if known is None:
            return await self._open(upstream)
        while True:
            limits: list[asyncio.Timeout] = []
            try:
                async with contextlib.AsyncExitStack() as stack:
                    for each in map(known.at, upstream.endpoints):
                        limit = await stack.enter_async_context(each.renewed())
                        limits.append(limit)
                    return await self._open(upstream)
            except TimeoutError:
                if not any(limit.expired() for limit in limits):
                    raise

    async def call(self, server: Endpoint, seconds: int) -> AmbassadorError | None:
        """A login that nobody needs: why it failed. Nothing is told of it."""
        origin = self.at(server)
        origin.approaches = None
        origin.upstream = replace(
            origin.upstream, connect_timeout=min(seconds, origin.upstream.connect_timeout)
        )
        try:
            (await origin.open()).close()
        except AmbassadorError as error:
            return error
        return None

    async def _open(self, upstream: Upstream, *, aside: bool = False) -> Link:
        known = self.approaches
        more: dict[str, Any] = {}
        if known is not None:
            more["visit"] = lambda at: known.at(at).aside() if aside else known.at(at).turn()
        try:
            return await connector.connect(
                upstream,
                self._attempt(),
                database=self.database,
                user=self.user,
                params=self.params,
                timeout=self.upstream.connect_timeout,
                deriver=self.deriver,
                **more,
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
