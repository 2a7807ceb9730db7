"""What becomes of clients whose server connection is lost, or refuses through no fault of theirs.

1. `routing.replay` has the table; here it is applied to what a connection owed, part by part of its client's
   pipeline, and put into words.
2. A session goes on if nothing of it was on the server alone: no temporary table, no LISTEN, no setting that
   nobody had read yet and that no SET has plainly said. Otherwise it ends, and its client is told why.
3. What is repeated is bounded by a budget for each pool; without it an error is passed on instead.
4. What may be a read, as far as is known before the catalog is, waits for that (`net/riddles.py`).
5. A ROLLBACK that was under way is done: its transaction went with the connection.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from pgambassador.errors import AmbassadorError
from pgambassador.net.pipeline import Part, asked_by, parts_of
from pgambassador.net.riddles import LOOK_EVERY, Riddles
from pgambassador.net.statements import statement_text
from pgambassador.pool.budget import Budget
from pgambassador.protocol import survey
from pgambassador.routing.replay import (
    CONFLICTS,
    DEATHS_MOST,
    FAREWELLS,
    LOST,
    STANDBY,
    Kind,
    Outcome,
    Phase,
    kind_of,
    kind_together,
    outcome,
)
from pgambassador.wire import build, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgambassador.net.backend import Backend
    from pgambassador.net.keeper import Keeper
    from pgambassador.net.session import Session

_NEVER: Final = 1_000_000
"""So many tries that nothing is repeated."""
_PAUSE: Final = 0.05
_IDLE: Final = b"Z\0\0\0\5I"
_FAILED: Final = b"Z\0\0\0\5E"
IN_FAILED: Final = build.error_response(
    "ERROR",
    "25P02",
    "current transaction is aborted, commands ignored until end of transaction block",
    hint="ROLLBACK ends it.",
)
"""What is refused in a transaction that has failed, and is not there any more."""


class Loss(NamedTuple):
    """How a connection was lost under a client."""

    reason: str
    farewell: bytes | None
    """The fields of the server's last words."""
    owed: Sequence[tuple[str, object]]
    """What had no complete answer: types of messages, and what is known of their statements."""
    request: bytes | None
    """All that was sent to this connection, where it can be sent again."""
    unnamed: bytes | None
    """The Parse of its client's unnamed statement."""
    phase: Phase
    """Of what comes first in `owed`."""
    status: str
    """Of the last ReadyForQuery: I, T or E."""
    beginning: bool
    """The first of it was sent behind a BEGIN that its client takes for done."""
    erred: bool
    """Of what comes first the client has been told an error of the server."""
    executed: int
    """Of what comes first the client knows, in the extended protocol, that something was executed: 0 nothing,
    2 what may have ended its transaction."""
    rode: bool
    """It shared the connection with others, and so has only read."""
    open: bool
    """A part of the pipeline has begun whose Sync is still to come."""
    overdue: bool
    """What its client has set was still to be asked,"""
    asking: bool
    """or was just being asked."""
    tries: int
    sudden: int
    """How many of these were because a connection had ended without a word, perhaps because of the statement;
    0 if this one has not."""

    @property
    def within(self) -> bool:
        """A transaction block."""
        return self.status != "I" or self.beginning


class Fate(NamedTuple):
    """What to do: ask again, or give these answers. `ventured`: what is asked again may have written.
    `pause`: seconds until it is looked whether it can be asked again. `adrift`: its client is in a
    transaction that is not there any more, where what is asked again is answered without a server."""

    replay: bool = False
    ventured: bool = False
    pause: float = 0.0
    answers: bytes = b""
    skipping: bool = False
    adrift: bool = False
    refusal: bytes | None = None


class Second(NamedTuple):
    """To be asked again in `pause` seconds. `ventured`: it may have written the first time."""

    pause: float
    ventured: bool


