"""The configuration as frozen structs: the one description from which loading, schema and documents follow.

1. A struct holds what was written or its default, nothing derived; methods derive.
2. Durations are seconds, sizes are bytes; None is what is written `off` or left out.
3. Whatever may hold a password is a `Secret`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pgambassador.config.address import Address, parse_listen, parse_tcp
from pgambassador.config.auth import Auth
from pgambassador.config.console import ConsoleOptions
from pgambassador.config.discovery import HostsDiscovery
from pgambassador.config.failover import Breaker, Failover
from pgambassador.config.limits import Asking
from pgambassador.config.providers import Credentials
from pgambassador.config.routing import Routing
from pgambassador.config.secret import Secret
from pgambassador.config.timeouts import Allowance, TimeoutOverrides, Timeouts, UserPool
from pgambassador.config.values import Duration, DurationOrZero, Size

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Upstream

PoolMode = Literal["transaction", "session"]
Connections = Annotated[int, Meta(ge=1, le=1_000_000)]
TlsMode = Literal["off", "allow", "require", "verify-ca"]
TlsVersion = Literal["TLSv1.2", "TLSv1.3"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The base of every section."""


class Pool(Struct, frozen=True):
    """The connections to one cluster, for one database and user."""

    mode: Annotated[PoolMode, Meta(description="When a server connection goes back to the pool.")] = (
        "transaction"
    )
    size: Annotated[int, Meta(ge=1, le=10_000, description="Server connections at most.")] = 20
    min_size: Annotated[int, Meta(ge=0, le=10_000, description="Server connections kept open.")] = 0
    wait_timeout: Annotated[
        Duration | None,
        Meta(description="How long a client waits for a server connection before it gets an error."),
    ] = 120.0
    wait_notice: Annotated[
        Duration | None, Meta(description="After this much waiting the client is told by a NOTICE.")
    ] = 5.0
    connect_timeout: Annotated[
        Duration | None,
        Meta(description="How long opening a server connection may take; left out: as the URL says."),
    ] = None
    max_waiting: Annotated[
        Connections | None, Meta(description="Clients that wait for a server connection at most.")
    ] = None
    idle_timeout: Annotated[
        Duration | None, Meta(description="An unused server connection above min_size is closed after this.")
    ] = 600.0
    lifetime: Annotated[
        Duration | None, Meta(description="A server connection older than this is replaced.")
    ] = 3600.0
    statements: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Prepared statements kept on a server connection at most."),
    ] = 200
    harmless_extensions: Annotated[
        tuple[str, ...],
        Meta(
            min_length=0,
            description="Extensions whose functions in C leave nothing in a session, beside those known.",
        ),
    ] = ()


class PoolOverrides(Struct, frozen=True, omit_defaults=True):
    """The same keys as `pool`; what is left out is inherited."""

    mode: PoolMode | UnsetType = UNSET
    size: Annotated[int, Meta(ge=1, le=10_000)] | UnsetType = UNSET
    min_size: Annotated[int, Meta(ge=0, le=10_000)] | UnsetType = UNSET
    wait_timeout: Duration | UnsetType | None = UNSET
    wait_notice: Duration | UnsetType | None = UNSET
    connect_timeout: Duration | UnsetType | None = UNSET
    max_waiting: Connections | UnsetType = UNSET
    idle_timeout: Duration | UnsetType | None = UNSET
    lifetime: Duration | UnsetType | None = UNSET
    statements: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    harmless_extensions: Annotated[tuple[str, ...], Meta(min_length=0)] | UnsetType = UNSET

    def over(self, base: Pool) -> Pool:
        if self == _INHERITED:
            return base
        written = {name: getattr(self, name) for name in self.__struct_fields__}
        return msgspec.structs.replace(base, **{k: v for k, v in written.items() if v is not UNSET})


_INHERITED = PoolOverrides()

