"""How the pools of one cluster share limits that are less than the sum of their sizes.

1. Never more than `most` under a limit: connections being opened count, and those that are being closed count
   until the server has let go of them.
2. A pool that needs a place claims it. Places go first to those that have none at all, then to those who
   claimed first; with each one that it gets, and each that it gives up, a pool goes to the end of the queue.
3. Nobody waits beside what nobody uses: not beside a free place, nor while an idle connection of another pool
   under the same limit could be closed for it. The one that has been idle longest is closed, and one of those
   that a pool keeps ready only if there is no other. Nothing is closed in order to keep one ready.
4. Where all work, a pool yields a connection that its client has done with: if it has no use for it itself,
   if it has at least two more than who waits, or if that one has waited for `TURN` and has none at all, once
   it has itself had its own for a `TURN`. So each pool gets its turn, and equals do not rob each other.
5. Who has waited for a `TURN` is kept the places that it already could have, while it lacks others.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

TURN: Final = 1.0
LOOK: Final = 16
"""So many of those who wait under a limit are thought of when a connection comes free."""


@dataclass(slots=True, eq=False)
class Cap:
    """A limit: `option` sets it, `what` it is a limit of. `used` are open, being opened or `leaving`."""

    option: str
    what: str
    most: int
    used: int = 0
    leaving: int = 0
    waiting: list[Member] = field(default_factory=list, repr=False)
    """Those who have not been promised a place: there is none, and nothing idle to close."""
    members: dict[Member, None] = field(default_factory=dict, repr=False)

    @property
    def full(self) -> bool:
        return self.used >= self.most


class Member(Protocol):
    """A pool, and what it can be told to do."""

    @property
    def caps(self) -> Sequence[Cap]: ...
    @property
    def held(self) -> int:
        """Connections that are open or being opened."""

    def lacks(self, now: float) -> int:
        """How many more it would begin to open now."""

    def urgent(self) -> bool:
        """Whether somebody waits, so that it is not only about keeping some ready."""

    def idle_since(self) -> tuple[bool, float] | None:
        """Of the connection that has been idle longest: whether it is to be kept ready, and since when."""

    def grant(self) -> None:
        """Begin to open one; its place is counted."""

    def evict(self) -> None:
        """Close the connection that has been idle longest."""

    def contest(self, contested: bool) -> None:
        """From now on ask `yields` when a connection comes free, or no longer."""


@dataclass(slots=True)
class _Pass:
    """What one look at all claims has given away already, by limit."""

    kept: Counter[Cap] = field(default_factory=Counter)
    promised: Counter[Cap] = field(default_factory=Counter)

    def free(self, cap: Cap) -> bool:
        return cap.most - cap.used - self.kept[cap] > 0

    def coming(self, cap: Cap) -> bool:
        return cap.leaving - self.promised[cap] > 0

    def keep(self, caps: Sequence[Cap]) -> None:
        for cap in caps:
            if self.free(cap):
                self.kept[cap] += 1
            elif self.coming(cap):
                self.promised[cap] += 1


class Commons:
    """The limits of one cluster. Times are seconds of any clock."""

    def __init__(self) -> None:
        self._claims: dict[Member, float] = {}  # since when, the oldest first
        self._got: dict[Member, float] = {}
        self._short: set[Cap] = set()
        self._favoured: dict[Member, list[Cap]] = {}  # for whom places are kept, and where they lack
        self._busy = self._again = self._stale = False

    def join(self, member: Member) -> None:
        for cap in member.caps:
            cap.members[member] = None
        self._got[member] = -math.inf
        member.contest(not self._short.isdisjoint(member.caps))

    def leave(self, member: Member) -> None:
        """It has no connections any more, and wants none."""
        for cap in member.caps:
            cap.members.pop(member, None)
            if member in cap.waiting:
                cap.waiting.remove(member)
        self._got.pop(member, None)
        self._favoured.pop(member, None)
        self._claims.pop(member, None)

    def claim(self, member: Member, now: float) -> None:
        """It lacks connections; `grant` is called for each, now or later."""
        self._claims.setdefault(member, now)
        if self._stale or self._busy or self._short.isdisjoint(member.caps):
            self.settle(now)
            return
        for cap in member.caps:
            if cap in self._short and member not in cap.waiting:
                cap.waiting.append(member)

    def leaves(self, member: Member, now: float) -> None:
        """A connection is being closed; its place is free when the server knows, and promised at once."""
        for cap in member.caps:
            cap.leaving += 1
        self.settle(now)

    def left(self, member: Member, now: float) -> None:
        """A connection that was leaving is no more."""
        for cap in member.caps:
            cap.leaving -= 1
        self.returned(member, now)

    def returned(self, member: Member, now: float) -> None:
        """A place is free: a connection could not be opened, or has left."""
        for cap in member.caps:
            cap.used -= 1
        self.settle(now)

    def yields(self, member: Member, now: float) -> bool:
        """Whether it gives up a connection that has just come free."""
        urgent = member.urgent()
        for cap in member.caps:
            for other in cap.waiting[:LOOK]:
                if other is not member and other.lacks(now) > 0 and self._gives(member, urgent, other, now):
                    self._to_the_end(member, now)
                    return True
        # It is idle then, and the next who claims may have it.
        self._stale = self._stale or not urgent
        return False

    def _gives(self, member: Member, urgent: bool, other: Member, now: float) -> bool:
        needed = self._favoured.get(other) or [cap for cap in other.caps if cap in self._short]
        shared = [cap for cap in needed if cap in member.caps]
        if not shared or (len(shared) < len(needed) and other not in self._favoured):
            return False  # it would not go to the other one
        if not urgent or member.held >= other.held + 2:
            return True
        late = now - self._claims.get(other, now) >= TURN
        return late and other.held == 0 and now - self._got[member] >= TURN

    def _to_the_end(self, member: Member, now: float) -> None:
        if self._claims.pop(member, None) is not None:
            self._claims[member] = now

    def settle(self, now: float) -> None:
        """Give out what there is. To be called now and then too, because waiting changes what is due."""
        self._again = True
        if self._busy:
            return
        self._busy = True
        try:
            while self._again:
                self._again = self._stale = False
                self._pass(now)
        finally:
            self._busy = False

    def _pass(self, now: float) -> None:
        given = _Pass()
        short: set[Cap] = set()
        waiting: list[Member] = []
        self._favoured.clear()
        # One place for each in its turn: first who has none, last who only wants to keep some ready.
        claims = sorted(self._claims, key=lambda each: (not each.urgent(), each.held > 0))
        turns = deque((member, member.lacks(now)) for member in claims)
        while turns:
            member, lacks = turns.popleft()
            if lacks <= 0:
                continue
            if not short.isdisjoint(member.caps) or not self._serve(member, given, short, now):
                waiting.append(member)
            else:
                turns.append((member, lacks - 1))
        for member in claims:
            if not member.urgent() or member.lacks(now) <= 0:
                self._claims.pop(member, None)
        self._tell(short, [member for member in waiting if member.urgent()])

    def _serve(self, member: Member, given: _Pass, short: set[Cap], now: float) -> bool:
        """One place for a member: given or promised. If not, `short` says where there is none."""
        full = [cap for cap in member.caps if not given.free(cap)]
        if not full:
            for cap in member.caps:
                cap.used += 1
            self._got[member] = now
            self._to_the_end(member, now)
            member.grant()
            return True
        if not member.urgent():
            return False
        missing = [cap for cap in full if not given.coming(cap)]
        victims, uncovered = _victims(member, missing)
        late = now - self._claims.get(member, now) >= TURN
        if victims and (late or not uncovered):
            for each in victims:
                each.evict()
            return self._serve(member, given, short, now)
        if late or not missing:
            given.keep(member.caps)
        if uncovered and late:
            self._favoured[member] = uncovered
        short.update(uncovered)
        return not missing

    def _tell(self, short: set[Cap], waiting: Sequence[Member]) -> None:
        """Pools learn only of changes."""
        changed = short ^ self._short
        for cap in self._short | short:
            cap.waiting.clear()
        self._short = short
        for member in waiting:
            for cap in member.caps:
                if cap in short:
                    cap.waiting.append(member)
        for each in {member for cap in changed for member in cap.members}:
            each.contest(not short.isdisjoint(each.caps))

    def __repr__(self) -> str:
        return f"<Commons of {len(self._got)} pools, {len(self._claims)} claim>"


def _victims(member: Member, missing: Sequence[Cap]) -> tuple[list[Member], list[Cap]]:
    """Whose idle connections would make room where it is missing, and where nobody's would."""
    victims: list[Member] = []
    uncovered: list[Cap] = []
    rest = list(missing)
    while rest:
        best: tuple[tuple[bool, int, float], Member] | None = None
        for other in rest[0].members:
            idle = other.idle_since() if other is not member else None
            if idle is None:
                continue
            worth = (idle[0], -sum(cap in other.caps for cap in rest), idle[1])
            if best is None or worth < best[0]:
                best = worth, other
        if best is None:
            uncovered.append(rest.pop(0))
        else:
            victims.append(best[1])
            rest = [cap for cap in rest if cap not in best[1].caps]
    return victims, uncovered