class Aftermath:
    """Belongs to a keeper. `outcomes` counts what became of statements, by name."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.budget = Budget(time.monotonic())
        self.outcomes: Counter[str] = Counter()
        self.kept = self.lost = 0
        self.riddles = Riddles(keeper, self._solved)

    def bereft(self, session: Session, backend: Backend, loss: Loss) -> Fate | None:
        """A session's server connection is gone. None: so is the session."""
        self.riddles.forget(session)
        why = self._tie(session, backend, loss)
        if why is not None:
            self.lost += 1
            self._keeper.failed(session, _the_end(loss, why))
            return None
        unknown = self.outcomes["unknown"]
        fate = None
        asked = _all_asked(session, loss)
        if asked is not None and not self._keeper.timekeeper.has_given_up(session, backend):
            fate = (
                self._rolled_back(session, loss, asked)
                or self._replayed(session, loss, asked)
                or self._postponed(session, loss, asked)
            )
        fate = fate or self._told(session, loss)
        self.kept += 1
        facts = session.facts
        # A table may have changed.
        if facts.doubts & survey.CHANGED or unknown != self.outcomes["unknown"]:
            self._keeper.statements.forget()
            self._keeper.routes.changed()
        if facts.doubts & survey.REDEFINED:
            self._keeper.lookout.again(time.monotonic())
        facts.doubts = facts.asked = survey.NOTHING
        return fate

    def refused(
        self,
        session: Session,
        backend: Backend,
        sqlstate: str,
        request: bytes,
        unnamed: bytes | None,
        tries: int,
    ) -> Second | None:
        """A server has refused a statement outside a transaction: when it is asked again, if it is."""
        demoted = sqlstate == STANDBY and backend.home is self._keeper.lane
        told = not demoted or backend.parameters.get("in_hot_standby") == "on"
        if not told or self._keeper.timekeeper.has_given_up(session, backend) or session.facts.failures:
            return None  # or its server has not told yet what it has set
        self.riddles.forget(session)
        asked = asked_by(request, unnamed, session)
        several = sqlstate == STANDBY and not demoted and len(asked) > 1
        kind = Kind.COMMIT if several else self._kind(session, asked)
        if outcome(sqlstate, Phase.SENT, kind, within=False, tries=tries) is not Outcome.REPLAY:
            if sqlstate not in FAREWELLS or tries >= DEATHS_MOST:
                return None
            error = _unknown(f"The server ended the connection ({sqlstate}).")
            return Second(LOOK_EVERY, False) if self.riddles.pose(session, asked, error) else None
        if demoted:
            self._keeper.demoted(backend)
        if not self._grant():
            return None
        self.outcomes["replayed"] += 1
        if sqlstate in CONFLICTS:
            return Second(random.uniform(0.001, _PAUSE * 2**tries), False)
        return Second(0.0, sqlstate != STANDBY and kind is Kind.MARKED)

    def later(self, session: Session, pause: float) -> None:
        if session in self.riddles:
            self.riddles.look_later(session)
        else:
            asyncio.get_running_loop().call_later(pause, session.try_again)

    def uncertain(self, error: bytes) -> bytes:
        """In place of an error of ours where what was repeated may have been done the first time."""
        fields = parse.fields(error[5:])
        return _unknown(f"It was to be repeated, but: {fields.get('M', '')}")

    def may_last(self, session: Session) -> bool:
        """Whether what a client has under way may have an effect that lasts and it has not been told of."""
        owed, within, executed = session.under_way()
        for kind in self._kinds(session, parts_of(owed, open_ended=False), executed > within):
            if kind is Kind.COMMIT or (not within and kind in (Kind.WRITE, Kind.MARKED)):
                return True
            within = within and kind is not Kind.ROLLBACK
        return False

    def _tie(self, session: Session, backend: Backend, loss: Loss) -> str | None:
        """Why the session cannot go on elsewhere."""
        if self._keeper.lane.sticky:
            return "The session is its server connection (pool.mode: session)."
        if backend.pinned or session.facts.ties:
            return f"It had what cannot be made again: {', '.join(sorted(session.facts.ties)) or 'LISTEN'}."
        if backend.doubtful:
            return "Nobody knows in what state its server connection was."
        return self._keeper.unsettled(session, asking=loss.asking, overdue=loss.overdue)

    def _grant(self) -> bool:
        granted = self.budget.grant(time.monotonic(), self._keeper.lane.queries)
        if not granted:
            self.outcomes["denied"] += 1
        return granted

    def _kind(self, session: Session, notes: Sequence[object]) -> Kind:
        """What statements may do, by what is kept of them."""
        circle = self._keeper.routes.circle(session)
        texts = [None if note is None else statement_text(note) for note in notes]
        return kind_together(
            [kind_of(None if text is None else circle.verdicts.of(text).decision, text) for text in texts]
        )

    def _kinds(self, session: Session, parts: Sequence[Part], begun: bool) -> list[Kind]:
        """Of each part. `begun`: what has been answered of the first may have written, and may not last."""
        kinds = [self._kind(session, part.notes) for part in parts]
        return [Kind.COMMIT, *kinds[1:]] if kinds and begun else kinds

    def _rolled_back(self, session: Session, loss: Loss, asked: list[object]) -> Fate | None:
        """Also whatever is asked in a transaction that its client knows to have failed."""
        if not loss.within or loss.phase is Phase.ANSWERED:
            return None
        if loss.status != "E" and self._kind(session, asked) is not Kind.ROLLBACK:
            return None
        return Fate(replay=True, adrift=True)

    def _replayed(self, session: Session, loss: Loss, asked: list[object]) -> Fate | None:
        kind = self._kind(session, asked)
        found = outcome(_event(loss), loss.phase, kind, within=loss.within, tries=_tries(loss))
        if found is not Outcome.REPLAY or not self._grant():
            return None
        self.outcomes["replayed"] += 1
        return Fate(replay=True, ventured=loss.phase is Phase.SENT and kind is Kind.MARKED)

    def _postponed(self, session: Session, loss: Loss, asked: list[object]) -> Fate | None:
        """It would be asked again if it were known to read, which is not known of anything yet."""
        found = outcome(_event(loss), loss.phase, Kind.READ, within=loss.within, tries=_tries(loss))
        if found is not Outcome.REPLAY or not self.riddles.pose(session, asked, _unknown(_cause(loss))):
            return None
        return Fate(replay=True, pause=LOOK_EVERY)

    def _solved(self, session: Session, asked: list[object]) -> bool:
        """The catalog is known now."""
        again = self._kind(session, asked) is Kind.READ and self._grant()
        self.outcomes["replayed" if again else "unknown"] += 1
        return again

    def _told(self, session: Session, loss: Loss) -> Fate:
        parts = parts_of(loss.owed, open_ended=loss.open)
        within = loss.within
        known = True
        if loss.rode:
            kinds = [Kind.READ for _ in parts]
        elif loss.request is not None and len(parts) == 1:
            kinds = [self._kind(session, asked_by(loss.request, loss.unnamed, session))]
        else:
            known = False
            kinds = self._kinds(session, parts, loss.executed > within)
        answers = b""
        told = loss.status == "E"
        commits = within and not told and _ends_by(kinds) is Kind.COMMIT
        for index, (part, kind) in enumerate(zip(parts, kinds, strict=True)):
            phase = loss.phase if index == 0 else Phase.SENT
            if (index == 0 and loss.erred) or (index > 0 and part.said.lstrip("c") == "S"):
                told = told or loss.erred
            elif part.said == "S" and known and kind is (Kind.ROLLBACK if within else Kind.READ):
                pass  # all of it has been answered, and there is nothing that would have to last
            elif within and told and not commits:
                answers += IN_FAILED
            elif within and commits:
                answers += self._error(Outcome.UNKNOWN, loss, within)
            else:
                if part.said == "S" and not (known or within):
                    kind = Kind.COMMIT  # the same
                found = outcome(_event(loss), phase, kind, within=within, tries=_NEVER)
                answers += self._error(found, loss, within, phase)
            told = told or within
            if within and kind in (Kind.COMMIT, Kind.ROLLBACK):
                within = told = commits = False
            if part.complete:
                answers += _FAILED if within else _IDLE
        refusal = None
        if within and not told:
            refusal = self._error(
                outcome(_event(loss), Phase.SENT, Kind.WRITE, within=True, tries=_NEVER), loss, True
            )
        skipping = loss.open or bool(parts and not parts[-1].complete)
        return Fate(answers=answers, skipping=skipping, adrift=within, refusal=refusal)

    def _error(self, found: Outcome, loss: Loss, within: bool, phase: Phase = Phase.SENT) -> bytes:
        self.outcomes[found.name.lower()] += 1
        if found is Outcome.UNKNOWN:
            return _unknown(_cause(loss))
        if found is Outcome.SAID and loss.farewell is not None:
            words = {**parse.fields(loss.farewell), "S": "ERROR", "V": "ERROR"}
            if not within and (why := _why(loss, phase)):
                words["D"] = f"{words['D']} {why}" if "D" in words else why
            return build.error_response_from(words)
        if within:
            return build.error_response(
                "ERROR",
                "08006",
                "the connection to the server was lost, and with it the transaction",
                f"{_cause(loss)} Nothing of the transaction has been done.",
                "ROLLBACK ends it; it can be begun again.",
            )
        return build.error_response(
            "ERROR",
            "08006",
            "the connection to the server was lost",
            f"{_cause(loss)} The statement has changed nothing. {_why(loss, phase)}".rstrip(),
            "It can be asked again; the session goes on.",
        )


