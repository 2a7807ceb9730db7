"""How a server reads a prepared statement that is new to it: as the one did that its client told of it.

1. What a constant means is decided when a statement is parsed. So each statement has the settings under which
   that was, where they are known.
2. A server connection in another state is brought there for the Parse and back, by what ends with the
   transaction at the latest. Not where that could undo what a client has set in its transaction,
   or in what is under way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgambassador.net.statements import essence
from pgambassador.protocol import survey
from pgambassador.protocol.ledger import forward
from pgambassador.protocol.settings import read_as

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.parties import Statement
    from pgambassador.net.session import Session

_PARSED_MOST = 1000
# What constants are in, and what may stand behind a statement of ours.
_PLANNED = re.compile(rb"(?i)%b*+(?:select|insert|update|delete|merge|with|values)\b" % survey.SPACE)


class Readings:
    """The part of `States` that is about statements."""

    def prepared(self, session: Session, backend: Backend, statement: Statement) -> None:
        """A client has prepared a statement on a connection on which it has set something."""
        facts = session.facts
        if facts.doubts or backend.curious:
            return
        if not backend.asking:
            statement.settings = essence(session.state)
        elif len(facts.parsed) < _PARSED_MOST:
            facts.parsed.append(statement)

    def knows(self, session: Session) -> None:
        """It is known what a session had set when it prepared these."""
        for statement in session.facts.parsed:
            statement.settings = essence(session.state)
        session.facts.parsed.clear()

    def read_as(self, session: Session, statement: Statement) -> tuple[bytes, bytes] | None:
        """What goes before and behind its Parse."""
        backend = session.backend
        if session.facts.doubts or backend is None or not _PLANNED.match(statement.text):
            return None
        if any(chr(kind) in "QEF" and action == forward for kind, action, _ in backend.ledger.entries()):
            return None
        return read_as(statement.settings, session.state)
