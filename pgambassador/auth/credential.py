"""What a user list knows of one user, told apart as PostgreSQL does it with `rolpassword`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TypeAlias

from pgambassador.auth.verifier import Verifier, read_verifier


@dataclass(frozen=True, slots=True)
class Plain:
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Md5Hash:
    """md5(password + user name), in hex."""

    digest: bytes = field(repr=False)


Credential: TypeAlias = Plain | Md5Hash | Verifier


def read_credential(secret: str) -> Credential | None:
    """A SCRAM verifier, `md5` and 32 hex digits, or a plain password; None, no login at all, if empty."""
    if not secret:
        return None
    if re.fullmatch(r"md5[0-9a-f]{32}", secret):
        return Md5Hash(secret[3:].encode("ascii"))
    return read_verifier(secret) or Plain(secret.encode("utf-8", "surrogateescape"))


def md5_digest(password: bytes, user: str) -> bytes:
    return _md5(password + user.encode("utf-8", "surrogateescape"))


def md5_response(digest: bytes, salt: bytes) -> bytes:
    """What answers AuthenticationMD5Password."""
    return b"md5" + _md5(digest + salt)


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode("ascii")
