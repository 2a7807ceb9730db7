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


class Statements:
    """`statement(body, settings)`; the body is that of a Parse behind its name: text, zero byte, types.

    Without settings, which is when nobody knows them, the statement is its client's alone.
    """

    def __init__(self) -> None:
        self._prefix = b"pga_" + secrets.token_hex(6).encode() + b"_"
        self._numbers = count(1)
        self._known: WeakValueDictionary[tuple[bytes, object], Statement] = WeakValueDictionary()

    def statement(self, body: bytes, settings: Settings | None) -> Statement:
        key = (body, object() if settings is None else settings.essence)
        known = self._known.get(key)
        if known is None:
            name = self._prefix + b"%d" % next(self._numbers)
            frame = build.frame(ord("P"), name + b"\0" + body)
            known = Statement(name, frame, body.partition(b"\0")[0])
            self._known[key] = known
        return known

    def forget(self) -> None:
        """Tables or functions have changed: whoever prepares from now on is answered by a server."""
        self._known.clear()

    def __len__(self) -> int:
        return len(self._known)


_READ_MOST = 2048
_FORGETS = re.compile(rb"(?i)\b(?:deallocate|discard|do|call|execute)\b")


def may_forget(note: object) -> bool:
    """Whether a statement may take prepared statements away."""
    if note is None or len(text := statement_text(note)) > _READ_MOST:
        return True
    return _FORGETS.search(text) is not None


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
        if note[:1] == b"P" and len(note) > 6 and int.from_bytes(note[1:5], "big") + 1 == len(note):
            return note[6:].partition(b"\0")[0]
        return note.partition(b"\0")[0]
    text: bytes = note.text  # type: ignore[attr-defined]
    return text
