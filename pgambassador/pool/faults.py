"""Faults that somebody has ordered: what goes wrong on purpose, for whom, how often, and until when.

1. Each ends by itself: `LONGEST` after it was ordered at the latest.
2. There are `MOST` at most.
3. Of several that are for a statement the first that strikes counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from pgambassador.config.limits import What
from pgambassador.errors import Refused

Kind = Literal["delay", "error", "cut"]

USUAL: Final = 300.0
"""Seconds that a fault lasts unless somebody says otherwise."""
LONGEST: Final = 3600.0
MOST: Final = 32
DELAY_MOST: Final = 300.0
SQLSTATE: Final = "58000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`seconds` is a delay's, `sqlstate` an error's, `after` a cut's: when the request has been sent; `by`
    who has ordered it; `ends` by the clock of `now`."""

    number: int
    kind: Kind
    whom: What
    percent: float
    ends: float
    by: str
    seconds: float = 0.0
    sqlstate: str = SQLSTATE
    after: bool = False

    @property
    def what(self) -> str:
        if self.kind == "delay":
            return f"delay {self.seconds:g} s"
        if self.kind == "error":
            return f"error {self.sqlstate}"
        return f"cut {'after' if self.after else 'before'} sending"

    @property
    def scope(self) -> str:
        """For whom, as it is written."""
        named = ((name, getattr(self.whom, name)) for name in self.whom.__struct_fields__)
        return ", ".join(f"{name}={'|'.join(names)}" for name, names in named if "all" not in names) or "all"

    def __str__(self) -> str:
        return f"fault {self.number}: {self.what}, {self.percent:g} % of {self.scope}"


class Faults:
    """Those of one process. `injected` counts what was done, by kind."""

    def __init__(self) -> None:
        self.active: tuple[Fault, ...] = ()
        self.injected: Counter[str] = Counter()
        self.hits: Counter[int] = Counter()
        self._numbers = 0

    def add(
        self, kind: Kind, *, whom: What, percent: float, seconds: float, now: float, by: str, **more: object
    ) -> Fault:
        """`seconds` is how long it lasts; `more` as in Fault, with a delay's seconds as `delay`."""
        delay = float(more.pop("delay", 0.0))  # type: ignore[arg-type]
        if not 0 < percent <= 100:
            raise Refused(
                "a percentage is above 0 and at most 100", sqlstate="22023", hint="FAULT ADD ERROR 10%."
            )
        if not 0 < seconds <= LONGEST:
            raise Refused(
                f"a fault lasts for longer than nothing, and for {LONGEST / 60:g} minutes at most",
                sqlstate="22023",
                hint="FOR 5min, or less.",
            )
        if kind == "delay" and not 0 < delay <= DELAY_MOST:
            raise Refused(
                f"a delay is above 0 and at most {DELAY_MOST:g} s",
                sqlstate="22023",
                hint="FAULT ADD DELAY 200ms.",
            )
        if len(self.active) >= MOST:
            raise Refused(f"there are {MOST} faults already", sqlstate="53400", hint="FAULT CLEAR ends them.")
        self._numbers += 1
        fault = Fault(
            number=self._numbers,
            kind=kind,
            whom=whom,
            percent=percent,
            ends=now + seconds,
            by=by,
            seconds=delay,
            **more,  # type: ignore[arg-type]
        )
        self.active = (*self.active, fault)
        return fault

    def clear(self, number: int | None = None) -> list[Fault]:
        """End one, or all; those that it ends."""
        return self._end(lambda fault: number is None or fault.number == number)

    def expire(self, now: float) -> list[Fault]:
        """Those whose time is up, which are over now."""
        return self._end(lambda fault: fault.ends <= now)

    def _end(self, over: Callable[[Fault], bool]) -> list[Fault]:
        ended = [fault for fault in self.active if over(fault)]
        self.active = tuple(fault for fault in self.active if fault not in ended)
        for fault in ended:
            del self.hits[fault.number]
        return ended

    def concerning(self, user: str, database: str, application_name: str) -> tuple[Fault, ...]:
        return tuple(each for each in self.active if each.whom.concerns(user, database, application_name))

    def strike(
        self, faults: Iterable[Fault], mark: Callable[[], str], roll: Callable[[], float], now: float
    ) -> Fault | None:
        """Which of these a statement meets; `roll()` is from 0 to 1, and `mark()` its fingerprint."""
        for fault in faults:
            if fault.ends <= now or (fault.whom.picks and not fault.whom.means(mark())):
                continue
            if roll() * 100 < fault.percent:
                self.injected[fault.kind] += 1
                self.hits[fault.number] += 1
                return fault
        return None

    def __repr__(self) -> str:
        return f"<Faults {len(self.active)}>"
