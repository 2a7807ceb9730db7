"""Who may in: the rule that fits a client, what it then has to show, and as whom it works on the server.

1. A client shows one name: its user name where there is a password, else the one of its certificate or of
   the user at the other end of the Unix socket. It may ask to be that, or what `auth.map` gives for it.
2. Whatever is expensive happens once at a time and off the event loop; its result is remembered.
3. An answer to a failure says nothing of its reason, and costs the same whoever was named. What is
   dear is done for a few of one place at once, and is not left off for those who hang up.
4. A secret is kept only for pools that have none of their own.
5. From an address where somebody guesses, answers are looked at in turn; see `throttle`.
"""

from __future__ import annotations

import asyncio
import pwd
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from pgambassador.auth import client as methods
from pgambassador.auth.credential import Credential, Md5Hash, Plain
from pgambassador.auth.digest import hmac_sha256
from pgambassador.auth.peer import Peer
from pgambassador.auth.rules import SESSION, first_match, refusal
from pgambassador.auth.scram import Expected
from pgambassador.auth.server import Secret
from pgambassador.auth.throttle import Throttle
from pgambassador.auth.verifier import (
    DEFAULT_ITERATIONS,
    Borrowed,
    Keys,
    Verifier,
    own_salt,
)
from pgambassador.auth.wallet import Wallet
from pgambassador.config import Config, Target, Tls
from pgambassador.config.plain import content
from pgambassador.credentials import blocking
from pgambassador.errors import AmbassadorError, Refused, ServerRefused
from pgambassador.net.derivation import Deriver
from pgambassador.net.directory import Directory
from pgambassador.net.origin import Origin
from pgambassador.net.tasks import spawn
from pgambassador.net.trials import Trials
from pgambassador.net.turns import Turns
from pgambassador.wire import build
from pgambassador.wire.frames import Dialogue

T = TypeVar("T")

REMEMBERED = 10_000
"""So many users' keys, and who was asked for from where."""
PATIENCE = 10.0


