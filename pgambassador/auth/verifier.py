"""What SCRAM keeps in place of a password: keys, verifiers, and stand-ins for users who do not exist.

1. No repr shows a key.
2. PBKDF2 is the one expensive step of a login. It is behind `Derive`, so that its result can be kept.
3. What an unknown user is shown is what a known one would be shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pgambassador.auth.digest import hmac_sha256, sha256
from pgambassador.auth.saslprep import saslprep
from pgambassador.errors import Refused

DEFAULT_ITERATIONS: Final = 4096
KEY_SIZE: Final = 32
SALT_SIZE: Final = 16
USUAL: Final = (DEFAULT_ITERATIONS, SALT_SIZE)


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """What a password becomes under one salt and one iteration count. As good as the password itself."""

    client_key: bytes
    server_key: bytes

    @property
    def stored_key(self) -> bytes:
        return sha256(self.client_key)


@dataclass(frozen=True, slots=True)
class Verifier:
    """What the verifying side keeps: enough to check a proof, not enough to make one."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)
    shown: bytes = field(init=False, repr=False, compare=False)
    """What its owner is shown of it: how a server-first-message ends."""

    def __post_init__(self) -> None:
        shown = b",s=%b,i=%d" % (binascii.b2a_base64(self.salt, newline=False), self.iterations)
        object.__setattr__(self, "shown", shown)


@dataclass(frozen=True, slots=True)
class Borrowed:
    """What the login of a client has given away, in place of its password: good for every server that keeps
    the same verifier, which is known by salt and iterations."""

    keys: Keys = field(repr=False)
    salt: bytes
    iterations: int

    def __call__(self, password: bytes, salt: bytes, iterations: int) -> Keys:
        """As `derive`, for the one salt."""
        if salt != self.salt or iterations != self.iterations:
            raise Refused(
                "the server keeps another SCRAM verifier for this user than its login was checked with",
                hint="Copy rolpassword from the server's pg_authid again, or configure auth.query.",
                sqlstate="28P01",
            )
        return self.keys


Derive: TypeAlias = Callable[[bytes, bytes, int], Keys]


def derive(password: bytes, salt: bytes, iterations: int) -> Keys:
    """About 1 ms at 4096 iterations; nothing else in this module takes noticeable time."""
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, iterations)
    return Keys(hmac_sha256(salted, b"Client Key"), hmac_sha256(salted, b"Server Key"))


class KeyCache:
    """`derive` with a memory for the last keys. It knows passwords only by an HMAC under a key of its own."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._keys: dict[bytes, Keys] = {}
        self._pepper = secrets.token_bytes(KEY_SIZE)

    def __call__(self, password: bytes, salt: bytes, iterations: int) -> Keys:
        keys = self.known(password, salt, iterations)
        if keys is None:
            keys = derive(password, salt, iterations)
            self.keep(password, salt, iterations, keys)
        return keys

    def known(self, password: bytes, salt: bytes, iterations: int) -> Keys | None:
        name = self._name(password, salt, iterations)
        keys = self._keys.pop(name, None)
        if keys is not None:
            self._keys[name] = keys
        return keys

    def keep(self, password: bytes, salt: bytes, iterations: int, keys: Keys) -> None:
        """The last keys are kept; those that were asked for longest ago go first."""
        self._keys[self._name(password, salt, iterations)] = keys
        if len(self._keys) > self._size:
            del self._keys[next(iter(self._keys))]

    def _name(self, password: bytes, salt: bytes, iterations: int) -> bytes:
        return hmac_sha256(self._pepper, b"%d %d " % (iterations, len(salt)) + salt + password)

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<KeyCache {len(self)} of {self._size}>"


def make_verifier(
    password: bytes, salt: bytes, iterations: int = DEFAULT_ITERATIONS, derive: Derive = derive
) -> Verifier:
    keys = derive(password, salt, iterations)
    return Verifier(iterations, salt, keys.stored_key, keys.server_key)


def read_verifier(text: str) -> Verifier | None:
    """Read SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey, as in pg_authid; None if it is not that."""
    match = re.fullmatch(r"SCRAM-SHA-256\$(\d{1,10}):([^$:]+)\$([^$:]+):([^$:]+)", text, re.ASCII)
    if match is None:
        return None
    iterations = int(match[1])
    try:
        salt, stored_key, server_key = (base64.b64decode(part, validate=True) for part in match.groups()[1:])
    except (binascii.Error, ValueError):
        return None
    if not (0 < iterations <= 0x7FFFFFFF and salt and len(stored_key) == len(server_key) == KEY_SIZE):
        return None
    return Verifier(iterations, salt, stored_key, server_key)


def own_salt(user: str, process_key: bytes, size: int = SALT_SIZE) -> bytes:
    """A salt that looks random, and is the same each time this user name is tried in this process; 32 bytes
    at most."""
    return hmac_sha256(process_key, b"salt " + user.encode("utf-8", "surrogateescape"))[:size]


def mock_verifier(user: str, process_key: bytes, shape: tuple[int, int] = USUAL) -> Verifier:
    """For a user who does not exist: the salt that a real one would have, and keys that no password gives.
    `shape`: its iterations, and the size of its salt."""
    iterations, size = shape
    keys = secrets.token_bytes(KEY_SIZE), secrets.token_bytes(KEY_SIZE)
    return Verifier(iterations, own_salt(user, process_key, size), *keys)
