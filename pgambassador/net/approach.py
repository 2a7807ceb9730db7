"""How one server is approached by all pools together: whether it may be, how many at a time, how it went.

1. An attempt has its turn: of those under way there are `max_opening` at most, and `opening_rate` begin a
   second.
2. Each attempt is told of: that the server is away or unwell counts against it (`cluster/breaker.py`);
   whatever else it answers shows that it lives.
3. What is known of a server that nobody asks any more is forgotten when there are more than `MOST`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Final

from pgambassador.cluster.breaker import Breaker, Mode, Rules, unwell
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.pool.bucket import TokenBucket
from pgambassador.pool.budget import Budget

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.config.failover import Breaker as BreakerConfig
    from pgambassador.config.failover import Failover

log = logging.getLogger(__name__)

MOST: Final = 256
Told = Callable[[AmbassadorError | None], None]
NOT_WANTED: Final = "25006"
"""The SQLSTATE of what is said of a server that answers, and is not what was asked for."""


class Approach:
    """`recovered` is called when attempts may begin that could not before."""

    def __init__(
        self, server: Endpoint, failover: Failover, rules: Rules, mode: Mode, recovered: Callable[[], None]
    ) -> None:
        self.server = server
        self.breaker = Breaker(rules, mode)
        self.retries = Budget(time.monotonic(), failover.retry_share, failover.retry_floor)
        self.successes = 0
        self.opening = 0
        self._pause = 1.0 / failover.opening_rate
        self._rate = TokenBucket(failover.opening_rate, max(1.0, failover.opening_rate))
        self._places = asyncio.Semaphore(failover.max_opening)
        self._recovered = recovered

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Told]:
        """An attempt; what is given is to be told its error, or None."""
        self.breaker.begins()
        try:
            async with self._places:
                while not self._rate.take(time.monotonic()):  # noqa: ASYNC110  nobody could tell it
                    await asyncio.sleep(self._pause)
                self.opening += 1
                try:
                    async with self.aside() as told:
                        yield told
                finally:
                    self.opening -= 1
        finally:
            self.breaker.ends()

    @contextlib.asynccontextmanager
    async def aside(self) -> AsyncIterator[Told]:
        """An attempt of those who watch, which waits for nobody and keeps nobody waiting."""
        began = time.monotonic()
        yield lambda error: self._went(error, time.monotonic() - began)

    def _went(self, error: AmbassadorError | None, seconds: float) -> None:
        if error is None:
            self.successes += 1
        if isinstance(error, ServerRefused):
            alive = not unwell(error.sqlstate)
        else:
            alive = error is None or error.sqlstate == NOT_WANTED
        if alive:
            before = self.breaker.state
            if self.breaker.succeeded(time.monotonic(), seconds, chance=random.random()):
                if before == "open":
                    log.info("%s answers again", self.server)
                self._recovered()
        elif error is not None and (error.passing or isinstance(error, ServerRefused)):
            self.unwell(error.message)

    def unwell(self, why: str, *, attempt: bool = True) -> None:
        """An attempt failed, or (`attempt` is False) a connection broke at work."""
        now = time.monotonic()
        if self.breaker.fails(now, why, chance=random.random(), attempt=attempt):
            log.warning(
                "the breaker of %s opens for %.1f s: %s%s",
                self.server,
                self.breaker.until - now,
                why,
                " (a dry run: nobody is turned away)" if self.breaker.mode == "dry" else "",
            )

    def may_retry(self, now: float) -> bool:
        """Whether an attempt after a failure is within the budget; it is spent."""
        return self.retries.grant(now, self.successes)

    def refusal(self, now: float) -> Unreachable:
        """What is said to whom an open breaker turns away."""
        breaker = self.breaker
        if breaker.mode == "open":
            detail = "It was opened by hand."
        else:
            again = max(0.0, breaker.until - now)
            detail = f"The last failure: {breaker.why}. The next attempt is made within {again:.1f} s."
        return Unreachable(
            f"server {self.server} is not asked for connections now: its breaker is open",
            sqlstate="57P03",
            detail=detail,
            hint=f"Ask again, or let connections through: BREAKER '{self.server}' CLOSE on the console.",
            passing=True,
        )

    def __repr__(self) -> str:
        return f"<Approach {self.server} {self.breaker!r} opening={self.opening}>"


class Approaches:
    """Those to the servers of one cluster. `recovered` is called when one of them may be asked again."""

    def __init__(
        self, cluster: str, failover: Failover, breaker: BreakerConfig, recovered: Callable[[], None]
    ) -> None:
        self.cluster = cluster
        self._failover = failover
        self._rules = Rules(
            failures=breaker.failures,
            share=breaker.share,
            volume=breaker.volume,
            window=breaker.window,
            slow=breaker.slow,
            first=breaker.first_pause,
            most=breaker.longest_pause,
            trials=breaker.trials,
        )
        self._mode: Mode = "dry" if breaker.dry_run else "auto"
        self._recovered = recovered
        self._known: dict[Endpoint, Approach] = {}

    def at(self, server: Endpoint) -> Approach:
        found = self._known.get(server)
        if found is None:
            if len(self._known) >= MOST:
                self._forget()
            found = Approach(server, self._failover, self._rules, self._mode, self._recovered)
            self._known[server] = found
        return found

    def force(self, approach: Approach, mode: Mode) -> None:
        """By hand, until this process ends or it is let go."""
        approach.breaker.force(self._mode if mode == "auto" else mode)
        log.warning("the breaker of %s is set by hand: %s", approach.server, mode)
        self._recovered()

    def _forget(self) -> None:
        for server, each in list(self._known.items()):
            if each.breaker.state == "closed" and each.breaker.mode == self._mode and not each.opening:
                del self._known[server]
                return

    def __iter__(self) -> Iterator[Approach]:
        return iter(self._known.values())
