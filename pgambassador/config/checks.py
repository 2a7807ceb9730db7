"""What only the whole configuration can tell: names that lead nowhere, addresses open to all, loops."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

from pgambassador.auth.rules import shadowed
from pgambassador.auth.verifier import read_verifier
from pgambassador.cluster.upstream import RDS
from pgambassador.config.discovery import HostsDiscovery
from pgambassador.config.providers import name_of
from pgambassador.config.store import parse_store
from pgambassador.config.structs import EVERY_OTHER
from pgambassador.config.users import check_name, read_users
from pgambassador.errors import ConfigError

if TYPE_CHECKING:
    from pgambassador.auth.rules import Rule
    from pgambassador.config.structs import Config, Tls

# Providers whose secrets name a user by themselves.
_NAMES_USER = frozenset(("aws-secretsmanager",))
_FINGERPRINT: Final = re.compile("[0-9A-Fa-f]{16}")


def check(config: Config) -> None:
    _names(config)
    _clusters(config)
    _routes(config)
    _fingerprints(config)
    _databases(config)
    _pools(config)
    addresses = config.addresses()
    http = config.http_address()
    if http is not None and http in addresses:
        raise ConfigError(f"http and listen both name {http}; give one of them another port.")
    _tls(config)
    _auth(config)
    _loops(config)
    if config.breaker.store is not None:
        parse_store(config.breaker.store)
    if config.failover.offline_logins and config.state is None:
        raise ConfigError(
            "failover.offline_logins is set, but there is no directory to keep what servers say in.",
            hint="Name one with state.",
        )


def _names(config: Config) -> None:
    """A longer one would never match: those of clients are cut off, and the server's are as well."""
    auth = config.auth
    found = [(f"databases.{name[:80]}", name) for name in config.databases]
    found += [(f"users.{name[:80]}", name) for name in config.users]
    found += [(f"auth.users.{name[:80]}", name) for name in auth.users]
    found += [(f"auth.map.{name[:80]}", user) for name, user in auth.map.items()]
    for name, database in config.databases.items():
        found += [(f"databases.{name}.{key}", getattr(database, key) or "") for key in ("database", "user")]
    for index, rule in enumerate(auth.rules):
        found += [(f"auth.rules[{index}].database", name) for name in rule.database]
        found += [(f"auth.rules[{index}].user", name) for name in rule.user]
    if auth.query is not None:
        found += [(f"auth.query.{key}", getattr(auth.query, key) or "") for key in ("database", "user")]
    for path, name in found:
        check_name(path, name)


def _routes(config: Config) -> None:
    for name, cluster in config.clusters.items():
        for index, rule in enumerate(cluster.routing.rules):
            if rule.route is None and not rule.idempotent:
                raise ConfigError(
                    f"clusters.{name}.routing.rules[{index}] does not say what it does.",
                    hint="Add route (primary, replica or any), or idempotent: true.",
                )


