"""What servers have said of themselves, pool by pool: logins are answered with it at a start without them.

1. It is used by a pool whose server has not been reached, and is given up with the first connection: what the
   server says then is compared with what its clients were told.
2. A set of settings is kept only if the server reports each of its parameters, or it is one of `KNOWN`: in
   others there may be secrets. So there may be in the names of applications, which are never kept.
3. All of it is bounded: the sets of a pool, pools, and what is written. What is oldest goes. Nothing is used
   that was true more than `AGE` seconds ago, or of a cluster with other hosts, or found in another way.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final

from pgambassador.net.names import AGE
from pgambassador.protocol.settings import FIXED, Settings
from pgambassador.wire import build

if TYPE_CHECKING:
    from pgambassador.config import Cluster
    from pgambassador.net.keeper import Keeper

KNOWN: Final = frozenset(
    {
        *("bytea_output", "client_min_messages", "default_transaction_deferrable"),
        *("default_transaction_isolation", "default_transaction_read_only", "extra_float_digits"),
        *("idle_in_transaction_session_timeout", "idle_session_timeout", "jit", "lock_timeout"),
        *("row_security", "search_path", "statement_timeout", "synchronous_commit", "transaction_timeout"),
    }
)
"""PostgreSQL's own, which not every server reports."""
SETS: Final = 16
POOLS: Final = 200
SIZE: Final = 1_000_000
"""Bytes that all of it takes when it is written; a file of a state directory has 1 MiB."""
_OWN_SIZE: Final = 8192
_SET_SIZE: Final = 1024
_NAME: Final = "application_name"
_VERSION: Final = "server_version"
_COMMA: Final = 2

Pool = tuple[str, str, str]
"""Cluster, database, and who is logged in there."""


class Memoir:
    """Of one pool. `at` is until when it was true, in Unix time; 0: nothing is known."""

    def __init__(self, memoirs: Memoirs, pool: Pool) -> None:
        self.at = 0.0
        self.parameters: dict[str, str] = {}
        self.sets: dict[Settings, dict[str, str]] = {}
        """What was given, as the server spells it, and what else differs from these under settings that were
        tried out; those used last come last."""
        self.pool = pool
        self.announced = False
        """Whether the log says that it is used."""
        self.memoirs = memoirs
        self._size = 0

    def learn(self, parameters: Mapping[str, str]) -> None:
        """A connection tells it, or still has it."""
        if not self.memoirs.on or _size(parameters) > _OWN_SIZE:
            return
        if self.parameters.get(_VERSION) != parameters.get(_VERSION):
            self.sets.clear()
        news = parameters != self.parameters or not self.at
        self.parameters = dict(parameters)
        if news:
            self.sets = {given: told for given, told in self.sets.items() if self._may_be_kept(given, told)}
        self.memoirs.learnt(self, news=news)

    def note(self, settings: Settings, differing: dict[str, str]) -> None:
        """A client has logged in with settings that the server has taken."""
        if not self.at:
            return
        if settings in self.sets:
            self.sets[settings] = self.sets.pop(settings)
            return
        if settings.size <= _SET_SIZE and self._may_be_kept(settings, differing):
            self.sets[settings] = differing
            while len(self.sets) > SETS:
                del self.sets[next(iter(self.sets))]
            self._size = 0
            self.memoirs.changes += 1  # it may be long ago that it was true

    def told(self, settings: Settings) -> dict[str, str] | None:
        """What the server would say to a client with these settings, as far as is known."""
        if not self.memoirs.on or not self.at or self.memoirs.clock() - self.at > AGE:
            return None
        if not settings.values:
            return self.parameters
        differing = self.sets.get(settings)
        return None if differing is None else {**self.parameters, **differing}

    def written(self) -> list[Any]:
        """What `recall` takes."""
        sets = [[settings.values, differing] for settings, differing in self.sets.items()]
        return [*self.pool, self.memoirs.clusters.get(self.pool[0]), self.at, self.parameters, sets]

    @property
    def size(self) -> int:
        """Bytes that this takes."""
        self._size = self._size or _size(self.written())
        return self._size

    def true_at(self, at: float) -> None:
        self.at, self._size = at, 0

    def recall(self, at: float, parameters: Any, sets: Any) -> None:
        """As it was written; raises ValueError, TypeError or AttributeError for anything else."""
        self.parameters = _checked(parameters)
        for values, differing in sets[-SETS:]:
            settings = Settings.of(_checked(values))
            if self._may_be_kept(settings, _checked(differing)):
                self.sets[settings] = differing
        self.at = at

    def _may_be_kept(self, settings: Settings, differing: Mapping[str, str]) -> bool:
        names = settings.values.keys()
        reported = {name.lower() for name in self.parameters}
        known = (reported - FIXED) | KNOWN
        if not names or _NAME in names or not names <= known:
            return False
        spelled = {name.lower() for name in differing}
        if not names & reported <= spelled <= reported:
            return False
        return _size([settings.values, differing]) <= _SET_SIZE

    def __repr__(self) -> str:
        return f"<Memoir of {'/'.join(self.pool)}: {len(self.sets)} sets>"