EVERY_OTHER = "*"
"""The entry for each name that is not listed."""
CONSOLE = ("pgambassador", "pgbouncer")
"""Names of the database that is the console."""


class Cluster(Struct, frozen=True):
    """One PostgreSQL: its servers and how to log in to them."""

    url: Annotated[
        Secret, Meta(description="postgresql://USER@HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=FILE")
    ]
    pool: Annotated[PoolOverrides, Meta(description="Keys of `pool` that differ for this cluster.")] = (
        PoolOverrides()
    )
    max_connections: Annotated[
        Connections | None, Meta(description="Server connections at most, of all its pools.")
    ] = None
    credentials: Annotated[
        Credentials | None, Meta(description="Where the password comes from, if not from the URL.")
    ] = None
    rds_bundle: Annotated[
        str | None,
        Meta(description="The file with Amazon's CAs, which sslrootcert=rds in the URL stands for."),
    ] = None
    routing: Annotated[Routing, Meta(description="Which statements go to replicas.")] = Routing()

    @property
    def splits(self) -> bool:
        """Whether reads go to other servers than writes."""
        return self.routing.reads == "replicas" and self.upstream().learns_roles

    @property
    def finds(self) -> bool:
        """Whether there are more servers than the URL names."""
        return not isinstance(self.routing.discovery, HostsDiscovery)

    def upstream(self) -> Upstream:
        from pgambassador.cluster.upstream import parse_url

        instance = getattr(self.credentials, "instance", None)
        found = parse_url(self.url.reveal(), instance=instance, found=self.finds)
        return found if self.rds_bundle is None else dataclasses.replace(found, rds_bundle=self.rds_bundle)


class Database(Struct, frozen=True):
    """A database name that clients may ask for."""

    cluster: Annotated[
        str | None, Meta(description="Which cluster; may be left out if there is only one.")
    ] = None
    database: Annotated[str | None, Meta(description="Its name on the server, if it differs.")] = None
    user: Annotated[str | None, Meta(description="As whom all clients work on the server.")] = None
    max_connections: Annotated[
        Connections | None, Meta(description="Server connections at most, of all its users.")
    ] = None
    max_clients: Annotated[Connections | None, Meta(description="Client connections at most.")] = None
    pool: Annotated[PoolOverrides, Meta(description="Keys of `pool` that differ for this database.")] = (
        PoolOverrides()
    )
    timeouts: Annotated[
        TimeoutOverrides, Meta(description="Keys of `timeouts` that differ for this database.")
    ] = TimeoutOverrides()
    login_timeout: Annotated[
        Duration | None, Meta(description="In place of clients.login_timeout, from its start packet on.")
    ] = None


class User(Struct, frozen=True):
    """How much one user may have."""

    max_connections: Annotated[
        Connections | None,
        Meta(description="Server connections at most to one cluster, over all databases."),
    ] = None
    max_clients: Annotated[Connections | None, Meta(description="Client connections at most.")] = None
    pool: Annotated[UserPool, Meta(description="Keys of `pool` that differ for this user.")] = UserPool()
    timeouts: Annotated[
        TimeoutOverrides, Meta(description="Keys of `timeouts` that differ for this user.")
    ] = TimeoutOverrides()
    connect_timeout: Annotated[
        Duration | None,
        Meta(description="In place of pool.connect_timeout, for connections that log in as this user."),
    ] = None
    login_timeout: Annotated[
        Duration | None, Meta(description="In place of clients.login_timeout, from its start packet on.")
    ] = None


_ANY_DATABASE, _ANY_USER = Database(), User()


class Clients(Struct, frozen=True):
    """Limits for client connections."""

    max: Annotated[int, Meta(ge=1, le=1_000_000, description="Client connections at most.")] = 10_000
    max_per_address: Annotated[
        Connections | None,
        Meta(description="Client connections from one address at most; this machine's do not count."),
    ] = None
    login_timeout: Annotated[Duration, Meta(description="A client must have logged in after this.")] = 60.0
    buffer: Annotated[Size, Meta(description="Bytes held for a client that reads slowly.")] = 262_144
    memory: Annotated[
        Size, Meta(description="Bytes held for all clients together, of what they sent and have not read.")
    ] = 1 << 29


