"""What the sessions of a pool have set, and what server connections are brought into because of it.

1. `session.state` is what its client has set, `backend.state` what the server connection is in; a connection
   joins a client by the difference.
2. What a client sets is not guessed: a statement that may have set something makes the connection `curious`,
   and before anybody else gets it the server is asked (`protocol.survey`), so that it can follow its client.
   But `backend.marked_by` says who has set something, and the next client has all of it reset, whatever the
   answer was: what was not asked for, or not read out of a text, reaches nobody.
3. RESET leads back to what the client's start packet has set, which a connection that many share does not
   know: it is set again, before anything that the client sends afterwards.
4. A client is told of a parameter only what is news to it.
5. What cannot be set again elsewhere (`protocol.ties`) keeps a session on its connection for as long as the
   server says that it is there. `backend.tied` says that it may be: who leaves then leaves nothing behind.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from pgambassador.net.greeting import reports_of
from pgambassador.net.readings import Readings
from pgambassador.net.statements import Statements, statement_text
from pgambassador.protocol import survey, ties
from pgambassador.protocol.settings import FIXED, FORGET_SEQUENCES, FORGET_WITHIN, Settings, effective, fence
from pgambassador.wire import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgambassador.net.backend import Backend
    from pgambassador.net.lane import Lane
    from pgambassador.net.lookout import Lookout
    from pgambassador.net.routes import Routes
    from pgambassador.net.session import Session

log = logging.getLogger(__name__)

_DONE_IN_A_BLOCK = re.compile(rb"(?i)\b(?:re)?set\b|set_config|\bexecute\b|temp|advisory|\b(?:listen|load)\b")
_DEFINES = re.compile(r"(?:CREATE|ALTER|DROP) (?!ROLE|USER|DATABASE|INDEX|SEQUENCE|TABLESPACE)(\w+)")
_DEFINES_IN_A_BLOCK = re.compile(rb"(?i)\b(?:create|alter|drop)\b")
_FUNCTIONS = frozenset({"FUNCTION", "PROCEDURE", "ROUTINE", "EXTENSION"})
_UNKNOWN = "unknown settings"
_LARGE = "large settings"
_SESSION_TIMEOUT = "idle_session_timeout"
_SEQUENCE = "sequence"
_EXTENSION = "extension"
_TEMPORARY_PATH = "search_path = pg_temp"
# What lasts as long as its session, whatever the server says is there.
_LASTING = frozenset({ties.LOAD, _UNKNOWN, _LARGE, _SESSION_TIMEOUT, _SEQUENCE, _TEMPORARY_PATH, _EXTENSION})
_LOADS = re.compile(rb"(?i)\bload\b")
_DATABASE = re.compile(rb"(?i)\b(?:create|drop|alter)\s+database\b")
_READS_SEQUENCE = re.compile(rb"(?i)\b(?:curr|last)val\b")
_USES_SEQUENCE = re.compile(rb"(?i)\b(?:insert|nextval|merge|copy)\b")
_ASKED_MOST = 3
_DOUBTS_MOST = 2000
_NAME_MOST = 255
_READ_MOST = 64 * 1024
_SHORT = 2048


class Reading(NamedTuple):
    """What a statement's text says about its session, which no tag will tell."""

    names: survey.Names
    may_tie: bool
    concerns_database: bool
    reads_sequence: bool
    uses_sequence: bool


def _read(text: bytes) -> Reading:
    return Reading(
        survey.names_called(text),
        ties.may_tie(text),
        _DATABASE.search(text) is not None,
        _READS_SEQUENCE.search(text) is not None,
        _USES_SEQUENCE.search(text) is not None,
    )


_reading = lru_cache(maxsize=1000)(_read)
_long_reading = lru_cache(maxsize=50)(_read)


