"""What keeps the secrets of one cluster, and asks its provider for them.

1. One question for a secret is under way at a time. All who need it meanwhile wait for that answer; who stops
   waiting does not stop the question.
2. Whether a secret may still be used is looked at when it is used, by the wall clock.
3. Nobody waits for a renewal while the old secret is good. `tick` begins renewals; nothing here sleeps until
   one, because the clock of timers stands still while a machine sleeps.
4. What is not asked for is forgotten after a while, and in number they are bounded: users' names, for which
   secrets are kept, come from clients.
5. Nothing secret is logged, nor what an unknown exception says.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from pgambassador.auth.verifier import Borrowed
from pgambassador.credentials.life import Life, pause
from pgambassador.credentials.provider import Login, Provider, Scope, Secret, scope
from pgambassador.errors import AmbassadorError, Unreachable

log = logging.getLogger(__name__)

FORGET = 7200.0
MOST = 1000
AT_ONCE, APART = 8, 0.25
# A provider's own limit speaks first, since it knows what it waits for.
GRACE = 0.5

Spawn = Callable[[Coroutine[Any, Any, object], str], asyncio.Task[Any]]


class Issued(NamedTuple):
    """A secret, as somebody got it. `fresh`: its source was asked for it only just now."""

    secret: Secret
    number: int
    fresh: bool
    retire_at: float | None = None


@dataclass(slots=True)
class _Kept:
    """What is known for one scope. `number` counts the answers."""

    login: Login
    asked: float
    secret: Secret | None = field(default=None, repr=False)
    number: int = 0
    life: Life = field(default_factory=Life)
    flight: asyncio.Task[AmbassadorError | None] | None = field(default=None, repr=False)


class Keyring:
    """`spawn` starts the questions; `clock` is the wall's. `lazy`: no renewal that nobody waits for.
    `reconnect`: connections end with the secret that opened them. `themselves`: clients are meant to log in
    under their own names, which a provider may not know."""

    def __init__(
        self,
        cluster: str,
        name: str,
        provider: Provider,
        *,
        spawn: Spawn,
        timeout: float,
        lazy: bool = False,
        reconnect: bool = False,
        themselves: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cluster, self.provider = cluster, name
        self.refreshes = self.refresh_failures = 0
        self._source = provider
        self._spawn = spawn
        self._timeout = timeout
        self._lazy = lazy
        self._reconnect = reconnect
        self._themselves = themselves
        self._clock = clock
        self._kept: dict[Scope, _Kept] = {}  # those that were asked for last stand last
        self._closed = False

    def attempt(self, user: str, database: str) -> Attempt:
        """For one connection that is to be opened."""
        return Attempt(self, user, database)

    @property
    def window(self) -> float:
        return self._source.window

    @property
    def remedy(self) -> str | None:
        """What to look at when a server refuses the secret; None if the provider has nothing to say."""
        return getattr(self._source, "remedy", None)

    def refused(self, login: Login, secret: Secret) -> None:
        """Tell the provider, if it wants to know, that a server took this one for wrong."""
        self._tell("refused", login, secret)

    def _tell(self, method: str, *what: object) -> None:
        """What it does with that is its own affair, also where it fails."""
        try:
            tell = getattr(self._source, method, None)
            if tell is not None:
                tell(*what)
        except Exception as error:
            # What it says may be, or quote, the secret.
            log.warning(
                "the credentials provider %s failed (%s) when it was told %s",
                self.provider,
                type(error).__name__,
                "that its secret was refused" if method == "refused" else "to ask for everything anew",
            )

    def scope(self, login: Login) -> Scope:
        return scope(self._source, login)

    # Asking.

    async def ask(self, login: Login) -> Issued:
        """The secret for a login, one that is kept if it is good. Raises Unreachable or ConfigError."""
        kept = self._entry(login)
        now = self._clock()
        if kept.secret is not None and kept.life.usable(now):
            return self._issued(kept, kept.secret, fresh=kept.life.just_now(now))
        try:
            return await self._fetched(kept, login)
        except AmbassadorError:
            if kept.secret is None or not kept.life.valid(self._clock()):
                raise
            return self._issued(kept, kept.secret, fresh=False)

    def newer(self, login: Login, than: Issued) -> Issued | None:
        """What has come since, if it is another secret that has not ended as well."""
        kept = self._entry(login)
        if kept.secret is None or kept.number <= than.number or kept.secret == than.secret:
            return None
        if self.is_over(kept.secret):
            return None
        return self._issued(kept, kept.secret, fresh=True)

    def is_over(self, secret: Secret) -> bool:
        """Whether it has ended, perhaps while a login was under way."""
        return secret.not_after is not None and secret.not_after <= self._clock()

    async def ask_anew(self, login: Login) -> Issued:
        """Whatever is kept, what the provider says now."""
        return await self._fetched(self._entry(login), login)

    async def _fetched(self, kept: _Kept, login: Login) -> Issued:
        flight = kept.flight or self._begin(kept, login)
        await asyncio.wait((flight,))  # if this is cancelled, the flight is not
        error = (
            Unreachable("pgambassador is shutting down", hint="Connect to another instance.")
            if flight.cancelled()
            else flight.result()
        )
        if error is not None:
            raise error.with_traceback(None)
        assert kept.secret is not None
        return self._issued(kept, kept.secret, fresh=True)

    def _issued(self, kept: _Kept, secret: Secret, *, fresh: bool) -> Issued:
        ends = self._reconnect and kept.life.length > 0
        return Issued(secret, kept.number, fresh, kept.life.retire_at(random.random()) if ends else None)

    def _begin(self, kept: _Kept, login: Login) -> asyncio.Task[AmbassadorError | None]:
        kept.flight = self._spawn(self._fetch(kept, login), f"credentials of {self.cluster}")
        return kept.flight

    async def _fetch(self, kept: _Kept, login: Login) -> AmbassadorError | None:
        """Ask the provider; what went wrong, if anything."""
        error: AmbassadorError
        try:
            async with asyncio.timeout(self._timeout + GRACE):
                secret = await self._source.fetch(login)
            self._check(secret)
        except AmbassadorError as found:
            error = found
        except TimeoutError:
            error = Unreachable(
                f"the credentials provider {self.provider} gave no answer within {self._timeout:g} s",
                hint="Check what it asks, or raise credentials.timeout.",
            )
        except Exception as found:
            # What it says may be, or quote, the secret.
            error = Unreachable(
                f"the credentials provider {self.provider} failed ({type(found).__name__})",
                hint="Check its options, or report this to those who wrote it.",
            )
        else:
            self.refreshes += 1
            self._look_at(secret, login)
            kept.secret = secret
            kept.number += 1
            kept.life.begin(self._clock(), secret.not_after, random.random())
            return None
        finally:
            kept.flight = None
        self.refresh_failures += 1
        now = self._clock()
        kept.life.failed(now, random.random())
        if kept.life.valid(now):
            log.warning(
                "the secret for cluster %s could not be renewed and is still used: %s",
                self.cluster,
                error.sentence(),
            )
        return error

    def _check(self, secret: Secret) -> None:
        """Unreachable if it is no secret, or nobody could log in as that user."""
        if not _is_secret(secret):
            raise Unreachable(
                f"the credentials provider {self.provider} gave something that is not a secret",
                hint="Report this to those who wrote it: it is a Secret of a user (text), a password (bytes),"
                " and seconds since 1970.",
            )
        if secret.user is not None and (not secret.user or "\0" in secret.user):
            raise Unreachable(
                f"the credentials provider {self.provider} gave a name that no user can have",
                hint="Look at where the credentials of the cluster come from.",
            )

    def _look_at(self, secret: Secret, login: Login) -> None:
        """Say once that clients are not who they think they are."""
        if not self._themselves or secret.user in (None, login.user):
            return
        self._themselves = False
        log.warning(
            "cluster %s: the URL names no user, so that each client has a pool of its own, but %r of the %s"
            " credentials is whom all of them log in as; write that user into the URL",
            self.cluster,
            str(secret.user)[:64],
            self.provider,
        )

    def _entry(self, login: Login) -> _Kept:
        key = self.scope(login)
        kept = self._kept.pop(key, None) or _Kept(login, 0.0)
        self._kept[key] = kept
        kept.asked = self._clock()
        if len(self._kept) > MOST:
            oldest = next((each for each, other in self._kept.items() if other.flight is None), key)
            if oldest != key:
                del self._kept[oldest]
        return kept

    # Time passes.

    def tick(self) -> None:
        """A few times a second: begin what renewals are due, and forget what nobody asks for."""
        now = self._clock()
        for key, kept in list(self._kept.items()):
            if kept.flight is not None:
                continue
            kept.asked = min(kept.asked, now)
            if now - kept.asked > FORGET:
                del self._kept[key]
            elif not self._lazy and not self._closed and kept.life.due(now):
                self._begin(kept, kept.login)

    def renew(self) -> None:
        """Ask for all that is kept, of many the rest one after the other. What there is stays in use until
        the answers come, and if there are none."""
        self._tell("forget")
        now = self._clock()
        stale = [kept for kept in self._kept.values() if kept.flight is None and kept.life.length > 0]
        for index, kept in enumerate(reversed(stale)):  # those that were asked for last come first
            if index < AT_ONCE and not self._closed:
                self._begin(kept, kept.login)
            else:
                kept.life.hurry(now + (index - AT_ONCE) * APART)

    def close(self) -> None:
        """End what is under way, and begin nothing more by itself."""
        self._closed = True
        for kept in self._kept.values():
            if kept.flight is not None:
                kept.flight.cancel()

    # For the metrics.

    @property
    def failing(self) -> int:
        """Failures since the last success, of whichever secret has most."""
        return max((kept.life.failures for kept in self._kept.values()), default=0)

    @property
    def age(self) -> float | None:
        """Seconds since the oldest secret was fetched."""
        born = [kept.life.born for kept in self._kept.values() if kept.secret is not None]
        return max(self._clock() - min(born), 0.0) if born else None

    @property
    def expires(self) -> float | None:
        """When the first of the secrets ends, in Unix time."""
        return min((each for kept in self._kept.values() if (each := kept.life.not_after)), default=None)

    def __repr__(self) -> str:
        return f"<Keyring {self.cluster} {self.provider} {len(self._kept)} kept>"


def _is_secret(found: object) -> bool:
    """Others write providers, perhaps without a type checker."""
    if not isinstance(found, Secret):
        return False
    user, password, end = cast(tuple[object, object, object], found[:3])
    return (
        isinstance(user, str | None)
        and isinstance(password, bytes | Borrowed | None)
        and isinstance(end, float | int | None)
    )


class Attempt:
    """One opening's use of a keyring: which secret to try, and whether to try another after a refusal."""

    def __init__(self, ring: Keyring, user: str, database: str) -> None:
        self._ring = ring
        self._user, self._database = user, database
        self._held: dict[Scope, Issued] = {}
        self._tries = 0
        self._refused_at: float | None = None

    async def issued(self, host: str, port: int) -> Issued:
        """What to log in with there; the same each time, until it was refused."""
        login = self._login(host, port)
        key = self._ring.scope(login)
        if key not in self._held:
            self._held[key] = await self._ring.ask(login)
        return self._held[key]

    async def refused(self, host: str, port: int) -> bool:
        """The server took it for wrong. Whether `issued` now has another one to try; may take a while."""
        login = self._login(host, port)
        held = self._held[self._ring.scope(login)]
        found = await self._another(login, held)
        self._ring.refused(login, held.secret)
        if found is None:
            return False
        self._tries += 1
        self._held[self._ring.scope(login)] = found
        return True

    async def _another(self, login: Login, held: Issued) -> Issued | None:
        ring = self._ring
        now = asyncio.get_running_loop().time()
        if self._refused_at is None:
            self._refused_at = now
        newer = ring.newer(login, held)
        seconds = pause(
            fresh=held.fresh and not ring.is_over(held.secret),
            newer=newer is not None,
            tries=self._tries,
            waited=now - self._refused_at,
            window=ring.window,
            chance=random.random(),
        )
        if seconds is None:
            return None
        if seconds:
            await asyncio.sleep(seconds)
            newer = ring.newer(login, held)
        if newer is None:
            log.info(
                "cluster %s: the server refuses a secret of %s, which is asked again",
                ring.cluster,
                ring.provider,
            )
        try:
            found = newer or await ring.ask_anew(login)
        except AmbassadorError:
            return None  # counted and logged there; what the server said is the better answer
        # The same again would be refused again, unless it is the server that is late.
        return found if ring.window or found.secret != held.secret else None

    def _login(self, host: str, port: int) -> Login:
        return Login(host, port, self._user, self._database)

    def __repr__(self) -> str:
        return f"<Attempt of {self._user!r} with {self._ring!r}>"
