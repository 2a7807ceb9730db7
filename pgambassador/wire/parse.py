"""The messages we read: first packets, login messages, the fields of errors.

1. A payload is everything after the length. Whatever a peer can get wrong is a ProtocolViolation that names
   the message; nothing else is raised.
2. Text is decoded as UTF-8 with surrogateescape, the inverse of `build`.
3. Errors and notices of a server are never refused, only read as far as they make sense.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from struct import unpack_from
from typing import Final

from pgambassador.errors import ProtocolViolation
from pgambassador.wire.build import CANCEL_REQUEST_CODE

# Errors have 18 fields today; more than this is noise.
MAX_ERROR_FIELDS: Final = 64

# "CancelRequest": the key is 4 bytes in protocol 3.0 and up to 256 in 3.2.
MIN_CANCEL_KEY: Final = 4
MAX_CANCEL_KEY: Final = 256

# Of NAMEDATALEN (64) the last is a NUL: so much of an identifier counts.
NAME_MOST: Final = 63

# What is longer, which a client may make at will, is not remembered.
USUAL: Final = 1024


@dataclass(frozen=True)
class StartupPacket:
    """What a client asked for. `extensions` holds the `_pq_.` options, under their full names.

    As a server does it, names are cut to the length of one before anything is made of them. Nothing in it is
    ever changed: who sends the same gets the same.
    """

    version: int
    params: dict[str, str]
    extensions: dict[str, str] = field(default_factory=dict)
    usual: bool = field(default=False, repr=False, compare=False)
    """Short enough for what follows from it to be remembered."""

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Of all of it, since a client chooses what it is compared with."""
        return hash((self.version, frozenset(self.params.items())))

    @property
    def minor(self) -> int:
        return self.version & 0xFFFF

    @cached_property
    def user(self) -> str:
        """Empty if the client named none, which is an error."""
        return _name(self.params.get("user", ""))

    @cached_property
    def database(self) -> str:
        """The user's name where the client named no database."""
        return _name(self.params.get("database", "")) or self.user


@dataclass(frozen=True, slots=True)
class CancelRequest:
    pid: int
    key: bytes = field(repr=False)


def _name(text: str) -> str:
    """No longer than NAME_MOST bytes, and no character cut apart."""
    data = text.encode("utf-8", "surrogateescape")
    if len(data) <= NAME_MOST:
        return text
    end = NAME_MOST
    while end > NAME_MOST - 3 and data[end] & 0xC0 == 0x80:
        end -= 1
    return decode(data[:end])


def decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def cstring(payload: bytes, start: int, what: str) -> tuple[bytes, int]:
    """The string at `start`, and the position behind its NUL."""
    end = payload.find(b"\0", start)
    if end < 0:
        raise _malformed(what)
    return payload[start:end], end + 1


def _malformed(what: str) -> ProtocolViolation:
    return ProtocolViolation(f"malformed {what} message")


# --- first packets ------------------------------------------------------------------------------------------


def startup(payload: bytes) -> StartupPacket:
    """StartupMessage: version, pairs of strings, one terminator, and nothing behind it."""
    what = "StartupMessage"
    if len(payload) < 5:
        raise _malformed(what)
    (version,) = unpack_from("!I", payload)
    params: dict[str, str] = {}
    extensions: dict[str, str] = {}
    position = 4
    while True:
        raw, position = cstring(payload, position, what)
        if not raw:
            break
        value, position = cstring(payload, position, what)
        name = decode(raw)
        (extensions if name.startswith("_pq_.") else params)[name] = decode(value)
    if position != len(payload):
        raise ProtocolViolation("invalid startup packet layout: expected terminator as last byte")
    return StartupPacket(version, params, extensions, usual=len(payload) <= USUAL)


def cancel_request(payload: bytes) -> CancelRequest:
    if not 8 + MIN_CANCEL_KEY <= len(payload) <= 8 + MAX_CANCEL_KEY:
        raise _malformed("CancelRequest")
    code, pid = unpack_from("!II", payload)
    if code != CANCEL_REQUEST_CODE:
        raise _malformed("CancelRequest")
    return CancelRequest(pid, payload[8:])


# --- from a client ------------------------------------------------------------------------------------------


def password(payload: bytes) -> bytes:
    secret, end = cstring(payload, 0, "PasswordMessage")
    if end != len(payload):
        raise _malformed("PasswordMessage")
    return secret


_PLAIN: Final = b"SCRAM-SHA-256\0"


