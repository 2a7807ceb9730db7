"""What may be asked again of a statement whose connection died, or whose server refused it: the table.

1. Nothing is executed twice that is not proven to read, or marked as `idempotent` by who wrote it, unless it
   was certainly not executed at all: no byte of it was sent, or the server says that it only answers reads. A
   BEGIN, SET or DEALLOCATE that stands alone changes nothing either: what it did died with its connection.
2. No commit that was acknowledged is lost: nothing of an answer is taken back, and nothing is asked again of
   which a byte has been passed on.
3. What is not known is said as not known: a write, or a COMMIT, whose answer did not come is 08007. Only what
   cannot have been done is said as not done.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pgambassador.routing.decision import Decision

LOST: Final = ""
"""The event in place of an SQLSTATE: the connection ended without a word."""
STANDBY: Final = "25006"
ADMIN_SHUTDOWN: Final = "57P01"
CRASH_SHUTDOWN: Final = "57P02"
IDLE_TOO_LONG: Final = "57P05"
"""A server ends a connection that was idle for too long, and does nothing of what has met that on its way."""
CONFLICTS: Final = frozenset({"40001", "40P01"})
FAREWELLS: Final = frozenset({ADMIN_SHUTDOWN, CRASH_SHUTDOWN, IDLE_TOO_LONG})

CONFLICTS_MOST: Final = 3
"""How often a statement is asked again that met another transaction."""
DEATHS_MOST: Final = 3
"""How often one is asked again whose server was shut down."""
SUDDEN_MOST: Final = 1
"""And one whose connection ended without a word: perhaps the statement itself makes the server crash."""


class Phase(enum.Enum):
    """How far a statement has got."""

    UNSENT = enum.auto()
    SENT = enum.auto()
    ANSWERED = enum.auto()
    """A byte of the answer has been passed on."""


class Kind(enum.Enum):
    """What a statement, or a part of a pipeline, may do."""

    READ = enum.auto()
    SESSION = enum.auto()
    """Changes its server connection and nothing else: begins a transaction, sets something, drops a name."""
    MARKED = enum.auto()
    """May write; whoever wrote it says that twice is as good as once."""
    WRITE = enum.auto()
    ROLLBACK = enum.auto()
    COMMIT = enum.auto()
    """May end a transaction so that what it did lasts; also all that is not known."""


class Outcome(enum.Enum):
    REPLAY = enum.auto()
    SAID = enum.auto()
    """The server's own error, as it came."""
    BROKEN = enum.auto()
    """08006: it has not been done, or only read."""
    UNKNOWN = enum.auto()
    """08007: it may have been done."""


def outcome(event: str, phase: Phase, kind: Kind, *, within: bool, tries: int) -> Outcome:
    """`event` is an SQLSTATE or LOST; `within` a transaction block; `tries`: how often it was repeated.

    25006 comes here only from a server that is known to be a standby.
    """
    if _again(event, phase, kind, within=within, tries=tries):
        return Outcome.REPLAY
    if event in (LOST, CRASH_SHUTDOWN):
        if phase is Phase.UNSENT or kind in (Kind.READ, Kind.SESSION, Kind.ROLLBACK):
            return Outcome.BROKEN
        return Outcome.BROKEN if within and kind is not Kind.COMMIT else Outcome.UNKNOWN
    if event == ADMIN_SHUTDOWN and within and kind is Kind.COMMIT and phase is not Phase.UNSENT:
        return Outcome.UNKNOWN
    return Outcome.SAID


_REPEATED: Final = (Kind.READ, Kind.SESSION, Kind.MARKED)


def _again(event: str, phase: Phase, kind: Kind, *, within: bool, tries: int) -> bool:
    if within or phase is Phase.ANSWERED:
        return False
    if event == STANDBY:
        return tries == 0 and phase is Phase.SENT and kind is not Kind.COMMIT
    if event in CONFLICTS:
        return tries < CONFLICTS_MOST and phase is Phase.SENT and kind is Kind.MARKED
    if event not in (LOST, *FAREWELLS):
        return False
    if phase is Phase.UNSENT:
        return tries < DEATHS_MOST
    return tries < (SUDDEN_MOST if event == LOST else DEATHS_MOST) and kind in _REPEATED


def kind_of(decision: Decision | None, text: bytes | None) -> Kind:
    """None: nothing is known of it."""
    if decision is None or text is None:
        return Kind.COMMIT
    if decision.kind == "read":
        return Kind.READ
    if decision.kind == "transaction" and decision.single and ending(text) == "rollback":
        return Kind.ROLLBACK
    if decision.single and (decision.begins or _SETS.match(text) is not None):
        return Kind.SESSION
    if not decision.single or (decision.kind == "transaction" and _INSIDE.match(text) is None):
        return Kind.COMMIT
    return Kind.MARKED if decision.idempotent else Kind.WRITE


def kind_together(kinds: list[Kind]) -> Kind:
    """Of several in one part of a pipeline: it counts as the most that one of them may do."""
    found = max(kinds, key=lambda kind: kind.value, default=Kind.READ)
    if len(kinds) == 1 or found is Kind.READ:
        return found
    return Kind.COMMIT if found is Kind.ROLLBACK else max(found, Kind.WRITE, key=lambda kind: kind.value)


_BLANK: Final = rb"(?:\s|--[^\r\n]*(?:[\r\n]|\Z)|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)"
_BEGINNING: Final = rb"(?is)(?:" + _BLANK + rb"|;)*"
"""What may stand before a statement, whatever its letters' case."""
_END: Final = re.compile(
    _BEGINNING + rb"(?:(commit|end)|rollback|abort)\b"
    rb"(?:" + _BLANK + rb"+(?:work|transaction)\b)?"
    rb"(?:" + _BLANK + rb"+and" + _BLANK + rb"+no" + _BLANK + rb"+chain\b)?"
    rb"" + _BLANK + rb"*(;(?:" + _BLANK + rb"|;)*)?(.*)\Z"
)
_INSIDE: Final = re.compile(
    _BEGINNING + rb"(?:savepoint|release|"
    rb"rollback" + _BLANK + rb"+(?:(?:work|transaction)" + _BLANK + rb"+)?to)\b"
)
"""What is about its transaction and does not end it."""
_SETS: Final = re.compile(_BEGINNING + rb"(?:set|reset|discard|deallocate)\b")
"""What is about its session, and in a transaction about that."""
_READ_MOST: Final = 4096


def ending(text: bytes) -> str:
    """Whether a statement ends its transaction: "commit", "rollback", or "" for anything else. "rollback;" is
    a ROLLBACK with other statements behind it."""
    found = _END.match(text[:_READ_MOST])
    if found is None:
        return ""
    commits, separated, rest = found.groups()
    if rest or len(text) > _READ_MOST:
        return "rollback;" if separated and not commits else ""
    return "commit" if commits else "rollback"
