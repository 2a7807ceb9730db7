"""Asking a server about users, over a connection that is for nothing else.

1. One question at a time, each within `PATIENCE`, in which waiting for its turn counts. A connection that
   failed is closed; one over which the server has answered, if only by an error, is not.
2. A connection that had been resting may have died: then the question is asked once more over a new one.
3. What goes wrong is ours to repair and is logged; clients, who are strangers yet, are told only that it did.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Mapping

from pgambassador.auth.lookup import Entry, ends, look_up
from pgambassador.auth.server import Secret
from pgambassador.auth.verifier import DEFAULT_ITERATIONS
from pgambassador.config import Config
from pgambassador.credentials.keyring import Keyring
from pgambassador.credentials.registry import keyring_of
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.net.conversation import Conversation
from pgambassador.net.link import Link
from pgambassador.net.origin import Origin
from pgambassador.net.tasks import spawn
from pgambassador.net.transport import Transport
from pgambassador.wire import build

log = logging.getLogger(__name__)

PATIENCE = 5.0
REST = 60.0
"""An unused connection is closed after this."""


class Enquiry:
    """`auth.query` at work."""

    def __init__(self, origin: Origin, statement: str) -> None:
        self._origin = origin
        self._statement = statement
        self._lock = asyncio.Lock()
        self._link: Link | None = None
        self._used = 0.0
        self._complaint = ""
        self._retired = False
        self.iterations = DEFAULT_ITERATIONS
        """What the server makes verifiers with; those before PostgreSQL 16 do not say, and have no choice."""

    async def ask(self, user: str) -> Entry:
        """For a client, who is not told what is wrong if it cannot be asked."""
        try:
            entry = await self.try_out(user)
        except AmbassadorError as error:
            self._complain(self.explain(error))
        else:
            self._complaint = ""
            return entry
        raise Unreachable(
            "it cannot be checked just now who may log in", hint="Why is in the log of pgambassador."
        )

    async def try_out(self, user: str) -> Entry:
        """Raises what is wrong, for whoever runs us."""
        try:
            async with asyncio.timeout(PATIENCE), self._lock:
                try:
                    return await self._ask(user)
                except BaseException as error:
                    if not (isinstance(error, ServerRefused) and not ends(error)):
                        self.close()
                    raise
                finally:
                    if self._retired:
                        self.close()
        except TimeoutError:
            raise Unreachable(
                f"no answer within {PATIENCE:g} s", hint="Look what the statement waits for."
            ) from None

    def explain(self, error: AmbassadorError) -> str:
        """With a remedy where the server has none for its refusal of the statement."""
        if not isinstance(error, ServerRefused) or ends(error) or error.hint:
            return error.sentence()
        return (
            f"{error.sentence()} Correct auth.query.statement, or let user {self._origin.user!r} run it; a"
            " function that belongs to a superuser may read pg_authid for others."
        )

    def _complain(self, why: str) -> None:
        """Once, however many ask."""
        if why != self._complaint:
            log.error("auth.query failed: %s", why)
        self._complaint = why

    async def _ask(self, user: str) -> Entry:
        if self._link is not None:
            try:
                return await self._hold(self._link, user)
            except AmbassadorError as error:
                if isinstance(error, ServerRefused) and not ends(error):
                    raise
                self.close()
        self._link = await self._origin.open()
        reported = self._link.parameters.get("scram_iterations", "")
        if reported.isdecimal() and len(reported) <= 10:
            self.iterations = min(int(reported), 0x7FFFFFFF) or DEFAULT_ITERATIONS
        return await self._hold(self._link, user)

    async def _hold(self, link: Link, user: str) -> Entry:
        transport = Transport(link.sock, link.peer, link.tls, link.incoming, link.outgoing)
        found = await Conversation(transport).hold(look_up(self._statement, user))
        self._used = asyncio.get_running_loop().time()
        return found

    def tick(self, now: float) -> None:
        """Close what nobody has used for a while; `now` is the event loop's."""
        if self._link is not None and not self._lock.locked() and now - self._used > REST:
            self.close()

    def retire(self) -> None:
        """Nobody asks any more; who waits for an answer still gets it."""
        self._retired = True
        if not self._lock.locked():
            self.close()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            if link.tls is None:
                _say_farewell(link)
            link.close()


def _say_farewell(link: Link) -> None:
    try:
        link.sock.send(build.TERMINATE)
    except OSError:
        pass  # it is gone already


def enquiry(
    config: Config, keyrings: Mapping[str, Keyring], password: Callable[[str], Secret | None]
) -> Enquiry | None:
    """What `auth.query` asks for; `password` gives what the lists have for who asks."""
    query = config.auth.query
    if query is None:
        return None
    name = query.cluster or next(iter(config.clusters))
    upstream = config.clusters[name].upstream()
    user = query.user or upstream.user
    assert user is not None  # the configuration was checked
    keyring = keyrings[name]
    if user != upstream.user:
        # What the URL and `credentials` say is for somebody else.
        upstream = dataclasses.replace(upstream, user=None, password=None)
        keyring = keyring_of(name, None, password, spawn)
    database = query.database or upstream.database or "postgres"
    return Enquiry(Origin(upstream, keyring, database=database, user=user), query.statement)
