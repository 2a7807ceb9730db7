"""Whose turn it is, where those who wait have different priorities.

1. Within a priority who came first is served first.
2. A higher priority comes before a lower one, but nobody waits for ever: one turn in `SHARE` goes to whoever
   has waited longest, if that is longer than `OVERDUE`.
3. Those of normal priority wait in the deque that is given, in which others put them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Generic, Protocol, TypeVar

OVERDUE: Final = 1.0
"""Seconds after which one of a lower priority has its share of the turns."""
SHARE: Final = 4


class Waiting(Protocol):
    @property
    def waiting_since(self) -> float: ...


W = TypeVar("W", bound=Waiting)


class Precedence(Generic[W]):
    """`normal` is the queue of those in between; `stays(waiter)` whether somebody still waits in it."""

    def __init__(self, normal: deque[W], stays: Callable[[W], bool]) -> None:
        self._stays = stays
        self.high: deque[W] = deque()
        self.low: deque[W] = deque()
        self._queues = (self.high, normal, self.low)
        self._turn = 0

    def put(self, waiter: W, rank: int, *, first: bool = False) -> None:
        """`rank` is above 0 for high, below for low; `first`: it has had its turn before."""
        queue = self._queues[1 - rank]
        if first:
            queue.appendleft(waiter)
        else:
            queue.append(waiter)

    def first(self, now: float) -> W | None:
        """Whose turn it is; those who have given up are forgotten."""
        queue = self._due(now)
        return None if queue is None else queue[0]

    def take(self, now: float) -> W | None:
        """The same, whose turn it then was."""
        queue = self._due(now)
        if queue is None:
            return None
        self._turn = (self._turn + 1) % SHARE
        return queue.popleft()

    def _due(self, now: float) -> deque[W] | None:
        queues = self._heads()
        if not queues:
            return None
        if self._turn == SHARE - 1:
            oldest = min(queues, key=lambda queue: queue[0].waiting_since)
            if now - oldest[0].waiting_since > OVERDUE:
                return oldest
        return queues[0]

    def _heads(self) -> list[deque[W]]:
        """The queues in which somebody waits, the highest first."""
        for queue in self._queues:
            while queue and not self._stays(queue[0]):
                queue.popleft()
        return [queue for queue in self._queues if queue]

    def oldest(self) -> W | None:
        """Who has waited longest."""
        heads = [queue[0] for queue in self._heads()]
        return min(heads, key=lambda waiter: waiter.waiting_since, default=None)

    def newest_below(self, rank: int) -> W | None:
        """The newest of the lowest priority, if that is below this one: who goes when there is no room."""
        for other, queue in ((-1, self.low), (0, self._queues[1])):
            while other < rank and queue:
                if self._stays(queue[-1]):
                    return queue[-1]
                queue.pop()
        return None

    @property
    def needed(self) -> bool:
        """Whether anybody's priority is not the normal one."""
        return bool(self.high or self.low)

    def __iter__(self) -> Iterator[W]:
        for queue in self._queues:
            yield from queue

    def __repr__(self) -> str:
        high, normal, low = map(len, self._queues)
        return f"<Precedence {high} high, {normal} normal, {low} low>"