def _fingerprints(config: Config) -> None:
    """Another one would never match."""
    found = [(f"limits.rates[{index}]", rule.fingerprint) for index, rule in enumerate(config.limits.rates)]
    for name, cluster in config.clusters.items():
        rules = {"rules": cluster.routing.rules, "cache.rules": getattr(cluster.routing.cache, "rules", ())}
        found += [
            (f"clusters.{name}.routing.{key}[{index}]", rule.fingerprint)
            for key, listed in rules.items()
            for index, rule in enumerate(listed)
        ]
    for path, marks in found:
        for mark in marks:
            if mark != "all" and _FINGERPRINT.fullmatch(mark) is None:
                raise ConfigError(
                    f"{path}.fingerprint must be 16 hexadecimal digits, or all, not {mark!r}.",
                    hint="pgambassador explain 'SQL' prints that of a statement.",
                )


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
    first: dict[tuple[str, str], str] = {}
    for name, database in config.databases.items():
        target = config.target(name)
        assert target is not None
        if name == EVERY_OTHER and database.database is None:
            continue  # what it leads to is not known yet, and what is listed counts
        other = first.setdefault((target.cluster, target.database), name)
        if config.databases[other].max_connections != database.max_connections:
            raise ConfigError(
                f"databases.{other} and databases.{name} lead to the same database of cluster"
                f" {target.cluster}, but their max_connections differ.",
                hint="Write the same limit in both; they share it.",
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


def _tls(config: Config) -> None:
    """Before anybody takes the connection for encrypted because the file speaks of it."""
    tls = config.tls
    mode = tls.effective_mode
    for name in ("key", "ca"):
        if getattr(tls, name) is not None and tls.certificate is None:
            raise ConfigError(
                f"tls.{name} is set, but there is no certificate.",
                hint="Name the file of the certificate for clients with tls.certificate.",
            )
    if mode != "off" and tls.certificate is None:
        raise ConfigError(
            f"tls.mode is {mode}, but there is no certificate.",
            hint="Name the files with tls.certificate and tls.key, or set tls.mode to off.",
        )
    if mode == "verify-ca" and tls.ca is None:
        raise ConfigError(
            "tls.mode is verify-ca, but no CA is named that clients' certificates could come from.",
            hint="Name its file with tls.ca.",
        )


def _auth(config: Config) -> None:
    auth = config.auth
    if auth.rules and auth.method:
        raise ConfigError(
            "auth.method and auth.rules are both set.", hint="Make the method that of a last rule, for all."
        )
    _query(config)
    rules = auth.table()
    if auth.rules:
        for index, rule in enumerate(rules):
            _rule(rule, f"auth.rules[{index}]", config.tls)
    users = read_users(auth)
    for index, rule in enumerate(rules):
        if rule.method in ("scram-sha-256", "md5") and not (users or auth.query):
            path = f"auth.rules[{index}].method" if auth.rules else "auth.method"
            raise ConfigError(
                f"{path} is {rule.method}, but there are no users.",
                hint="Add auth.users, auth.users_file or auth.query.",
            )
    methods = {rule.method for rule in rules}
    for name, secret in users.items():
        problem = _unusable(methods, secret.reveal())
        if problem:
            raise ConfigError(
                f"The secret of user {name!r} is {problem[0]}, which {problem[1]} cannot use.",
                hint="Write the password itself, or set the method that fits.",
            )
    for address in config.addresses():
        if not (auth.rules or address.is_local) and methods == {"trust"}:
            raise ConfigError(
                f"{address} can be reached from other machines, where nobody would have to give a password.",
                hint="Set auth.users (and auth.method), or listen on 127.0.0.1 or a Unix socket.",
            )


def _rule(rule: Rule, path: str, tls: Tls) -> None:
    """What makes no sense whoever comes."""
    if rule.tls and not rule.places.networks:
        raise ConfigError(f"{path} asks for TLS on Unix sockets, which have none.", hint="Leave out tls.")
    if rule.method == "peer" and rule.places.networks:
        raise ConfigError(
            f"{path}.method is peer, which works on Unix sockets only.",
            hint="Add address: local to the rule.",
        )
    if rule.method == "cert" and not rule.tls:
        raise ConfigError(
            f"{path}.method is cert, and certificates come with TLS only.", hint="Add tls: true to the rule."
        )
    if rule.method == "cert" and tls.ca is None:
        raise ConfigError(
            f"{path}.method is cert, but no CA is named that clients' certificates could come from.",
            hint="Name its file with tls.ca.",
        )
    if rule.tls and tls.effective_mode == "off":
        raise ConfigError(
            f"{path}.tls is true, but clients are not offered TLS.", hint="Set tls.certificate and tls.key."
        )
    if rule.method == "upstream" and rule.places.remote and not rule.tls:
        raise ConfigError(
            f"{path}.method is upstream: passwords would come over the network in clear text.",
            hint="Add tls: true to the rule, or address: [local, loopback].",
        )


def _query(config: Config) -> None:
    query = config.auth.query
    if query is None:
        return
    if query.cluster is None and len(config.clusters) > 1:
        raise ConfigError(f"auth.query.cluster is missing; there are {len(config.clusters)} clusters.")
    if query.cluster is not None and query.cluster not in config.clusters:
        raise ConfigError(
            f"auth.query.cluster names {query.cluster!r}, which is not a cluster.",
            hint=f"There are: {', '.join(sorted(config.clusters))}.",
        )
    name = query.cluster or next(iter(config.clusters))
    if query.user is None and config.clusters[name].upstream().user is None:
        raise ConfigError(f"auth.query.user is missing; the URL of cluster {name} names no user either.")
    if "$1" not in query.statement:
        raise ConfigError("auth.query.statement has no $1, where the name of the user goes.")


def warnings(config: Config) -> list[str]:
    """What may be meant, and most often is not."""
    return [
        *_rules_warnings(config),
        *_clear_warnings(config),
        *_user_warnings(config),
        *_secret_warnings(config),
        *_bundle_warnings(config),
        *_server_warnings(config),
    ]


def _bundle_warnings(config: Config) -> list[str]:
    return [
        f"clusters.{name}.rds_bundle is not used: write sslrootcert=rds into the URL of the cluster"
        for name, cluster in config.clusters.items()
        if cluster.rds_bundle is not None and cluster.upstream().sslrootcert != RDS
    ]


def _secret_warnings(config: Config) -> list[str]:
    """A verifier that was cut off is a password, as for PostgreSQL; nobody would find out why it is wrong."""
    return [
        f"the secret of user {name!r} begins as a SCRAM verifier and is none, so that it is taken for the"
        " password itself; copy all of rolpassword from pg_authid"
        for name, secret in read_users(config.auth).items()
        if secret.reveal().startswith("SCRAM-SHA-256$") and read_verifier(secret.reveal()) is None
    ]


def _clear_warnings(config: Config) -> list[str]:
    """What can be read on the way, and used: md5 challenges are as good as nothing."""
    if all(address.is_local for address in config.addresses()):
        return []
    if config.tls.effective_mode in ("require", "verify-ca"):
        return []
    return [
        f"{f'auth.rules[{index}].method' if config.auth.rules else 'auth.method'} is md5, for clients of"
        " other machines and without TLS: who listens on the way can find out their passwords; use"
        " scram-sha-256, or tls.mode: require"
        for index, rule in enumerate(config.auth.table())
        if rule.method == "md5" and rule.places.remote and not rule.tls
    ]


def _user_warnings(config: Config) -> list[str]:
    return [
        f"clusters.{name}: the URL names no user, so that each client has a pool of its own, but the user of"
        f" {name_of(cluster.credentials)} credentials is whom all of them log in as; write that user into the"
        " URL"
        for name, cluster in config.clusters.items()
        if cluster.credentials is not None
        and cluster.upstream().user is None
        and (getattr(cluster.credentials, "user", None) or name_of(cluster.credentials) in _NAMES_USER)
    ]


def _server_warnings(config: Config) -> list[str]:
    """A weight of 0 for a server that is written in another way leaves it all its reads."""
    found = []
    for name, cluster in config.clusters.items():
        routing = cluster.routing
        if not isinstance(routing.discovery, HostsDiscovery):
            continue
        hosts = [str(endpoint) for endpoint in cluster.upstream().endpoints]
        found += [
            f"clusters.{name}.routing.{key}.{where} is for no server: the URL has {', '.join(hosts)}"
            for key, named in (("weights", routing.weights), ("zones", routing.zones))
            for where in named
            if where not in hosts
        ]
    return found


def _rules_warnings(config: Config) -> list[str]:
    if not config.auth.rules:
        return []
    rules = config.auth.table()
    found = [
        f"auth.rules[{late}] never matches: auth.rules[{early}] before it matches all that it would"
        for late, early in shadowed(rules)
    ]
    return found + [
        f"auth.rules[{index}] trusts clients of other machines: they are whoever they say they are"
        for index, rule in enumerate(rules)
        if rule.method == "trust" and rule.places.remote
    ]


def _unusable(methods: set[str], secret: str) -> tuple[str, str] | None:
    """What the secret is, and the method that cannot do anything with it."""
    if "scram-sha-256" in methods and "md5" not in methods and secret.startswith("md5") and len(secret) == 35:
        return "an md5 hash", "scram-sha-256"
    if methods == {"md5"} and secret.startswith("SCRAM-SHA-256$"):
        return "a SCRAM verifier", "md5"
    if not secret and methods & {"scram-sha-256", "md5"}:
        return "empty", "/".join(sorted(methods & {"scram-sha-256", "md5"}))
    return None


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
