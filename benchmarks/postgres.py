"""The PostgreSQL under test: the embedded one (or PGAMBASSADOR_PG_BIN's), its clients, pgbench's tables."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from benchmarks.local import BenchmarkError
from pgambassador.embedded.ports import HOST
from pgambassador.embedded.server import SUPERUSER

if TYPE_CHECKING:
    from pathlib import Path

    from pgambassador.embedded import Postgres, Workspace

DATABASE = "postgres"
HBA = ("local all all scram-sha-256", f"host all all {HOST}/32 scram-sha-256")
STATEMENTS = "pg_stat_statements"
SETTINGS = {"max_connections": "500", "shared_buffers": "256MB", "autovacuum": "off"}


NAP = """
CREATE FUNCTION nap(seconds float8) RETURNS int STABLE LANGUAGE plpgsql AS
$$ BEGIN IF seconds > 0 THEN PERFORM pg_sleep(seconds); END IF; RETURN 0; END $$
"""


class Database:
    """With `replicas` its tables are logged, and each server counts what it is asked."""

    def __init__(self, workspace: Workspace, scale: int, *, replicas: int = 0) -> None:
        name = "replicated" if replicas else "primary"
        settings = {**SETTINGS, **({"shared_preload_libraries": STATEMENTS} if replicas else {})}
        self._server: Postgres = workspace.primary(name, settings, HBA)
        self._bin = workspace.installation.folder
        self._environment = workspace.installation.environment(
            PGHOST=HOST,
            PGUSER=SUPERUSER,
            PGPASSWORD=self._server.password,
            PGDATABASE=DATABASE,
            PGSSLMODE="disable",
            PGGSSENCMODE="disable",
        )
        self.user, self.password = SUPERUSER, self._server.password
        self.port = self._server.port
        self.ca: Path = workspace.authority.root
        self.version = f"PostgreSQL {workspace.installation.version}"
        tables = () if replicas else ("--unlogged-tables",)
        self.client("pgbench", self.port, "-i", "-q", "-s", str(scale), *tables)
        self.rows = scale * 100_000
        self.client("psql", self.port, "-qc", "VACUUM ANALYZE")
        self.client("psql", self.port, "-qc", NAP)
        if replicas:
            self.client("psql", self.port, "-qc", f"CREATE EXTENSION {STATEMENTS}")
        self._replicas = [self._server.replica(f"{name}-{number}") for number in range(replicas)]

    @property
    def pid(self) -> int:
        assert self._server.pid is not None
        return self._server.pid

    @property
    def url(self) -> str:
        """With verified TLS; of all servers."""
        first, *rest = (f"{HOST}:{server.port}" for server in (self._server, *self._replicas))
        return self._server.url().replace(first, ",".join((first, *rest)))

    def asked(self, kind: str) -> list[int]:
        """How many statements of a kind (SELECT …) on the table each server was asked, the primary first."""
        sql = f"SELECT coalesce(sum(calls), 0) FROM {STATEMENTS} WHERE query LIKE '{kind} %pgbench_accounts%'"
        ports = (server.port for server in (self._server, *self._replicas))
        return [int(self.client("psql", port, "-XAtqc", sql)) for port in ports]

    def client(self, program: str, port: int, *arguments: str, discard: bool = False) -> str:
        """Run psql or pgbench against a port in plain text; its standard output."""
        try:
            result = subprocess.run(
                [str(self._bin / program), *arguments],
                env={**self._environment, "PGPORT": str(port)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if discard else subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise BenchmarkError(f"{program} cannot be run from {self._bin}: {error.strerror}.") from None
        if result.returncode:
            raise BenchmarkError(f"{program} on port {port} failed: {result.stderr.strip()[-1500:]}")
        return result.stdout or ""
