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
SETTINGS = {"max_connections": "500", "shared_buffers": "256MB", "autovacuum": "off"}


class Database:
    def __init__(self, workspace: Workspace, scale: int) -> None:
        self._server: Postgres = workspace.primary(settings=SETTINGS, hba=HBA)
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
        self.client("pgbench", self.port, "-i", "-q", "-s", str(scale), "--unlogged-tables")
        self.client("psql", self.port, "-qc", "VACUUM ANALYZE")

    @property
    def pid(self) -> int:
        assert self._server.pid is not None
        return self._server.pid

    @property
    def url(self) -> str:
        """With verified TLS."""
        return self._server.url()

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
