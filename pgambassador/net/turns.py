"""Work that others may suffer from, at the wish of one place: a few at once, and the rest in turn. Places are
where strangers come from, or sessions whose keys for cancelling somebody has.

1. It counts until it is over, also if who wanted it has gone: otherwise whoever hangs up at once could have
   any amount of it under way.
2. Who waits for a turn waits behind its own place only, and costs nothing when it goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from pgambassador.errors import AmbassadorError
from pgambassador.net.tasks import spawn

EACH: Final = 4

T = TypeVar("T")


class _Site:
    def __init__(self, each: int) -> None:
        self.turns = asyncio.Semaphore(each)
        self.users = 0


class Turns:
    """`name` is that of its tasks in logs."""

    def __init__(self, name: str, each: int = EACH) -> None:
        self._name = name
        self._each = each
        self._sites: dict[Hashable, _Site] = {}

    async def hold(self, site: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work gives, in this place's turn."""
        here = self._sites.setdefault(site, _Site(self._each))
        here.users += 1
        try:
            await here.turns.acquire()
        except BaseException:
            self._leave(site, here)
            raise
        task = spawn(self._work(site, here, work), self._name)
        found: T | AmbassadorError = await asyncio.shield(task)
        if isinstance(found, AmbassadorError):
            raise found.with_traceback(None)
        return found

    async def _work(
        self, site: Hashable, here: _Site, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> T | AmbassadorError:
        try:
            return await work()
        except AmbassadorError as error:
            return error
        finally:
            here.turns.release()
            self._leave(site, here)

    def _leave(self, site: Hashable, here: _Site) -> None:
        here.users -= 1
        if not here.users:
            del self._sites[site]

    def __repr__(self) -> str:
        return f"<Turns of {len(self._sites)} places>"
