"""How one server is approached by all pools together: whether it may be, how many at a time, how it went.

1. An attempt has its turn: of those under way there are `max_opening` at most, and `opening_rate` begin a
   second.
2. Each attempt is told of: that the server is away or unwell counts against it (`cluster/breaker.py`);
   whatever else it answers shows that it lives. What no server says counts as well, if this one has been
   heard before: then it is not the port that is wrong.
3. While its breaker is open and somebody wants connections it is asked in the background (`net/vigil.py`).
   When it answers, attempts that began before the one that was answered, and hang, are made anew: what they
   sent may have gone nowhere.
4. What is known of a server that nobody asks any more is forgotten when there are more than `MOST`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pgambassador.cluster.breaker import Breaker, Mode, Rules, unwell
from pgambassador.errors import AmbassadorError, ServerRefused, Unreachable
from pgambassador.net.tasks import spawn
from pgambassador.net.vigil import Vigil
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


def lives(error: AmbassadorError | None) -> bool:
    """Whether what became of an attempt shows that the server lives."""
    if isinstance(error, ServerRefused):
        return not unwell(error.sqlstate)
    return error is None or error.sqlstate == NOT_WANTED


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
        self.by_hand = False
        self._failover = failover
        self._rate = _bucket(failover)
        self._places = asyncio.Semaphore(failover.max_opening)
        self._recovered = recovered
        self._hanging: dict[asyncio.Timeout, tuple[asyncio.Task[Any] | None, float]] = {}
        self.vigil = Vigil(self)

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Told]:
        """An attempt; what is given is to be told its error, or None."""
        self.breaker.begins()
        try:
            async with self._places:
                while not self._rate.take(time.monotonic()):  # noqa: ASYNC110  nobody could tell it
                    await asyncio.sleep(1.0 / self._rate.rate)
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

    @contextlib.asynccontextmanager
    async def renewed(self) -> AsyncIterator[asyncio.Timeout]:
        """Around an attempt: it expires if that should be made anew."""
        async with asyncio.timeout(None) as limit:
            self._hanging[limit] = asyncio.current_task(), time.monotonic()
            try:
                yield limit
            finally:
                del self._hanging[limit]

    def _went(self, error: AmbassadorError | None, seconds: float) -> None:
        if error is None:
            self.successes += 1
        elif error.strange and self.successes:
            error.passing = True
        if lives(error):
            before = self.breaker.state
            if self.breaker.succeeded(time.monotonic(), seconds, chance=random.random()):
                if before == "open":
                    log.info("%s answers again", self.server)
                    self._renew(time.monotonic() - seconds)
                self._recovered()
        elif error is not None and (error.passing or isinstance(error, ServerRefused)):
            self.unwell(error.message)

    def answered(self, error: AmbassadorError | None, seconds: float, *, counts: bool) -> None:
        """It was asked in the background. Unless it `counts`, what failed, or is slow, is no news."""
        slow = self.breaker.rules.slow
        if counts or (lives(error) and (slow is None or seconds <= slow)):
            self._went(error, seconds)

    def hear(self, until: float) -> None:
        """Somebody else says that the server is away, at least until then."""
        if self.breaker.state == "closed" and self.breaker.mode in ("auto", "dry"):
            self.breaker.hinted = until
            self.vigil.doubt()

    def _renew(self, before: float) -> None:
        """Those that began before then, beside the one that has found out."""
        for limit, (task, began) in self._hanging.items():
            if began <= before and task is not asyncio.current_task():
                limit.reschedule(asyncio.get_running_loop().time())

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

    def refit(self, failover: Failover, rules: Rules, mode: Mode) -> None:
        """The configuration has changed. What is under way goes on, also if it is more than may begin now."""
        self.breaker.refit(rules, time.monotonic())
        if not self.by_hand:
            self.breaker.mode = mode
        old, self._failover = self._failover, failover
        self.retries.resize(failover.retry_share, failover.retry_floor)
        if failover.opening_rate != old.opening_rate:
            self._rate = _bucket(failover)
        for _ in range(failover.max_opening - old.max_opening):
            self._places.release()
        for _ in range(old.max_opening - failover.max_opening):
            spawn(self._places.acquire(), f"fewer places at {self.server}")

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
            detail = (
                f"The last failure: {breaker.why}. The next attempt is made within {again:.1f} s, or"
                " as soon as it answers in the background."
            )
        return Unreachable(
            f"server {self.server} is not asked for connections now: its breaker is open",
            sqlstate="57P03",
            detail=detail,
            hint=f"Ask again, or let connections through: BREAKER '{self.server}' CLOSE on the console.",
            passing=True,
        )

    def __repr__(self) -> str:
        return f"<Approach {self.server} {self.breaker!r} opening={self.opening}>"


def _rules(breaker: BreakerConfig) -> tuple[Rules, Mode]:
    rules = Rules(
        failures=breaker.failures,
        share=breaker.share,
        volume=breaker.volume,
        window=breaker.window,
        slow=breaker.slow,
        first=breaker.first_pause,
        most=breaker.longest_pause,
        trials=breaker.trials,
    )
    return rules, "dry" if breaker.dry_run else "auto"


def _bucket(failover: Failover) -> TokenBucket:
    return TokenBucket(failover.opening_rate, max(1.0, failover.opening_rate))


class Approaches:
    """Those to the servers of one cluster. `recovered` is called when one of them may be asked again."""

    def __init__(
        self, cluster: str, failover: Failover, breaker: BreakerConfig, recovered: Callable[[], None]
    ) -> None:
        self.cluster = cluster
        self._failover = failover
        self._rules, self._mode = _rules(breaker)
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

    def reload(self, failover: Failover, breaker: BreakerConfig) -> None:
        """The configuration has changed."""
        self._failover = failover
        self._rules, self._mode = _rules(breaker)
        for each in self:
            each.refit(self._failover, self._rules, self._mode)
        self._recovered()

    def force(self, approach: Approach, mode: Mode) -> None:
        """By hand, until this process ends or it is let go."""
        approach.by_hand = mode != "auto"
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
