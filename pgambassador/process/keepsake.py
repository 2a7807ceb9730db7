"""What a running process keeps for the next one: addresses of names, the servers of its clusters, what they
have said of themselves, and its configuration file.

1. It is written soon after it has changed, and now and then because it is still true; by a thread, since the
   disk may be slow. What clients make change at every login, perhaps, is written at longer intervals.
2. Neither reading nor writing ever keeps the process from its work: what goes wrong is a line of the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from pgambassador.credentials import blocking
from pgambassador.errors import AmbassadorError
from pgambassador.net.memoirs import Memoirs
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
PACE: Final = 30.0
"""Seconds between two of what servers have said, while one goes on."""
PATIENCE: Final = 5.0
HINT: Final = "Check the file system that it is on."
_PARAMETERS: Final = "parameters"
_ODD: Final = (ValueError, TypeError, LookupError, AttributeError, OverflowError)


class Keepsake:
    """`writes`, `failures` count."""

    def __init__(
        self,
        store: Store,
        names: Names,
        watches: Iterable[Watch],
        fallback: Fallback | None = None,
        memoirs: Memoirs | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.writes = self.failures = 0
        self._store = store
        self._names = names
        self._sources = {watch.name: watch.source for watch in watches}
        self._fallback = fallback
        self._memoirs = memoirs
        self._clock = clock
        self._written: dict[str, object] = {}
        self._looked = self._refreshed = 0.0
        self._told = -PACE
        self._complaint = ""
        self._writing = asyncio.Lock()

    @property
    def in_use(self) -> dict[str, int]:
        """How much is gone by that was known last, since nothing newer can be had."""
        return {
            "addresses": self._names.in_use,
            "servers": sum(source.in_use for source in self._sources.values()),
            "parameters": 0 if self._memoirs is None else self._memoirs.in_use,
            "configuration": int(self._fallback is not None and bool(self._fallback.why)),
        }

    async def recall(self) -> None:
        """What the last process knew; before anything is asked for."""
        self._names.keeping = True
        kinds: dict[str, Callable[[Any], None]] = {
            "addresses": self._names.recall,
            "servers": self._recall_servers,
        }
        if self._memoirs is not None and self._memoirs.on:
            kinds[_PARAMETERS] = self._memoirs.recall
        for kind, learn in kinds.items():
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
            spawn(self.write(now), "keep what is known")

    async def write(self, now: float = math.inf) -> None:
        """What has changed since it was written; `now` is monotonic, inf at the end."""
        async with self._writing:
            found = self._now()
            if now - self._told >= PACE:
                found |= await self._said()
            for kind, (version, kept) in found.items():
                if kept is None or (kind in self._written and self._written[kind] == version):
                    continue
                with contextlib.suppress(Busy):
                    await self._write(kind, kept)
                    self._written[kind] = version  # also if that failed: the next time will be soon enough
                    if kind == _PARAMETERS:
                        self._told = min(now, self._looked)

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

    async def _said(self) -> dict[str, tuple[object, Kept | None]]:
        """What servers have, if it is to be written."""
        memoirs = self._memoirs
        if memoirs is None or not memoirs.on or self._written.get(_PARAMETERS) == memoirs.changes:
            return {}
        with contextlib.suppress(Unusable, AmbassadorError, *_ODD):
            # Who shares the directory may know other pools.
            kept = await self._ask(partial(self._store.read, _PARAMETERS))
            if kept is not None:
                memoirs.recall(kept.body)
        memory = memoirs.memory()
        if memory is None:
            self._written[_PARAMETERS] = memoirs.changes  # nothing: no need to look again and again
            return {}
        return {_PARAMETERS: (memoirs.changes, Kept(self._clock(), memory))}

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
