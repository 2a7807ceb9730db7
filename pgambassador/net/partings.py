"""What becomes of a server connection whose client has left, or wants to have a query cancelled.

1. A client that left is never felt by the next one: its transaction is rolled back and its session reset, or
   the connection is closed; a query still running is cancelled first.
2. Until a cancel request has arrived its connection goes to nobody else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgambassador.errors import AmbassadorError
from pgambassador.net.greeting import BASE
from pgambassador.net.states import States
from pgambassador.net.tasks import spawn
from pgambassador.wire import build

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from pgambassador.net.backend import Backend
    from pgambassador.net.link import Upstream

log = logging.getLogger(__name__)

_ROLLBACK = build.query("ROLLBACK")
_DISCARD = build.query("DISCARD ALL")


class Partings(States):
    """The part of a pool that cleans up. `cancels` counts requests."""

    upstream: Upstream
    cancels: int
    _parting: dict[Backend, asyncio.Task[object]]

    def abandoned(self, backend: Backend, half: bool) -> None:
        """A client has left while it held the connection; `half`: in the middle of a message."""
        if backend.closed:
            return
        if backend.finish_survey():
            if backend.tied:
                self._discard(backend, [])
            return
        if half or not backend.clean:
            if backend.owes and not half:
                task = spawn(self._cancel_and_close(backend), "cancel for a client that left")
                self._parting[backend] = task
            else:
                backend.close("its client left in the middle of its work")
            return
        queries = []
        if backend.transaction != "I":
            queries.append(_ROLLBACK)
            backend.marked_by = backend  # settings changed in it are undone, unseen
        if self.lane.sticky or backend.tied:
            self._discard(backend, queries)
        else:
            backend.ask(b"".join(queries), len(queries))

    def _discard(self, backend: Backend, queries: list[bytes]) -> None:
        """Have it forget everything, behind these queries."""
        backend.forget_statements()
        backend.state, backend.marked_by = BASE, None
        backend.pinned = backend.tied = False
        backend.ask(b"".join((*queries, _DISCARD)), len(queries) + 1)

    async def _cancel_and_close(self, backend: Backend) -> None:
        try:
            await self.cancel(backend)
        finally:
            self._parting.pop(backend, None)
            backend.close("its client left while a query ran")

    def cancel_again(self, backend: Backend) -> None:
        """A cancel request has hit our question instead of what its client has asked behind it."""
        spawn(self.cancel(backend), "cancel again")

    def cancel(self, backend: Backend) -> Coroutine[object, object, None]:
        """Send a cancel request. From this call until it has arrived the connection goes to nobody else, and
        takes nothing of who is held: a task of its own might begin only after an answer was read."""
        self.cancels += 1
        backend.cancel_begins()
        return self._cancel(backend)

    async def _cancel(self, backend: Backend) -> None:
        try:
            await self.upstream.cancel(backend.link)
        except AmbassadorError as error:
            backend.spoil()  # it may have been sent, and arrive when another client's statement runs
            log.warning("a cancel request failed: %s", error.sentence())
        except BaseException:
            backend.spoil()
            raise
        finally:
            backend.cancel_ends()
