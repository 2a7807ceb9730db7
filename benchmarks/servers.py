"""What is compared: no proxy, PgBouncer, pgambassador; each knows how to start and what it is called.

1. Both proxies speak verified TLS to PostgreSQL, with the same CA and the same pool size, and plain
   text to the clients.
2. Both run as one process with everything on that they would have on in production: statistics and
   logging in PgBouncer, metrics and the query log (slow threshold) in pgambassador.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from benchmarks.local import BenchmarkError, Program
from benchmarks.postgres import DATABASE
from pgambassador.embedded.account import account
from pgambassador.embedded.ports import HOST, free_port

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.postgres import Database

DIRECT = "direct"
POOL_SIZE = 20
MAX_CLIENTS = 10_000
_PREPARED_SINCE = (1, 21)


@dataclass(frozen=True)
class Flavour:
    """How a target is started for one measurement."""

    auth: str = "trust"
    pool_mode: str = "transaction"
    pool_size: int = POOL_SIZE
    renewing: bool = False
    """Passwords end soon; they come from a command, which notes in RENEWALS when it is asked."""
    replicated: bool = False
    """In front of the primary that has replicas; who can, reads from these."""
    consistency: str = "session"
    batching: bool = True


DEFAULT = Flavour()
LOGIN = Flavour(auth="scram-sha-256")
SESSION = Flavour(pool_mode="session")
CROWDED = Flavour(pool_size=8)
RENEWING = Flavour(renewing=True)
REPLICATED = Flavour(replicated=True)
BOUNDED = Flavour(replicated=True, consistency="bounded")
UNBATCHED = Flavour(pool_size=8, batching=False)
RENEWALS = "renewals"
_TOKEN_LIFE = 4
_ISSUER = """#!/bin/sh
date +%s.%N >> "$1"
printf '{"password": "%s", "expires_at": "%s"}' "$2" "$(date -u -d '+{} seconds' +%Y-%m-%dT%H:%M:%SZ)"
"""


class Running(Protocol):
    """A started target: where clients connect, and which process to watch (0: none)."""

    port: int
    pid: int

    def stop(self) -> None: ...


class Target(Protocol):
    name: str
    version: str
    prepared_in_transactions: bool

    def start(self, database: Database, folder: Path, flavour: Flavour) -> Running: ...


class Direct:
    """The clients talk to PostgreSQL itself, in plain text."""

    name = DIRECT
    version = "no proxy, plain text"
    prepared_in_transactions = True

    def start(self, database: Database, folder: Path, flavour: Flavour) -> Running:
        return _Nothing(database.port)


@dataclass
class _Nothing:
    port: int
    pid: int = 0

    def stop(self) -> None:
        pass


class _Proxy:
    def __init__(self, program: Program, port: int) -> None:
        self.port = port
        self.pid = program.pid
        self._program = program
        try:
            program.wait_for_port(port)
        except BaseException:
            program.stop()
            raise

    def stop(self) -> None:
        self._program.stop()


class PgBouncer:
    def __init__(self, binary: str) -> None:
        self._binary = binary
        output = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout
        found = re.search(r"PgBouncer (\d+)\.(\d+)\S*", output)
        if not found:
            raise BenchmarkError(f"{binary} is not PgBouncer: it answered {output[:80]!r} to --version.")
        self.name = found.group()
        self.version = ", ".join(
            line for line in output.splitlines() if "adns" not in line and "systemd" not in line
        )
        self.prepared_in_transactions = (int(found[1]), int(found[2])) >= _PREPARED_SINCE

    def start(self, database: Database, folder: Path, flavour: Flavour) -> Running:
        port = free_port()
        users = folder / f"pgbouncer-{port}.users"
        users.write_text(f'"{database.user}" "{database.password}"\n')
        settings = {
            "listen_addr": HOST,
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": flavour.auth,
            "auth_file": users,
            "pool_mode": flavour.pool_mode,
            "default_pool_size": flavour.pool_size,
            "max_client_conn": MAX_CLIENTS,
            "server_tls_sslmode": "verify-full",
            "server_tls_ca_file": database.ca,
        }
        if self.prepared_in_transactions:
            settings["max_prepared_statements"] = 200
        config = folder / f"pgbouncer-{port}.ini"
        lines = [f"{key} = {value}" for key, value in settings.items()]
        entry = f"{DATABASE} = host={HOST} port={database.port}"
        config.write_text("\n".join(["[databases]", entry, "[pgbouncer]", *lines, ""]))
        users.chmod(0o600)
        account().give(users)
        log = folder / f"pgbouncer-{port}.log"
        return _Proxy(Program([self._binary, str(config)], log, drop=True), port)


class Ambassador:
    name = "pgambassador"
    prepared_in_transactions = True

    def __init__(self) -> None:
        command = [sys.executable, "-m", "pgambassador", "--version"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise BenchmarkError(f"pgambassador does not start: {result.stderr.strip()[-300:]}")
        self.version = result.stdout.strip()

    def start(self, database: Database, folder: Path, flavour: Flavour) -> Running:
        port, http = free_port(), free_port()
        cluster: dict[str, object] = {
            "url": database.url,
            "routing": {
                "batching": flavour.batching,
                "consistency": flavour.consistency,
                "functions": {"read": ["nap"]},
            },
        }
        settings: dict[str, object] = {
            "listen": [f"{HOST}:{port}"],
            "http": f"{HOST}:{http}",
            "pool": {"mode": flavour.pool_mode, "size": flavour.pool_size},
            "clusters": {"main": cluster},
            "auth": {"method": flavour.auth, "users": {database.user: database.password}},
            "query_log": {"slow": "250ms"},
        }
        if flavour.renewing:
            issuer = folder / "issuer"
            issuer.write_text(_ISSUER.replace("{}", str(_TOKEN_LIFE)))
            issuer.chmod(0o700)
            command = [str(issuer), str(folder / RENEWALS), database.password]
            cluster["credentials"] = {"provider": "exec", "command": command}
        config = folder / f"pgambassador-{port}.yaml"
        config.write_text(json.dumps(settings))  # every JSON document is a YAML document
        config.chmod(0o600)
        command = [sys.executable, "-m", "pgambassador", "run", "--config", str(config)]
        return _Proxy(Program(command, folder / f"pgambassador-{port}.log"), port)


def find_targets() -> tuple[list[Target], list[str]]:
    """Every target that can run here (`direct` first), and a sentence for each that cannot."""
    targets: list[Target] = [Direct()]
    missing = []
    named = os.environ.get("PGBOUNCER")
    for binary in named.split(os.pathsep) if named else ["pgbouncer"]:
        path = shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if path:
            targets.append(PgBouncer(path))
        else:
            missing.append(
                f"{binary} was not found: install Debian's package (apt-get install pgbouncer), "
                "or fetch the newest with benchmarks/get-pgbouncer.sh and name it in PGBOUNCER."
            )
    try:
        targets.append(Ambassador())
    except BenchmarkError as error:
        missing.append(str(error))
    return targets, missing
