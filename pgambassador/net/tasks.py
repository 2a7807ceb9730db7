"""Background tasks: the only place that starts one.

The event loop keeps only weak references to tasks, and a task that fails says so only when it is collected.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from pgambassador.errors import AmbassadorError

log = logging.getLogger("pgambassador.tasks")

_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
    """Run `work` beside everything else, hold on to it until it is done, and log it if it fails."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_done)
    return task


def _done(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if isinstance(error, AmbassadorError):
        log.error("%s failed: %s", task.get_name(), error.sentence())
    elif error is not None:
        log.error("%s failed", task.get_name(), exc_info=error)
