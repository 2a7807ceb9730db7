"""All pools and clients of this process: who may come in, and which pool a client belongs to.

1. There is one pool for each (cluster, database, server user), made when its first client logs in; those few
   parameters that a server takes only when a connection begins make it another pool.
2. Clients are counted from when they have shown who they are to their end; before that they stand at the
   door, and take nobody's place.
3. A replication connection belongs to no pool: it has a server connection of its own. The console has none.
4. Clusters fail apart: while one of them can be used, clients are welcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

from pgambassador.auth.credential import Plain
from pgambassador.auth.doorway import Doorway
from pgambassador.auth.expiry import Ending
from pgambassador.auth.peer import Peer
from pgambassador.auth.server import Secret
from pgambassador.config import Allowance, Config
from pgambassador.credentials.keyring import Keyring
from pgambassador.errors import ConfigError, Refused, Unreachable
from pgambassador.net import patience, tls
from pgambassador.net.alarm import heed
from pgambassador.net.approach import Approaches
from pgambassador.net.branch import Branch
from pgambassador.net.branches import Branches
from pgambassador.net.console import Console
from pgambassador.net.directory import Directory, Users
from pgambassador.net.enquiry import enquiry
from pgambassador.net.gate import Gate
from pgambassador.net.guests import Guest, Guests
from pgambassador.net.herald import Herald
from pgambassador.net.keeper import Keeper
from pgambassador.net.levers import Outcome, Reread
from pgambassador.net.limits import Limits
from pgambassador.net.memoirs import Memoirs
from pgambassador.net.memory import Memory
from pgambassador.net.numbers import Labels, Numbers, Register
from pgambassador.net.pausing import Pausing
from pgambassador.net.porter import Porter
from pgambassador.net.reactor import reactor
from pgambassador.net.routes import way_of
from pgambassador.net.seat import Given, Seats
from pgambassador.net.session import Session
from pgambassador.net.statements import Statements, statement_text
from pgambassador.net.tolls import Tolls
from pgambassador.net.tunnel import Tunnel
from pgambassador.net.turns import Turns
from pgambassador.net.watch import Watch
from pgambassador.net.ways import Ways
from pgambassador.observe.querylog import QueryLog
from pgambassador.pool.census import Stay
from pgambassador.protocol.cancel import CancelKeys
from pgambassador.routing.cache import caches


class House:
    """`users` is the list of who may log in; it is empty where everybody local is trusted."""

    def __init__(self, config: Config, users: Users, query_log: QueryLog | None) -> None:
        self.config = config
        self.ways = ways = Ways(config, self._listed_password, self._brought, self._refused, self._recovered)
        asking = enquiry(config, ways.keyrings, self._listed_password)
        self.directory = Directory(config.auth, users, asking)
        self.porter = Porter(config, self.directory, ways.probe)
        self.doorway: Doorway[Guest] = Doorway(config.clients.max)
        self.guests = Guests(lambda: self.config.clients.login_timeout)
        self.limits = Limits(config)
        self.tolls = Tolls(config, self.sessions)
        self.memory = Memory(config.clients.memory, self.sessions)
        self.register = Register(config)
        self.query_log = query_log
        self.gate = Gate(config.tls)
        self.herald = Herald(self.directory, self.gate.offers)
        self.keepers: dict[tuple[str, str, str, Given], Keeper] = {}
        self.memoirs = Memoirs(config.clusters, self.keepers, config.failover.offline_logins)
        self.lodging = lru_cache(maxsize=1000)(self._lodging)
        self.seats = Seats()
        self.branches = {
            name: Branches(name, cluster, self._forgotten)
            for name, cluster in config.clusters.items()
            if cluster.splits
        }
        self.caches = caches(config)
        self.pausing = Pausing(self.keepers)
        self.servers = reactor(asyncio.get_running_loop())
        self.sockets = reactor(asyncio.get_running_loop(), self.servers)
        self.statements = Statements()
        self.keys: CancelKeys[Session | Tunnel | Console] = CancelKeys()
        self.cancels = Turns("cancel")
        self.tunnels: set[Tunnel | Console] = set()
        self.clients = self.logins = self.login_failures = 0
        self.rejected: Counter[str] = Counter()
        self.draining = False
        self.reread: Reread | None = None
        self.reloaded: Outcome | None = None
        self.on_empty: Callable[[], None] | None = None

    @property
    def users(self) -> Users:
        """The users of the lists, as they are now."""
        return self.directory.users

    def reload(self, config: Config, users: Users, gate: Gate) -> None:
        """From now on go by this, which differs from before in what `compare` calls live."""
        old, self.config, self.gate = self.config, config, gate
        self.lodging.cache_clear()
        self.seats.clear()
        self.ways.config = config
        asking = self.directory.enquiry
        if config.auth.query != old.auth.query:
            asking = enquiry(config, self.ways.keyrings, self._listed_password)
        self.directory.reload(config.auth, users, asking)
        self.porter.reload(config)
        self.herald.clear(gate.offers)
        self.doorway.resize(config.clients.max)
        self.guests.look()
        self.memoirs.on = config.failover.offline_logins
        self.limits.reload(config)
        self.tolls.reload(config)
        self.memory.reload(config.clients.memory)
        allowances: dict[tuple[str, str], Allowance] = {}
        for keeper in self.keepers.values():
            keeper.lane.slow, keeper.lane.sample = self._thresholds()
            for session in keeper.clients:
                names = session.facts.database, session.facts.user
                allowance = allowances.get(names) or allowances.setdefault(names, config.allowance(*names))
                keeper.timekeeper.allow(session, allowance, time.monotonic())
        if (config.failover, config.breaker) != (old.failover, old.breaker):
            for keeper in self.every():
                keeper.refit(config.failover)
            for approaches in self.approaches():
                approaches.reload(config.failover, config.breaker)
        for name, branches in self.branches.items():
            weights = config.clusters[name].routing.weights
            if weights != old.clusters[name].routing.weights:
                branches.watch.reweigh(weights)

    def keeper(self, database: str, user: str, given: Given = ()) -> Keeper:
        """The pool for a database and a user as the client named them; `given`: see `Settings.divided`."""
        target = self.ways.target(database)
        server_user = self.config.server_user(target, user)
        key = (target.cluster, target.database, server_user, given)
        keeper = self.keepers.get(key)
        if keeper is None:
            origin = self.ways.origin(target, user, dict(given))
            common: dict[str, Any] = dict(  # noqa: C408  as they are called below
                cluster=target.cluster,
                database=" ".join((target.database, *(f"{name}={value}" for name, value in given))),
                user=server_user,
                config=target.pool,
                statements=self.statements,
                departed=self._departed,
                vacate=partial(self._vacate, target.cluster),
                buffer=self.config.clients.buffer,
                sockets=self.servers,
                commons=self.limits.commons[target.cluster],
                caps=self.limits.caps(target, server_user, bool(given)),
                routing=self.config.clusters[target.cluster].routing,
                renamed=self.tolls.attend,
                failover=self.config.failover,
            )
            keeper = self.keepers[key] = Keeper(upstream=origin, **common)
            keeper.greeting.memoir = self.memoirs.of(*key)
            branches = self.branches.get(target.cluster)
            if branches is not None and not keeper.lane.sticky:
                trunk = keeper
                branches.adopt(
                    keeper,
                    origin,
                    lambda at, known: Branch(
                        trunk, known, upstream=origin.at(at), **{**common, "failover": self.config.failover}
                    ),
                )
            elif branches is not None:
                branches.lead(keeper, origin)
            if target.cluster in self.caches:
                keeper.routes.keep_in(self.caches[target.cluster], target.database)
            keeper.lane.slow, keeper.lane.sample = self._thresholds()
            keeper.paused = self.pausing.covers(key[:2])
            if self.query_log is not None:
                keeper.lane.sink = self._record
        return keeper

    def _lodging(self, database: str, name: str, user: str, given: Given) -> tuple[Keeper, Allowance]:
        """The pool of a client that has shown this name and is `user` since, and what it may take of it."""
        return self.keeper(database, user, given), self.config.allowance(database, name)

    def _refused(self, cluster: str, user: str, secret: Secret) -> None:
        """A server has not taken it."""
        self.porter.refused(cluster, user, secret)

    def _brought(self, cluster: str, user: str) -> Secret | None:
        """What opens a server for a user, from the lists or from its own login."""
        return self._listed_password(user) or self.porter.wallet.get(cluster, user)

    def _listed_password(self, user: str) -> Secret | None:
        credential = self.users.get(user)
        return credential.password if isinstance(credential, Plain) else None

    def _vacate(self, cluster: str, text: bytes) -> None:
        """A server drops, renames and copies only what nobody is connected to, and waits for that a while."""
        text = text.lower()
        for (of, database, _, _), keeper in self.keepers.items():
            copied = database == "template1" and text.lstrip().startswith(b"create")
            if of == cluster and (copied or database.lower().encode() in text):
                keeper.retire_idle("its database is to be dropped, renamed or copied")

    def _recovered(self, cluster: str) -> None:
        """A server may be asked again."""
        for keeper in self.every():
            if keeper.cluster == cluster and keeper.outage.since is not None:
                keeper.at_once()

    def prune(self) -> None:
        """Forget pools that nobody has a use for; names come from clients."""
        for key, keeper in list(self.keepers.items()):
            if not keeper.essential and keeper.unused:
                del self.keepers[key]
                self.lodging.cache_clear()
                self.seats.clear()
                if keeper.cluster in self.branches:
                    self.branches[keeper.cluster].release(keeper)
                for pool in keeper.all():
                    self._forget(pool, key)
        self.limits.forget()

    def _forgotten(self, keeper: Keeper, branch: Branch) -> None:
        """A standby is gone, and the pool on it."""
        for key, each in self.keepers.items():
            if each is keeper:
                self._forget(branch, key)

    def _forget(self, pool: Keeper, key: tuple[str, str, str, Given]) -> None:
        """What it has counted stays."""
        if pool.lease is not None:
            pool.lease.end()
        self.register.retire(Numbers(pool, self._labels(key)))

    def trouble(self) -> dict[str, str]:
        """By cluster, why clients have no use for it: a configured pool, or any server, cannot be reached."""
        found: dict[str, str] = {}
        serving = {keeper.cluster for keeper in self.keepers.values() if keeper.lane.total}
        for keeper in self.keepers.values():
            error = keeper.last_error
            if error is None or keeper.lane.total:
                continue
            if keeper.cluster in serving and patience.shares(keeper):
                continue  # it cannot find out whether its server is back, but others know
            if keeper.essential or isinstance(error, Unreachable):
                found.setdefault(keeper.cluster, f"cluster {keeper.cluster}: {error.message}")
        return found

    def drain(self) -> None:
        """Accept nobody, and let go of clients as soon as nothing of theirs is under way."""
        self.draining = True
        for keeper in list(self.keepers.values()):
            keeper.drain()
        for tunnel in list(self.tunnels):
            tunnel.close()  # it would never end by itself, and goes on elsewhere where it stopped

    def every(self) -> list[Keeper]:
        """All pools, those on standbys too."""
        return [pool for keeper in self.keepers.values() for pool in keeper.all()]

    def sessions(self) -> Iterator[Session]:
        return (session for keeper in self.keepers.values() for session in keeper.clients)

    def credentials(self) -> list[Keyring]:
        return list(self.ways.keyrings.values())

    def pools(self) -> list[Numbers]:
        return self.register.sums(
            Numbers(pool, self._labels(key)) for key, keeper in self.keepers.items() for pool in keeper.all()
        )

    def approaches(self) -> list[Approaches]:
        """What is known of the servers, by cluster."""
        return list(self.ways.approaches.values())

    def watches(self) -> list[Watch]:
        """Of the clusters whose servers are watched."""
        return [branches.watch for branches in self.branches.values()]

    def _labels(self, key: tuple[str, str, str, Given]) -> Labels:
        cluster, database, user, _ = key
        return self.register.labels(cluster, database, user, user in self.users)

    def arrive(self, guest: Guest, peer: Peer) -> None:
        """Count somebody who stands at the door. If it is full, somebody else has to go."""
        leaving = self.doorway.enter(guest, peer.site, local=peer.local)
        if leaving is not None:
            self.rejected["too many logins"] += 1
            leaving.make_room()

    def endings(self) -> list[Ending]:
        """When the certificates in the configured files end; those of no use are spoken of elsewhere."""
        found = [Ending("", option, at) for option, at in self.gate.ends()]
        for name, cluster in self.config.clusters.items():
            with contextlib.suppress(ConfigError):
                found += [Ending(name, option, at) for option, at in tls.ends(cluster.upstream())]
        return [ending for ending in found if math.isfinite(ending.at)]

    def check_open(self) -> None:
        """Refuse a client while nobody may come in any more."""
        if self.draining:
            self.rejected["shutting down"] += 1
            raise Refused(
                "the database system is shutting down", sqlstate="57P03", hint="Connect to another instance."
            )

    def admit(self, peer: Peer | None = None) -> Stay:
        """Count a client in that has shown who it is, or refuse it; `dismiss` it at its end."""
        self.check_open()
        if self.clients >= self.config.clients.max:
            self.rejected["too many clients"] += 1
            raise Refused(
                "sorry, too many clients already",
                sqlstate="53300",
                hint=f"At most {self.config.clients.max} are allowed (clients.max).",
            )
        try:
            self.memory.check_room()
        except Refused:
            self.rejected["memory"] += 1
            raise
        try:
            stay = self.limits.arrive(peer)
        except Refused:
            self.rejected["too many from an address"] += 1
            raise
        self.clients += 1
        return stay

    def lodge(self, stay: Stay, database: str, user: str) -> None:
        """A client has shown who it is; refuse it if there are too many of its kind."""
        try:
            self.limits.lodge(stay, database, user)
        except Refused:
            self.rejected["too many of a database or user"] += 1
            raise

    def dismiss(self, stay: Stay) -> None:
        """A client that was counted in is gone."""
        stay.leave()
        self.clients -= 1
        if self.clients == 0 and self.draining and self.on_empty is not None:
            self.on_empty()

    def ended(self, tunnel: Tunnel | Console) -> None:
        """A connection that belongs to no pool is over."""
        self.tunnels.discard(tunnel)
        self.keys.release(tunnel.pid)
        self.dismiss(tunnel.stay)

    def _departed(self, session: Session, reason: str) -> None:
        self.keys.release(session.facts.pid)
        self.dismiss(session.facts.stay)

    def _thresholds(self) -> tuple[float, float]:
        slow = self.config.query_log.slow
        return (1e300 if slow is None else slow), self.config.query_log.sample

    def _record(
        self, session: Session, note: object, seconds: float, waited: float, rows: int, sqlstate: str
    ) -> None:
        """One statement for the query log."""
        assert self.query_log is not None
        link = session.backend and session.backend.link
        heed(sqlstate, link.address if link else "a server")
        if sqlstate and not self.config.query_log.errors and seconds < session.lane.slow:
            return
        facts = session.facts
        text = statement_text(note)
        self.query_log.add(
            (
                time.time(),
                facts.address,
                facts.database,
                facts.user,
                facts.application_name,
                text,
                seconds,
                waited,
                rows,
                *session.traffic(),
                link.address if link else "",
                sqlstate,
                *way_of(session, text),
                session.riding,
            )
        )
