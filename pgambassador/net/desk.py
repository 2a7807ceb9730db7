"""What the console is asked, answered from the house as it is at this moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final

from pgambassador import __version__
from pgambassador.admin.exchange import Table
from pgambassador.admin.fault import Order
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.listing import listing
from pgambassador.errors import Refused
from pgambassador.net import levers
from pgambassador.net.lane import Borrower
from pgambassador.net.levers import Levers
from pgambassador.routing.explanation import Explanation, Standing, standings
from pgambassador.routing.freshness import NEVER
from pgambassador.routing.reading import fingerprint

if TYPE_CHECKING:
    from pgambassador.config import Config
    from pgambassador.net.branches import Branches
    from pgambassador.net.house import House
    from pgambassador.net.keeper import Keeper
    from pgambassador.wire.parse import StartupPacket

HEAVIEST: Final = 1000.0

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "help": ("command", "what"),
    "config": ("key", "value", "default", "changeable"),
    # The first ones are PgBouncer's.
    "pools": (
        *("database", "user", "cl_active", "cl_waiting", "cl_active_cancel_req", "cl_waiting_cancel_req"),
        *(
            "sv_active",
            "sv_active_cancel",
            "sv_being_canceled",
            "sv_idle",
            "sv_used",
            "sv_tested",
            "sv_login",
        ),
        *("maxwait", "maxwait_us", "pool_mode", "load_balance_hosts"),
        *("cluster", "server", "size"),
    ),
    "replication": (
        *("cluster", "addr", "port", "role", "well", "lag_seconds", "weight", "zone"),
        *("probes", "failures", "objection"),
    ),
    "faults": ("number", "fault", "percent", "for", "seconds_left", "hits", "ordered_by"),
    **levers.COLUMNS,
    "route": ("name", "value"),
    "version": ("version",),
}
_HELP: Final = (
    ("SHOW ROUTE 'SQL'", "where a statement would go now, and why"),
    (
        "SHOW ROUTE FOR user database [application_name] 'SQL'",
        "the same for a client of that user and database, and with that name",
    ),
    ("SHOW REPLICATION", "the servers that are watched, and how far replicas are behind"),
    *levers.HELP,
    ("SHOW POOLS", "the pools, as PgBouncer shows them"),
    ("SHOW CONFIG", "the options that hold, and which of them a reload changes"),
    ("SHOW VERSION", "what is running"),
    ("SHOW FAULTS", "what goes wrong on purpose; FAULT LIST is the same"),
    ("SET WEIGHT 'HOST:PORT' number", "give a replica another share of the reads, until the next restart"),
    (
        "FAULT ADD DELAY 200ms | ERROR [40001] | CUT [BEFORE|AFTER] [10%] [FOR user=app, …] [FOR 5min]",
        "make something go wrong on purpose, where console.faults allows it",
    ),
    ("FAULT CLEAR [number]", "end that fault, or all"),
)


def check_admin(config: Config, user: str) -> None:
    """Whether somebody may use the console from another machine."""
    if user not in config.auth.admins:
        raise Refused(
            f'user "{user}" may not use the console from another machine',
            sqlstate="42501",
            hint="Name the user in auth.admins.",
        )


def settings_for(packet: StartupPacket) -> dict[str, str]:
    """What a client of the console is told of parameters: what drivers want to hear."""
    return {
        "server_version": f"18.0 (pgambassador {__version__})",
        "server_encoding": "UTF8",
        "client_encoding": "UTF8",
        "application_name": packet.params.get("application_name", "")[:64],
        "DateStyle": "ISO, MDY",
        "IntervalStyle": "postgres",
        "TimeZone": "UTC",
        "integer_datetimes": "on",
        "standard_conforming_strings": "on",
        "is_superuser": "off",
        "session_authorization": packet.user,
        "default_transaction_read_only": "off",
        "in_hot_standby": "off",
        "transaction_read_only": "off",
        "transaction_isolation": "read committed",
    }


class Desk:
    """For one client of the console, `user`."""

    def __init__(self, house: House, user: str) -> None:
        self._house = house
        self._user = user
        self.levers = Levers(house)

    def answer(self, verb: str, texts: tuple[str, ...]) -> Table:
        self.levers.waits = lambda: False
        shows: dict[str, Callable[..., Iterator[tuple[str | None, ...]]]] = {
            "help": lambda: iter(_HELP),
            "config": self._config,
            "pools": self._pools,
            "replication": self._replication,
            "route": self._route,
            "version": lambda: iter([(f"pgambassador {__version__}",)]),
            "weigh": self._weigh,
            "faults": self._faults,
            "inject": self._inject,
            "clear": self._clear,
            **self.levers.answers(),
        }
        return Table(COLUMNS.get(verb, ()), list(shows[verb](*texts)))

    def _config(self) -> Iterator[tuple[str | None, ...]]:
        for path, value, default, live in listing(self._house.config):
            yield path, value, default, "yes" if live else "no"

    def _pools(self) -> Iterator[tuple[str | None, ...]]:
        now = time.monotonic()
        for keeper in self._house.keepers.values():
            yield _pool(keeper, "primary" if keeper.branches else "", now)
            for endpoint, branch in keeper.branches.items():
                yield _pool(branch, str(endpoint), now)

    def _replication(self) -> Iterator[tuple[str | None, ...]]:
        for watch in self._house.watches():
            for server, lag, probes, failures in watch.servers():
                yield (
                    watch.name,
                    server.endpoint.hostaddr or server.endpoint.host,
                    str(server.endpoint.port),
                    server.role,
                    _truth(server.well),
                    None if lag is None else f"{lag:.3f}",
                    f"{server.weight:g}",
                    server.zone or None,
                    str(probes),
                    str(failures),
                    server.objection or None,
                )

    def _weigh(self, where: str, weight: str) -> Iterator[tuple[str | None, ...]]:
        try:
            share = float(weight)
        except ValueError:
            share = -1.0
        if not 0 <= share <= HEAVIEST:
            raise Refused(
                "a weight is a number from 0 to 1000", sqlstate="22023", hint="0: no new statements."
            )
        known = False
        for watch in self._house.watches():
            if where in map(str, watch.probers):
                known = True
                watch.weigh(where, share)
        if not known:
            raise Refused(
                f"no server {where[:64]!r} is watched", sqlstate="22023", hint="SHOW REPLICATION lists them."
            )
        yield from ()

    # Faults on purpose.

    def _faults(self) -> Iterator[tuple[str | None, ...]]:
        faults = self._house.tolls.faults
        for each in faults.active:
            left = max(0.0, each.ends - time.monotonic())
            numbers = f"{left:.0f}", str(faults.hits[each.number])
            yield str(each.number), each.what, f"{each.percent:g}", each.scope, *numbers, each.by

    def _inject(self, *texts: str) -> Iterator[tuple[str | None, ...]]:
        wanted = Order.heard(texts)
        self._house.tolls.inject(
            wanted.kind,
            whom=wanted.whom,
            percent=wanted.percent,
            seconds=wanted.lasts,
            by=self._user,
            delay=wanted.delay,
            sqlstate=wanted.sqlstate,
            after=wanted.after,
        )
        yield from ()

    def _clear(self, number: str | None = None) -> Iterator[tuple[str | None, ...]]:
        self._house.tolls.check_admin(self._user)
        ended = self._house.tolls.clear(
            f"cleared by {self._user}", None if number is None else int(float(number))
        )
        if number is not None and not ended:
            raise Refused(f"there is no fault {number}", sqlstate="22023", hint="SHOW FAULTS lists them.")
        yield from ()

    # Where a statement goes.

    def _route(self, *texts: str) -> Iterator[tuple[str | None, ...]]:
        *whose, sql = texts
        user, database = whose[:2] or (self._user, self._house.config.only_database())
        application = "".join(whose[2:])
        if database is None:
            raise Refused(
                "there are several databases", sqlstate="42601", hint="SHOW ROUTE FOR user database 'SQL'."
            )
        keeper = self._pool_of(user, database)
        circle = keeper.routes.circle_of(user, database, application, None)
        decision = circle.decide(sql.encode("utf-8", "surrogateescape"))
        made = Explanation(decision, fingerprint(sql), note=_doubt(keeper))
        branches = self._house.branches.get(keeper.cluster)
        if branches is None or keeper.lane.choice is None:
            made = replace(made, splits=False)
        else:
            written = keeper.lane.choice.writes.at if keeper.routes.config.consistency == "global" else NEVER
            found = standings(
                decision,
                branches.watch.topology,
                branches.watch.freshness.fresh_until,
                keeper.routes.config,
                now=time.monotonic(),
                written_at=written,
            )
            made = replace(made, servers=_reachable(keeper, branches, found))
        yield from made.rows()

    def _pool_of(self, user: str, database: str) -> Keeper:
        """One that knows the database's catalog, if there is one; that of the user first."""
        config = self._house.config
        target = config.target(database)
        if target is None or config.is_console(database):
            raise Refused(
                f'database "{database[:64]}" does not exist',
                sqlstate="3D000",
                hint="The configuration's section databases names those that can be reached.",
            )
        server_user = config.server_user(target, user)
        found = [
            ((keeper.routes.catalog.known, name == server_user), keeper)
            for (cluster, of, name, _), keeper in self._house.keepers.items()
            if (cluster, of) == (target.cluster, target.database)
        ]
        if not found:
            raise Refused(
                f'nobody uses database "{database[:64]}" just now, so that its catalog is not known',
                sqlstate="55000",
                hint="Ask again when a client is connected to it, or ask pgambassador explain.",
            )
        return max(found, key=lambda each: each[0])[1]


