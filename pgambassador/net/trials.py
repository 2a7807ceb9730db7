"""Passwords that only a server can judge: tried there, and what it takes is believed for a while.

1. Few are tried at once, the same one only once at a time, each over a connection that is for nothing else.
2. A password goes into the wallet when the server has just taken it, never because it is still believed; and
   it is not believed while a pool that lives of the wallet has nothing there.
3. Strangers are told that a password is wrong, or that it cannot be tried. What else there is to say, such as
   addresses and files, is for the log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from pgambassador.auth import client as methods
from pgambassador.auth.server import Secret
from pgambassador.auth.token import Accepted, token_end
from pgambassador.auth.wallet import Wallet
from pgambassador.config import Target
from pgambassador.errors import AmbassadorError, Refused, ServerRefused, Unreachable
from pgambassador.net.flights import Flights
from pgambassador.net.origin import Origin

log = logging.getLogger(__name__)

CHECKS = 8
"""So many passwords are tried at servers at once."""
TURN = 15.0
"""Another one waits so long for its turn."""
COMPLAINTS = 10.0
"""The log is told once in so many seconds: it is strangers who cause it."""


class Trials:
    """`probe` makes the way to a database for one user with one password."""

    def __init__(self, probe: Callable[[Target, str, bytes], Origin], wallet: Wallet) -> None:
        self._probe = probe
        self._wallet = wallet
        self._accepted = Accepted()
        self._flights: Flights[None] = Flights("password check")
        self._turns = asyncio.Semaphore(CHECKS)
        self._complained = -math.inf

    def passed(self, target: Target, user: str, password: bytes, *, needed: bool) -> bool:
        """Whether the server has taken it lately. `needed`: the pool logs in with what its clients bring."""
        name = self._accepted.name(password, target.cluster, user)
        if not self._accepted.holds(name, target.database, time.time()):
            return False
        return not needed or self._wallet.get(target.cluster, user) is not None

    async def hold(self, target: Target, user: str, password: bytes, *, needed: bool) -> None:
        """Raises Refused or ServerRefused if it is wrong, Unreachable if nobody knows."""
        name = self._accepted.name(password, target.cluster, user)
        try:
            await self._flights.join((name, target.database), lambda: self._try(target, user, password))
        except ServerRefused as refusal:
            if not refusal.sqlstate.startswith("28"):  # Invalid Authorization Specification
                raise ServerRefused(refusal.fields) from None  # one for each who waits
            self.refused(target.cluster, user, password)
            if refusal.sqlstate == "28P01":
                raise ServerRefused(refusal.fields) from None
            # Others name our own address, as the one that its pg_hba.conf has no line for.
            raise methods.failed(user, refusal.message) from None
        except Refused as error:
            raise methods.failed(user, error.message) from None
        self._accepted.add(name, target.database, password, time.time())
        if needed:
            end = token_end(password)
            self._wallet.put(target.cluster, user, password, math.inf if end is None else end)

    def refused(self, cluster: str, user: str, secret: Secret) -> None:
        """A server takes it for wrong, here or when a pool has tried it."""
        self._wallet.drop(cluster, user, secret)
        if isinstance(secret, bytes):
            self._accepted.drop(self._accepted.name(secret, cluster, user))

    async def _try(self, target: Target, user: str, password: bytes) -> None:
        try:
            async with asyncio.timeout(TURN):
                await self._turns.acquire()
        except TimeoutError:
            raise Unreachable(
                "too many passwords are being checked at the server just now", hint="Try again."
            ) from None
        try:
            link = await self._probe(target, user, password).open()
        except ServerRefused:
            raise
        except AmbassadorError as error:
            self._complain(target, error)
            raise Unreachable(
                "it cannot be checked just now whether the password is right",
                hint="Why is in the log of pgambassador.",
            ) from None
        finally:
            self._turns.release()
        link.close()
        if not link.asked:
            raise Refused("the server asks this user for no password, so that it shows nothing")

    def _complain(self, target: Target, error: AmbassadorError) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained >= COMPLAINTS:
            self._complained = now
            log.error("a password cannot be checked at cluster %s: %s", target.cluster, error.sentence())
