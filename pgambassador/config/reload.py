"""Two configurations compared: what a running process takes over, and what waits for a restart.

1. Nothing is taken over in part: what is named here as live is the new one's, everything else the old one's.
2. Only the paths of options are told, never values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from pgambassador.config.checks import check
from pgambassador.config.structs import Cluster, Config
from pgambassador.errors import ConfigError

LIVE = (
    *("auth", "tls", "clients", "limits", "console", "timeouts", "failover", "breaker", "query_log", "log"),
    "drain_timeout",
)
_NOT_LIVE = ("clients.buffer", "query_log.file", "breaker.store")
_LIVE_WITHIN = re.compile(
    r"clusters\..+\.routing\.weights(\..+)?|(databases|users)\..+\.timeouts\.\w+|users\..+\.pool\.wait_timeout"
)


class Change(NamedTuple):
    """`config` is to be used from now on. `live`, `restart`: the options that differ, by path."""

    config: Config
    live: list[str]
    restart: list[str]

    def check(self) -> None:
        """ConfigError if what is taken over does not go together with what stays."""
        try:
            check(self.config)
        except ConfigError as error:
            if not self.restart:
                raise
            raise ConfigError(
                f"it does not go together with what only a restart changes ({', '.join(self.restart)}):"
                f" {error.message}",
                hint="Restart to apply all of it.",
            ) from None


def compare(old: Config, new: Config) -> Change:
    found = list(differences(old, new))
    live = [path for path in found if is_live(path)]
    taken = {name: getattr(new, name) for name in LIVE}
    taken["clients"] = replace(new.clients, buffer=old.clients.buffer)
    taken["query_log"] = replace(new.query_log, file=old.query_log.file)
    taken["breaker"] = replace(new.breaker, store=old.breaker.store)
    taken["clusters"] = {name: _weighed(name, cluster, new) for name, cluster in old.clusters.items()}
    taken["databases"] = {
        name: replace(database, timeouts=new.databases[name].timeouts) if name in new.databases else database
        for name, database in old.databases.items()
    }
    taken["users"] = {
        name: replace(user, timeouts=new.users[name].timeouts, pool=new.users[name].pool)
        if name in new.users
        else user
        for name, user in old.users.items()
    }
    return Change(replace(old, **taken), live, [path for path in found if path not in live])


def _weighed(name: str, cluster: Cluster, new: Config) -> Cluster:
    if name not in new.clusters:
        return cluster
    return replace(cluster, routing=replace(cluster.routing, weights=new.clusters[name].routing.weights))


def is_live(path: str) -> bool:
    """Whether a reload changes the option."""
    if _LIVE_WITHIN.fullmatch(path):
        return True
    return path.partition(".")[0] in LIVE and path not in _NOT_LIVE


def differences(old: object, new: object, path: str = "") -> Iterator[str]:
    """The paths of options whose values differ; of what is there only once, its own."""
    if isinstance(old, msgspec.Struct) and type(old) is type(new):
        for name in old.__struct_fields__:
            yield from differences(getattr(old, name), getattr(new, name), _join(path, name))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys((*old, *new)):
            if name in old and name in new:
                yield from differences(old[name], new[name], _join(path, name))
            else:
                yield _join(path, name)
    elif old != new:
        yield path


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
