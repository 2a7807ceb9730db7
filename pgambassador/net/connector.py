"""Opening a connection to a cluster: the first of its servers that lets us in and is what was asked for.

1. Hosts are tried in the order of the URL, the addresses of each in the resolver's order. Each has an equal
   share of the time that is left, so that a silent one does not cost the others their turn.
2. As in libpq, a server that refuses a login ends the search, unless it only says that it cannot serve now.
   Its error is raised as it came. Everything else is collected into one Unreachable.
3. A connection that is not handed out is closed, whatever happens.
4. The password is asked for host by host, and the time that takes is not the host's. One that takes it for
   wrong is asked again for as long as the keyring has another to try.
5. Poolers and proxies exist that refuse a start packet of protocol 3.2 instead of negotiating, or hang up.
   Such an endpoint is asked again with 3.0, and for `_OLD_FOR` seconds with 3.0 alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager as Scope
from typing import Protocol

from pgambassador.auth import binding
from pgambassador.auth.server import Secret
from pgambassador.cluster.role import mismatch
from pgambassador.cluster.upstream import Endpoint, Upstream
from pgambassador.credentials.keyring import Issued
from pgambassador.credentials.provider import Way
from pgambassador.errors import AmbassadorError, ProtocolViolation, ServerRefused, Unreachable
from pgambassador.net import names, tls, way
from pgambassador.net.approach import NOT_WANTED
from pgambassador.net.conversation import Conversation, HungUp
from pgambassador.net.derivation import Deriver, Prepared
from pgambassador.net.link import Link
from pgambassador.net.transport import Address, Transport, open_transport
from pgambassador.protocol.startup import Channel, upstream_login
from pgambassador.wire import build

# What a server answers if its pg_hba.conf has no line for a connection with TLS, or for one without.
_NO_ENTRY = "28000"
# What it answers to a wrong password, or to a user that may not come: invalid_password and its class.
_WRONG_SECRET = frozenset(("28P01", "28000"))
# What those that do not know protocol 3.2 answer to it, if anything.
_NO_SUCH_PROTOCOL = frozenset(("0A000", "08P01"))
_OLD_FOR = 600.0
_old_protocol: dict[Endpoint, float] = {}  # until when
_NAMES_TIMEOUT = 2.0  # seconds for asking a server with the wrong certificate which names that has


class Keys(Protocol):
    """Which secret opens a host; see `Attempt`."""

    async def issued(self, host: str, port: int) -> Issued: ...
    async def refused(self, host: str, port: int) -> bool: ...


Visit = Callable[[Endpoint], Scope[Callable[[AmbassadorError | None], None]]]
"""Around an attempt at a host; what it gives is told how that went."""


async def connect(
    upstream: Upstream,
    keys: Keys,
    *,
    database: str,
    user: str,
    params: Mapping[str, str] | None = None,
    timeout: float | None = None,  # noqa: ASYNC109  the search divides it
    deriver: Deriver | None = None,
    visit: Visit = lambda _: contextlib.nullcontext(lambda _: None),
) -> Link:
    """A new connection, or Unreachable, or the server's own refusal. `user` logs in, unless the secret is
    somebody else's; `params` win over those of the URL."""
    params = {**upstream.params, **(params or {}), "database": database}
    search = _Search(upstream, keys, user, params, deriver or Deriver(), visit)
    return await search.run(timeout if timeout is not None else upstream.connect_timeout)


async def send_cancel(
    upstream: Upstream,
    link: Link,
    *,
    timeout: float | None = None,  # noqa: ASYNC109  the default is the upstream's
    road: Way | None = None,
) -> None:
    """Ask the server to cancel what a connection is doing, at the same address and over TLS if it had TLS;
    by `road` if the connection came by one.

    Returns once the server has taken note, which it says by closing ("Canceling Requests in Progress").
    """
    if not link.key:
        raise Unreachable(f"{link.address} gave no key to cancel with", hint="Wait for the query to end.")
    seconds = timeout if timeout is not None else upstream.connect_timeout
    try:
        async with asyncio.timeout(seconds):
            transport = await open_transport(upstream, link.peer)
            try:
                if road is not None:
                    await way.secure(road, transport)
                elif link.tls is not None:
                    await _secure(upstream, transport)
                await transport.send(build.cancel_request(link.pid, link.key))
                with contextlib.suppress(Unreachable, ssl.SSLError):
                    await transport.receive()
            finally:
                transport.close()
    except TimeoutError:
        error = Unreachable(
            f"no answer within {round(seconds, 1):g} s", hint="Check the network on the way there."
        )
        raise _sum_up("send a cancel request to", [(link.address, error)]) from None
    except Unreachable as error:
        raise _sum_up("send a cancel request to", [(link.address, error)]) from None


class _NoTls(Unreachable):
    """TLS did not come about, which `prefer` puts up with."""


