"""`pgambassador check`: the configuration is read, then its files, then a real login to every server.

What works is said on standard output, what does not on standard error, each in a line that names the step.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import TYPE_CHECKING

from pgambassador.config import redact
from pgambassador.errors import AmbassadorError
from pgambassador.net import tls
from pgambassador.net.origin import Origin

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Upstream
    from pgambassador.config import Cluster, Config

_NO_USER = "pgambassador"  # asked for where the URL names nobody, to see that the server answers at all


async def check(config: Config) -> int:
    """0 if every server lets us in. Mistakes in files are raised as ConfigErrors."""
    _well("configuration", f"{_count(config.clusters, 'cluster')}, {_listening(config)}")
    for name, cluster in config.clusters.items():
        upstream = cluster.upstream()
        tls.context(upstream)
        _well(f"cluster {name}, TLS", f"sslmode={upstream.sslmode}, sslrootcert={upstream.sslrootcert}")
        if upstream.weakness:
            _ill(f"cluster {name}, TLS", f"warning: {upstream.weakness}")
    results = [await _cluster(config, name, cluster) for name, cluster in config.clusters.items()]
    return 0 if all(results) else 1


async def _cluster(config: Config, name: str, cluster: Cluster) -> bool:
    """Every host with one database, then the other databases with whichever host lets us in."""
    upstream = cluster.upstream()
    first, *others = _databases(config, name, upstream)
    good = True
    for endpoint in upstream.endpoints:
        single = dataclasses.replace(upstream, endpoints=(endpoint,), target_session_attrs="any")
        good &= await _login(f"cluster {name}, {endpoint}", single, cluster, first)
    for database in others if good else ():
        good &= await _login(f"cluster {name}, database {database}", upstream, cluster, database)
    return good


def _databases(config: Config, name: str, upstream: Upstream) -> list[str]:
    targets = [target for database in config.databases if (target := config.target(database)) is not None]
    found = [target.database for target in targets if target.cluster == name]
    return list(dict.fromkeys(found)) or [upstream.database or upstream.user or "postgres"]


async def _login(step: str, upstream: Upstream, cluster: Cluster, database: str) -> bool:
    user = upstream.user or _NO_USER
    origin = Origin(upstream, cluster.credentials, database=database, user=user, fallback=None)
    began = time.monotonic()
    try:
        link = await origin.open()
    except AmbassadorError as error:
        # Reached, and its identity verified: 28 is the class of "Invalid Authorization Specification".
        if upstream.user is None and error.sqlstate.startswith("28"):
            _well(step, "the server answers; the URL names no user, so that logging in was not tested")
            return True
        _ill(step, error.sentence())
        return False
    link.close()
    version = link.parameters.get("server_version", "unknown")
    how = link.tls_version or "no TLS"
    seconds = time.monotonic() - began
    _well(step, f"logged in as {user} to {database}: PostgreSQL {version}, {how}, {seconds * 1000:.0f} ms")
    return True


def _listening(config: Config) -> str:
    return f"listening on {', '.join(map(str, config.addresses()))}, auth {config.auth.effective_method}"


def _count(found: dict[str, Cluster], noun: str) -> str:
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"


def _well(step: str, what: str) -> None:
    print(f"{step}: {what}")


def _ill(step: str, what: str) -> None:
    print(f"{step}: {redact(what)}", file=sys.stderr)
