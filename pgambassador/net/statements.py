"""Statements that clients prepare, one object for each distinct text and parameter types.

A statement lives as long as a session or a server connection refers to it; the same text prepared by a
thousand clients is one name on each server, if they all have set the same: what a constant, a name or a
backslash means is decided when a statement is parsed. The names carry a part that nobody can guess, so that
no client's own name can mean one of them.
"""

from __future__ import annotations

import re
import secrets
from itertools import count
from weakref import WeakValueDictionary

from pgambassador.net.parties import Statement
from pgambassador.protocol.settings import Settings
from pgambassador.wire import build

# Bytes of settings that are kept for the sake of what is prepared under them.
_SETTINGS_MOST = 16 * 1024
_OUTDATED = b"cached plan must not change result type"


def essence(settings: Settings) -> Settings | None:
    """What of them matters to a statement; None of large ones, which are not kept alive for its sake."""
    return settings.essence if settings.size <= _SETTINGS_MOST else None


class Statements:
    """`statement(body, settings)`; the body is that of a Parse behind its name: text, zero byte, types.

    Without settings, which is when nobody knows them, the statement is its client's alone; with very large
    ones too.
    """

    def __init__(self) -> None:
        self._prefix = b"pga_" + secrets.token_hex(6).encode() + b"_"
        self._numbers = count(1)
        self._known: WeakValueDictionary[tuple[bytes, object], Statement] = WeakValueDictionary()
        self.age = 0
        """How often tables or functions have changed."""
        self.refusal = build.error_response("ERROR", "0A000", _OUTDATED.decode())
        """What a client is told whose statement's rows have changed: as a server said it last."""

    def statement(self, body: bytes, settings: Settings | None) -> Statement:
        settings = None if settings is None else essence(settings)
        key = (body, object() if settings is None else settings)
        known = self._known.get(key)
        if known is None:
            name = self._prefix + b"%d" % next(self._numbers)
            frame = build.frame(ord("P"), name + b"\0" + body)
            known = Statement(name, frame, body.partition(b"\0")[0])
            known.settings = settings
            self._known[key] = known
        return known

    def forget(self) -> None:
        """Tables or functions have changed: whoever prepares from now on is answered by a server, and who was
        told of rows before gets none of another kind."""
        self.age += 1
        self._known.clear()

    def outdated(self, error: bytes) -> None:
        """A server has refused a statement (0A000), perhaps because its table was changed past us."""
        if _OUTDATED in error:
            self.refusal = error
        self.forget()

    def __len__(self) -> int:
        return len(self._known)


_READ_MOST = 2048
_FORGETS = re.compile(rb"(?i)\b(?:deallocate|discard|do|call|execute)\b")


def may_forget(note: object) -> bool:
    """Whether a statement may take prepared statements away."""
    if note is None or len(text := statement_text(note)) > _READ_MOST:
        return True
    return _FORGETS.search(text) is not None


def same_rows(one: bytes, other: bytes) -> bool:
    """Whether two RowDescriptions (or NoData) mean the same to a client, wherever the columns come from."""
    return one == other or _columns(one) == _columns(other)


def _columns(description: bytes) -> list[tuple[bytes, bytes]]:
    """Name, and type, size and modifier of each column ("RowDescription"); NoData has none."""
    found, at = [], 7
    while description[:1] == b"T" and at < len(description):
        end = description.index(b"\0", at)
        found.append((description[at:end], description[end + 7 : end + 17]))
        at = end + 19
    return found


def with_types(frame: bytes, description: bytes) -> bytes:
    """A Parse that says the types of its parameters, as a ParameterDescription has told them."""
    types = description[5:]
    text = frame.index(b"\0", frame.index(b"\0", 5) + 1) + 1
    said = frame[text:]
    # What the client has said stays; it may have left some open, or said fewer than there are.
    return frame if said == types else build.frame(ord("P"), frame[5:text] + types)


def renamed(error: bytes, statement: Statement, names: dict[bytes, Statement]) -> bytes | None:
    """An ErrorResponse that speaks of a statement by our name, with its client's; None if it does not."""
    body = error[5:]
    for name, known in names.items():
        if known is statement:
            body = body.replace(b'"%b"' % statement.name, b'"%b"' % name)
    return None if len(body) + 5 == len(error) and body == error[5:] else build.frame(ord("E"), body)


def statement_text(note: object) -> bytes:
    """The statement's text from what the relay kept of it: a query, a Parse, or a Statement."""
    if note is None:
        return b""
    if isinstance(note, bytes):
        start = 0
        if note[:1] == b"P" and len(note) > 6 and int.from_bytes(note[1:5], "big") + 1 == len(note):
            start = 6
        end = note.find(b"\0", start)
        return note[start:] if end < 0 else note[start:end]
    text: bytes = note.text  # type: ignore[attr-defined]
    return text
