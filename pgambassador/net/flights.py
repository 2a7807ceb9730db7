"""Work that many may ask for at once and that is done once.

1. Who asks while it is under way shares the result. Who stops waiting stops nobody else.
2. Its failure is a result too, and reaches everybody who asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from pgambassador.errors import AmbassadorError
from pgambassador.net.tasks import spawn

T = TypeVar("T")


class Flights(Generic[T]):
    """`name` is that of its tasks in logs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: dict[Hashable, asyncio.Task[T | AmbassadorError]] = {}

    async def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the work under way for this key gives; `work` begins it if there is none."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = spawn(self._fly(key, work), self._name)
        found = await asyncio.shield(task)
        if isinstance(found, AmbassadorError):
            raise found.with_traceback(None)
        return found

    async def _fly(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T | AmbassadorError:
        try:
            return await work()
        except AmbassadorError as error:
            return error
        finally:
            self._tasks.pop(key, None)

    def __len__(self) -> int:
        return len(self._tasks)