class Tls(Struct, frozen=True):
    """TLS towards clients; files that change are read again."""

    mode: Annotated[
        TlsMode | None,
        Meta(
            description="off; allow: clients may use it; require: those that come by TCP must; verify-ca: and"
            " show a certificate. Left out: allow where there is a certificate, else off."
        ),
    ] = None
    certificate: Annotated[
        str | None, Meta(description="A PEM file: the certificate for clients, and its chain behind it.")
    ] = None
    key: Annotated[str | None, Meta(description="A PEM file with its key; left out: in the same file.")] = (
        None
    )
    ca: Annotated[
        str | None,
        Meta(description="A PEM file: the CAs of clients' certificates, for which clients are then asked."),
    ] = None
    min_version: Annotated[TlsVersion, Meta(description="The oldest version that is spoken.")] = "TLSv1.2"

    @property
    def effective_mode(self) -> TlsMode:
        if self.mode is not None:
            return self.mode
        return "allow" if self.certificate is not None else "off"


class QueryLog(Struct, frozen=True):
    """Which statements are logged, and how."""

    slow: Annotated[
        DurationOrZero | None, Meta(description="Statements that take this long; 0 logs all.")
    ] = 0.25
    sample: Annotated[
        float, Meta(ge=0, le=1, description="The share of all statements that is logged as well.")
    ] = 0.0
    errors: Annotated[bool, Meta(description="Statements that the server refused.")] = True
    literals: Annotated[bool, Meta(description="Log statements as written, with their values.")] = False
    file: Annotated[str, Meta(description="A path, or stderr.", min_length=1)] = "stderr"


class Log(Struct, frozen=True):
    """The log on standard error."""

    level: Annotated[LogLevel, Meta(description="The least severe level that is written.")] = "info"


class Target(msgspec.Struct, frozen=True):
    """Where a database name leads."""

    cluster: str
    database: str
    pool: Pool
    user: str | None = None
    """As whom all clients work on the server, whoever they are."""


