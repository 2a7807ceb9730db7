"""A client in transaction mode gets another server connection each time."""

from __future__ import annotations

from collections import deque
from typing import Self

from tests.harness.ambassador import Ambassador
from tests.harness.wire import Wire


class Elsewhere:
    """Called, it makes whoever comes next get the server connection that was used longest ago.

    All but one of the pool's connections are held meanwhile, so that nobody may hold that one at a call.
    """

    def __init__(self, proxy: Ambassador, size: int) -> None:
        self._holders = deque(Wire.session(proxy.port) for _ in range(size))
        for holder in list(self._holders)[1:]:
            holder.ask("begin")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for holder in self._holders:
            holder.leave()

    def __call__(self) -> None:
        self._holders[0].ask("begin")
        self._holders.rotate(-1)
        self._holders[0].ask("rollback")