class Memoirs:
    """Those of a process; `on`: they are wanted. `changes` counts how often something else
    became known."""

    def __init__(
        self,
        clusters: Mapping[str, Cluster],
        keepers: Mapping[Any, Keeper],
        on: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.changes = 0
        self.on = on
        self.clusters = {name: _identity(cluster) for name, cluster in clusters.items()}
        self.clock = clock
        self._keepers = keepers
        self._pools: dict[Pool, Memoir] = {}  # those that were true last come last

    @property
    def in_use(self) -> int:
        """Pools whose logins are answered with what is remembered."""
        return sum(keeper.greeting.remembers for keeper in self._keepers.values())

    def of(self, cluster: str, database: str, user: str, given: Collection[object] = ()) -> Memoir | None:
        """None for a pool whose connections begin with what its clients have `given`."""
        pool = cluster, database, user
        return None if given else self._pools.get(pool) or Memoir(self, pool)

    def learnt(self, memoir: Memoir, *, news: bool) -> None:
        """It is true now."""
        memoir.true_at(self.clock())
        self._pools.pop(memoir.pool, None)
        self._pools[memoir.pool] = memoir
        while len(self._pools) > POOLS:
            del self._pools[next(iter(self._pools))]
        self.changes += news

    def recall(self, kept: Mapping[str, Any]) -> None:
        """What `memory` has told in another process, of pools of which nothing as young is known here; raises
        ValueError, TypeError, LookupError or AttributeError for anything else."""
        self._remind()
        now = self.clock()
        pools = dict(self._pools)
        for *names, of, at, parameters, sets in kept["pools"][:POOLS]:
            pool = _pool(names)
            if not (isinstance(at, int | float) and math.isfinite(at)):
                raise ValueError
            known = self._pools.get(pool)
            oldest = now - AGE if known is None else known.at
            if min(at, now) <= oldest or of is None or of != self.clusters.get(pool[0]):
                continue
            memoir = pools[pool] = Memoir(self, pool)
            memoir.recall(min(at, now), parameters, sets)
            memoir.announced = known is not None and known.announced
        youngest = sorted(pools.values(), key=lambda each: each.at)[-POOLS:]
        self._pools = {memoir.pool: memoir for memoir in youngest}
        for key, keeper in self._keepers.items():
            if keeper.greeting.parameters is None:
                keeper.greeting.memoir = self.of(*key)

    def _remind(self) -> None:
        """What is known of a server that is there is true now."""
        for keeper in self._keepers.values():
            keeper.greeting.remind()

    def memory(self) -> dict[str, Any] | None:
        """What is to be written; None if there is nothing to remember."""
        self._remind()
        now, room, kept = self.clock(), SIZE, []
        for memoir in reversed(self._pools.values()):
            room -= memoir.size + _COMMA
            if room < 0 or now - memoir.at > AGE:
                break
            kept.append(memoir.written())
        return {"pools": kept} if kept else None

    def __repr__(self) -> str:
        return f"<Memoirs {len(self._pools)} pools{'' if self.on else ', off'}>"


def _identity(cluster: Cluster) -> str:
    """Which cluster it is, found in which way."""
    found = repr((cluster.routing.discovery, cluster.upstream().endpoints))
    return hashlib.sha256(found.encode()).hexdigest()


def _size(values: object) -> int:
    return len(json.dumps(values))


def _texts(found: Collection[Any]) -> Collection[str]:
    for text in found:
        if not isinstance(text, str) or b"\0" in build.encode(text):
            raise ValueError
    return found


def _pool(names: Collection[Any]) -> Pool:
    cluster, database, user = _texts(names)
    return cluster, database, user


def _checked(found: Any) -> dict[str, str]:
    """Names and values."""
    _texts((*found.keys(), *found.values()))
    return dict(found)
