"""Until when each standby shows everything: positions in the WAL, compared without asking on a client's path.

A mark is the primary's answer to "how far has your WAL got", with the time at which the question was sent.
Whatever the primary had acknowledged before that lies below the position. So a standby that has replayed the
position shows all that was acknowledged before the mark was asked for: it is fresh until then.

1. Times are of one monotonic clock. `asked` is read before the question is sent, and a write's time after the
   end of its answer was read; a standby shows a write for certain if `written < fresh_until`.
2. Positions compare only on one history. Marks are those of one run of one primary; another primary, or
   another run of it, starts with none. A standby's position counts if it was proven to be on the primary's
   timeline, within one run of the standby.
3. A standby that has more than the primary when that was asked later follows somebody else. It is `ahead`,
   and not fresh, until it or the primary is another. Before its first position has been compared in this way
   nothing of it counts.
4. The number of marks is bounded: old ones are thinned out, so that a standby that lags by far catches up in
   larger steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, NamedTuple, TypeVar

from pgambassador.cluster.probe import Report

MOST_MARKS: Final = 64
NEVER: Final = float("-inf")
RESIDUE: Final = 8
"""So many pages of flushed WAL may hold no complete record: they are not waited for when lag is judged."""

Key = TypeVar("Key")


def reachable(position: int, block: int, segment: int) -> int:
    """The end of the last record before an insert position.

    Where the last record filled its page, the next one is inserted behind the header of the following page,
    24 bytes or in a file's first page 40, while replay ends at the boundary. No record ends right behind a
    header: if it came to that page at all it has at least eight bytes there.
    """
    if position % segment == 40:
        return position - 40
    if position % block == 24 and position % segment != 24:
        return position - 24
    return position


class Mark(NamedTuple):
    asked: float
    inserted: int
    flushed: int


class Marks:
    """Of one run of one primary, in the order in which they were asked for."""

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    def __len__(self) -> int:
        return len(self._marks)

    @property
    def newest(self) -> Mark | None:
        return self._marks[-1] if self._marks else None

    def add(self, mark: Mark) -> bool:
        """False if it contradicts those before, which are of no use then."""
        last = self.newest
        if last is not None:
            if mark.inserted < last.inserted or mark.asked < last.asked:
                return False
            if mark[1:] == last[1:]:
                self._marks.pop()
        self._marks.append(mark)
        if len(self._marks) > MOST_MARKS:
            del self._marks[1 : MOST_MARKS // 2 : 2]
        return True

    def shown(self, replayed: int) -> float:
        """Everything acknowledged before this is below the position."""
        return next((mark.asked for mark in reversed(self._marks) if mark.inserted <= replayed), NEVER)

    def behind(self, replayed: int, block: int) -> float | None:
        """Seconds between the newest mark and the newest that is reached, by what was on disk: infinite if
        none is, None if there is none."""
        if not self._marks:
            return None
        residue = RESIDUE * block
        reached = next((m.asked for m in reversed(self._marks) if m.flushed <= replayed + residue), NEVER)
        return self._marks[-1].asked - reached


class Follower:
    """What is known of one run of one standby."""

    def __init__(self) -> None:
        self.life = 0
        self.fresh_until = NEVER
        self.ahead = False
        self.replayed: int | None = None
        self.heard = NEVER
        self.lag: float | None = None
        self.first: tuple[int, float] | None = None
        """Its first position, and when it was there, until that has been compared."""
        self.checked = False

    def reset(self, life: int = 0) -> None:
        self.life = life
        self.unproven()

    def unproven(self) -> None:
        """Nothing is known of its history any more."""
        self.fresh_until, self.heard, self.replayed = NEVER, NEVER, None
        self.ahead, self.lag = False, None
        self.first, self.checked = None, False

    def __repr__(self) -> str:
        return f"<Follower fresh_until={self.fresh_until:.3f} lag={self.lag} ahead={self.ahead}>"


class Freshness(Generic[Key]):
    """Of all standbys of one primary; `moved` is called with each new value of a standby's `fresh_until`."""

    def __init__(self, moved: Callable[[Key, float], None]) -> None:
        self.followers: dict[Key, Follower] = {}
        self.marks = Marks()
        self._primary: tuple[Key, int, str, int] | None = None
        self._block = 8192
        self._moved = moved

    def lead(self, key: Key | None, report: Report | None) -> None:
        """Who is the primary now, and as what; None: nobody. All that was known of another is forgotten."""
        new = None
        if key is not None and report is not None:
            new = (key, report.life, report.system, report.timeline)
        if new == self._primary:
            return
        self._primary = new
        self.forget()

    def forget(self) -> None:
        """Something does not fit together: what is fresh has to be proven again."""
        self.marks = Marks()
        for key, follower in self.followers.items():
            self._set(key, follower, NEVER)
            follower.unproven()

    def mark(self, key: Key, report: Report, asked: float) -> None:
        """The primary's answer to what was sent at `asked`; that of anybody else is passed over."""
        if self._primary != (key, report.life, report.system, report.timeline) or report.standby:
            return
        if report.position is None:
            return
        self._block = report.block
        inserted = reachable(report.position, report.block, report.segment)
        flushed = inserted if report.durable is None else min(report.durable, inserted)
        if not self.marks.add(Mark(asked, inserted, flushed)):
            self.forget()
            return
        for other, follower in self.followers.items():
            if follower.replayed is None:
                continue
            if follower.replayed > inserted and follower.heard <= asked:
                follower.ahead, follower.first = True, None
                self._set(other, follower, NEVER)
            elif follower.first is not None and follower.first[1] <= asked:
                follower.ahead, follower.checked = follower.first[0] > inserted, True
                follower.first = None
            self._measure(other, follower)

    def follow(self, key: Key, report: Report, heard: float) -> None:
        """A standby's answer, which was there at `heard`."""
        follower = self.followers.setdefault(key, Follower())
        if report.life != follower.life:
            self._set(key, follower, NEVER)
            follower.reset(report.life)
        if not self.comparable(report):
            self._set(key, follower, NEVER)
            follower.unproven()
            return
        if report.position is None:
            return
        if follower.replayed is not None and report.position < follower.replayed:
            # No server does that within one run.
            self._set(key, follower, NEVER)
            follower.ahead = True
        follower.replayed, follower.heard = report.position, heard
        if not (follower.checked or follower.ahead) and follower.first is None:
            follower.first = (report.position, heard)
        self._measure(key, follower)

    def bound(self, key: Key, life: int, until: float, lag: float | None = None) -> None:
        """A standby whose position cannot be compared shows everything older than this, for other reasons;
        NEVER: nothing is known."""
        follower = self.followers.setdefault(key, Follower())
        if life != follower.life:
            self._set(key, follower, NEVER)
            follower.reset(life)
        if lag is not None:
            follower.lag = lag
        if until > follower.fresh_until:
            self._set(key, follower, until)

    def drop(self, key: Key) -> None:
        """It is no standby, or no server of this cluster any more."""
        follower = self.followers.pop(key, None)
        if follower is not None:
            self._set(key, follower, NEVER)

    def fresh_until(self, key: Key) -> float:
        follower = self.followers.get(key)
        return follower.fresh_until if follower is not None else NEVER

    @property
    def doubtful(self) -> bool:
        """Whether another mark is needed to see if a standby is ahead."""
        return any(follower.first is not None for follower in self.followers.values())

    def comparable(self, report: Report) -> bool:
        """Whether a standby is proven to be on the primary's history."""
        if self._primary is None:
            return False
        _, _, system, timeline = self._primary
        return timeline != 0 and (report.system, report.timeline) == (system, timeline)

    def _measure(self, key: Key, follower: Follower) -> None:
        assert follower.replayed is not None
        follower.lag = self.marks.behind(follower.replayed, self._block)
        if (
            follower.checked
            and not follower.ahead
            and (shown := self.marks.shown(follower.replayed)) > follower.fresh_until
        ):
            self._set(key, follower, shown)

    def _set(self, key: Key, follower: Follower, value: float) -> None:
        if value != follower.fresh_until:
            follower.fresh_until = value
            self._moved(key, value)

    def __repr__(self) -> str:
        return f"<Freshness of {self._primary} marks={len(self.marks)} {self.followers!r}>"
