"""Servers that have gone quiet: whether one that works for somebody, and says nothing for long, still lives.

1. A connection over which an answer is owed and no byte has come for `quiet` seconds makes its server be
   knocked at, by a connection of its own to the same address, one at a time; then again after as long.
2. Whatever it answers, it lives, and may take as long as it wants. If it does not answer, every connection to
   that address is lost: those that are idle, and those that owe an answer, whose clients are told.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from pgambassador.net.tasks import spawn

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.openings import Openings

log = logging.getLogger(__name__)


class Health:
    """Of a pool. `knocks` and `lost` count: questions, and connections that were given up."""

    def __init__(self, keeper: Openings, quiet: float | None) -> None:
        self.quiet = quiet
        self.knocks = 0
        self.lost = 0
        self._keeper = keeper
        self._heard: dict[Backend, tuple[int, float]] = {}
        self._asking: set[str] = set()

    def tick(self, now: float) -> None:
        """Look at those that owe an answer."""
        if self.quiet is None:
            return
        heard: dict[Backend, tuple[int, float]] = {}
        for backend in self._keeper.backends:
            if not backend.owes:
                continue
            received = backend.channel.received
            before = self._heard.get(backend)
            heard[backend] = before if before is not None and before[0] == received else (received, now)
            if now - heard[backend][1] >= self.quiet and backend.link.address not in self._asking:
                self._asking.add(backend.link.address)
                spawn(self._knock(backend), f"knocking at {backend.link.address}")
        self._heard = heard

    async def _knock(self, backend: Backend) -> None:
        address = backend.link.address
        self.knocks += 1
        try:
            alive = await self._keeper.upstream.knock(backend.link)
        finally:
            self._asking.discard(address)
        now = time.monotonic()
        if alive:
            for each, (received, _) in self._heard.items():
                if each.link.address == address:
                    self._heard[each] = received, now
            return
        log.warning(
            "%s does not answer any more; its connections are given up",
            address,
            extra={"cluster": self._keeper.cluster, "database": self._keeper.database},
        )
        for each in list(self._keeper.backends):
            known = self._heard.get(each)
            silent = known is not None and known[0] == each.channel.received
            if each.link.address == address and (silent or each in self._keeper.lane.idle):
                self.lost += 1
                each.close("the server does not answer any more")
