"""Takes clients in: each by a task, which takes the next one when its client is a session, or has gone.

1. A client that comes is begun with at once. Making a task for each would cost two turns of the event loop.
2. At most `IDLE` tasks wait for somebody to come; what fails in one ends that one and is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pgambassador.net.herald import Newcomer
from pgambassador.net.tasks import spawn
from pgambassador.net.word import Word

IDLE = 50

Welcome = Callable[[Newcomer, asyncio.Task[Any]], Coroutine[Any, Any, None]]


class Reception:
    """`welcome(newcomer, task)` takes one client to its end, in that task."""

    def __init__(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self._idle: list[_Desk] = []

    def take(self, newcomer: Newcomer) -> None:
        """Not to be called by a task."""
        if self._idle:
            self._idle.pop().turn_to(newcomer)
        else:
            spawn(self._serve(_Desk(newcomer)), "login")

    async def _serve(self, desk: _Desk) -> None:
        task = asyncio.current_task()
        assert task is not None
        while True:
            await self._welcome(desk.client(), task)
            if len(self._idle) >= IDLE:
                return
            self._idle.append(desk)
            try:
                await desk.bell
            finally:
                if desk in self._idle:
                    self._idle.remove(desk)  # the process ends

    def __repr__(self) -> str:
        return f"<Reception with {len(self._idle)} idle>"


class _Desk:
    """Where the task is that waits for a client; `bell` calls it."""

    def __init__(self, newcomer: Newcomer) -> None:
        self.bell = Word(asyncio.get_running_loop())
        self._client: Newcomer | None = newcomer

    def turn_to(self, newcomer: Newcomer) -> None:
        self._client = newcomer
        self.bell.heard()

    def client(self) -> Newcomer:
        """Once for each."""
        client, self._client = self._client, None
        assert client is not None
        return client