def sasl_initial_response(payload: bytes) -> tuple[str, bytes | None]:
    """The chosen mechanism, and the client's first message if it is there (length -1: it is not)."""
    if payload[:14] == _PLAIN and int.from_bytes(payload[14:18], "big") == len(payload) - 18:
        return "SCRAM-SHA-256", payload[18:]  # as most of them
    what = "SASLInitialResponse"
    mechanism, position = cstring(payload, 0, what)
    if len(payload) < position + 4:
        raise _malformed(what)
    (length,) = unpack_from("!i", payload, position)
    data = payload[position + 4 :]
    if length == -1 and not data:
        return decode(mechanism), None
    if length != len(data):
        raise _malformed(what)
    return decode(mechanism), data


# --- from a server ------------------------------------------------------------------------------------------


def authentication(payload: bytes) -> tuple[int, bytes]:
    """The kind of AuthenticationXXX, and what follows it."""
    if len(payload) < 4:
        raise _malformed("Authentication")
    (kind,) = unpack_from("!i", payload)
    return kind, payload[4:]


def sasl_mechanisms(data: bytes) -> list[str]:
    """The names in AuthenticationSASL (`data` is what `authentication` returned)."""
    names: list[str] = []
    position = 0
    while True:
        name, position = cstring(data, position, "AuthenticationSASL")
        if not name:
            return names
        names.append(decode(name))


def parameter_status(payload: bytes) -> tuple[str, str]:
    what = "ParameterStatus"
    name, position = cstring(payload, 0, what)
    value, position = cstring(payload, position, what)
    if not name or position != len(payload):
        raise _malformed(what)
    return decode(name), decode(value)


def backend_key_data(payload: bytes) -> tuple[int, bytes]:
    if not 4 + MIN_CANCEL_KEY <= len(payload) <= 4 + MAX_CANCEL_KEY:
        raise _malformed("BackendKeyData")
    (pid,) = unpack_from("!I", payload)
    return pid, payload[4:]


def negotiate_protocol_version(payload: bytes) -> tuple[int, list[str]]:
    """The version the server wants, and the `_pq_.` options it does not know."""
    what = "NegotiateProtocolVersion"
    if len(payload) < 8:
        raise _malformed(what)
    version, count = unpack_from("!II", payload)
    names: list[str] = []
    position = 8
    while position < len(payload):
        name, position = cstring(payload, position, what)
        names.append(decode(name))
    if len(names) != count:
        raise _malformed(what)
    return version, names


def columns(row: bytes) -> list[bytes | None]:
    """The values of a DataRow, which comes with its head."""
    values: list[bytes | None] = []
    at = 7
    for _ in range(int.from_bytes(row[5:7], "big")):
        size = int.from_bytes(row[at : at + 4], "big", signed=True)
        at += 4
        values.append(None if size < 0 else row[at : at + size])
        at += max(size, 0)
    return values


_DEALLOCATE = re.compile(
    rb'(?i)\bdeallocate\s+(?:prepare\s+)?(?:"((?:[^"]|"")+)"|([a-z_\x80-\xff][\w$\x80-\xff]*))'
)


def deallocated(query: bytes) -> list[bytes]:
    """The names that follow a DEALLOCATE in the text of a query, some of them perhaps in a literal."""
    return [
        (quoted.replace(b'""', b'"') if quoted else plain.lower())[:NAME_MOST]
        for quoted, plain in _DEALLOCATE.findall(query)
    ]


_NAMED = re.compile(
    rb'(?i)\b(deallocate|execute|prepare)\s+(?:prepare\s+)?(?:"((?:[^"]|"")+)"|([a-z_\x80-\xff][\w$\x80-\xff]*))'
)


def named_by_sql(query: bytes) -> dict[bytes, set[bytes]]:
    """What is done with which prepared statements in the text of a query: deallocate, execute, prepare.

    Some of the names may stand in a literal.
    """
    found: dict[bytes, set[bytes]] = {}
    for use, quoted, plain in _NAMED.findall(query):
        name = (quoted.replace(b'""', b'"') if quoted else plain.lower())[:NAME_MOST]
        found.setdefault(name, set()).add(use.lower())
    return found


def ready_for_query(payload: bytes) -> int:
    """The transaction status, one of I, T, E."""
    if len(payload) != 1 or payload not in (b"I", b"T", b"E"):
        raise _malformed("ReadyForQuery")
    return payload[0]


def fields(payload: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letter; any may be missing, even C."""
    found: dict[str, str] = {}
    position = 0
    while position < len(payload) and payload[position] and len(found) < MAX_ERROR_FIELDS:
        end = payload.find(b"\0", position)
        if end < 0:
            end = len(payload)
        code = chr(payload[position])
        if code.isascii() and code.isalpha():
            found.setdefault(code, decode(payload[position + 1 : end]))
        position = end + 1
    return found
