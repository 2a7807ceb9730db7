"""The limits that the configuration sets beside the size of each pool, for servers and for clients.

1. Server connections are counted by what is on the server: its database, its user, the cluster. Clients are
   counted by the names that they give, and only once they have shown that they may.
2. A name that is not listed has the limit of "*" for itself alone.
3. Pools that differ only by what their connections begin with, which clients choose, share what one may have.
4. Who comes from this machine has no address that counts: behind loopback are all its programs.
"""

from __future__ import annotations

from pgambassador.auth.peer import Peer
from pgambassador.config import EVERY_OTHER, Config, Target
from pgambassador.errors import Refused
from pgambassador.pool.census import Census, Stay
from pgambassador.pool.commons import Cap, Commons

_QUOTED = f'"{EVERY_OTHER}"'


class Limits:
    """`commons` are those of the clusters by name."""

    def __init__(self, config: Config) -> None:
        self.commons = {name: Commons() for name in config.clusters}
        self.census = Census()
        self._config = config
        self._caps: dict[tuple[str, ...], Cap] = {}
        self._listed: dict[tuple[str, str], str] = {}
        for name, entry in config.databases.items():
            target = config.target(name)
            assert target is not None
            if name != EVERY_OTHER or entry.database is not None:
                self._listed.setdefault((target.cluster, target.database), name)

    def reload(self, config: Config) -> None:
        """The limits of clients are now those."""
        self._config = config

    # Server connections.

    def caps(self, target: Target, user: str, given: bool = False) -> list[Cap]:
        """Those that a pool is under; `user` is the server's. `given`: its connections begin with parameters
        that clients have chosen, so that there may be any number of such pools."""
        config, cluster = self._config, target.cluster
        found = [
            self._cap(
                ("cluster", cluster),
                f"clusters.{cluster}.max_connections",
                f"cluster {cluster}",
                config.clusters[cluster].max_connections,
            )
        ]
        name = self._listed.get((cluster, target.database), EVERY_OTHER)
        if name in config.databases:
            found.append(
                self._cap(
                    ("database", cluster, target.database),
                    f"databases.{_shown(name)}.max_connections",
                    f'database "{target.database[:64]}"',
                    config.databases[name].max_connections,
                )
            )
        name = user if user in config.users else EVERY_OTHER
        if name in config.users:
            found.append(
                self._cap(
                    ("user", cluster, user),
                    f"users.{_shown(name)}.max_connections",
                    f'user "{user[:64]}"',
                    config.users[name].max_connections,
                )
            )
        if given:
            found.append(
                self._cap(
                    ("given", cluster, target.database, user),
                    "pool.size",
                    f'database "{target.database[:64]}" that begin with parameters of their own',
                    target.pool.size,
                )
            )
        return [cap for cap in found if cap is not None]

    def _cap(self, key: tuple[str, ...], option: str, what: str, most: int | None) -> Cap | None:
        if most is None:
            return None
        return self._caps.setdefault(key, Cap(option, what, most))

    def forget(self) -> None:
        """Limits of names that nobody uses any more."""
        for key in [key for key, cap in self._caps.items() if not cap.members and not cap.used]:
            del self._caps[key]

    def tick(self, now: float) -> None:
        for commons in self.commons.values():
            commons.settle(now)

    # Clients.

    def about(self, peer: Peer, database: str, user: str) -> bool:
        """Whether there is a limit for clients like this one."""
        config = self._config
        if config.clients.max_per_address is not None and not peer.local:
            return True
        entry = config.databases.get(database) or config.databases.get(EVERY_OTHER)
        limit = config.users.get(user) or config.users.get(EVERY_OTHER)
        return (entry is not None and entry.max_clients is not None) or (
            limit is not None and limit.max_clients is not None
        )

    def arrive(self, peer: Peer | None) -> Stay:
        """Of one who comes; Refused if too many are there from the same address."""
        stay = self.census.stay()
        if peer is not None and not peer.local:
            most = self._config.clients.max_per_address
            if not stay.take(("address", peer.site), most):
                raise _refused(f"from {peer.name}", most, "clients.max_per_address")
        return stay

    def lodge(self, stay: Stay, database: str, user: str) -> None:
        """Of one who has shown who it is; Refused if too many are there."""
        name = database if database in self._config.databases else EVERY_OTHER
        entry = self._config.databases.get(name)
        if entry is not None and not stay.take(("database", database), entry.max_clients):
            option = f"databases.{_shown(name)}.max_clients"
            raise _refused(f'for database "{database[:64]}"', entry.max_clients, option)
        name = user if user in self._config.users else EVERY_OTHER
        limit = self._config.users.get(name)
        if limit is not None and not stay.take(("user", user), limit.max_clients):
            raise _refused(f'for role "{user[:64]}"', limit.max_clients, f"users.{_shown(name)}.max_clients")

    def __repr__(self) -> str:
        return f"<Limits {len(self._caps)} of servers, {self.census!r}>"


def _refused(whose: str, most: int | None, option: str) -> Refused:
    return Refused(
        f"too many connections {whose}", sqlstate="53300", hint=f"At most {most} are allowed ({option})."
    )


def _shown(name: str) -> str:
    return _QUOTED if name == EVERY_OTHER else name
