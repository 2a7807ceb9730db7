"""What stands between a client's request and a server connection: rates, faults on purpose, and its priority.

1. What concerns a session is found out at its login, when it changes its name, and when the rules change:
   where nothing does, its requests are not looked at.
2. Only what begins something is judged: a transaction under way is never touched.
3. As long as there is a fault the log says so every minute.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from pgambassador.config import Config
from pgambassador.errors import Refused
from pgambassador.net.patience import as_error
from pgambassador.pool.faults import Fault, Faults, Kind
from pgambassador.pool.rates import Rate, Rates, charge
from pgambassador.routing.marks import Marks

if TYPE_CHECKING:
    from pgambassador.config.limits import What
    from pgambassador.net.session import Session

log = logging.getLogger(__name__)

REMIND = 60.0

Judgement = bytes | float | str | None
"""Of a request: go on (None), be refused with an ErrorResponse, wait for so long, or lose its server
connection `before` or `after` it is sent."""


class Guard:
    """Judges the requests of sessions that the same rules and faults concern."""

    def __init__(self, tolls: Tolls, rates: tuple[Rate, ...], faults: tuple[Fault, ...]) -> None:
        self._tolls = tolls
        self._rates = rates
        self._faults = faults

    def judge(self, session: Session, text: bytes | None, now: float) -> Judgement:
        """`text` is the statement's, None where nobody knows it."""
        mark = partial(self._tolls.marks.of, text)
        late = charge(self._rates, mark, now)
        if late is not None:
            return as_error(_too_often(*late))
        if not self._faults:
            return None
        fault = self._tolls.faults.strike(self._faults, mark, random.random, now)
        if fault is None:
            return None
        if fault.kind == "delay":
            asyncio.get_running_loop().call_later(fault.seconds, session.proceed)
            return fault.seconds
        if fault.kind == "error":
            return as_error(_injected(fault))
        return _when(fault)

    def judge_again(self, text: bytes | None, now: float) -> str | None:
        """Of what has lost its server connection: whether it loses the next one, and when."""
        cuts = [each for each in self._faults if each.kind == "cut"]
        mark = partial(self._tolls.marks.of, text)
        fault = self._tolls.faults.strike(cuts, mark, random.random, now)
        return None if fault is None else _when(fault)


class Tolls:
    """`sessions()` are all that there are."""

    def __init__(self, config: Config, sessions: Callable[[], Iterable[Session]]) -> None:
        self._config = config
        self._sessions = sessions
        self.rates = Rates(config.limits.rates)
        self.faults = Faults()
        self.marks = Marks()
        self._guards: dict[tuple[tuple[Rate, ...], tuple[Fault, ...]], Guard] = {}
        self._reminded = 0.0

    def reload(self, config: Config) -> None:
        self._config = config
        self.rates.reload(config.limits.rates)
        if not config.console.faults:
            self.clear("the configuration does not allow them any more")
        self._changed()

    def attend(self, session: Session) -> None:
        """Find out what concerns a session."""
        limits, facts = self._config.limits, session.facts
        names = facts.user, facts.database, facts.application_name
        if limits.priorities:
            session.priority = limits.rank(*names)
        if not self.rates.rates and not self.faults.active:
            session.guard = None
            return
        key = self.rates.concerning(*names), self.faults.concerning(*names)
        if not any(key):
            session.guard = None
            return
        guard = self._guards.get(key)
        if guard is None:
            guard = self._guards[key] = Guard(self, *key)
        session.guard = guard

    def _changed(self) -> None:
        self._guards.clear()
        for session in self._sessions():
            session.priority = 0
            self.attend(session)

    # Faults on purpose.

    def inject(
        self, kind: Kind, *, whom: What, percent: float, seconds: float, by: str, **more: object
    ) -> Fault:
        """As `Faults.add`."""
        self.check_admin(by)
        if not self._config.console.faults:
            raise Refused(
                "faults may not be injected here",
                sqlstate="42501",
                hint="Set console.faults to true where nobody depends on this process.",
            )
        now = time.monotonic()
        fault = self.faults.add(kind, whom=whom, percent=percent, seconds=seconds, now=now, by=by, **more)
        log.warning("%s begins, ordered by %s, for %g s", fault, fault.by, seconds)
        self._reminded = now
        self._changed()
        return fault

    def check_admin(self, user: str) -> None:
        """Whoever may look at the console from this machine may not do that."""
        if user not in self._config.auth.admins:
            raise Refused(
                f'user "{user}" may not order faults', sqlstate="42501", hint="Name the user in auth.admins."
            )

    def clear(self, why: str, number: int | None = None) -> list[Fault]:
        return self._over(self.faults.clear(number), why)

    def _over(self, ended: list[Fault], why: str) -> list[Fault]:
        for fault in ended:
            log.warning("%s ends: %s", fault, why)
        if ended:
            self._changed()
        if any(fault.kind == "delay" for fault in ended):
            for session in [each for each in self._sessions() if each.detained]:
                session.proceed()  # nobody waits for what is over
        return ended

    def tick(self, now: float) -> None:
        self._over(self.faults.expire(now), "its time is up")
        if self.faults.active and now - self._reminded >= REMIND:
            self._reminded = now
            for fault in self.faults.active:
                log.warning("%s goes on for %.0f s", fault, fault.ends - now)

    # What the metrics show.

    @property
    def refused(self) -> dict[str, int]:
        return {rate.option: rate.refused for rate in self.rates.rates}

    @property
    def injected(self) -> Counter[str]:
        return self.faults.injected

    @property
    def active(self) -> int:
        return len(self.faults.active)

    @property
    def trouble(self) -> str:
        """What /readyz says."""
        return "; ".join(f"{fault} is injected on purpose" for fault in self.faults.active)

    def __repr__(self) -> str:
        return f"<Tolls {self.rates!r} {self.faults!r}>"


def _too_often(rate: Rate, seconds: float) -> Refused:
    return Refused(
        f"too many statements: {rate.option} allows {rate.rule.rate:g} a second",
        sqlstate="53400",
        hint=f"Try again in {max(seconds, 0.001):.3g} s, or raise the rule's rate or burst.",
    )


def _when(fault: Fault) -> str:
    return "after" if fault.after else "before"


def _injected(fault: Fault) -> Refused:
    return Refused(
        f"this error was injected on purpose ({fault.what})",
        sqlstate=fault.sqlstate,
        detail=f"It is fault {fault.number} of those that were ordered on the console of pgambassador.",
        hint="FAULT CLEAR on the console ends it.",
    )