def _event(loss: Loss) -> str:
    return LOST if loss.farewell is None else parse.fields(loss.farewell).get("C", LOST)


def _all_asked(session: Session, loss: Loss) -> list[object] | None:
    """What is known of the statements, if they are one complete part whose answer is still to come."""
    parts = parts_of(loss.owed, open_ended=loss.open)
    if loss.request is None or len(parts) != 1 or not parts[0].complete or loss.erred:
        return None
    return asked_by(loss.request, loss.unnamed, session)


def _tries(loss: Loss) -> int:
    if _event(loss) != LOST or loss.phase is not Phase.SENT or loss.tries >= DEATHS_MOST:
        return loss.tries
    return loss.sudden


def _why(loss: Loss, phase: Phase) -> str:
    """Why it is not asked again, although it might be; nothing if it may not."""
    if phase is Phase.ANSWERED:
        return "A part of its answer had been passed on."
    if loss.tries:
        return f"It had been asked again {'before' if loss.tries == 1 else 'several times'}."
    return ""


def _cause(loss: Loss) -> str:
    said = parse.fields(loss.farewell) if loss.farewell is not None else {}
    words = " ".join(
        f"{said[key]}." if not said[key].endswith(".") else said[key] for key in "MD" if key in said
    )
    reason = loss.reason[:1].upper() + loss.reason[1:] + "."
    return f"{reason} It said: {words}" if words else reason


def _unknown(cause: str) -> bytes:
    return build.error_response(
        "ERROR",
        "08007",
        "the connection to the server was lost before it said whether this was done",
        f"{cause} What was asked may or may not have been done.",
        "Look whether it was before it is done again; the session goes on.",
    )


def _the_end(loss: Loss, why: str) -> AmbassadorError:
    said = parse.fields(loss.farewell) if loss.farewell is not None else {}
    return AmbassadorError(
        said.get("M", loss.reason),
        sqlstate=said.get("C", "08006"),
        detail=f"{why} The transaction or query that was running may or may not have been completed.",
        hint="Connect again.",
    )


def _ends_by(kinds: list[Kind]) -> Kind | None:
    """The first of them that may end its transaction."""
    return next((kind for kind in kinds if kind in (Kind.COMMIT, Kind.ROLLBACK)), None)
