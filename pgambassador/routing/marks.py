"""Fingerprints of statements, remembered by their shape: what a rule for one costs with each statement.

What is remembered is bounded: beyond that all is forgotten, and found out anew.
"""

from __future__ import annotations

from typing import Final

from pgambassador.routing.reading import TEXT_MOST, fingerprint
from pgambassador.routing.shape import shape_of
from pgambassador.wire import parse

REMEMBERED: Final = 1000


class Marks:
    """`of(text)` is the fingerprint, "" where there is none."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def of(self, text: bytes | None) -> str:
        if text is None or len(text) > TEXT_MOST:
            return ""
        key = shape_of(text)
        if key is None:
            return fingerprint(parse.decode(text))
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._known[key] = fingerprint(parse.decode(text))
        return found

    def __len__(self) -> int:
        return len(self._known)
