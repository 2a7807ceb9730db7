"""Who may in: the rule that fits a client, what it then has to show, and as whom it works on the server.

1. A client shows one name: its user name where there is a password, else the one of its certificate or of
   the user at the other end of the Unix socket. It may ask to be that, or what `auth.map` gives for it.
2. Whatever is expensive happens once at a time and off the event loop; its result is remembered.
3. An answer to a failure says nothing of its reason, and costs the same whoever was named.
4. A secret is kept only for pools that have none of their own.
"""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

from pgambassador.auth import client as methods
from pgambassador.auth.credential import Credential, Plain
from pgambassador.auth.peer import Peer
from pgambassador.auth.rules import first_match, refusal
from pgambassador.auth.server import Secret
from pgambassador.auth.throttle import Throttle
from pgambassador.auth.token import Accepted
from pgambassador.auth.verifier import (
    DEFAULT_ITERATIONS,
    Borrowed,
    KeyCache,
    Keys,
    Verifier,
    derive,
    own_salt,
)
from pgambassador.auth.wallet import Wallet
from pgambassador.config import Config, Target
from pgambassador.errors import Refused, ServerRefused, Unreachable
from pgambassador.net.directory import Directory
from pgambassador.net.flights import Flights
from pgambassador.net.origin import Origin
from pgambassador.wire import build
from pgambassador.wire.frames import Dialogue, Frame

T = TypeVar("T")

CHECKS = 8
"""So many passwords are tried at servers at once."""
TURN = 15.0
"""Another one waits so long for its turn."""


class Frames(Protocol):
    """The client's side of a dialogue."""

    async def send(self, data: bytes) -> None: ...
    async def next(self) -> Frame: ...


class Admitted(NamedTuple):
    """`success` tells the client; `user` is who it is on the server, unless the URL says that."""

    success: bytes
    user: str