class _Search:
    """One walk through the hosts of an upstream."""

    def __init__(
        self,
        upstream: Upstream,
        keys: Keys,
        user: str,
        params: dict[str, str],
        deriver: Deriver,
        visit: Visit,
    ) -> None:
        self._upstream = upstream
        self._visit = visit
        self._deriver = deriver
        self._keys = keys
        self._user = self._default_user = user
        self._secret: Secret | None = None
        self._road: Way | None = None
        self._params = params
        self._seconds = 0.0
        self._failures: list[tuple[str, AmbassadorError]] = []
        self._second_choice: Link | None = None
        self._step = ""

    async def run(self, seconds: float) -> Link:
        self._seconds = seconds
        endpoints = self._upstream.endpoints
        with contextlib.ExitStack() as unwanted:
            for index, endpoint in enumerate(endpoints):
                issued = await self._keys.issued(endpoint.host, endpoint.port)
                async with self._visit(endpoint) as told:
                    try:
                        link = await self._log_in_at(
                            endpoint, issued, self._seconds / (len(endpoints) - index)
                        )
                    except AmbassadorError as refusal:
                        told(refusal)
                        raise
                    told(None if link is not None else self._failures[-1][1])
                if link is None:
                    continue
                if link is not self._second_choice:
                    return link
                unwanted.callback(link.close)
            if self._second_choice is not None:
                unwanted.pop_all()
                return self._second_choice
        refusals = [error for _, error in self._failures if isinstance(error, ServerRefused)]
        if len(refusals) == len(self._failures) and len({error.sqlstate for error in refusals}) == 1:
            raise refusals[-1]
        raise _sum_up("connect to", self._failures)

    async def _log_in_at(self, endpoint: Endpoint, issued: Issued, seconds: float) -> Link | None:
        """With this secret, or those that come after it if the server takes it for wrong."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._user, self._secret = issued.secret.user or self._default_user, issued.secret.password
            road = self._road = issued.secret.way
            try:
                link = await self._try_host(
                    endpoint if road is None else Endpoint(road.host, road.port), seconds
                )
            except ServerRefused as refusal:
                if refusal.sqlstate not in _WRONG_SECRET:
                    raise
                if not await self._keys.refused(endpoint.host, endpoint.port):
                    raise
                issued = await self._keys.issued(endpoint.host, endpoint.port)
                continue
            self._seconds -= loop.time() - began
            if link is not None:
                link.retire_at = issued.retire_at
                link.instance = None if road is None else endpoint
            return link

    async def _try_host(self, endpoint: Endpoint, seconds: float) -> Link | None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        addresses: list[Address] = []
        before = len(self._failures)
        self._step = "to the question for its address"
        async with self._attempt(str(endpoint), end - loop.time()):
            addresses = await names.resolve(endpoint)
        for index, address in enumerate(addresses):
            link = None
            async with self._attempt(address.named, (end - loop.time()) / (len(addresses) - index)):
                link = await self._try_address(address)
            if link is not None:
                return link
        # If one address of a host answers, the others say nothing more about it.
        refusals = [failure for failure in self._failures[before:] if isinstance(failure[1], ServerRefused)]
        if refusals:
            self._failures[before:] = refusals
        return None

    @contextlib.asynccontextmanager
    async def _attempt(self, where: str, seconds: float) -> AsyncIterator[None]:
        """Something that may fail or take too long without ending the search."""
        seconds = max(seconds, 0.0)
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            error = Unreachable(
                f"no answer {self._step} within {round(seconds, 1):g} s",
                hint="Check the network and its firewalls, or raise connect_timeout.",
                passing=True,
            )
            self._failures.append((where, error))
        except (ProtocolViolation, Unreachable) as failure:
            self._failures.append((where, failure))
        except ServerRefused as refusal:
            if not refusal.passing:  # otherwise another host may do better
                raise
            self._failures.append((where, refusal))

    async def _try_address(self, address: Address) -> Link:
        first, *second = self._ways(address)
        try:
            return await self._open(address, encrypted=first)
        except _NoTls:
            if not second:
                raise
        except ServerRefused as refusal:
            if not second or refusal.sqlstate != _NO_ENTRY:
                raise
        return await self._open(address, encrypted=second[0])

    def _ways(self, address: Address) -> tuple[bool, ...]:
        """With TLS or without, in the order to try ("SSL Mode Descriptions")."""
        if address.family == socket.AF_UNIX:
            return (False,)
        if self._road is not None:
            return (True,)
        return {"disable": (False,), "allow": (False, True), "prefer": (True, False)}.get(
            self._upstream.sslmode, (True,)
        )

    async def _open(self, address: Address, *, encrypted: bool) -> Link:
        old = asyncio.get_running_loop().time() < _old_protocol.get(address.endpoint, 0.0)
        newest = self._upstream.max_protocol_version != "3.0" and not old
        if newest:
            try:
                return await self._open_with(address, encrypted=encrypted, version=build.PROTOCOL_3_2)
            except HungUp:
                pass
            except ServerRefused as refusal:
                if refusal.sqlstate not in _NO_SUCH_PROTOCOL:
                    raise
        link = await self._open_with(address, encrypted=encrypted, version=build.PROTOCOL_3_0)
        if newest:
            _old_protocol[address.endpoint] = asyncio.get_running_loop().time() + _OLD_FOR
        return link

    async def _open_with(self, address: Address, *, encrypted: bool, version: int) -> Link:
        self._step = "to the connection attempt"
        transport = await open_transport(self._upstream, address)
        try:
            if self._road is not None:
                self._step = "to the TLS handshake"
                await way.secure(self._road, transport)
            elif encrypted:
                self._step = "to the request for TLS"
                await _secure(self._upstream, transport)
            self._step = "to the login"
            try:
                return await self._log_in(transport, version)
            except ssl.SSLError as error:
                # With TLS 1.3 a server judges the client's certificate only now.
                if self._road is not None:
                    raise way.explain(error) from None
                raise tls.explain(error, self._upstream, address.endpoint) from None
        except BaseException:
            transport.close()
            raise

    async def _log_in(self, transport: Transport, version: int) -> Link:
        conversation = Conversation(transport)
        prepared = Prepared(self._deriver, self._secret)
        to = self._channel(transport)
        dialogue = upstream_login(
            self._params, self._secret, user=self._user, channel=to, version=version, derive=prepared.derive
        )
        if self._upstream.channel_binding == "require" and transport.address.family != socket.AF_UNIX:
            dialogue = binding.insist(dialogue)
        login = await conversation.hold(dialogue, prepared.ahead)
        wanted = self._upstream.target_session_attrs
        objection = await conversation.hold(mismatch(wanted, login.parameters))
        link = Link(
            sock=transport.sock,
            tls=transport.tls,
            incoming=transport.incoming,
            outgoing=transport.outgoing,
            peer=transport.address,
            pid=login.pid,
            key=login.key,
            parameters=login.parameters,
            asked=login.asked,
            leftover=conversation.remainder(),
        )
        if objection is None:
            return link
        if wanted == "prefer-standby" and self._second_choice is None:
            self._second_choice = link
            return link
        await transport.send(build.TERMINATE)
        hint = f"The URL asks for target_session_attrs={wanted}."
        raise Unreachable(objection, hint=hint, sqlstate=NOT_WANTED, passing=True)

    def _channel(self, transport: Transport) -> Channel:
        if transport.tls is None:
            return Channel(local=transport.address.family == socket.AF_UNIX)
        if self._road is not None:
            # What ends TLS here is not PostgreSQL, which therefore could not bind to it.
            return Channel(encrypted=True, verified=True)
        certificate = transport.tls.getpeercert(binary_form=True)
        binds = certificate is not None and self._upstream.channel_binding != "disable"
        return Channel(
            encrypted=True,
            verified=self._upstream.checks_certificate,
            binding=binding.server_end_point(certificate) if binds and certificate else None,
        )


async def _secure(upstream: Upstream, transport: Transport) -> None:
    """TLS on a fresh connection, or _NoTls with the reason why not."""
    endpoint = transport.address.endpoint
    try:
        if upstream.sslnegotiation == "postgres" and not await transport.request_tls():
            raise Unreachable(
                "it does not offer TLS",
                hint="Turn on ssl in its postgresql.conf; sslmode=disable only if the network is trusted.",
            )
        await transport.start_tls(upstream)
    except ssl.SSLError as error:
        names = await _names(upstream, transport.address) if tls.is_about_name(error) else []
        failure = tls.explain(error, upstream, endpoint, names)
        raise _no_tls(failure) from None
    except Unreachable as failure:
        raise _no_tls(failure) from None


def _no_tls(failure: Unreachable) -> _NoTls:
    return _NoTls(failure.message, hint=failure.hint, passing=failure.passing, strange=failure.strange)


async def _names(upstream: Upstream, address: Address) -> list[str]:
    """The names in a server's certificate: after a failed handshake they are gone, so this takes another."""
    with contextlib.suppress(Unreachable, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(_NAMES_TIMEOUT):
            transport = await open_transport(upstream, address)
            with contextlib.closing(transport):
                if upstream.sslnegotiation == "direct" or await transport.request_tls():
                    await transport.start_tls(upstream, check_name=False)
                    return tls.names((transport.tls and transport.tls.getpeercert()) or {})
    return []


def _sum_up(what: str, failures: list[tuple[str, AmbassadorError]]) -> Unreachable:
    """One sentence about all that was tried; those that failed alike are named together."""
    alike: dict[str, list[str]] = {}
    for where, error in failures:
        alike.setdefault(error.message, []).append(where)
    causes = "; ".join(f"{' and '.join(places)}: {cause}" for cause, places in alike.items())
    hints = dict.fromkeys(error.hint for _, error in failures if error.hint)
    passing = any(error.passing for _, error in failures)
    return Unreachable(f"could not {what} {causes}", hint=" ".join(hints) or None, passing=passing)
