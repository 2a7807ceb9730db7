"""How pools, replication connections and checks of passwords get to their servers.

1. All connections to a cluster take their secrets from its one keyring.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from pgambassador.auth.rules import PHYSICAL
from pgambassador.auth.server import Secret
from pgambassador.config import Cluster, Config, Target
from pgambassador.credentials.keyring import Keyring
from pgambassador.credentials.registry import keyring_of
from pgambassador.errors import Refused
from pgambassador.net.approach import Approaches
from pgambassador.net.derivation import Deriver
from pgambassador.net.origin import Origin
from pgambassador.net.tasks import spawn


class Ways:
    """`listed(user)` gives a password from the lists, `brought(cluster, user)` what opens a server for a user
    otherwise; `refused(cluster, user, secret)` hears of what a server has not taken, `recovered(cluster)`
    when one may be asked again."""

    def __init__(
        self,
        config: Config,
        listed: Callable[[str], Secret | None],
        brought: Callable[[str, str], Secret | None],
        refused: Callable[[str, str, Secret], None],
        recovered: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = config
        self._listed, self._brought, self._refused = listed, brought, refused
        self._guesses = Deriver(0)
        self.approaches = {
            name: Approaches(name, config.failover, config.breaker, partial(recovered, name))
            for name in config.clusters
        }
        self.keyrings = {name: self._keyring(name, cluster) for name, cluster in config.clusters.items()}

    def replication(self, database: str, user: str, params: Mapping[str, str], kind: str) -> Origin:
        """Where a replication connection leads: that of a whole server names no database that matters."""
        target = self.config.target(database)
        if target is None and kind == PHYSICAL and len(self.config.clusters) == 1:
            target = Target(next(iter(self.config.clusters)), database, self.config.pool)
        replication = "true" if kind == PHYSICAL else "database"
        return self.origin(target or self.target(database), user, {**params, "replication": replication})

    def target(self, database: str) -> Target:
        target = self.config.target(database)
        if target is None:
            raise Refused(
                f'database "{database[:64]}" does not exist',
                sqlstate="3D000",
                hint="The configuration's section databases names those that can be reached.",
            )
        return target

    def origin(self, target: Target, user: str, params: Mapping[str, str]) -> Origin:
        cluster = self.config.clusters[target.cluster]
        upstream = cluster.upstream()
        server_user = self.config.server_user(target, user)
        if (seconds := self.config.connect_timeout(target, server_user)) is not None:
            upstream = replace(upstream, connect_timeout=seconds)
        return Origin(
            upstream,
            self.keyrings[target.cluster],
            database=target.database,
            user=server_user,
            params=params,
            only=self.config.forces(target.cluster, server_user),
            approaches=self.approaches[target.cluster],
        )

    def probe(self, target: Target, user: str, password: bytes) -> Origin:
        """A way to see whether the server takes the password."""
        upstream = replace(self.config.clusters[target.cluster].upstream(), user=None, password=None)
        keyring = keyring_of(target.cluster, None, lambda user: password, spawn)
        return Origin(upstream, keyring, database=target.database, user=user, deriver=self._guesses)

    def _keyring(self, name: str, cluster: Cluster) -> Keyring:
        upstream = cluster.upstream()

        def password_of(user: str) -> Secret | None:
            if upstream.user is not None and user != upstream.user:
                return self._listed(user)  # a database's own user
            if upstream.password is not None:
                return upstream.password.encode()
            return self._brought(name, user) if upstream.user is None else None

        themselves = upstream.user is None
        return keyring_of(
            name, cluster.credentials, password_of, spawn, partial(self._refused, name), themselves=themselves
        )
