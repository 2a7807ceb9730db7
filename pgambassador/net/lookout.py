"""Keeps in view which functions of a pool's database change their sessions (`protocol.suspects`).

1. A pool's first connection is asked before anybody gets it, and those that are opened meanwhile wait for
   that, so that no client comes before the answer. If it is lost everybody is suspected until another has
   answered.
2. It is asked again after a change of functions through this pool, and after `AGAIN` seconds of use for what
   changes elsewhere.
3. A server that cannot answer is believed to have no such functions, and that is logged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgambassador.net.lane import Borrower
from pgambassador.protocol.suspects import EVERYBODY, NOBODY, QUERY, Suspects, read
from pgambassador.wire import parse

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.lane import Lane

log = logging.getLogger(__name__)

AGAIN = 300.0
_LOST_MOST = 3


class Lookout:
    """`suspects` is what is known now; `asking` whether that is being found out, or a connection for it is
    waited for; `engaged` whether there is one, which serves others when it has answered; `sequences` whether
    clients rely on currval() between transactions."""

    def __init__(self, lane: Lane) -> None:
        self.suspects: Suspects = NOBODY
        self.sequences = False
        self._lane = lane
        self._looked_at: float | None = None
        self._queries = 0
        self._changed = False
        self.asking = self.engaged = False
        self._learnt = False
        self._lost = 0
        self._held: list[Backend] = []

    @property
    def knows(self) -> bool:
        return self._lane.sticky or self._learnt

    def greet(self, backend: Backend) -> None:
        """A connection that was opened while nothing is known: nobody gets it before the answer."""
        if self.asking:
            self._held.append(backend)
        else:
            self.ask(backend, backend.opened)

    def ask(self, backend: Backend, now: float) -> None:
        """Find out through this connection, which goes home afterwards."""
        rows: list[bytes] = []
        self._looked_at = now
        self._queries = self._lane.queries

        def done(error: bytes | None) -> None:
            self.asking = self.engaged = False
            if error is None:
                if not self._changed:
                    self._learn(read(rows))
            elif error == b"":
                # It was lost. Whoever waits needs another one, which is not put at risk for this as well.
                self._lost += 1
                self._suspect_everybody(again=self._lost <= _LOST_MOST)
                self._lane.policy.wanted()
            else:
                self._learn(NOBODY)
                log.warning(
                    "cannot read what functions do to their session: %s", parse.fields(error).get("M", "")
                )
            self._let_go()

        self.asking = self.engaged = True
        self._changed = False
        backend.ask(QUERY, 1, done, rows)

    def again(self, now: float) -> None:
        """Functions have changed: ask as soon as a connection is free, and suspect everybody meanwhile."""
        if self._lane.sticky:
            return
        self._suspect_everybody(again=True)
        self._borrow(now)

    def _suspect_everybody(self, *, again: bool) -> None:
        """Until it is known better, which is asked for as soon as that can be, or only in `AGAIN` seconds."""
        self.suspects, self._lane.wary, self._changed = EVERYBODY, True, again
        self._learnt = True

    def _borrow(self, now: float) -> None:
        if self.asking:
            return
        self.asking = True

        def granted(backend: Backend | None) -> None:
            if backend is None:
                self.asking = False
            else:
                self.ask(backend, now)

        self._lane.borrow(Borrower(granted))

    def tick(self, now: float) -> None:
        """From time to time, as long as the pool is used and has a connection to spare."""
        if self._changed and self._lane.total:  # for this alone none is opened
            self._borrow(now)
        if self._looked_at is None or now - self._looked_at < AGAIN:
            return
        if self._lane.queries != self._queries and self._lane.idle:
            self._borrow(now)

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
        if suspects and not self.suspects:
            log.info(
                "functions of the database change their sessions; statements that name them are watched",
            )
        self.suspects = suspects
        self._lane.wary = bool(suspects) or self.sequences
