"""What is done a few times a second, piece by piece.

1. A piece that fails keeps neither the others from being done nor itself from being tried the next time:
   timeouts, renewals of secrets and the pools' own upkeep all hang on it.
2. The log is told, once in a while however often it fails.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

APART = 60.0


class Rounds:
    """`clock` never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def do(self, work: Callable[..., object], *what: object) -> None:
        try:
            work(*what)
        except Exception as error:
            self._tell(work, error)

    async def wait_for(self, work: Callable[..., Awaitable[object]], *what: object) -> None:
        try:
            await work(*what)
        except Exception as error:
            self._tell(work, error)

    def _tell(self, work: Callable[..., object], error: Exception) -> None:
        name = getattr(work, "__qualname__", type(work).__name__)
        now = self._clock()
        if now - self._told.get(name, -math.inf) >= APART:
            self._told[name] = now
            log.error("%s failed, and is tried again", name, exc_info=error)
