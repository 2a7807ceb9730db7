"""Statements that clients prepare, one object for each distinct text and parameter types.

A statement lives as long as a session or a server connection refers to it; the same text prepared by a
thousand clients is one name on each server. The names carry a part that nobody can guess, so that no client's
own name can mean one of them.
"""

from __future__ import annotations

import secrets
from itertools import count
from weakref import WeakValueDictionary

from pgambassador.net.backend import Statement
from pgambassador.wire import build


class Statements:
    """`statement(body)` for the body of a Parse behind its name: query text, zero byte, parameter types."""

    def __init__(self) -> None:
        self._prefix = b"pga_" + secrets.token_hex(6).encode() + b"_"
        self._numbers = count(1)
        self._known: WeakValueDictionary[bytes, Statement] = WeakValueDictionary()

    def statement(self, body: bytes) -> Statement:
        known = self._known.get(body)
        if known is None:
            name = self._prefix + b"%d" % next(self._numbers)
            frame = build.frame(ord("P"), name + b"\0" + body)
            known = Statement(name, frame, body.partition(b"\0")[0])
            self._known[body] = known
        return known

    def __len__(self) -> int:
        return len(self._known)
