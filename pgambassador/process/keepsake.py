"""What a running process keeps for the next one: addresses of names, the servers of its clusters, and its
configuration file.

1. It is written soon after it has changed, and now and then because it is still true; by a thread, since the
   disk may be slow.
2. Neither reading nor writing ever keeps the process from its work: what goes wrong is a line of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from pgambassador.credentials import blocking
from pgambassador.errors import AmbassadorError
from pgambassador.net.names import Names
from pgambassador.net.tasks import spawn
from pgambassador.net.watch import Watch
from pgambassador.process.fallback import KIND, Fallback
from pgambassador.process.store import Busy, Kept, Store, Unusable

log = logging.getLogger(__name__)

SOON: Final = 1.0
"""Seconds between two looks at whether something has changed."""
REFRESH: Final = 300.0
"""Seconds after which what has not changed is written again."""
PATIENCE: Final = 5.0
HINT: Final = "Check the file system that it is on."
_ODD: Final = (ValueError, TypeError, LookupError, AttributeError, OverflowError)


class Keepsake:
    """`writes`, `failures` count."""

    def __init__(
        self,
        store: Store,
        names: Names,
        watches: Iterable[Watch],
        fallback: Fallback | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.writes = self.failures = 0
        self._store = store
        self._names = names
        self._sources = {watch.name: watch.source for watch in watches}
        self._fallback = fallback
        self._clock = clock
        self._written: dict[str, object] = {}
        self._looked = self._refreshed = 0.0
        self._complaint = ""
        self._writing = asyncio.Lock()

    @property
    def in_use(self) -> dict[str, int]:
        """How much is gone by that was known last, since nothing newer can be had."""
        return {
            "addresses": self._names.in_use,
            "servers": sum(source.in_use for source in self._sources.values()),
            "configuration": int(self._fallback is not None and bool(self._fallback.why)),
        }

    async def recall(self) -> None:
        """What the last process knew; before anything is asked for."""
        self._names.keeping = True
        for kind, learn in (("addresses", self._names.recall), ("servers", self._recall_servers)):
            try:
                kept = await self._ask(partial(self._store.read, kind))
                if kept is not None:
                    learn(kept.body)
            except (Unusable, AmbassadorError) as error:
                log.warning("%s/%s is ignored: %s", self._store.directory, kind, error)
            except _ODD:
                log.warning("%s/%s is ignored: it is not understood", self._store.directory, kind)

    def tick(self, now: float) -> None:
        """`now` is monotonic."""
        self._names.tick()
        if not self._writing.locked() and now - self._looked >= SOON:
            self._looked = now
            if now - self._refreshed >= REFRESH:
                self._refreshed = now
                self._written.clear()
            spawn(self.write(), "keep what is known")

    async def write(self) -> None:
        """What has changed since it was written."""
        async with self._writing:
            for kind, (version, kept) in self._now().items():
                if kept is None or (kind in self._written and self._written[kind] == version):
                    continue
                with contextlib.suppress(Busy):
                    await self._write(kind, kept)
                    self._written[kind] = version  # also if that failed: the next time will be soon enough

    async def close(self) -> None:
        """At the end, as far as the disk keeps up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self.write()
        self._names.keeping = False

    def _now(self) -> dict[str, tuple[object, Kept | None]]:
        now = self._clock()
        servers = {name: told for name, each in self._sources.items() if (told := each.memory()) is not None}
        addresses = self._names.memory()
        found: dict[str, tuple[object, Kept | None]] = {
            "addresses": (self._names.changes, Kept(now, addresses) if addresses else None),
            "servers": (
                tuple(each.changes for each in self._sources.values()),
                Kept(now, servers) if servers else None,
            ),
        }
        if self._fallback is not None and (kept := self._fallback.kept()) is not None:
            found[KIND] = (kept.body, kept)
        return found

    async def _write(self, kind: str, kept: Kept) -> None:
        try:
            await self._ask(partial(self._store.write, kind, kept))
        except Busy:
            raise
        except (Unusable, AmbassadorError) as error:
            self.failures += 1
            if str(error) != self._complaint:
                log.warning("nothing can be kept in %s: %s", self._store.directory, error)
            self._complaint = str(error)
        else:
            self.writes += 1
            self._complaint = ""

    async def _ask(self, question: Callable[[], Any]) -> Any:
        return await blocking.ask(
            question, seconds=PATIENCE, whom=f"the directory {self._store.directory}", hint=HINT
        )

    def _recall_servers(self, body: Any) -> None:
        for name, kept in body.items():
            if name in self._sources:
                self._sources[name].recall(kept)

    def __repr__(self) -> str:
        return f"<Keepsake in {self._store.directory}: {self.writes} written>"
