"""What can be moved by hand on the console: pauses, connections and breakers; and what it shows of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from pgambassador.cluster.breaker import Mode
from pgambassador.config import EVERY_OTHER
from pgambassador.errors import AmbassadorError, Refused

if TYPE_CHECKING:
    from pgambassador.net.approach import Approach, Approaches
    from pgambassador.net.house import House
    from pgambassador.net.pausing import Place

Rows = Iterator[tuple[str | None, ...]]

COLUMNS: Final = {
    # The first ones are PgBouncer's.
    "databases": (
        *("name", "host", "port", "database", "force_user", "pool_size", "min_pool_size"),
        *("reserve_pool_size", "server_lifetime", "pool_mode", "load_balance_hosts", "max_connections"),
        *("current_connections", "max_client_connections", "current_client_connections", "paused"),
        *("disabled", "cluster"),
    ),
    "reload": ("at", "result", "applied", "needs_restart"),
    "breakers": (
        *("cluster", "server", "state", "mode", "failures_in_row", "failures", "opened", "seconds_left"),
        *("opening", "retries", "retries_refused", "last_failure"),
    ),
}
HELP: Final = (
    ("SHOW DATABASES", "the databases, as PgBouncer shows them"),
    ("SHOW BREAKERS", "how connections to each server went, and whether it is asked for more"),
    ("RELOAD", "read everything again; an error if nothing of it could be used"),
    ("SHOW RELOAD", "how the last one ended, and what of it waits for a restart"),
    ("PAUSE [database]", "let running work end, then keep clients waiting"),
    ("RESUME [database]", "let them go"),
    ("RECONNECT [database]", "replace server connections as they become free"),
    ("BREAKER 'HOST:PORT' OPEN | CLOSE | AUTO | DRY", "set the breaker of a server by hand, or let it go"),
)
_MODES: Final[dict[str, Mode]] = {"open": "open", "close": "closed", "auto": "auto", "dry": "dry"}


class Outcome(NamedTuple):
    """What became of a reload, `at` in Unix time. `error`: why everything stays as it was; `live`, `restart`:
    the options whose changes are applied, and those that wait for a restart, by path."""

    at: float
    error: AmbassadorError | None = None
    live: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


Reread = Callable[[], Callable[[], Outcome | None]]
"""Begins to read everything again; what it gives tells how that ended, None until it has."""


class Levers:
    """`waits` tells whether what was moved last is not done yet."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.waits: Callable[[], bool] = lambda: False

    def answers(self) -> dict[str, Callable[..., Rows]]:
        """What is done for each verb."""
        return {
            "databases": self._databases,
            "breakers": self._breakers,
            "pause": self._pause,
            "resume": self._resume,
            "reconnect": self._reconnect,
            "breaker": self._breaker,
            "reread": self._reread,
            "reload": self._reload,
        }

    def _pause(self, name: str | None = None) -> Rows:
        place, pausing = self._place(name), self._house.pausing
        pausing.pause(place)
        self.waits = lambda: pausing.unfinished(place)
        yield from ()

    def _resume(self, name: str | None = None) -> Rows:
        self._house.pausing.resume(self._place(name))
        yield from ()

    def _reconnect(self, name: str | None = None) -> Rows:
        self._house.pausing.reconnect(self._place(name))
        yield from ()

    def _reread(self) -> Rows:
        if self._house.reread is None:
            raise Refused("there is nothing to read again", sqlstate="55000", hint="Start it with a file.")
        ended = self._house.reread()

        def waits() -> bool:
            outcome = ended()
            if outcome is not None:
                self.waits = lambda: False
            if outcome is not None and outcome.error is not None:
                raise outcome.error
            return outcome is None

        self.waits = waits
        yield from ()

    def _reload(self) -> Rows:
        last = self._house.reloaded
        if last is not None:
            result = "applied" if last.error is None else last.error.sentence()
            at = datetime.fromtimestamp(last.at, UTC).isoformat(timespec="seconds")
            yield at, result, ", ".join(last.live) or None, ", ".join(last.restart) or None

    def _place(self, name: str | None) -> Place | None:
        if name is None:
            return None
        target = self._house.config.target(name)
        if target is None or self._house.config.is_console(name):
            raise Refused(
                f'database "{name[:64]}" does not exist', sqlstate="3D000", hint="SHOW DATABASES lists them."
            )
        return target.cluster, target.database

    def _databases(self) -> Rows:
        house = self._house
        config = house.config
        names = {name: name for name in config.databases}
        for _, database, _, _ in house.keepers:
            if not config.databases:
                names.setdefault(database, database)
        for name in names:
            target = config.target(name)
            assert target is not None
            upstream = config.clusters[target.cluster].upstream()
            first = upstream.endpoints[0]
            entry, place = config.databases.get(name), (target.cluster, target.database)
            pools = [pool for key, each in house.keepers.items() if key[:2] == place for pool in each.all()]
            lifetime = target.pool.lifetime
            yield (
                name,
                first.host,
                str(first.port),
                name if name == EVERY_OTHER else target.database,
                target.user,
                str(target.pool.size),
                str(target.pool.min_size),
                "0",
                str(round(lifetime)) if lifetime is not None else "0",
                target.pool.mode,
                None,
                str((entry.max_connections if entry is not None else None) or 0),
                str(sum(pool.lane.total for pool in pools)),
                str((entry.max_clients if entry is not None else None) or 0),
                str(sum(len(pool.clients) for pool in pools)),
                str(int(house.pausing.covers(place))),
                "0",
                target.cluster,
            )

    def _breakers(self) -> Rows:
        now = time.monotonic()
        for approaches, each in self._approaches():
            breaker = each.breaker
            breaker.settle(now)
            left = max(0.0, breaker.until - now) if breaker.state == "open" else None
            yield (
                approaches.cluster,
                str(each.server),
                breaker.state,
                breaker.mode,
                str(breaker.row),
                str(breaker.failures),
                str(breaker.opened),
                None if left is None else f"{left:.1f}",
                str(each.opening),
                str(each.retries.granted),
                str(each.retries.denied),
                breaker.why or None,
            )

    def _breaker(self, server: str, word: str) -> Rows:
        mode = _MODES.get(word.lower())
        if mode is None:
            raise Refused(
                f"a breaker cannot be set to {word[:64]!r}",
                sqlstate="22023",
                hint="OPEN, CLOSE, AUTO or DRY.",
            )
        found = [(of, each) for of, each in self._approaches() if str(each.server) == server]
        if not found:
            raise Refused(
                f"no server {server[:64]!r} has been asked for a connection",
                sqlstate="22023",
                hint="SHOW BREAKERS lists them.",
            )
        for approaches, each in found:
            approaches.force(each, mode)
        yield from ()

    def _approaches(self) -> list[tuple[Approaches, Approach]]:
        return [(of, each) for of in self._house.approaches() for each in of]
