"""A pool on a standby, beside the one on the primary whose clients' reads it answers.

1. It has no clients of its own: whoever waits here can also go to the primary, and does when no connection
   can be opened. After that nothing new is sent here until it is time to try again.
2. Clients must not notice where they are: what the server says of being a standby is kept from them.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from pgambassador.cluster.probe import IDENTITY, identity
from pgambassador.errors import ProtocolViolation, Unreachable
from pgambassador.net.keeper import Keeper
from pgambassador.net.routes import TOGETHER
from pgambassador.net.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgambassador.errors import AmbassadorError
    from pgambassador.net.backend import Backend
    from pgambassador.net.link import Link

log = logging.getLogger(__name__)

_IN_RECOVERY = "in_hot_standby"


class Branch(Keeper):
    """`trunk` is the pool on the primary; `recognises` a run of its server; `life` is that which is known;
    `weight` its share when it can be reached."""

    def __init__(self, trunk: Keeper, recognises: Callable[[int], bool], **common: Any) -> None:
        super().__init__(**common)
        self._trunk = trunk
        self.paused = trunk.paused
        self._recognises = recognises
        self.life = 0
        self.weight = 1.0
        self.lookout = trunk.lookout
        self.lane.standby = True
        self.lane.together = TOGETHER
        self.lane.batching = trunk.lane.batching

    def rate(self, weight: float, rank: int) -> None:
        """How much it takes, and how near it is; nearer ones come first."""
        self.weight, self.lane.rank = weight, rank
        self._weigh(time.monotonic())

    def _weigh(self, now: float) -> None:
        """Nothing comes here while no connection can be opened; those that there are go on."""
        out = now < self.plan.retry_at or (not self.lane.total and self.upstream.shut(now) is not None)
        self.lane.weight = 0.0 if out or self.paused else self.weight

    def lacks(self, now: float) -> int:
        if self.stopping or self.paused:
            return 0
        lacks = self.plan.openings(
            waiting=self.lane.waiting, total=self.lane.total, opening=self.opening, now=now
        )
        return lacks if lacks and self.upstream.admits(now, held=False) else 0

    def refusal(self, now: float) -> None:
        """Nobody is turned away here."""

    def _check_role(self, link: Link, now: float) -> None:
        """Whatever it is."""

    def begin(self) -> None:
        self.upstream.begin_like(self._trunk.greeting.parameters or {})
        super().begin()

    def _adopt(self, link: Link) -> bool:
        if _IN_RECOVERY in link.parameters:
            link.parameters[_IN_RECOVERY] = "off"
        return super()._adopt(link)

    def _receive(self, backend: Backend) -> None:
        """What is known of a standby is known of one run of one server: is it that which has answered?"""
        rows: list[bytes] = []

        def done(error: bytes | None) -> None:
            try:
                known = error is None and self._recognises(identity(rows)[0])
            except ProtocolViolation:
                known = False
            if not known:
                backend.retiring = True
                self._failed(
                    Unreachable("another server than before has answered", hint="It is looked at again."),
                    time.monotonic(),
                )
                self.divert()  # this connection still counts, and those who wait would wait for it

        self.lane.add(backend, free=False)
        backend.ask(IDENTITY, 1, done, rows)

    def _failed(self, error: AmbassadorError, began: float) -> None:
        now = time.monotonic()
        self.connect_failures += 1
        self.last_error = error
        self.plan.failed(now, passing=error.passing)
        self._weigh(now)
        self._log_failure("cannot open a connection to a standby: %s", error, now)
        if self.lane.total == 0:
            self.divert()

    def divert(self) -> None:
        """Whoever waits here goes to the primary."""
        while (waiter := self.lane.first_waiting()) is not None:
            if isinstance(waiter, Session):
                waiter.divert()
            else:
                self.turn_away(waiter, b"")

    def tick(self, now: float) -> None:
        super().tick(now)
        self._weigh(now)

    def inquire(self, now: float) -> None:
        """The trunk does."""

    def pause(self) -> None:
        super().pause()
        self._weigh(time.monotonic())
        self.divert()

    def resume(self) -> None:
        super().resume()
        self._weigh(time.monotonic())

    def retire(self, reason: str) -> None:
        """Close what is idle now, and the rest when it comes back."""
        self.retire_idle(reason)
        for backend in self.backends:
            backend.retiring = True
