"""Who is logging in: each has the same time for it, and goes at once when it has to make room for another.

1. One timer is for all of them: who came first is late first. Only who has another time than the others, by
   the names in its start packet, has a timer of its own.
2. Who is late or has to make room has its task cancelled; `leaves` tells that from any other cancelling.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

_EARLY = 0.001
"""A timer may come so much before its time."""


class Guest:
    """One client's login, which is the task that makes it."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.crowded = False
        self.leaves = False
        self.limit: tuple[float, str] | None = None
        """Seconds that it may take and where they are written, if others may take another time."""
        self.timer: asyncio.TimerHandle | None = None
        self._task = task

    def make_room(self) -> None:
        self.crowded = True
        self.go()

    def go(self) -> None:
        """Once is enough."""
        if not self.leaves:
            self.leaves = True
            self._task.cancel()

    def stays(self) -> None:
        """Its task has heard that it was cancelled, and goes on to say goodbye."""
        self._task.uncancel()

    def __repr__(self) -> str:
        return f"<Guest{' leaving' if self.leaves else ''}>"


class Guests:
    """`patience()`: seconds that a login may take."""

    def __init__(self, patience: Callable[[], float]) -> None:
        self._patience = patience
        self._since: dict[Guest, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def enter(self, task: asyncio.Task[Any]) -> Guest:
        """Who logs in by this task."""
        guest = Guest(task)
        self._since[guest] = asyncio.get_running_loop().time()
        if self._timer is None:
            self.look()
        return guest

    def allow(self, guest: Guest, limit: tuple[float, str]) -> None:
        """It has another time than the others, from when it came."""
        since = self._since.pop(guest, None)
        if since is not None:
            guest.limit = limit
            guest.timer = asyncio.get_running_loop().call_at(since + limit[0], guest.go)

    def leave(self, guest: Guest) -> None:
        """Its login is over, or it has all the time that it needs; may be said twice."""
        self._since.pop(guest, None)
        if guest.timer is not None:
            guest.timer.cancel()

    def look(self) -> None:
        """Who is late goes; also when the patience has changed."""
        loop = asyncio.get_running_loop()
        now, patience = loop.time(), self._patience()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for guest, since in list(self._since.items()):
            if now < since + patience - _EARLY:
                self._timer = loop.call_at(since + patience, self.look)
                return
            del self._since[guest]
            guest.go()

    def __len__(self) -> int:
        return len(self._since)

    def __repr__(self) -> str:
        return f"<Guests {len(self)}>"
