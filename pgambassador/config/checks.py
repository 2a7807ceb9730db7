"""What only the whole configuration can tell: names that lead nowhere, addresses open to all, loops."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from pgambassador.config.users import read_users
from pgambassador.errors import ConfigError

if TYPE_CHECKING:
    from pgambassador.config.structs import AuthMethod, Config


def check(config: Config) -> None:
    _clusters(config)
    _databases(config)
    _pools(config)
    addresses = config.addresses()
    http = config.http_address()
    if http is not None and http in addresses:
        raise ConfigError(f"http and listen both name {http}; give one of them another port.")
    _auth(config)
    _loops(config)


def _clusters(config: Config) -> None:
    if not config.clusters:
        raise ConfigError(
            "There is no PostgreSQL to connect to.",
            hint="Give a URL (pgambassador run postgresql://user@host/database), --config or UPSTREAM_HOST.",
        )
    if len(config.clusters) > 1 and not config.databases:
        raise ConfigError(
            f"There are {len(config.clusters)} clusters but no databases, so no name leads anywhere.",
            hint="Add databases: {name: {cluster: …}}.",
        )
    for name, cluster in config.clusters.items():
        try:
            cluster.upstream()
        except ConfigError as error:
            raise ConfigError(
                f"clusters.{name}.url: {error.message}", hint=error.hint, detail=error.detail
            ) from None


def _databases(config: Config) -> None:
    for name, database in config.databases.items():
        if database.cluster is None and len(config.clusters) > 1:
            raise ConfigError(
                f"databases.{name}.cluster is missing; there are {len(config.clusters)} clusters."
            )
        if database.cluster is not None and database.cluster not in config.clusters:
            close = difflib.get_close_matches(database.cluster, config.clusters, n=1)
            hint = (
                f"Did you mean {close[0]}?" if close else f"There are: {', '.join(sorted(config.clusters))}."
            )
            raise ConfigError(
                f"databases.{name}.cluster names {database.cluster!r}, which is not a cluster.", hint=hint
            )


def _pools(config: Config) -> None:
    pools = {"pool": config.pool}
    pools |= {f"clusters.{name}.pool": each.pool.over(config.pool) for name, each in config.clusters.items()}
    for name in config.databases:
        target = config.target(name)
        assert target is not None
        pools[f"databases.{name}.pool"] = target.pool
    for path, pool in pools.items():
        if pool.min_size > pool.size:
            raise ConfigError(
                f"{path}.min_size is {pool.min_size}, more than {path}.size, which is {pool.size}."
            )


def _auth(config: Config) -> None:
    method = config.auth.effective_method
    users = read_users(config.auth)
    if method != "trust":
        if not users:
            raise ConfigError(
                f"auth.method is {method}, but there are no users.", hint="Add auth.users or auth.users_file."
            )
        for name, secret in users.items():
            problem = _unusable(method, secret.reveal())
            if problem:
                raise ConfigError(
                    f"The secret of user {name!r} is {problem}, which {method} cannot use.",
                    hint="Write the password itself, or set the auth.method that fits.",
                )
        return
    for address in config.addresses():
        if not address.is_local:
            raise ConfigError(
                f"{address} can be reached from other machines, where nobody would have to give a password.",
                hint="Set auth.users (and auth.method), or listen on 127.0.0.1 or a Unix socket.",
            )


def _unusable(method: AuthMethod, secret: str) -> str | None:
    if method == "scram-sha-256" and secret.startswith("md5") and len(secret) == 35:
        return "an md5 hash"
    if method == "md5" and secret.startswith("SCRAM-SHA-256$"):
        return "a SCRAM verifier"
    return None if secret else "empty"


def _loops(config: Config) -> None:
    """A proxy in front of itself would eat every connection it has."""
    sockets = {address.path for address in config.addresses() if address.is_unix}
    ports = {address.port for address in config.addresses() if not address.is_unix}
    for name, cluster in config.clusters.items():
        for endpoint in cluster.upstream().endpoints:
            ours = endpoint.host in ("localhost", "127.0.0.1", "::1") and endpoint.port in ports
            if ours or (endpoint.is_unix and endpoint.socket_path in sockets):
                raise ConfigError(
                    f"clusters.{name}.url leads to {endpoint}, where pgambassador itself listens.",
                    hint="Listen on another port, such as --listen 127.0.0.1:6432.",
                )
