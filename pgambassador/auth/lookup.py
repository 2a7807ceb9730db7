"""Asking a server about a user: one statement, one row, as a dialogue.

1. The name is a parameter, never part of the statement's text.
2. A row about somebody else counts as none: names are cut off and compared in ways that are the server's.
3. After an error that leaves the connection as it is, the answer is read to its end.
"""

from __future__ import annotations

from struct import pack
from typing import Final, NamedTuple

from pgambassador.auth.credential import Credential, read_credential
from pgambassador.errors import ConfigError, ProtocolViolation, ServerRefused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Dialogue, Frontend
from pgambassador.wire.parse import NAME_MOST

_MOST_FRAMES: Final = 100
_MOST_ROWS: Final = 2
_TRUE: Final = frozenset((b"t", b"true", b"on", b"1"))


class Entry(NamedTuple):
    """What is known of a user. `doubt`: why no login may succeed, although there may be a credential."""

    credential: Credential | None = None
    doubt: str | None = None


NOBODY: Final = Entry()


def look_up(statement: str, user: str) -> Dialogue[Entry]:
    """The statement gives name, secret, and perhaps whether the user may log in (a boolean)."""
    rows: list[list[bytes | None]] = []
    refusal: ServerRefused | None = None
    data = _question(statement, user)
    for _ in range(_MOST_FRAMES):
        kind, payload = yield data
        data = b""
        match kind:
            case Backend.DATA_ROW:
                rows.append(parse.columns(b"D\0\0\0\0" + payload))
            case Backend.ERROR_RESPONSE:
                refusal = ServerRefused(parse.fields(payload))
                if ends(refusal):
                    raise refusal
            case Backend.READY_FOR_QUERY:
                if refusal is not None:
                    raise refusal
                return _entry(rows, user)
            case _:
                pass
    raise ProtocolViolation("the server does not come to an end of its answer")


def ends(refusal: ServerRefused) -> bool:
    """Whether the connection is over with it; the severity may be written in the server's language."""
    return refusal.fields.get("V", refusal.fields.get("S")) in ("FATAL", "PANIC")


def askable(user: str) -> bool:
    """Whether a server can know such a name: it is UTF-8, and no longer than a name can be."""
    try:
        return len(user.encode()) <= NAME_MOST
    except UnicodeEncodeError:  # bytes that were none
        return False


def _question(statement: str, user: str) -> bytes:
    name = build.encode(user)
    bind = b"\0\0" + pack("!HHI", 0, 1, len(name)) + name + pack("!H", 0)
    return (
        build.parse(b"", statement.encode())
        + build.frame(Frontend.BIND, bind)
        + build.frame(Frontend.EXECUTE, b"\0" + pack("!I", _MOST_ROWS))
        + build.SYNC
    )


def _entry(rows: list[list[bytes | None]], user: str) -> Entry:
    if len(rows) > 1:
        raise _wrong("more than one row")
    if not rows:
        return NOBODY
    (row,) = rows
    if len(row) not in (2, 3):
        raise _wrong(f"{len(row)} columns")
    if row[0] != build.encode(user):
        return NOBODY
    credential = None if row[1] is None else read_credential(parse.decode(row[1]))
    valid = len(row) == 2 or row[2] in _TRUE
    return Entry(credential, None if valid else "the account has expired")


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        f"auth.query.statement gives {what} for one user",
        hint="It gives one row or none: name, secret, and perhaps whether the user may log in.",
        sqlstate="28000",
    )