class States(Readings):
    """The part of a pool's policy that knows about settings; `lane` is the pool's."""

    lane: Lane
    lookout: Lookout
    statements: Statements
    routes: Routes
    renamed: Callable[[Session], None]
    """Told of who has another application_name."""
    restated: Callable[[Session], None]
    """Told of whose settings are others."""
    vacate: Callable[[bytes], None]
    """Close what is idle in the databases that a statement names."""
    pins: Counter[str]
    """How often a session had to keep its connection, by reason."""

    def switch(self, backend: Backend, session: Session) -> tuple[bytes, int]:
        """The messages that bring a connection into a client's state, and how many statements they are."""
        defaults = backend.defaults
        before = effective(backend.state, defaults) if backend.marked_by is None else None
        return fence(before, effective(session.state, defaults))

    def reported(self, session: Session, backend: Backend, name: str, value: str) -> bool:
        """A ParameterStatus for a client: whether it is news."""
        if session.facts.told.get(name) == value:
            return False
        self._tell(session, name, value)
        ours = session.state.values.get(name.lower()) == value
        if name not in FIXED and not ours and backend.marked_by is not session:
            # A function has set it, or the server's configuration has been reloaded.
            self._suspect(session, backend, survey.ALL)
        return True

    def _tell(self, session: Session, name: str, value: str) -> None:
        session.facts.told = {**session.facts.told, name: value}
        if name == "application_name":
            session.facts.application_name = value
            self.renamed(session)

    def pid_told(self, session: Session, backend: Backend, pid: bytes) -> bytes:
        """The process ID of a notification's sender, as its reader knows it: its own, or a server's."""
        own = int.from_bytes(pid, "big") == backend.link.pid
        return int(session.facts.pid).to_bytes(4, "big") if own else pid

    def unreported(self, session: Session, backend: Backend) -> bytes:
        """ParameterStatus for what a client should have been told by now."""
        told, own = session.facts.told, backend.defaults.values
        stale = {n: value for n, value in backend.parameters.items() if told.get(n, value) != value}
        for name, value in stale.items():
            if session.bereaved and own.get(name.lower()) == value:
                self._tell(session, name, value)  # the connection began with it, and all are told
            else:
                self.reported(session, backend, name, value)
        return reports_of(stale)

    def tagged(self, session: Session, backend: Backend, tag: str) -> None:
        """A command has run that may concern the session."""
        text = statement_text(backend.note)
        block = text if len(text) <= _READ_MOST else b""  # more would keep everybody waiting
        if tag == "SET":
            names = survey.names_set(text)
            self._suspect(session, backend, names, plain=True)
            self._heed(session, backend, block, names)
        elif tag in ("RESET", "DISCARD ALL"):
            if session.state is session.facts.start and backend.marked_by is None:
                backend.curious = True  # whatever was reset, it was as it will be
                session.facts.doubts |= survey.RESTORED
            else:
                self._suspect(session, backend, survey.ALL)
                backend.curious = not self.lane.sticky or backend.curious
        elif tag == "DO" and _DONE_IN_A_BLOCK.search(block or b"set"):
            self._suspect(session, backend, survey.names_set(text))
            self._tie(session, backend)
        elif tag == "CALL" or tag in ties.BRINGING:
            backend.marked_by = session  # EXECUTE does not say what it has done
        self._defined(session, backend, tag, block)
        if tag == "DEALLOCATE":
            backend.forget_statements(session, parse.deallocated(text[:_READ_MOST]))
        if tag in ("DISCARD ALL", "DEALLOCATE ALL"):
            backend.forget_statements(session)
        if tag in ties.BRINGING or (backend.tied and tag in ties.ENDING):
            self._tie(session, backend)
            backend.pinned = not self.lane.sticky  # notifications are for it
        if tag == ties.LOAD or (tag == "DO" and _LOADS.search(block or b"load")):
            self._keep(session, backend, ties.LOAD)

    def _heed(self, session: Session, backend: Backend, text: bytes, names: survey.Names) -> None:
        """Remember what a SET says, for the case that no server can be asked any more."""
        facts, plain = session.facts, survey.plainly_set(text)
        if self.lane.sticky or not names:
            return
        if facts.saying is None:
            facts.saying = {}
        facts.saying |= dict.fromkeys(names, (None, None))
        if plain is not None:
            facts.saying[plain[0]] = (backend.alone, plain[1])

    def due(self, session: Session, backend: Backend, failed: bool) -> None:
        """What a session has done is done for good, or `failed`; what it has set is still to be asked."""
        facts = session.facts
        facts.due = facts.doubts
        if facts.saying is None:
            return
        turn = None if failed else backend.turn
        found = {
            name: value if at is not None and at == turn else None
            for name, (at, value) in facts.saying.items()
        }
        facts.said = found if facts.said is None else facts.said | found
        facts.saying = None

    def unsettled(self, session: Session, *, asking: bool, overdue: bool) -> str | None:
        """A session's connection is lost before it had said what its client has set: find that out in another
        way, or say why it cannot be known. `asking`: it was just being asked; `overdue`: it was to be."""
        facts = session.facts
        asking = asking or facts.failures > 0  # in vain so far
        names = (facts.asked if asking else survey.NOTHING) | (facts.due if overdue else survey.NOTHING)
        vague = (facts.asked_vaguely if asking else survey.NOTHING) | facts.vague
        names -= survey.CHANGED | survey.REDEFINED | survey.RESTORED  # it is known what that leads back to
        said, facts.said, facts.saying = facts.said or {}, None, None
        facts.due = facts.vague = survey.NOTHING
        if names & survey.TIES:
            return "It may have had what cannot be made again."
        found = {name: None if name in vague else said.get(name) for name in names}
        if None in found.values():
            return "It had settings that were not known yet."
        if found:
            session.state = Settings.of(survey.merged(session.state.values, found, names=names))
            self.restated(session)
        return None

    def _defined(self, session: Session, backend: Backend, tag: str, text: bytes) -> None:
        """Tables, types or functions may have changed; `text` is b"" where nobody knows it."""
        found = _DEFINES.match(tag)
        if found is not None:
            if _temporary_path(session):
                self._tie(session, backend)
            if (0 < len(text) <= _SHORT and ties.may_tie(text)) or (backend.tied and tag == "DROP TABLE"):
                return  # a temporary one, nobody else's
        elif tag != "DO" or not _DEFINES_IN_A_BLOCK.search(text or b"create"):
            return
        self.statements.forget()
        backend.curious = True
        session.facts.doubts |= survey.CHANGED
        if found is None or found[1] in _FUNCTIONS or self.lane.wary:
            session.facts.doubts |= survey.REDEFINED
            # It may be used before it is known what it does: in its transaction, or behind it in a pipeline.
            self._suspect(session, backend, survey.ALL)
            self._tie(session, backend)

    def led_back(self, session: Session, backend: Backend, text: bytes) -> list[bytes]:
        """The statements that follow a RESET, which means the start packet's values."""
        start = session.facts.start
        if not start.values:
            return []
        return survey.restoration(text, effective(start, backend.defaults).values)

    def called(self, session: Session, backend: Backend, text: bytes, bound: bytes = b"") -> None:
        """A statement, with what its Bind says, is on its way that may leave something without a tag."""
        if len(text) > _READ_MOST:
            text = b""  # reading it would keep everybody waiting
        found = (_reading if len(text) <= _SHORT else _long_reading)(text)
        names = found.names
        self._suspect(session, backend, names | survey.names_in(bound) if survey.ANY in names else names)
        suspects = self.lookout.suspects
        if suspects.among(text):
            self._suspect(session, backend, suspects.settings)
            if suspects.ties:
                self._tie(session, backend)
            if suspects.lasts(text):
                self._keep(session, backend, _EXTENSION)
        if found.concerns_database:
            self.vacate(text)
        if self.lane.sticky:
            return
        if backend.tied or found.may_tie:
            self._tie(session, backend)
        if found.reads_sequence:
            self._sequence(session, backend)
        elif self.lookout.sequences and found.uses_sequence:
            self._pin(session, backend, session.facts.ties | {_SEQUENCE})

    def _keep(self, session: Session, backend: Backend, reason: str) -> None:
        """Something lasts as long as the connection, which goes to nobody else."""
        backend.retiring = True
        if not self.lane.sticky:
            self._pin(session, backend, session.facts.ties | {reason})

    def _sequence(self, session: Session, backend: Backend) -> None:
        """currval() and lastval() mean what this session has done here, or they are an error."""
        if backend.strange:
            backend.precede(*(FORGET_SEQUENCES if backend.fresh else FORGET_WITHIN))
            self.lookout.heed_sequences()
        self._pin(session, backend, session.facts.ties | {_SEQUENCE})

    def _suspect(
        self, session: Session, backend: Backend, names: survey.Names, *, plain: bool = False
    ) -> None:
        """These may be set now; `plain`: by a SET, which says more of it."""
        if not names:
            return
        facts = session.facts
        backend.marked_by = session
        if self.lane.sticky and survey.ANY not in names and not facts.doubts & survey.RESTORED:
            return  # nobody else gets the connection
        # What is large is asked for again when it may have become less.
        backend.curious = backend.curious or _LARGE not in facts.ties
        if len(facts.doubts) + len(names) > _DOUBTS_MOST or max(map(len, names)) > _NAME_MOST:
            if not self.lane.sticky:
                self._pin(session, backend, facts.ties | {_UNKNOWN})  # too much to ask for
            names, plain = survey.ALL, False
        facts.doubts |= names
        if not plain:
            facts.vague |= names

    def _tie(self, session: Session, backend: Backend) -> None:
        if not self.lane.sticky:
            backend.tied = backend.curious = True
            session.facts.doubts |= survey.TIES

    def question(self, session: Session, backend: Backend) -> bytes:
        """What to ask the server before the connection goes home; b"" for nothing."""
        facts = session.facts
        # RESET ALL is not about who somebody is (guc_tables.c, GUC_NO_RESET_ALL).
        start = {
            name: value
            for name, value in effective(facts.start, backend.defaults).values.items()
            if name not in survey.IDENTITY or (name in session.state.values and not self.lane.sticky)
        }
        if facts.doubts & survey.CHANGED:
            self.statements.forget()  # only now do others see it
            self.routes.changed()
        if facts.doubts & survey.REDEFINED:
            self.lookout.again(backend.freed_at)
        facts.asked = facts.doubts - survey.CHANGED - survey.REDEFINED
        facts.asked_vaguely = facts.vague
        facts.doubts = facts.due = facts.vague = survey.NOTHING
        return survey.question(facts.asked, session.state.values, start)

    def answered(self, session: Session, backend: Backend, rows: Sequence[bytes] | None) -> None:
        """The server's answer; without one the client keeps its connection, whose state nobody knows.
        Of an answer that was too long there is one empty row."""
        facts = session.facts
        if rows and not rows[0]:
            facts.doubts |= facts.asked | survey.ALL
            self._pin(session, backend, facts.ties | {_LARGE})
            return
        try:
            found, there = survey.answer(rows or ())
        except ValueError:
            rows = None
        if rows is None:
            facts.parsed.clear()
            facts.doubts |= facts.asked
            facts.vague |= facts.asked_vaguely
            facts.failures += 1
            if facts.failures < _ASKED_MOST:
                backend.curious = True  # perhaps a cancel request, meant for something else, has hit it
            else:
                self._pin(session, backend, facts.ties | {_UNKNOWN})
            return
        facts.failures = 0
        facts.said = None
        if facts.asked & survey.TIES:
            self._pin(session, backend, there | (facts.ties & _LASTING))
        if not facts.asked - survey.TIES - survey.RESTORED:
            self.knows(session)
            return
        values = survey.merged(session.state.values, found, names=facts.asked)
        login = backend.link.parameters.get("session_authorization")
        if values.get("session_authorization") == login:
            values.pop("session_authorization", None)
        session.state = backend.state = Settings.of(values)
        self.restated(session)
        self.knows(session)
        self._hold(session, backend, _LARGE, session.state.large)
        # The server would end the connection under the next client.
        self._hold(session, backend, _SESSION_TIMEOUT, values.get(_SESSION_TIMEOUT, "0") != "0")
        # SELECT INTO makes temporary tables there, and does not tell.
        path = values.get("search_path", "").lstrip(' "').startswith("pg_temp")
        if not path and _TEMPORARY_PATH in facts.ties:
            self._tie(session, backend)
        self._hold(session, backend, _TEMPORARY_PATH, path)

    def _hold(self, session: Session, backend: Backend, reason: str, there: bool) -> None:
        """Keep the connection for one of the `_LASTING` reasons, or not for it any more."""
        if there != (reason in session.facts.ties):
            self._pin(session, backend, session.facts.ties ^ {reason})

    def _pin(self, session: Session, backend: Backend, reasons: frozenset[str]) -> None:
        """The session keeps its connection for these reasons, or for none."""
        facts = session.facts
        for reason in sorted(reasons - facts.ties):
            self.pins[reason] += 1
            if reason not in facts.ties_told:
                facts.ties_told |= {reason}
                log.info(
                    "a client keeps its server connection: %s",
                    reason,
                    extra={"client": facts.address, "database": facts.database, "user": facts.user},
                )
        facts.ties = reasons
        backend.pinned = bool(reasons)
        # What the client has sent meanwhile may have tied it again.
        backend.tied = backend.pinned or bool(facts.doubts & survey.TIES)


def _temporary_path(session: Session) -> bool:
    """Whether what is created without a schema may be temporary."""
    doubts = session.facts.doubts
    path = session.state.values.get("search_path", "")
    return "pg_temp" in path or "search_path" in doubts or survey.ANY in doubts
