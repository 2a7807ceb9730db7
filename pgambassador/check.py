"""`pgambassador check`: the configuration is read, then its files, then a real login to every server.

What works is said on standard output, what does not on standard error, each in a line that names the step.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pgambassador.auth.credential import Plain, read_credential
from pgambassador.auth.expiry import Ending, Reminder, day
from pgambassador.config import EVERY_OTHER, read_users, redact, warnings
from pgambassador.credentials.registry import URL, keyring_of
from pgambassador.errors import AmbassadorError
from pgambassador.net import tls
from pgambassador.net.enquiry import enquiry
from pgambassador.net.gate import Gate
from pgambassador.net.origin import Origin
from pgambassador.net.redis import RedisStore
from pgambassador.net.tasks import spawn

if TYPE_CHECKING:
    from pgambassador.cluster.upstream import Upstream
    from pgambassador.config import Cluster, Config
    from pgambassador.credentials.keyring import Issued, Keyring
    from pgambassador.credentials.provider import Secret
    from pgambassador.net.connector import Keys

_NO_USER = "pgambassador"  # asked for where the URL names nobody, to see that the server answers at all


async def check(config: Config) -> int:
    """0 if every server lets us in. Mistakes in files are raised as ConfigErrors."""
    _well("configuration", f"{_count(config.clusters, 'cluster')}, {_listening(config)}")
    good = _gate(config)
    for name, cluster in config.clusters.items():
        upstream = cluster.upstream()
        tls.context(upstream)
        _well(f"cluster {name}, TLS", f"sslmode={upstream.sslmode}, sslrootcert={upstream.sslrootcert}")
        if upstream.weakness:
            _ill(f"cluster {name}, TLS", f"warning: {upstream.weakness}")
    for each in warnings(config):
        _ill("auth", f"warning: {each}")
    good &= await _store(config)
    good &= await _query(config)
    results = [await _cluster(config, name, cluster) for name, cluster in config.clusters.items()]
    return 0 if good and all(results) else 1


async def _store(config: Config) -> bool:
    """What a fleet shares, if anything."""
    if config.breaker.store is None:
        return True
    store = RedisStore(config.breaker.store)
    try:
        await store.read(["pgambassador:breaker"])
    except AmbassadorError as error:
        _ill("breaker.store", error.sentence())
        return False
    finally:
        await store.close()
    _well("breaker.store", f"{store.where} answers")
    return True


async def _query(config: Config) -> bool:
    """Whether users can be asked for."""
    clusters = config.clusters.items()
    keyrings = {name: keyring_for(config, name, cluster, cluster.upstream()) for name, cluster in clusters}
    asking = enquiry(config, keyrings, partial(_listed, config))
    if asking is None:
        return True
    try:
        await asking.try_out(_NO_USER)
    except AmbassadorError as error:
        _ill("auth.query", asking.explain(error))
        return False
    finally:
        asking.close()
    _well("auth.query", "the server answers")
    return True


def _gate(config: Config) -> bool:
    """TLS towards clients: what is offered, and whether its certificate is good today."""
    gate = Gate(config.tls)
    if not gate.offers:
        _well("clients, TLS", "off")
        return True
    now = time.time()
    armour = gate.armour()
    shown = f"mode={gate.mode}, certificate={config.tls.certificate}"
    if armour.ours is not None:
        names = ", ".join(armour.ours.dns[:4]) or armour.ours.common_name or "nobody"
        shown += f" (for {names}; until {day(armour.ours.not_after)})"
    _well("clients, TLS", shown + (f", ca={config.tls.ca}" if config.tls.ca else ""))
    if armour.ours is not None and armour.ours.not_before > now:
        _ill("clients, TLS", f"the certificate is not valid before {day(armour.ours.not_before)}")
        return False
    for sentence in Reminder().due((Ending("", *each) for each in gate.ends()), now):
        _ill("clients, TLS", sentence)
    return all(at > now for _, at in gate.ends())


async def _cluster(config: Config, name: str, cluster: Cluster) -> bool:
    """Every host with one database, then the other databases with whichever host lets us in."""
    upstream = cluster.upstream()
    keyring = keyring_for(config, name, cluster, upstream)
    first, *others = _databases(config, name, upstream)
    good = True
    for endpoint in upstream.endpoints:
        single = dataclasses.replace(upstream, endpoints=(endpoint,), target_session_attrs="any")
        good &= await _login(f"cluster {name}, {endpoint}", single, keyring, *first)
    for database, user in others if good else ():
        good &= await _login(f"cluster {name}, database {database}", upstream, keyring, database, user)
    return good


def keyring_for(config: Config, name: str, cluster: Cluster, upstream: Upstream) -> Keyring:
    password = None if upstream.password is None else upstream.password.encode()

    def password_of(user: str) -> bytes | None:
        """That of the URL for its user; of a database's own user the one that the lists have."""
        if user == upstream.user or (upstream.user is None and password is not None):
            return password
        return _listed(config, user)

    return keyring_of(name, cluster.credentials, password_of, spawn)


