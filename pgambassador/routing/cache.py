"""Answers that are kept for a while, and given again to who asks the same, until they may be untrue.

1. An answer shows every write to its tables that was seen here and had ended when it was asked for; one that
   begins later takes it away. While one is under way no such answer is given, kept, or asked for to be kept.
2. An answer is given for no longer than its time to live, from when a server showed its data for certain.
3. What may write anything takes away all of its database; what changes definitions takes away all of its
   cluster, and those pools keep answers again that have read the catalog since.
4. Memory is bounded. The answer that was given longest ago goes first; none is larger than its `SHARE`.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from pgambassador.config import Config
from pgambassador.routing.decision import Decision

SHARE: Final = 16
OVERHEAD: Final = 1024
"""What an answer costs beside its bytes and those of its question."""
REMEMBERED: Final = 10_000
"""Tables of which it is known when they were written last; beyond that all have been."""

Part = tuple[str, ...]
"""What is written or read: (database, table); (database, "*"): any table of it, as a write; (database,): any
write in it; (): definitions."""
Parts = frozenset[Part]
_DEFINITIONS: Final[Part] = ()


def written(database: str, tables: frozenset[str], defines: bool = False) -> Parts:
    """The parts that a write touches."""
    if defines:
        return frozenset({_DEFINITIONS, (database,), (database, "*")})
    names = {"*"} if "*" in tables else tables
    return frozenset({(database,), *((database, name) for name in names)})


def shown(database: str, tables: frozenset[str]) -> Parts:
    """The parts that a read shows: what is written has one of them if it may change the answer."""
    if "*" in tables:
        return frozenset({_DEFINITIONS, (database,)})
    return frozenset({_DEFINITIONS, (database, "*"), *((database, name) for name in tables)})


@dataclass(slots=True, eq=False)
class Answer:
    """The server's messages up to ReadyForQuery. Times are of the monotonic clock."""

    key: Hashable
    parts: Parts
    data: bytes
    rows: int
    expires: float
    size: int


@dataclass(slots=True, eq=False)
class Draft:
    """A read that has been sent, whose answer is to be kept."""

    key: Hashable
    parts: Parts
    size: int
    since: int
    expires: float


