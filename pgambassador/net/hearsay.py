"""What the ambassadors of a fleet tell one another of sick servers, through a store that they share.

1. Told is only what was found out here: that a breaker has opened by its own rules, why, and until when; and
   that it is open no longer. What was heard, what is set by hand and dry runs are not told on.
2. What is heard opens nothing. The server is asked from here at once, and as long as the word is fresh one
   failed attempt is enough to open a breaker here; one that succeeds ends that. So an ambassador whose own
   network is broken makes the others ask, once in `AGAIN` seconds at most, and takes nobody down.
3. Nothing closes a breaker but answers of the server itself.
4. A word ends with the pause that it tells of: in the store by itself, and here too, where it is believed for
   no longer than the longest pause. Moments are told by the wall clock, and kept by one that nobody sets.
5. Nobody waits for the store. It is asked by one task, each question within a bound; while it is of no use
   that is logged once, counted, and changes nothing here.
6. A word is small, has a known form, and comes from anybody who can write to the store: of what it says only
   the moment is used, and the reason is shown in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import msgspec

from pgambassador.config.secret import redact
from pgambassador.errors import AmbassadorError
from pgambassador.net.tasks import spawn
from pgambassador.pool.backoff import pause

if TYPE_CHECKING:
    from pgambassador.net.approach import Approach, Approaches

log = logging.getLogger(__name__)

EVERY: Final = 1.0
AGAIN: Final = 5.0
SLOWEST: Final = 30.0
"""Seconds between questions to a store that is of no use, at most."""
MOST: Final = 1024
"""Bytes of a word."""
_WHY_MOST: Final = 200
_PREFIX: Final = "pgambassador:breaker"


class Word(msgspec.Struct, frozen=True):
    """What is told of a server. `by` is somebody, anew at each start; `until` in Unix time."""

    by: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
    until: float
    why: Annotated[str, msgspec.Meta(max_length=_WHY_MOST)] = ""


class Store(Protocol):
    """See `RedisStore`."""

    async def read(self, keys: Sequence[str]) -> list[bytes]: ...
    async def write(self, key: str, value: bytes, seconds: float) -> None: ...
    async def erase(self, key: str, value: bytes) -> None: ...
    async def close(self) -> None: ...


def key_of(cluster: str, server: object) -> str:
    return f"{_PREFIX}:{cluster}:{server}"


class Hearsay:
    """`clusters` gives what is known of servers now. `up`: whether the store was of use when it was asked
    last; `told`, `heard` and `failures` count."""

    def __init__(
        self,
        store: Store,
        clusters: Callable[[], Iterable[Approaches]],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.up = False
        self.told = self.heard = self.failures = 0
        self._store = store
        self._clusters = clusters
        self._clock, self._wall = clock, wall
        self._me = secrets.token_hex(8)
        self._said: dict[str, tuple[float, bytes]] = {}
        self._asked: dict[str, tuple[bytes, float]] = {}
        self._complaint = ""
        self._strange = False
        self._row = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = spawn(self._run(), "what others say of servers")

    async def close(self) -> None:
        """What was told stays until its end: whoever starts next may want to know."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._store.close()

    async def _run(self) -> None:
        while True:
            await self.once()
            wait = EVERY
            if self._row:
                wait = EVERY + pause(self._row, first=EVERY, most=SLOWEST, chance=random.random())
            await asyncio.sleep(wait)

    async def once(self) -> None:
        """Tell what is to be told, and hear what others say."""
        try:
            servers = {key_of(of.cluster, each.server): each for of in self._clusters() for each in of}
            await self._tell(servers)
            await self._hear(servers)
        except AmbassadorError as error:
            self._row += 1
            self._complain(error.sentence())
            self.up = False
        except Exception:  # a mistake of ours, or of a library
            log.exception("what others say of servers cannot be heard")
            self._row += 1
            self.failures += 1
            self.up = False
        else:
            if self._complaint:
                log.info("the store of breaker.store is of use again")
            self._complaint = ""
            self._row, self.up = 0, True

    async def _tell(self, servers: dict[str, Approach]) -> None:
        for key, each in servers.items():
            breaker, now = each.breaker, self._clock()
            said = self._said.get(key)
            sick = breaker.state == "open" and breaker.mode == "auto" and breaker.proven
            if sick and breaker.until > now and (said is None or said[0] != breaker.until):
                left = breaker.until - now
                word = msgspec.json.encode(Word(self._me, self._wall() + left, _cleaned(breaker.why)))
                await self._store.write(key, word, left)
                self._said[key] = breaker.until, word
                self.told += 1
            elif said is not None and not sick:
                if said[0] > now:
                    await self._store.erase(key, said[1])
                del self._said[key]
        for key in self._said.keys() - servers.keys():
            del self._said[key]

    async def _hear(self, servers: dict[str, Approach]) -> None:
        keys = list(servers)
        found = await self._store.read(keys) if keys else []
        for key, value in zip(keys, found, strict=True):
            if value:
                self._listen(key, value, servers[key])
        for key in self._asked.keys() - servers.keys():
            del self._asked[key]

    def _listen(self, key: str, value: bytes, server: Approach) -> None:
        try:
            word = msgspec.json.decode(value, type=Word) if len(value) <= MOST else None
        except (msgspec.DecodeError, UnicodeDecodeError):
            word = None
        if word is None or not math.isfinite(word.until):
            self.failures += 1
            if not self._strange:
                log.warning("the store of breaker.store has something else than a word of ours at %s", key)
            self._strange = True
            return
        now = self._clock()
        left = min(word.until - self._wall(), server.breaker.rules.most)
        before, at = self._asked.get(key, (b"", -math.inf))
        if word.by == self._me or left <= 0 or value == before or now - at < AGAIN:
            return
        self._asked[key] = value, now
        self.heard += 1
        log.info("another pgambassador says that %s is away: %s", server.server, _cleaned(word.why))
        server.hear(now + left)

    def _complain(self, why: str) -> None:
        """Once, however often."""
        self.failures += 1
        if why != self._complaint:
            log.warning("%s", why)
        self._complaint = why

    def __repr__(self) -> str:
        return f"<Hearsay {'up' if self.up else 'down'} told={self.told} heard={self.heard}>"


def _cleaned(text: str) -> str:
    """Without passwords and control characters, and not too long."""
    return "".join(each if each.isprintable() else " " for each in redact(text))[:_WHY_MOST]