def _listed(config: Config, user: str) -> bytes | None:
    """The password that the lists have for a user."""
    secret = read_users(config.auth).get(user)
    credential = None if secret is None else read_credential(secret.reveal())
    return credential.password if isinstance(credential, Plain) else None


class _Told:
    """A keyring that says how its provider does."""

    def __init__(self, keyring: Keyring, step: str) -> None:
        self._keyring = keyring
        self._step = f"{step}, credentials"
        self._keys: Keys | None = None
        self.failed = False

    @property
    def remedy(self) -> str | None:
        return self._keyring.remedy

    def attempt(self, user: str, database: str) -> Keys:
        self._keys = self._keyring.attempt(user, database)
        return self

    async def issued(self, host: str, port: int) -> Issued:
        assert self._keys is not None
        began = time.monotonic()
        try:
            issued = await self._keys.issued(host, port)
        except AmbassadorError as error:
            self.failed = True
            _ill(self._step, f"provider {self._keyring.provider}: {error.sentence()}")
            raise
        if self._keyring.provider != URL:
            seconds = time.monotonic() - began
            _well(
                self._step, f"{self._keyring.provider} gave {_what(issued.secret)}, {seconds * 1000:.0f} ms"
            )
        return issued

    async def refused(self, host: str, port: int) -> bool:
        assert self._keys is not None
        return await self._keys.refused(host, port)


def _what(secret: Secret) -> str:
    what = "no password" if secret.password is None else "a password"
    if secret.user is not None:
        what += f" for user {secret.user}"
    if secret.not_after is None:
        return f"{what} without an end"
    try:
        end = datetime.fromtimestamp(secret.not_after, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{what} without an end"
    if secret.not_after <= time.time():
        return f"{what} that was valid until {end} only; compare the clock of this machine"
    return f"{what} valid until {end}"


def _databases(config: Config, name: str, upstream: Upstream) -> list[tuple[str, str | None]]:
    """Their names on the server, each with its own user; where "*" leads cannot be told."""
    found: dict[tuple[str, str | None], None] = {}
    for database, entry in config.databases.items():
        target = config.target(database)
        if target is not None and target.cluster == name and (database != EVERY_OTHER or entry.database):
            found[target.database, target.user] = None
    return list(found) or [(upstream.database or upstream.user or "postgres", None)]


async def _login(step: str, upstream: Upstream, keyring: Keyring, database: str, own: str | None) -> bool:
    user = own or upstream.user or _NO_USER
    told = _Told(keyring, step)
    origin = Origin(upstream, told, database=database, user=user, only=own not in (None, upstream.user))
    began = time.monotonic()
    try:
        link = await origin.open()
    except AmbassadorError as error:
        # Reached, and its identity verified: 28 is the class of "Invalid Authorization Specification".
        if user == _NO_USER and error.sqlstate.startswith("28"):
            _well(step, "the server answers; the URL names no user, so that logging in was not tested")
            return True
        if not told.failed:
            _ill(step, error.sentence())
        return False
    link.close()
    version = link.parameters.get("server_version", "unknown")
    how = link.tls_version or "no TLS"
    seconds = time.monotonic() - began
    _well(step, f"logged in as {user} to {database}: PostgreSQL {version}, {how}, {seconds * 1000:.0f} ms")
    return True


def _listening(config: Config) -> str:
    return f"listening on {', '.join(map(str, config.addresses()))}, auth {_auth(config)}"


def _auth(config: Config) -> str:
    rules = config.auth.rules
    return f"by {len(rules)} rule{'' if len(rules) == 1 else 's'}" if rules else config.auth.effective_method


def _count(found: dict[str, Cluster], noun: str) -> str:
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"


def _well(step: str, what: str) -> None:
    print(f"{step}: {what}")


def _ill(step: str, what: str) -> None:
    print(f"{step}: {redact(what)}", file=sys.stderr)