def _doubt(keeper: Keeper) -> str:
    if keeper.routes.catalog.known:
        return ""
    if keeper.routes.wanted:
        return "the database's catalog is still to be read"
    return "the database's catalog is not read, since all statements go one way"


def _reachable(keeper: Keeper, branches: Branches, found: tuple[Standing, ...]) -> tuple[Standing, ...]:
    """What the pool itself knows of its replicas is more than the watch does."""
    servers = {str(server.endpoint): server.endpoint for server in branches.watch.topology.servers}

    def closed(endpoint: Endpoint) -> bool:
        branch = keeper.branches.get(endpoint)
        return branch is not None and branch.lane.weight <= 0

    return tuple(
        replace(each, takes=False, why="the pool cannot open connections to it just now")
        if each.takes and closed(servers[each.server])
        else each
        for each in found
    )


def _pool(keeper: Keeper, server: str, now: float) -> tuple[str | None, ...]:
    lane = keeper.lane
    waiting = lane.clients_waiting
    began = (
        each.waiting_since
        for each in chain.from_iterable(lane.queues())
        if lane.stays(each) and not isinstance(each, Borrower)
    )
    fraction, seconds = math.modf(max(0.0, now - min(began, default=now)))
    cancelling = sum(backend.cancelling > 0 for backend in keeper.backends)
    numbers = (
        *(max(0, len(keeper.clients) - waiting), waiting, cancelling, 0),
        *(lane.active - cancelling, cancelling, 0, len(lane.idle), 0, 0, keeper.opening),
        *(int(seconds), int(fraction * 1e6)),
    )
    return (
        keeper.database,
        keeper.user,
        *map(str, numbers),
        keeper.config.mode,
        None,
        keeper.cluster,
        server or None,
        str(keeper.config.size),
    )


def _truth(value: bool) -> str:
    return "t" if value else "f"
