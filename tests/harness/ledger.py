"""What clients were told about each row that they wrote, to be compared with what the tables have.

1. A key is committed, refused, or in doubt. What is committed is there, exactly once; what was refused is
   nowhere; what is in doubt is there at most once. The table has no unique index: it shall show what runs
   twice.
2. Rows are never deleted. So whatever anybody has read is there at the end, and was written by somebody.
3. An error counts for the phase that its client was in. Which errors a phase may have is for the test to say.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

DOUBTFUL = frozenset({"", "08006", "08007", "40003", "57P01", "57P02", "58000", "XX000"})
"""After these a write that was under way may have happened; '' is a connection that ended without a word."""

CREATE = """
drop table if exists deeds;
create table deeds (serial bigserial, key text);
create index on deeds (key);
create index on deeds (serial);
grant all on deeds to app; grant all on sequence deeds_serial_seq to app;
"""


class Told(Enum):
    COMMITTED = "committed"
    REFUSED = "refused"
    DOUBT = "in doubt"


class Phase(Enum):
    """Where a client is when it asks. Those above the line are outside a transaction."""

    LOGIN = "at login"
    READING = "reading"
    ONCE_MORE = "reading or at BEGIN, asked again before"
    BEGINNING = "at BEGIN"
    WRITING = "writing by itself"
    # ---
    HALFWAY = "halfway through an answer"
    INSIDE = "in a transaction"
    COMMITTING = "at COMMIT"


@dataclass(frozen=True)
class Trouble:
    phase: Phase
    sqlstate: str
    """Empty if there was none."""
    ended: bool
    """Whether the session ended with it."""
    message: str = ""
    when: float = 0.0

    def __str__(self) -> str:
        return f"{self.phase.value} {self.sqlstate or 'nothing'}{', and the end' if self.ended else ''}"


@dataclass(frozen=True)
class Success:
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass
class Ledger:
    """Threads may write into it."""

    told: dict[str, Told] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    """What no fault explains."""
    done: Counter[str] = field(default_factory=Counter)
    """Steps of each kind that went as they should."""
    troubles: list[Trouble] = field(default_factory=list)
    longest: dict[Phase, Success] = field(default_factory=dict)
    successes: dict[Phase, int] = field(default_factory=lambda: defaultdict(int))
    written: list[Success] = field(default_factory=list)
    """Every write by itself that was committed."""
    _together: list[tuple[str, ...]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def intend(self, *keys: str) -> None:
        """They will be written; refused until something else is said."""
        with self._lock:
            for key in keys:
                if key in self.told:
                    self.wrong.append(f"{key} was used twice")
                self.told[key] = Told.REFUSED

    def tell(self, told: Told, *keys: str) -> None:
        """Of the keys of one transaction."""
        with self._lock:
            for key in keys:
                self.told[key] = told
            if told is Told.DOUBT and len(keys) > 1:
                self._together.append(keys)

    def trouble(self, trouble: Trouble) -> None:
        with self._lock:
            self.troubles.append(trouble)

    def success(self, phase: Phase, began: float) -> None:
        found = Success(began, time.monotonic())
        with self._lock:
            self.successes[phase] += 1
            if phase is Phase.WRITING:
                self.written.append(found)
            if phase not in self.longest or found.seconds > self.longest[phase].seconds:
                self.longest[phase] = found

    def seen(self, keys: Iterable[str]) -> None:
        with self._lock:
            self.read.update(keys)

    def complain(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what[:600])

    def count(self, step: str) -> None:
        with self._lock:
            self.done[step] += 1

    # afterwards

    def stall(self, *phases: Phase) -> float:
        """The longest wait for an answer that came; outside a transaction, if nothing else is said."""
        wanted = phases or (Phase.READING, Phase.BEGINNING, Phase.WRITING)
        return max((self.longest[phase].seconds for phase in wanted if phase in self.longest), default=0.0)

    def beyond(self, promised: Mapping[Phase, Mapping[str, bool]]) -> Counter[str]:
        """Troubles that `promised` does not have; it has SQLSTATEs, and whether the session may end."""
        found: Counter[str] = Counter()
        for each in self.troubles:
            may_end = promised.get(each.phase, {}).get(each.sqlstate)
            if may_end is None or (each.ended and not may_end):
                found[f"{each}: {each.message:.400}"] += 1
        return found

    def compare(self, found: Iterable[str]) -> list[str]:
        """What is wrong with a table that has these keys."""
        rows = Counter(found)
        problems = [f"{key} is there {count} times" for key, count in rows.items() if count > 1]
        for key, told in self.told.items():
            if told is Told.COMMITTED and key not in rows:
                problems.append(f"{key} was committed and is lost")
            elif told is Told.REFUSED and key in rows:
                problems.append(f"{key} was refused and is there")
        for keys in self._together:
            if 0 < sum(key in rows for key in keys) < len(keys):
                problems.append(f"of {keys}, one transaction, only a part is there")
        problems += [f"{key} is there and was never written" for key in rows.keys() - self.told.keys()]
        problems += [f"{key} was read and is not there" for key in self.read - rows.keys()]
        return problems

    def summary(self) -> str:
        told = Counter(each.value for each in self.told.values())
        troubles = Counter(str(each) for each in self.troubles)
        return (
            f"{sum(self.successes.values())} answers, keys {dict(told)}, {len(self.read)} read,"
            f" longest stall {self.stall():.2f} s, errors {dict(troubles)}, steps {dict(self.done)}"
        )
