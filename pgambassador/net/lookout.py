"""Keeps in view which functions of a pool's database change their sessions (`protocol.suspects`).

1. A pool's first connection is asked before anybody gets it, and those that are opened meanwhile wait for
   that, so that no client comes before the answer. If it is lost everybody is suspected until another has
   answered.
2. It is asked again after a change of functions through this pool. For what changes elsewhere a fingerprint
   of all that the answer depends on is looked at each `EVERY` seconds of use, or as seldom as its cost wants
   (`SHARE`). Where the server has no such fingerprint it is asked again after `AGAIN` seconds of use.
3. From the first sign of a change to the answer everybody is suspected, and so everybody is where the answer
   takes longer than it may.
4. So are changes of tables, after which statements are asked for their rows anew (`Statements.forget`).
5. A server that cannot answer is believed to have no such functions, and that is logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pgambassador.net.lane import Borrower
from pgambassador.protocol.suspects import EVERYBODY, NOBODY, PROBE, TIMEOUT, Suspects, query, read
from pgambassador.wire import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgambassador.net.backend import Backend
    from pgambassador.net.lane import Lane

log = logging.getLogger(__name__)

EVERY = 1.0
SHARE = 20
"""A server connection is asked for one part in so many of the time."""
AGAIN = 300.0
_PATIENCE = 10.0
_ANSWERED = 2.0
"""A connection that does not answer the short question within this leads nowhere."""
_LOST_MOST = 3
_CANCELED = "57014"


class Lookout:
    """`suspects` is what is known now; `asking` whether a connection is being asked; `sequences` whether
    clients rely on currval() between transactions."""

    def __init__(
        self, lane: Lane, harmless: Iterable[str] = (), heard: Callable[[Suspects], None] = lambda _: None
    ) -> None:
        self.suspects: Suspects = NOBODY
        self._heard = heard
        self.sequences = False
        self._lane = lane
        self._query = query(harmless)
        self._looked_at: float | None = None
        self._due = 0.0
        self._queries = 0
        self._changed = False
        self.asking = False
        self._queued = False  # for a connection to ask
        self._asked: Backend | None = None
        self._patience = 0.0
        self._learnt = False
        self._lost = 0
        self._told = False
        self._tables = b""
        self._strange: frozenset[str] = frozenset()
        self._held: list[Backend] = []

    @property
    def knows(self) -> bool:
        return self._lane.sticky or self._learnt

    @property
    def wonders(self) -> bool:
        """Whether everybody is suspected only until an answer comes."""
        return self.suspects is EVERYBODY and (self._changed or self.asking)

    def greet(self, backend: Backend) -> None:
        """A connection that was opened while nothing is known: nobody gets it before the answer."""
        if self.asking:
            self._held.append(backend)
        else:
            self.ask(backend, backend.opened)

    def ask(self, backend: Backend, now: float) -> None:
        """Find out through this connection, which goes home afterwards."""
        rows: list[bytes] = []

        def done(error: bytes | None) -> None:
            self._end(now)
            if error is None:
                if not self._changed:
                    self._learn(read(rows))
            elif error == b"":
                # It was lost. Whoever waits needs another one, which is not put at risk for this as well.
                self._lost += 1
                self._suspect_everybody(again=self._lost <= _LOST_MOST)
                self._lane.policy.wanted()
            else:
                self._refused(parse.fields(error))
            self._let_go()

        self._begin(backend, now, 3 * TIMEOUT)
        self._changed = False
        backend.ask(self._query, 1, done, rows)

    def _refused(self, fields: dict[str, str]) -> None:
        if fields.get("C") == _CANCELED:
            log.warning(
                "to read what functions do to their session takes too long; every statement is watched"
            )
            self._suspect_everybody(again=False)
        else:
            self._learn(NOBODY)
            log.warning("cannot read what functions do to their session: %s", fields.get("M", ""))

    def _probe(self, backend: Backend, now: float) -> None:
        """Look whether anything has changed."""
        rows: list[bytes] = []

        def done(error: bytes | None) -> None:
            self._end(now)
            if error is None:
                found = read(rows)
                self._heed_tables(found.tables)
            if error == b"" or (error is None and found.fingerprint == self.suspects.fingerprint):
                return
            self._suspect_everybody(again=True)
            self._borrow(now)

        self._begin(backend, now, _ANSWERED)
        backend.ask(PROBE, 1, done, rows)

    def _heed_tables(self, tables: bytes) -> None:
        """Where columns have changed past us, what is known of statements' rows may be wrong."""
        if self._tables not in (b"", tables):
            self._lane.policy.statements.forget()
        self._tables = tables

    def _begin(self, backend: Backend, now: float, patience: float) -> None:
        self.asking = True
        self._asked, self._patience = backend, patience
        self._looked_at = now
        self._queries = self._lane.queries

    def _end(self, since: float) -> None:
        self.asking = False
        self._asked = None
        now = time.monotonic()
        self._due = now + SHARE * max(0.0, now - since)

    def again(self, now: float) -> None:
        """Functions have changed: ask as soon as a connection is free, and suspect everybody meanwhile."""
        if self._lane.sticky:
            return
        self._suspect_everybody(again=True)
        if self._due - now < _PATIENCE:
            self._borrow(now)

    def _suspect_everybody(self, *, again: bool) -> None:
        """Until it is known better, which is asked for as soon as that can be, or only in `AGAIN` seconds."""
        self.suspects, self._lane.wary, self._changed = EVERYBODY, True, again
        self._heard(EVERYBODY)
        self._learnt = True

    def _borrow(self, now: float, *, probe: bool = False) -> None:
        if self.asking or self._queued:
            return
        self._queued = True

        def granted(backend: Backend | None) -> None:
            self._queued = False
            if backend is None:
                return
            if probe and not self._changed:
                self._probe(backend, max(now, backend.freed_at))
            else:
                self.ask(backend, max(now, backend.freed_at))

        self._lane.borrow(Borrower(granted))

    def tick(self, now: float) -> None:
        """From time to time, as long as the pool is used."""
        if self._asked is not None and now - (self._looked_at or now) > self._patience:
            self._asked.close("a question of pgambassador was not answered")  # nor would be a client's
        if self._changed and now >= self._due and self._lane.total:  # for this alone none is opened
            self._borrow(now)
        if self._looked_at is None or now < self._due or self._lane.queries == self._queries:
            return
        late = now - self._looked_at - (EVERY if self.suspects.fingerprint else AGAIN)
        spare = self._lane.idle or self._lane.total >= self._lane.limit
        if late >= 0 and (spare or late > _PATIENCE):
            self._borrow(now, probe=bool(self.suspects.fingerprint))

    def heed_sequences(self) -> None:
        """Clients of this pool rely on currval(): from now on what may use a sequence is looked for."""
        self.sequences = self._lane.wary = True

    def _let_go(self) -> None:
        """Those that were opened meanwhile."""
        held, self._held = self._held, []
        for backend in held:
            if not backend.closed:
                backend.ask(b"", 0)

    def _learn(self, suspects: Suspects) -> None:
        self._learnt, self._lost = True, 0
        if suspects and not self._told:
            self._told = True
            log.info(
                "functions of the database change their sessions; statements that name them are watched",
            )
        if strange := suspects.strange - self._strange:
            self._strange |= strange
            log.warning(
                "%s watched, since nothing is known of what functions in C do there: %s. "
                "Extensions that leave nothing in a session can be named in pool.harmless_extensions.",
                "every statement is"
                if suspects.everywhere
                else "statements that name one of its functions are",
                ", ".join(sorted(strange)),
            )
        self._heed_tables(suspects.tables)
        self.suspects = suspects
        self._heard(suspects)
        self._lane.wary = bool(suspects) or self.sequences