class Frames(Protocol):
    """The client's side: `hold` gives the dialogue's result, or raises its exception, or one if the client
    goes. `delay(now)` is asked right before an answer is looked at: seconds that it has to wait. `nonce` is
    our part of the one that the client has been told already, if it has."""

    @property
    def nonce(self) -> bytes | None: ...

    def expect(self, user: str | None, expected: Expected) -> object:
        """So it will have answered right, and be `user` on the server; None: nobody, however it answers."""

    def hold(self, dialogue: Dialogue[T], delay: Callable[[float], float]) -> Awaitable[T]: ...


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
        self._trials = Trials(probe, self.wallet)
        self._keys = Deriver(REMEMBERED)
        # Nobody's keys: they wait in the same line as everybody's, and push none out of memory.
        self._decoys = Deriver(0, turn=self._keys.turn)
        self._questions = Turns("auth.query")
        self._derivations = Turns("key derivation")
        self._seen: dict[tuple[str, str], None] = {}
        self._shown: dict[str, tuple[Credential | None, Verifier]] = {}
        self._listed = directory.users
        self._nothing = secrets.token_bytes(32)
        self._mock_key = _mock_key(config.tls) or self._nothing
        # Whose pools log in with what their clients have brought.
        self._poor = {
            name
            for name, cluster in config.clusters.items()
            if cluster.credentials is None and cluster.upstream().user is None
        }

    def reload(self, config: Config) -> None:
        """Who comes from now on goes by this. Passwords that a server has taken are tried there again."""
        self.config = config
        self._rules, self._map = config.auth.table(), config.auth.map
        self._trials = Trials(self._probe, self.wallet)
        self._mock_key = _mock_key(config.tls) or self._nothing
        self._shown = {}

    async def admit(
        self, peer: Peer, user: str, database: str, frames: Frames, kind: str = SESSION
    ) -> Admitted:
        """Raises Refused, or ServerRefused where a server was asked, with the `delay` to tell it after.
        `kind`: what the connection is for; see `rules`."""
        rule = first_match(self._rules, peer, database, user, kind)
        if rule is None or rule.method == "reject":
            raise refusal(rule, peer, database, user, kind)
        try:
            match rule.method:
                case "trust":
                    return Admitted(build.authentication_ok(), self._server_user(user))
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
            return await self._by_secret(rule.method, peer, user, database, frames)
        except AmbassadorError as error:
            self._count(peer.site, error)
            raise

    def _count(self, site: str, error: AmbassadorError) -> None:
        """A failure is counted once, and its `delay` is there then."""
        failed = isinstance(error, Refused | ServerRefused) and error.sqlstate.startswith("28")
        if failed and not error.counted:  # of the class of "Invalid Authorization Specification"
            error.counted = True
            error.delay = self.throttle.failed(site, asyncio.get_running_loop().time())

    async def tick(self, now: float) -> None:
        """What is to be done now and then; `now` is the event loop's time."""
        self.throttle.forget(now)
        if self.directory.enquiry is not None:
            self.directory.enquiry.tick(now)
        await self.directory.refresh(now)

    def close(self) -> None:
        if self.directory.enquiry is not None:
            self.directory.enquiry.close()

    def _server_user(self, user: str) -> str:
        """Who somebody is on the server that has shown this name."""
        return self._map.get(user, user)

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
        entry = self.directory.known(user)
        if entry is None:
            entry = await self._questions.hold(peer.site, partial(self.directory.find, user))
        credential = entry.credential
        if method == "scram-sha-256":
            credential = await self._verifier(peer.site, user, credential)
        server_user = self._server_user(user)
        learnt: list[Keys] = []
        dialogue = methods.METHODS[method](
            user,
            credential,
            doubt=entry.doubt,
            binding=peer.binding,
            learn=learnt.append if self._poor else None,
            nonce=frames.nonce,
            expect=partial(frames.expect, None if entry.doubt is not None else server_user),
            stand_in=partial(self._stand_in, user, entry.credential),
            **({"seems_scram": self.directory.seems_scram(user, self._mock_key)} if method == "md5" else {}),
        )
        try:
            success = await frames.hold(dialogue, partial(self.throttle.wait, peer.site))
        except Refused:
            self.directory.forget(user)
            raise
        if server_user == user and self._poor:
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

    async def _verifier(
        self, site: str, user: str, credential: Credential | None
    ) -> Verifier | Md5Hash | None:
        """For a plain password its verifier. Where there are such, the first question for a name from a place
        costs everybody one derivation: who is not known, and whose keys are known already."""
        plain = credential.password if isinstance(credential, Plain) else None
        if plain is None and not self.directory.has_plain:
            assert not isinstance(credential, Plain)
            return credential
        shown = self._remembered(user, credential)
        if shown is None or (site, user) not in self._seen:
            salt = own_salt(user, self._mock_key)
            keys = None if plain is None else self._keys.known(plain, salt, DEFAULT_ITERATIONS)
            if plain is not None and keys is None:
                derive = partial(self._keys.keys, plain, salt, DEFAULT_ITERATIONS)
                keys = await self._derivations.hold(site, derive)
            elif (site, user) not in self._seen:
                decoy = partial(self._decoys.keys, b"", salt, DEFAULT_ITERATIONS)
                await self._derivations.hold(site, decoy)
            if keys is not None:
                verifier = Verifier(DEFAULT_ITERATIONS, salt, keys.stored_key, keys.server_key)
                shown = self._show(user, credential, verifier)
        self._see(site, user)
        if not isinstance(credential, Plain):
            return credential
        assert shown is not None
        return shown

    def _stand_in(self, user: str, credential: Credential | None) -> Verifier:
        known = self._remembered(user, credential)
        return known or self._show(user, credential, self.directory.stand_in(user, self._mock_key))

    def _remembered(self, user: str, credential: Credential | None) -> Verifier | None:
        """What a name was shown, known or not, while this was known of it: again it costs the same."""
        if self._listed is not self.directory.users:
            self._listed, self._shown = self.directory.users, {}
        found = self._shown.get(user)
        return found[1] if found is not None and found[0] is credential else None

    def _show(self, user: str, credential: Credential | None, verifier: Verifier) -> Verifier:
        if self.directory.enquiry is None:  # what a server would show may be another thing tomorrow
            self._shown[user] = credential, verifier
            if len(self._shown) > REMEMBERED:
                del self._shown[next(iter(self._shown))]
        return verifier

    def _see(self, site: str, user: str) -> None:
        """Remember who was asked for from where; what was asked for longest ago is forgotten first."""
        self._seen.pop((site, user), None)
        self._seen[site, user] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    # Passwords that only the server knows.

    async def _at_server(self, peer: Peer, user: str, database: str, frames: Frames) -> Admitted:
        if self.config.is_console(database):
            raise Refused(
                "the console does not take a password that only the server knows",
                hint="Write a rule for database pgambassador, with another method, before this one.",
                sqlstate="0A000",
            )
        if not peer.confidential:
            raise Refused(
                "a password would have to come in clear text, over a connection without TLS",
                hint="Connect with TLS: sslmode=verify-full.",
            )
        password = await frames.hold(methods.cleartext(user), partial(self.throttle.wait, peer.site))
        target = self.config.target(database)
        if target is None:
            raise methods.failed(user, "no server serves this database")
        server_user = self._server_user(user)
        needed = server_user == user and target.user is None and target.cluster in self._poor
        if not self._trials.passed(target, user, password, needed=needed):
            trial = partial(self._trials.hold, target, user, password, needed=needed)
            self.throttle.begins(peer.site)
            error = await asyncio.shield(spawn(self._try(peer.site, trial), "password check"))
            if error is not None:
                raise error.with_traceback(None)
        return Admitted(build.authentication_ok(), server_user)

    async def _try(self, site: str, trial: Callable[[], Awaitable[None]]) -> AmbassadorError | None:
        """It takes its turn until it is over, and counts, also if who asked has hung up."""
        try:
            await trial()
        except AmbassadorError as error:
            self._count(site, error)
            return error
        finally:
            self.throttle.ends(site)
        return None

    def refused(self, cluster: str, user: str, secret: Secret) -> None:
        """A pool that logged in with what a client has brought is told that it is wrong."""
        self._trials.refused(cluster, user, secret)

    def _keep(self, database: str, user: str, secret: Secret | None) -> None:
        if secret is None:
            return
        target = self.config.target(database)
        if target is not None and target.user is None and target.cluster in self._poor:
            self.wallet.put(target.cluster, user, secret)


async def _account(uid: int | None) -> str | None:
    """The name of a user of the operating system, which a server far away may have to be asked for."""
    if uid is None:
        return None
    try:
        whom, hint = "the system's list of users", "Check the directory that it comes from (nsswitch.conf)."
        found = await blocking.ask(partial(pwd.getpwuid, uid), seconds=PATIENCE, whom=whom, hint=hint)
        return found.pw_name
    except KeyError:
        return None


def _mock_key(tls: Tls) -> bytes:
    """What the salts of unknown users come from. The private key is the one secret that nobody could find out
    from a salt by guessing, and is the same after a restart and in all processes that serve one name; b"" if
    there is none."""
    try:
        data = content(tls.key or tls.certificate or "")
    except OSError:
        data = b""
    return hmac_sha256(data, b"mock salts") if data else b""
