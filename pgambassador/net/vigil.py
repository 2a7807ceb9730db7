"""Whether a server whose breaker is open is back: it is asked in the background, so that nobody waits for it.

1. It is asked by a login, like any other that comes after a failure within the server's budget, and in no
   client's name. One begins each `EVERY` seconds, less up to half by chance, `MOST` at the same time; each is
   given up after `PATIENCE`, since what was sent before a server came back may have gone nowhere.
2. A login that succeeds counts as any attempt does. One that fails is no news, and makes no pause longer.
3. It goes on while the breaker is open and says so (`Breaker.asks`), for `INTEREST` seconds after somebody
   wanted a connection from the server.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final, Protocol

from pgambassador.errors import AmbassadorError
from pgambassador.net.tasks import spawn

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.net.approach import Approach

EVERY: Final = 0.5
MOST: Final = 4
PATIENCE: Final = 2
INTEREST: Final = 30.0


class Way(Protocol):
    """How to get to a server; see `Origin`."""

    async def call(self, server: Endpoint, seconds: int) -> AmbassadorError | None: ...


class Vigil:
    """Over the server of an `Approach`."""

    def __init__(self, approach: Approach) -> None:
        self._approach = approach
        self._way: Way | None = None
        self._until = 0.0
        self._under_way = 0
        self._running = False

    def wanted(self, way: Way, now: float) -> None:
        """Somebody wants a connection, by this way."""
        self._way = way
        if self._approach.breaker.state != "open":
            return
        self._until = now + INTEREST
        if not self._running:
            self._running = True
            spawn(self._run(), f"asking whether {self._approach.server} is back")

    def doubt(self) -> None:
        """Somebody says that the server is away: it is asked once, and how that goes counts as any attempt
        does. Where nobody has ever wanted a connection there is no way to ask, and no need."""
        if self._way is not None and self._under_way < MOST:
            self._under_way += 1
            spawn(self._ask(counts=True), f"asking whether {self._approach.server} is away")

    async def _run(self) -> None:
        approach = self._approach
        try:
            while approach.breaker.state == "open" and (now := time.monotonic()) < self._until:
                if self._under_way < MOST and approach.breaker.asks(now) and approach.may_retry(now):
                    self._under_way += 1
                    spawn(self._ask(), f"asking whether {approach.server} is back")
                await asyncio.sleep(EVERY * (0.5 + 0.5 * random.random()))
        finally:
            self._running = False

    async def _ask(self, *, counts: bool = False) -> None:
        assert self._way is not None
        began = time.monotonic()
        try:
            error = await self._way.call(self._approach.server, PATIENCE)
        finally:
            self._under_way -= 1
        self._approach.answered(error, time.monotonic() - began, counts=counts)

    def __repr__(self) -> str:
        return f"<Vigil over {self._approach.server}{' running' if self._running else ''}>"
