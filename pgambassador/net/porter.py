"""Who may in: the rule that fits a client, what it then has to show, and as whom it works on the server.

1. A client shows one name: its user name where there is a password, else the one of its certificate or of
   the user at the other end of the Unix socket. It may ask to be that, or what `auth.map` gives for it.
2. Whatever is expensive happens once at a time and off the event loop; its result is remembered.
3. An answer to a failure says nothing of its reason, and costs the same whoever was named.
4. A secret is kept only for pools that have none of their own.
5. From an address where somebody guesses, answers are looked at in turn; see `throttle`.
"""

from __future__ import annotations

import asyncio
import pwd
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from pgambassador.auth import client as methods
from pgambassador.auth.credential import Credential, Plain
from pgambassador.auth.peer import Peer
from pgambassador.auth.rules import first_match, refusal
from pgambassador.auth.server import Secret
from pgambassador.auth.throttle import Throttle
from pgambassador.auth.verifier import (
    DEFAULT_ITERATIONS,
    Borrowed,
    Keys,
    Verifier,
    hmac_sha256,
    own_salt,
)
from pgambassador.auth.wallet import Wallet
from pgambassador.config import Config, Target, Tls
from pgambassador.errors import Refused, ServerRefused
from pgambassador.net.derivation import Deriver
from pgambassador.net.directory import Directory
from pgambassador.net.origin import Origin
from pgambassador.net.trials import Trials
from pgambassador.wire import build
from pgambassador.wire.frames import Dialogue, Frame

T = TypeVar("T")

REMEMBERED = 1024
"""So many users' keys."""


class Frames(Protocol):
    """The client's side of a dialogue."""

    async def send(self, data: bytes) -> None: ...
    async def next(self) -> Frame: ...
    async def pause(self, seconds: float) -> None: ...  # Ends with an exception of its own if the client goes


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
        self._trials = Trials(probe, self.wallet)
        self._keys = Deriver(REMEMBERED)
        # Nobody's keys: they wait in the same line as everybody's, and push none out of memory.
        self._decoys = Deriver(REMEMBERED, turn=self._keys.turn)
        self._mock_key = _mock_key(config.tls)
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
            user,
            credential,
            doubt=entry.doubt,
            binding=peer.binding,
            learn=learnt.append,
            process_key=self._mock_key,
            **({"seems_scram": self.directory.seems_scram(user, self._mock_key)} if method == "md5" else {}),
        )
        try:
            success = await hold(dialogue, frames, lambda: self._turn(peer, frames))
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
        salt = own_salt(user, self._mock_key)
        if isinstance(credential, Plain):
            keys = await self._keys.keys(credential.password, salt, DEFAULT_ITERATIONS)
            return Verifier(DEFAULT_ITERATIONS, salt, keys.stored_key, keys.server_key)
        if self.directory.has_plain:
            await self._decoys.keys(b"", salt, DEFAULT_ITERATIONS)
        return credential

    # Passwords that only the server knows.

    async def _at_server(self, peer: Peer, user: str, database: str, frames: Frames) -> Admitted:
        if not peer.confidential:
            raise Refused(
                "a password would have to come in clear text, over a connection without TLS",
                hint="Connect with TLS: sslmode=verify-full.",
            )
        password = await hold(methods.cleartext(user), frames, lambda: self._turn(peer, frames))
        target = self.config.target(database)
        if target is None:
            raise methods.failed(user, "no server serves this database")
        server_user = self._map.get(user, user)
        needed = server_user == user and target.cluster in self._poor
        if not self._trials.passed(target, user, password, needed=needed):
            with self.throttle.trying(peer.site):
                await self._trials.hold(target, user, password, needed=needed)
        return Admitted(build.authentication_ok(), server_user)

    def refused(self, cluster: str, user: str, secret: Secret) -> None:
        """A pool that logged in with what a client has brought is told that it is wrong."""
        self._trials.refused(cluster, user, secret)

    async def _turn(self, peer: Peer, frames: Frames) -> None:
        """Until what somebody answers may be looked at."""
        loop = asyncio.get_running_loop()
        while (seconds := self.throttle.wait(peer.site, loop.time())) > 0:
            await frames.pause(seconds)

    def _keep(self, database: str, user: str, secret: Secret | None) -> None:
        if secret is None or not self._poor:
            return
        target = self.config.target(database)
        if target is not None and target.user is None and target.cluster in self._poor:
            self.wallet.put(target.cluster, user, secret)


async def hold(dialogue: Dialogue[T], frames: Frames, turn: Callable[[], Awaitable[None]]) -> T:
    """Its result; raises what it raises. Between the turn and the look at an answer nothing is awaited."""
    try:
        data = next(dialogue)
        while True:
            await frames.send(data)
            frame = await frames.next()
            await turn()
            data = dialogue.send(frame)
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


def _mock_key(tls: Tls) -> bytes:
    """What the salts of unknown users come from. The private key is the one secret that nobody could find out
    from a salt by guessing, and is the same after a restart and in all processes that serve one name."""
    try:
        data = Path(tls.key or tls.certificate or "").read_bytes()
    except OSError:
        data = b""
    return hmac_sha256(data, b"mock salts") if data else secrets.token_bytes(32)
