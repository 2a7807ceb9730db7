"""The PostgreSQL under test: TLS with a CA of its own, SCRAM, tables of pgbench."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import trustme

from benchmarks.local import BenchmarkError, Program, free_port, give, unprivileged_user

USER, PASSWORD, DATABASE = "bench", "bench-secret", "postgres"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "fsync": "off",
    "autovacuum": "off",
    "ssl": "on",
}


class Postgres:
    def __init__(self, folder: Path, scale: int) -> None:
        self.port = free_port()
        self.bin = _find_binaries()
        self.ca = folder / "ca.pem"
        self._data = folder / "data"
        self._certificates(folder)
        self._initialise(folder)
        settings = {**SETTINGS, "port": str(self.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        log = folder / "postgres.log"
        self._program = Program([str(self.bin / "postgres"), "-D", str(self._data), *options], log, drop=True)
        self._program.wait_for_port(self.port)
        self.client("pgbench", self.port, "-i", "-q", "-s", str(scale), "--unlogged-tables")
        self.client("psql", self.port, "-qc", "VACUUM ANALYZE")

    @property
    def pid(self) -> int:
        return self._program.pid

    @property
    def version(self) -> str:
        output = subprocess.run([self.bin / "postgres", "--version"], capture_output=True, text=True).stdout
        return re.sub(r"^postgres \(PostgreSQL\) ", "PostgreSQL ", output.strip())

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PGHOST": "127.0.0.1",
            "PGUSER": USER,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": DATABASE,
            "PGSSLMODE": "disable",
            "PGGSSENCMODE": "disable",
        }

    def client(self, program: str, port: int, *arguments: str, discard: bool = False) -> str:
        """Run psql or pgbench against a port in plain text; its standard output."""
        result = subprocess.run(
            [str(self.bin / program), *arguments],
            env={**self.environment, "PGPORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if discard else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if result.returncode:
            raise BenchmarkError(f"{program} on port {port} failed: {result.stderr.strip()[-1500:]}")
        return result.stdout or ""

    def stop(self) -> None:
        self._program.stop()

    def _certificates(self, folder: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(folder / "server.key")
        (folder / "server.key").chmod(0o600)
        give(folder / "server.key")
        with (folder / "server.crt").open("wb") as chain:
            for blob in server.cert_chain_pems:
                chain.write(blob.bytes())

    def _initialise(self, folder: Path) -> None:
        self._data.mkdir(mode=0o700)
        give(self._data)
        password = folder / "password"
        password.write_text(PASSWORD)
        subprocess.run(
            [
                *(str(self.bin / "initdb"), "-D", str(self._data), "-U", USER, f"--pwfile={password}"),
                *("--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            user=unprivileged_user(),
        )
        with (self._data / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"ssl_cert_file = '{folder}/server.crt'\nssl_key_file = '{folder}/server.key'\n")


def _find_binaries() -> Path:
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    named = os.environ.get("PGAMBASSADOR_PG_BIN") or shutil.which("postgres")
    if folders:
        return folders[-1]
    if named:
        return Path(named).resolve().parent
    raise BenchmarkError(
        "No PostgreSQL server was found: install one, or name its bin folder in PGAMBASSADOR_PG_BIN."
    )