class Config(Struct, frozen=True):
    """Everything that can be set."""

    listen: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="HOST:PORT, [IPv6]:PORT or unix:/directory, one or several."),
    ] = ("127.0.0.1:5432",)
    http: Annotated[str, Meta(description="HOST:PORT of metrics and health checks, or off.")] = (
        "127.0.0.1:9187"
    )
    pool: Annotated[Pool, Meta(description="Every pool, unless its cluster or database differs.")] = Pool()
    clusters: Annotated[dict[str, Cluster], Meta(description="The PostgreSQL clusters by name.")] = {}
    databases: Annotated[
        dict[str, Database],
        Meta(
            description='The databases by name, "*" for all others; left out: every name goes to the only'
            " cluster."
        ),
    ] = {}
    users: Annotated[
        dict[str, User], Meta(description='Limits of users by name; "*": of each who is not listed.')
    ] = {}
    clients: Annotated[Clients, Meta(description="Limits for client connections.")] = Clients()
    timeouts: Annotated[Timeouts, Meta(description="How long a client's work may take.")] = Timeouts()
    limits: Annotated[Asking, Meta(description="Limits of what clients ask.")] = Asking()
    console: Annotated[ConsoleOptions, Meta(description="What the console may do.")] = ConsoleOptions()
    tls: Annotated[Tls, Meta(description="TLS towards clients.")] = Tls()
    auth: Annotated[Auth, Meta(description="Who may connect.")] = Auth()
    failover: Annotated[
        Failover, Meta(description="How connections are opened again, and who waits meanwhile.")
    ] = Failover()
    breaker: Annotated[
        Breaker, Meta(description="When a server counts as sick, and gets one attempt at a time.")
    ] = Breaker()
    query_log: Annotated[QueryLog, Meta(description="Which statements are logged.")] = QueryLog()
    log: Annotated[Log, Meta(description="The log on standard error.")] = Log()
    drain_timeout: Annotated[
        DurationOrZero, Meta(description="How long open transactions may go on after SIGTERM.")
    ] = 25.0
    state: Annotated[
        str | None,
        Meta(description="A directory where what was good last is kept for a start during an outage."),
    ] = None

    def addresses(self) -> tuple[Address, ...]:
        return parse_listen(self.listen)

    def http_address(self) -> Address | None:
        return None if self.http == "off" else parse_tcp(self.http, "http")

    def target(self, database: str) -> Target | None:
        """None for a name that the configuration does not serve."""
        entry = self.databases.get(database) or self.databases.get(EVERY_OTHER)
        if entry is None:
            if self.databases or len(self.clusters) != 1:
                return None
            entry = Database()
        name = entry.cluster or next(iter(self.clusters))
        pool = entry.pool.over(self.clusters[name].pool.over(self.pool))
        return Target(name, entry.database or database, pool, entry.user)

    def _database(self, name: str) -> tuple[str, Database]:
        """By which name the configuration speaks of a database, and what it says."""
        listed = name if name in self.databases else EVERY_OTHER
        return listed, self.databases.get(listed, _ANY_DATABASE)

    def _user(self, name: str) -> tuple[str, User]:
        """The same of a user."""
        listed = name if name in self.users else EVERY_OTHER
        return listed, self.users.get(listed, _ANY_USER)

    def login_timeout(self, database: str, user: str) -> tuple[float, str]:
        """How long the login of a client may take that gives these names, and where that is written."""
        (where, entry), (who, own) = self._database(database), self._user(user)
        if own.login_timeout is not None:
            return own.login_timeout, f"users.{who}.login_timeout"
        if entry.login_timeout is not None:
            return entry.login_timeout, f"databases.{where}.login_timeout"
        return self.clients.login_timeout, "clients.login_timeout"

    def connect_timeout(self, target: Target, server_user: str) -> float | None:
        """How long opening a connection of a pool may take; None: as long as the URL says."""
        _, own = self._user(server_user)
        return target.pool.connect_timeout if own.connect_timeout is None else own.connect_timeout

    def allowance(self, database: str, user: str) -> Allowance:
        """How long the work of a client may take that gives these names."""
        (_, entry), (name, own) = self._database(database), self._user(user)
        target = self.target(database)
        timeouts = own.timeouts.over(entry.timeouts.over(self.timeouts))
        if own.pool.wait_timeout is not UNSET:
            return Allowance(timeouts, own.pool.wait_timeout, f"users.{name}.pool.wait_timeout")
        return Allowance(timeouts, (self.pool if target is None else target.pool).wait_timeout)

    def is_console(self, database: str) -> bool:
        """Whether the name means the console; one that is listed is a database."""
        return database in CONSOLE and database not in self.databases

    def only_database(self) -> str | None:
        """What clients call the database, if there is only one that they can mean."""
        names = list(self.databases)
        if not names and len(self.clusters) == 1:
            upstream = next(iter(self.clusters.values())).upstream()
            names = [upstream.database or upstream.user or "postgres"]
        return names[0] if len(names) == 1 and names[0] != EVERY_OTHER else None

    def server_user(self, target: Target, user: str) -> str:
        """Who a client is on the server; `user` is who it is by itself, or by `auth.map`."""
        return target.user or self.clusters[target.cluster].upstream().user or user

    def forces(self, cluster: str, user: str) -> bool:
        """Whether a database has this user of the server, and the cluster's URL has not."""
        forced = any(
            database.user == user and (database.cluster or next(iter(self.clusters))) == cluster
            for database in self.databases.values()
        )
        return forced and user != self.clusters[cluster].upstream().user