class Porter:
    """`probe` makes the way to a database for one user with one password."""

    def __init__(
        self, config: Config, directory: Directory, probe: Callable[[Target, str, bytes], Origin]
    ) -> None:
        self.config = config
        self.directory = directory
        self.wallet = Wallet()
        self.throttle = Throttle()
        self._rules = config.auth.table()
        self._map = config.auth.map
        self._probe = probe
        self._accepted = Accepted()
        self._checks: Flights[None] = Flights("password check")
        self._checking = asyncio.Semaphore(CHECKS)
        self._keys, self._decoys = KeyCache(), KeyCache()
        self._deriving: Flights[Keys] = Flights("key derivation")
        self._thread = ThreadPoolExecutor(1, "keys")
        # Whose pools log in with what their clients have brought.
        self._poor = {
            name
            for name, cluster in config.clusters.items()
            if cluster.credentials is None and cluster.upstream().user is None
        }

    async def admit(self, peer: Peer, user: str, database: str, frames: Frames) -> Admitted:
        """Raises Refused, or ServerRefused where a server was asked, with the `delay` to tell it after."""
        rule = first_match(self._rules, peer, database, user)
        if rule is None or rule.method == "reject":
            raise refusal(rule, peer, database, user)
        try:
            return await self._identify(rule.method, peer, user, database, frames)
        except (Refused, ServerRefused) as error:
            if error.sqlstate.startswith("28"):  # Invalid Authorization Specification
                error.delay = self.throttle.failed(peer.site, asyncio.get_running_loop().time())
            raise

    async def tick(self, now: float) -> None:
        """What is to be done now and then; `now` is the event loop's time."""
        self.throttle.forget(now)
        if self.directory.enquiry is not None:
            self.directory.enquiry.tick(now)
        await self.directory.refresh(now)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self.directory.enquiry is not None:
            self.directory.enquiry.close()

    async def _identify(self, method: str, peer: Peer, user: str, database: str, frames: Frames) -> Admitted:
        match method:
            case "trust":
                return Admitted(build.authentication_ok(), self._map.get(user, user))
            case "peer":
                shown = await _account(peer.uid)
                return Admitted(build.authentication_ok(), self._mapped("Peer", shown, user))
            case "cert":
                if peer.common_name is None:
                    raise Refused("connection requires a valid client certificate")
                return Admitted(
                    build.authentication_ok(), self._mapped("certificate", peer.common_name, user)
                )
            case "upstream":
                return await self._at_server(peer, user, database, frames)
        return await self._by_secret(method, peer, user, database, frames)

    def _mapped(self, method: str, shown: str | None, user: str) -> str:
        """As whom somebody works who has shown one name and asks to be another."""
        mapped = None if shown is None else self._map.get(shown, shown)
        if shown is None or user not in (shown, mapped):
            error = Refused(f'{method} authentication failed for user "{user[:64]}"')
            error.add_note("no name was shown" if shown is None else f"the name shown is {shown[:64]!r}")
            raise error
        assert mapped is not None
        return mapped

    # Passwords that are known here.

    async def _by_secret(self, method: str, peer: Peer, user: str, database: str, frames: Frames) -> Admitted:
        entry = await self.directory.find(user)
        credential = entry.credential
        if method == "scram-sha-256":
            credential = await self._verifier(user, credential)
        learnt: list[Keys] = []
        dialogue = methods.METHODS[method](
            user, credential, doubt=entry.doubt, binding=peer.binding, learn=learnt.append
        )
        try:
            success = await hold(dialogue, frames)
        except Refused:
            self.directory.forget(user)
            raise
        server_user = self._map.get(user, user)
        if server_user == user:
            self._keep(database, user, self._useful(user, entry.credential, learnt))
        return Admitted(success, server_user)

    def _useful(self, user: str, credential: Credential | None, learnt: list[Keys]) -> Secret | None:
        """What a login has shown that opens a server too, and that no list has."""
        match credential:
            case Plain(password) if user not in self.directory.users:
                return password
            case Verifier(iterations, salt) if learnt:
                return Borrowed(learnt[0], salt, iterations)
        return None

    async def _verifier(self, user: str, credential: Credential | None) -> Credential | None:
        """For a plain password its verifier. Where there are such, everybody costs the same derivation."""
        salt = own_salt(user, methods.PROCESS_KEY)
        if isinstance(credential, Plain):
            keys = await self._derived(self._keys, credential.password, salt)
            return Verifier(DEFAULT_ITERATIONS, salt, keys.stored_key, keys.server_key)
        if self.directory.has_plain:
            await self._derived(self._decoys, b"", salt)
        return credential

    async def _derived(self, cache: KeyCache, password: bytes, salt: bytes) -> Keys:
        keys = cache.known(password, salt, DEFAULT_ITERATIONS)
        if keys is None:
            loop = asyncio.get_running_loop()

            async def work() -> Keys:
                return await loop.run_in_executor(self._thread, derive, password, salt, DEFAULT_ITERATIONS)

            keys = await self._deriving.join((salt, password), work)
            cache.keep(password, salt, DEFAULT_ITERATIONS, keys)
        return keys

    # Passwords that only the server knows.

    async def _at_server(self, peer: Peer, user: str, database: str, frames: Frames) -> Admitted:
        if not peer.confidential:
            raise Refused(
                "a password would have to come in clear text, over a connection without TLS",
                hint="Connect with TLS: sslmode=verify-full.",
            )
        password = await hold(methods.cleartext(user), frames)
        target = self.config.target(database)
        if target is None:
            raise methods.failed(user, "no server serves this database")
        name = self._accepted.name(password, target.cluster, target.database, user)
        if not self._accepted.holds(name, time.time()):
            try:
                await self._checks.join(name, lambda: self._check(target, user, password))
            except ServerRefused as error:
                raise ServerRefused(error.fields) from None  # one for each who waits
            self._accepted.add(name, password, time.time())
        server_user = self._map.get(user, user)
        if server_user == user:
            self._keep(database, user, password)
        return Admitted(build.authentication_ok(), server_user)

    async def _check(self, target: Target, user: str, password: bytes) -> None:
        try:
            async with asyncio.timeout(TURN):
                await self._checking.acquire()
        except TimeoutError:
            raise Unreachable(
                "too many passwords are being checked at the server just now", hint="Try again."
            ) from None
        try:
            link = await self._probe(target, user, password).open()
        finally:
            self._checking.release()
        link.close()
        if not link.asked:
            raise methods.failed(user, "the server asks this user for no password, so that it shows nothing")

    def _keep(self, database: str, user: str, secret: Secret | None) -> None:
        if secret is None or not self._poor:
            return
        target = self.config.target(database)
        if target is not None and target.user is None and target.cluster in self._poor:
            self.wallet.put(target.cluster, user, secret)


async def hold(dialogue: Dialogue[T], frames: Frames) -> T:
    """Its result; raises what it raises."""
    try:
        data = next(dialogue)
        while True:
            await frames.send(data)
            data = dialogue.send(await frames.next())
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _account(uid: int | None) -> str | None:
    """The name of a user of the operating system, which a server far away may have to be asked for."""
    if uid is None:
        return None
    try:
        return (await asyncio.to_thread(pwd.getpwuid, uid)).pw_name
    except KeyError:
        return None
