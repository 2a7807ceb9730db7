"""What a client has asked in parts of its pipeline, read again after its connection was lost.

1. What is not known for certain is not known: it counts as what may commit, and is not repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgambassador.wire.parse import NAME_MOST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgambassador.net.session import Session


class Part(NamedTuple):
    """A simple query, or what stands before a Sync. `said`: the types of its messages."""

    said: str
    notes: list[object]
    complete: bool


def parts_of(owed: Sequence[tuple[str, object]], *, open_ended: bool) -> list[Part]:
    """What was owed, part by part."""
    found = []
    said, notes = "", []
    for kind, note in owed:
        said += kind
        if kind in "QqEF":
            notes.append(None if kind == "F" else note)
        if kind in "QFS":
            found.append(Part(said, notes, True))
            said, notes = "", []
    if said.strip("c") or open_ended:
        found.append(Part(said, notes, False))
    return found


def asked_by(request: bytes, unnamed: bytes | None, session: Session) -> list[object]:
    """What is known of the statements that it executes: simple queries' texts, Parses, Statements; None for
    what is not known. What uses a name and then gives it another meaning is not known: `unnamed` and the
    session's may be the last one."""
    at = 0
    notes: list[object] = []
    made: dict[bytes, bytes | None] = {}
    used: set[bytes] = set()
    portals: set[bytes] = set()
    while at + 5 <= len(request):
        end = at + 1 + int.from_bytes(request[at + 1 : at + 5], "big")
        kind, body, frame, at = request[at : at + 1], request[at + 5 : end], request[at:end], end
        first, _, rest = body.partition(b"\0")
        if kind == b"Q":
            notes.append(first)
        elif kind == b"P" or (kind == b"C" and body[:1] == b"S"):
            name = first[kind == b"C" :][:NAME_MOST]
            if name in used and kind == b"P":
                return [None]
            text = rest.partition(b"\0")[0] if name else frame
            made[name] = text if kind == b"P" else None
        elif kind == b"B":
            portals.add(first[:NAME_MOST])
            name = rest.partition(b"\0")[0][:NAME_MOST]
            if name not in made:
                used.add(name)
            notes.append(made.get(name, session.statements.get(name) if name else unnamed))
        elif kind == b"E" and first[:NAME_MOST] not in portals:
            notes.append(None)
    return notes
