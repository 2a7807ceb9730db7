"""Who is known: the users of the configuration, those of its file, and those that a server is asked about.

1. The lists come first. A server is asked about the others only, for each once at a time.
2. What it said is believed for `MEMORY`, also that it does not know one, and then forgotten; at most `SIZE`
   answers are kept. It is not asked about what cannot be the name of a user.
3. A file that has become useless leaves the users as they were, and is complained about once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

from pgambassador.auth.credential import Credential, Plain, read_credential
from pgambassador.auth.digest import hmac_sha256
from pgambassador.auth.lookup import NOBODY, Entry, askable
from pgambassador.auth.verifier import SALT_SIZE, USUAL, Verifier, mock_verifier
from pgambassador.config import Auth, read_users
from pgambassador.credentials import blocking
from pgambassador.errors import AmbassadorError
from pgambassador.net.enquiry import Enquiry
from pgambassador.net.flights import Flights

log = logging.getLogger(__name__)

MEMORY = 10.0
SIZE = 10_000
PAUSE = 1.0
"""So often the file is looked at."""
PATIENCE = 30.0

Users: TypeAlias = Mapping[str, Credential | None]


class Directory:
    """`users` are those of the lists, as they are now. `has_plain`: of some, there or on the server, the
    password itself was seen, from which keys have to be derived at a login."""

    def __init__(self, auth: Auth, users: Users, enquiry: Enquiry | None = None) -> None:
        self._take(users)
        self.enquiry = enquiry
        self._auth = auth
        self._answers: dict[str, tuple[Entry, float]] = {}
        self._flights: Flights[Entry] = Flights("auth.query")
        self._stamp = _stamp(auth.users_file)
        self._next_look = 0.0
        self._reading = False

    def reload(self, auth: Auth, users: Users, enquiry: Enquiry | None) -> None:
        """Go by these lists, and ask there; what was said before is forgotten."""
        if self.enquiry is not None and self.enquiry is not enquiry:
            self.enquiry.retire()
        self.enquiry, self._auth = enquiry, auth
        self._take(users)
        self._answers.clear()
        self._stamp = _stamp(auth.users_file)

    def known(self, user: str) -> Entry | None:
        """What can be said of a user at once; None if a server has to be asked."""
        if user in self.users:
            return Entry(self.users[user])
        if self.enquiry is None or not askable(user):
            return NOBODY
        entry, until = self._answers.get(user, (None, 0.0))
        return entry if asyncio.get_running_loop().time() < until else None

    async def find(self, user: str) -> Entry:
        """Unreachable if a server would have to be asked and does not answer."""
        entry, asking = self.known(user), self.enquiry
        if entry is not None or asking is None:
            return entry or NOBODY
        return await self._flights.join(user, lambda: self._ask(asking, user))

    def _take(self, users: Users) -> None:
        self.users = users
        self.has_plain = any(isinstance(each, Plain) for each in users.values())
        known = [each for each in users.values() if each is not None]
        self._scram_share = sum(isinstance(each, Verifier) for each in known) / len(known) if known else 1.0
        self._shapes = sorted(shape for each in known if (shape := _shape(each)) is not None)

    def seems_scram(self, user: str, key: bytes) -> bool:
        """What a name that nobody has is asked for where the method is md5: SCRAM, as PostgreSQL by default
        (`password_encryption`). Where all who are known are listed here, so often as they would be, and
        always the same for a name under one `key`."""
        if self.enquiry is not None:
            return True
        return _lot(key, b"method ", user) < self._scram_share

    def stand_in(self, user: str, key: bytes) -> Verifier:
        """What a name that nobody has is shown by SCRAM. Its iterations and the size of its salt are those of
        somebody who is listed, always the same for a name under one `key`; where a server is asked, what that
        gives to those who get a password now, as PostgreSQL does it."""
        shape = USUAL
        if self.enquiry is not None:
            shape = self.enquiry.iterations, SALT_SIZE
        elif self._shapes:
            shape = self._shapes[int(_lot(key, b"shape ", user) * len(self._shapes))]
        return mock_verifier(user, key, shape)

    def forget(self, user: str) -> None:
        """Somebody could not log in: perhaps because the answer is of yesterday."""
        self._answers.pop(user, None)

    async def _ask(self, asking: Enquiry, user: str) -> Entry:
        entry = await asking.ask(user)
        if asking is not self.enquiry:
            return entry  # nobody is asked there any more
        self.has_plain = self.has_plain or isinstance(entry.credential, Plain)
        self._answers.pop(user, None)
        self._answers[user] = entry, asyncio.get_running_loop().time() + MEMORY
        if len(self._answers) > SIZE:
            del self._answers[next(iter(self._answers))]
        return entry

    def _expire(self, now: float) -> None:
        """The oldest answers stand first."""
        while self._answers:
            user = next(iter(self._answers))
            if self._answers[user][1] > now:
                return
            del self._answers[user]

    async def refresh(self, now: float) -> None:
        """Forget old answers, and read the file again if it has changed; `now` is the event loop's time."""
        self._expire(now)
        if self._auth.users_file is None or self._reading or now < self._next_look:
            return
        self._next_look = now + PAUSE
        stamp = _stamp(self._auth.users_file)
        if stamp == self._stamp:
            return
        self._stamp, self._reading = stamp, True
        try:
            read = partial(listed, self._auth)
            hint = "Check the file system that it is on."
            self._take(await blocking.ask(read, seconds=PATIENCE, whom="auth.users_file", hint=hint))
            log.info("users were read again from %s", self._auth.users_file)
        except AmbassadorError as error:
            log.error("the users stay as they were: %s", error.sentence())
        finally:
            self._reading = False


def _lot(key: bytes, what: bytes, user: str) -> float:
    """In [0, 1), always the same for a name under one key."""
    lot = hmac_sha256(key, what + user.encode("utf-8", "surrogateescape"))
    return int.from_bytes(lot[:6], "big") / 2.0**48


def _shape(credential: Credential) -> tuple[int, int] | None:
    """The iterations and the size of the salt that its owner is shown; None for who is shown a stand-in's."""
    match credential:
        case Verifier(iterations, salt):
            return iterations, len(salt)
        case Plain():
            return USUAL
    return None


def listed(auth: Auth) -> dict[str, Credential | None]:
    """The users of the configuration and of its file; ConfigError if that is of no use."""
    return {name: read_credential(secret.reveal()) for name, secret in read_users(auth).items()}


def _stamp(path: str | None) -> tuple[int, int, int] | None:
    """What tells one version of a file from the next; None if there is none."""
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