class Cache:
    """The answers of one cluster; `memory` in bytes."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.largest = memory // SHARE
        self.hits = self.misses = self.stored = self.evicted = self.invalidated = self.expired = 0
        self.bytes = 0
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()
        self._by_part: dict[Part, set[Answer]] = {}
        self._under_way: Counter[Part] = Counter()
        self._count = 0
        self._written: dict[Part, tuple[int, float]] = {}
        self._forgotten = (0, -math.inf)
        self._defined: Counter[str] = Counter()

    def find(self, key: Hashable, now: float) -> Answer | None:
        """What may be answered."""
        found = self._answers.get(key)
        if found is not None and now < found.expires:
            self._answers.move_to_end(key)
            self.hits += 1
            return found
        if found is not None:
            self._remove(found)
            self.expired += 1
        self.misses += 1
        return None

    def asks(
        self, key: Hashable, size: int, parts: Parts, ttl: float, now: float, fresh_until: float = math.inf
    ) -> Draft | None:
        """A read of `size` bytes is about to be sent to a server that shows all that had ended before
        `fresh_until`. None: its answer will not be kept."""
        for part in parts:
            if self._under_way[part] or self._written.get(part, self._forgotten)[1] >= fresh_until:
                return None
        return Draft(key, parts, size, self._count, min(now, fresh_until) + ttl)

    def keep(self, draft: Draft, data: bytes, rows: int) -> bool:
        """All of its answer has come. Whether it is kept."""
        size = len(data) + draft.size + OVERHEAD
        if size > self.largest:
            return False
        for part in draft.parts:
            if self._under_way[part] or self._written.get(part, self._forgotten)[0] > draft.since:
                return False
        old = self._answers.get(draft.key)
        if old is not None:
            self._remove(old)
        answer = Answer(draft.key, draft.parts, data, rows, draft.expires, size)
        self._answers[draft.key] = answer
        for part in draft.parts:
            self._by_part.setdefault(part, set()).add(answer)
        self.bytes += size
        self.stored += 1
        while self.bytes > self.memory:
            self._remove(next(iter(self._answers.values())))
            self.evicted += 1
        return True

    def begins(self, parts: Parts) -> None:
        """What may write them is about to be sent."""
        self._count += 1
        for part in parts:
            self._under_way[part] += 1
            for answer in list(self._by_part.get(part, ())):
                self._remove(answer)
                self.invalidated += 1

    def ends(self, parts: Parts, now: float) -> None:
        """It is done or undone, or nobody will know."""
        self._count += 1
        if len(self._written) + len(parts) > REMEMBERED:
            self._written.clear()
            self._forgotten = (self._count, now)
        for part in parts:
            self._under_way[part] -= 1
            if not self._under_way[part]:
                del self._under_way[part]
            self._written[part] = (self._count, now)

    def redefined(self, database: str) -> None:
        """Its tables or functions are others than before."""
        self._defined[database] += 1

    def definitions(self, database: str) -> int:
        """How often that has been."""
        return self._defined[database]

    @property
    def defining(self) -> bool:
        """Whether definitions may be changing now."""
        return _DEFINITIONS in self._under_way

    def _remove(self, answer: Answer) -> None:
        del self._answers[answer.key]
        self.bytes -= answer.size
        for part in answer.parts:
            users = self._by_part[part]
            users.discard(answer)
            if not users:
                del self._by_part[part]

    def __len__(self) -> int:
        return len(self._answers)

    def __repr__(self) -> str:
        return f"<Cache {len(self)} answers, {self.bytes} of {self.memory} bytes>"


def caches(config: Config) -> dict[str, Cache]:
    """One for each cluster that has answers kept."""
    routings = ((name, cluster.routing) for name, cluster in config.clusters.items())
    return {name: Cache(each.cache.memory) for name, each in routings if each.cache is not None}


_EVERYTHING: Final = frozenset({"*"})
_NOTHING: Final[Parts] = frozenset()


@dataclass(slots=True, eq=False)
class Shelf:
    """What one pool has in its cluster's cache: nobody else's keys have this object. `seen`: how often
    definitions had changed in the database when its catalog was read, None if that was never."""

    cache: Cache
    database: str
    seen: int | None = None

    @property
    def definitions(self) -> int:
        """How often definitions have changed in the database."""
        return self.cache.definitions(self.database)

    @property
    def current(self) -> bool:
        """Whether it is known what statements do."""
        return self.seen == self.definitions

    @property
    def largest(self) -> int:
        return self.cache.largest

    def asks(
        self, key: Hashable, size: int, decision: Decision, now: float, fresh_until: float
    ) -> Draft | None:
        """See `Cache.asks`."""
        if not self.current or self.cache.defining or decision.cache is None:
            return None
        parts = shown(self.database, decision.tables)
        return self.cache.asks(key, size, parts, decision.cache, now, fresh_until)

    def touched(self, decision: Decision | None) -> Parts:
        """What a statement that is about to be sent may write."""
        if decision is None:
            return written(self.database, _EVERYTHING)
        if decision.kind == "ddl" and decision.writes:
            return written(self.database, _EVERYTHING, defines=True)
        if not self.current or self.cache.defining:
            # Functions may do something else by now than is believed.
            tables = decision.writes if decision.kind == "transaction" else _EVERYTHING
            return written(self.database, tables) if tables else _NOTHING
        return written(self.database, decision.writes) if decision.writes else _NOTHING

    def redefined(self) -> None:
        self.cache.redefined(self.database)

    def surprised(self, now: float) -> None:
        """Definitions have changed, nobody knows since when: what is kept may be untrue."""
        everything = written(self.database, _EVERYTHING)
        self.cache.begins(everything)
        self.cache.ends(everything, now)
        self.redefined()

    def __repr__(self) -> str:
        return f"<Shelf {self.database}{'' if self.current else ' behind'} of {self.cache!r}>"
