"""`pgambassador explain 'SQL'`: where a statement would go now, and why.

1. It is decided by the code that decides for clients, over what the same questions find out: the catalog, and
   what each server is and shows. Nothing is changed anywhere.
2. Without a server to ask it says on what it has decided instead.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pgambassador.check import keyring_for
from pgambassador.errors import ConfigError, ProtocolViolation, Refused, ServerRefused, Unreachable
from pgambassador.net.conversation import Conversation
from pgambassador.net.origin import Origin
from pgambassador.net.routes import SUSPECT
from pgambassador.net.transport import Transport
from pgambassador.net.watch import Watch
from pgambassador.protocol import suspects
from pgambassador.routing import catalog
from pgambassador.routing.decision import Overrides, decide
from pgambassador.routing.explanation import Explanation, standings
from pgambassador.routing.offline import OFFLINE
from pgambassador.routing.reading import fingerprint
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Dialogue

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Endpoint
    from pgambassador.config import Cluster, Config, Target
    from pgambassador.config.routing import RouteRule
    from pgambassador.net.link import Link

MOST_FRAMES: Final = 20_000
GRACE: Final = 0.5
"""Seconds that a standby has to show that it is fresh, once all servers have answered."""
_OFFLINE: Final = (
    "no server was asked: every relation is taken for an ordinary table, and of functions only PostgreSQL's"
    " own are known. Give a URL or --config to ask the database"
)


async def explain(
    sql: str,
    config: Config | None,
    *,
    user: str | None = None,
    database: str | None = None,
    application_name: str = "",
    as_json: bool = False,
) -> int:
    """0 if it could be told. `config` None: no server is asked. `user`, `database`: the client's."""
    if config is None:
        found = Explanation(decide(sql, OFFLINE), fingerprint(sql), note=_OFFLINE)
    else:
        found = await _asked(sql, config, user, database, application_name)
    if as_json:
        print(json.dumps({"statement": sql, **found.values()}, indent=2, ensure_ascii=False))
    else:
        for name, what in found.rows():
            print(f"{name + ':':<13}{what}")
    return 0


async def _asked(
    sql: str, config: Config, user: str | None, database: str | None, application_name: str
) -> Explanation:
    target = _target(config, database)
    cluster = config.clusters[target.cluster]
    upstream = cluster.upstream()
    who = target.user or upstream.user or user
    if who is None:
        raise ConfigError(
            "The URL names no user, so that it is not known as whom to log in.", hint="Give one with --user."
        )
    rules = cluster.routing.rules_for(
        user or upstream.user or who, database or target.database, application_name
    )
    keyring = keyring_for(config, target.cluster, cluster, upstream)
    origin = Origin(upstream, keyring, database=target.database, user=who, only=who != upstream.user)
    undivided = _undivided(cluster, target)
    if undivided:
        learnt = await _learn(await origin.open(), target)
        return replace(_explanation(sql, learnt, cluster, rules), splits=False, note=undivided)
    watch = await _look(target.cluster, cluster, origin)
    try:
        learnt = await _learn(await origin.at(_answering(watch)).open(), target)
        explanation = _explanation(sql, learnt, cluster, rules)
        servers = standings(
            explanation.decision,
            watch.topology,
            watch.freshness.fresh_until,
            cluster.routing,
            now=time.monotonic(),
        )
        return replace(explanation, servers=servers)
    finally:
        watch.stop()


def _target(config: Config, database: str | None) -> Target:
    """Where a client's database leads; without a name the URL's, or the only one."""
    if database is None:
        database = config.only_database()
    if database is None:
        raise ConfigError(
            "The configuration has several databases.", hint="Name the client's with --database."
        )
    target = config.target(database)
    if target is None:
        raise ConfigError(
            f"The configuration has no database {database!r}.", hint="The section databases names them."
        )
    return target


def _explanation(
    sql: str,
    learnt: tuple[catalog.Catalog, suspects.Suspects],
    cluster: Cluster,
    rules: tuple[RouteRule, ...],
) -> Explanation:
    known, suspicious = learnt
    if suspicious.among(sql.encode("utf-8", "surrogateescape")):
        decision = SUSPECT
    else:
        decision = decide(sql, known, Overrides.of(cluster.routing.functions, rules, cluster.routing.cache))
    return Explanation(decision, fingerprint(sql))


def _undivided(cluster: Cluster, target: Target) -> str:
    """Why all statements go one way, or ""."""
    if target.pool.mode == "session":
        return "all statements go one way (pool.mode is session)"
    if cluster.splits:
        return ""
    if cluster.routing.reads == "primary":
        return "all statements go one way (routing.reads is primary)"
    if len(cluster.upstream().endpoints) > 1 or cluster.finds:
        return "all statements go one way (the URL has target_session_attrs)"
    return "all statements go one way (the URL has one host)"


async def _look(name: str, cluster: Cluster, origin: Origin) -> Watch:
    """A watch over the cluster that has seen each server, which the caller stops."""
    news = asyncio.Event()

    async def reach(endpoint: Endpoint) -> Link:
        return await origin.at(endpoint).open()

    watch = Watch(name, cluster, reach, lambda _: news.set(), lambda *_: news.set())
    watch.start()

    def met() -> bool:
        return bool(watch.probers) and all(each.probes or each.failures for each in watch.probers.values())

    def settled() -> bool:
        return met() and all(each.well for each in watch.topology.standbys)

    for enough, seconds in ((met, cluster.routing.probe.timeout + GRACE), (settled, GRACE)):
        try:
            async with asyncio.timeout(seconds):
                while not enough():
                    news.clear()
                    await news.wait()
        except TimeoutError:
            pass
    return watch


def _answering(watch: Watch) -> Endpoint:
    """The primary, or else any server whose catalog says the same."""
    primary = watch.topology.primary
    for server in (*([primary] if primary is not None else []), *watch.topology.standbys):
        if server.well:
            return server.endpoint
    troubles = "; ".join(f"{at}: {each.trouble}" for at, each in watch.probers.items() if each.trouble)
    raise Unreachable(
        f"no server of the cluster answers ({troubles or 'none was found'})",
        hint="pgambassador check says more.",
    )


async def _learn(link: Link, target: Target) -> tuple[catalog.Catalog, suspects.Suspects]:
    """What its database's catalog says, as a pool asks it."""
    transport = Transport(link.sock, link.peer, link.tls, link.incoming, link.outgoing)
    conversation = Conversation(transport, link.leftover)
    try:
        known = catalog.read(await conversation.hold(_rows(catalog.QUERY)))
        suspicious = suspects.NOBODY
        if target.pool.mode == "transaction":
            asked = await conversation.hold(_rows(suspects.query(target.pool.harmless_extensions)))
            suspicious = suspects.read(asked)
        await transport.send(build.TERMINATE)
    finally:
        link.close()
    if not known.known:
        raise Refused(
            "the database's catalog is too large to be read",
            sqlstate="54000",
            hint="Every statement goes to the primary.",
        )
    return known, suspicious


def _rows(query: bytes) -> Dialogue[list[bytes]]:
    """The DataRows that answer it."""
    rows: list[bytes] = []
    refusal: ServerRefused | None = None
    data = query
    for _ in range(MOST_FRAMES):
        kind, payload = yield data
        data = b""
        match kind:
            case Backend.DATA_ROW:
                rows.append(build.frame(kind, payload))
            case Backend.ERROR_RESPONSE:
                refusal = ServerRefused(parse.fields(payload))
            case Backend.READY_FOR_QUERY:
                if refusal is not None:
                    raise refusal
                return rows
            case _:
                pass
    raise ProtocolViolation("the server does not come to an end of its answer")
