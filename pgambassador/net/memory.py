"""The bound of what all clients hold together: who is stopped, refused and ended because of it.

Looked at is when it becomes tight, and a few times a second as long as it is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from pgambassador.errors import Refused
from pgambassador.net import tally
from pgambassador.pool.pressure import Load, Pressure

if TYPE_CHECKING:
    from pgambassador.net.session import Session

log = logging.getLogger(__name__)

HEAVY: Final = 16 * 1024
"""Who holds less is left alone."""
MOMENT: Final = 0.02


class Memory:
    """`sessions()` are all that there are; `ended` counts those that had to go."""

    def __init__(self, most: int, sessions: Callable[[], Iterable[Session]]) -> None:
        self._sessions = sessions
        self._pressure: Pressure[Session] = Pressure(most)
        self._at_work = self._warned = False
        self.ended = 0

    def start(self) -> None:
        """Be told when it becomes tight."""
        tally.limit(self._pressure.soft, self._tight)

    def reload(self, most: int) -> None:
        self._pressure.resize(most)
        self.start()

    @property
    def held(self) -> int:
        """Bytes."""
        return tally.held_now()

    @property
    def full(self) -> bool:
        """Nobody more may come in."""
        return tally.held_now() > self._pressure.soft

    def check_room(self) -> None:
        """Refuse a client while there is none."""
        if self.full:
            raise Refused(
                "too much is held for other clients",
                sqlstate="53200",
                hint="Try again later, or raise clients.memory.",
            )

    def _tight(self) -> None:
        """In the middle of somebody's work: what there is to do is done behind it."""
        self._at_work = True
        asyncio.get_running_loop().call_later(MOMENT, self.tick)

    def tick(self, now: float | None = None) -> None:
        """Do what has to be done."""
        tally.look_again()
        tight = self.held > self._pressure.soft
        if not self._at_work and not tight:
            return
        now = time.monotonic() if now is None else now
        loads = [
            Load(session, weight, session.priority, session.facts.connected_at)
            for session in self._sessions()
            if (weight := session.holds()) >= HEAVY
        ]
        if tight and not self._warned:
            log.warning("clients hold %d bytes together; those that hold much are not read", self.held)
        self._at_work = self._warned = tight
        stop, go, end = self._pressure.relieve(self.held, loads, now)
        for session in stop:
            session.pause()
        for session in end:
            self._end(session)
        for session in go if tight else {*go, *(load.who for load in loads)}:
            session.go_on()  # some have stopped by themselves

    def _end(self, session: Session) -> None:
        self.ended += 1
        error = Refused(
            "terminating connection because too much is held for all clients together",
            sqlstate="53200",
            hint="Send smaller messages, read what was asked for, or raise clients.memory.",
        )
        log.warning(
            "a client that holds %d bytes is ended", session.holds(), extra={"client": session.facts.address}
        )
        session.fail(error)
        session.channel.abandon()

    def __repr__(self) -> str:
        return f"<Memory {self.held} of {self._pressure.hard}>"
