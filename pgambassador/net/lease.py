"""One pool's part in its cluster's limits: carries out for a keeper what the commons decide.

1. A place is counted from the decision to open a connection until the server has closed its end of it, or
   `PATIENCE` later, since a server may be hung or far away.
2. Of a connection that is closed one more file descriptor stays until then; nothing is written to it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgambassador.pool.commons import Cap, Commons

if TYPE_CHECKING:
    from pgambassador.net.backend import Backend
    from pgambassador.net.keeper import Keeper

PATIENCE = 5.0
_SCRAP = 65536


class Lease:
    """`caps` are the limits that the pool is under, at least one."""

    def __init__(self, commons: Commons, caps: Sequence[Cap], keeper: Keeper) -> None:
        self.caps = tuple(caps)
        self._commons = commons
        self._keeper = keeper
        self._doors: dict[Backend, socket.socket | None] = {}
        self._leaving: dict[socket.socket, float] = {}  # until when
        commons.join(self)

    # What the keeper says.

    def claim(self) -> None:
        self._commons.claim(self, time.monotonic())

    def returned(self) -> None:
        """A connection has not come about."""
        self._commons.returned(self, time.monotonic())

    def opened(self, backend: Backend, sock: socket.socket) -> None:
        try:
            self._doors[backend] = sock.dup()
        except OSError:  # no file descriptor is left: then it counts until our end is closed
            self._doors[backend] = None

    def closed(self, backend: Backend) -> None:
        """Our end of it is closed."""
        if backend not in self._doors:
            return  # the process ends
        door = self._doors.pop(backend)
        if door is None:
            self.returned()
            return
        self._leaving[door] = time.monotonic() + PATIENCE
        self._commons.leaves(self, time.monotonic())
        try:
            door.setblocking(False)
            door.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it is gone already, which reading it will show
        self._keeper.sockets.add_reader(door.fileno(), lambda: self._listen(door))

    def yields(self) -> bool:
        return self._commons.yields(self, time.monotonic())

    def tick(self, now: float) -> None:
        for door in [door for door, until in self._leaving.items() if until <= now]:
            self._gone(door)

    def stop(self) -> None:
        """The process ends."""
        for door in self._leaving:
            self._keeper.sockets.remove_reader(door.fileno())
        for each in (*self._leaving, *self._doors.values()):
            if each is not None:
                each.close()
        self._leaving.clear()
        self._doors.clear()

    def end(self) -> None:
        """The pool is forgotten."""
        self._commons.leave(self)

    @property
    def unused(self) -> bool:
        return not (self._leaving or self._doors)

    @property
    def obstacle(self) -> Cap | None:
        """The limit that keeps the pool from growing."""
        return next((cap for cap in self.caps if cap.full), None)

    def _listen(self, door: socket.socket) -> None:
        try:
            if door.recv(_SCRAP):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._gone(door)

    def _gone(self, door: socket.socket) -> None:
        if self._leaving.pop(door, None) is None:
            return
        self._keeper.sockets.remove_reader(door.fileno())
        door.close()
        self._commons.left(self, time.monotonic())

    # What the commons ask.

    @property
    def held(self) -> int:
        return self._keeper.lane.total + self._keeper.opening

    def lacks(self, now: float) -> int:
        return self._keeper.lacks(now)

    def urgent(self) -> bool:
        return self._keeper.asked_for > 0

    def idle_since(self) -> tuple[bool, float] | None:
        idle = self._keeper.lane.idle
        if not idle:
            return None
        return self._keeper.lane.total <= self._keeper.plan.min_size, idle[0].freed_at

    def grant(self) -> None:
        self._keeper.begin()

    def evict(self) -> None:
        self._keeper.lane.idle[0].close("another pool's turn")

    def contest(self, contested: bool) -> None:
        self._keeper.lane.contested = contested

    def __repr__(self) -> str:
        return f"<Lease of {self._keeper.cluster}/{self._keeper.database}, {len(self._leaving)} leaving>"
