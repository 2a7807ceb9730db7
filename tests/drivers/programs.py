"""The programs of this folder: what each needs, how it is built and run, and what it said."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "programs"
JDBC = Path("/usr/share/java/postgresql.jar")
GO = Path("/usr/share/gocode")
_SETUP = "run tests/drivers/setup"


@dataclass(frozen=True)
class Report:
    """What a program has written: a line for each step, and what else is the same wherever it runs."""

    code: int
    lines: tuple[str, ...]
    connections: int
    """How many of the server's processes have run its prepared statement."""
    trouble: str

    @property
    def failures(self) -> list[str]:
        return [line for line in self.lines if line.startswith("FAILED")]


@dataclass(frozen=True, eq=False)
class Program:
    name: str
    command: tuple[str, ...]
    """`{sources}` and `{built}` are folders."""
    what: str
    probe: tuple[str, ...]
    """Works where the driver is installed."""
    setup: str = f"{_SETUP} --all"
    build: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def missing(self) -> str:
        """Why it cannot run on this machine, or nothing."""
        tools = {self.probe[0], *self.build[:1]} | ({self.command[0]} - {_built(self.name)})
        if all(map(shutil.which, tools)) and not self._call(self.probe, FOLDER).returncode:
            return ""
        return f"no {self.what}: {self.setup}"

    def make(self, built: Path) -> None:
        if self.build:
            done = self._call(self.build, built)
            assert not done.returncode, f"{self.name} cannot be built: {done.stdout}{done.stderr}"

    def run(self, built: Path, environment: Mapping[str, str]) -> Report:
        done = self._call(self.command, built, environment)
        lines = done.stdout.splitlines()
        counts = [line.split()[1] for line in lines if line.startswith("connections ")]
        return Report(
            done.returncode,
            tuple(line for line in lines if not line.startswith("connections ")),
            int(counts[0]) if counts else 0,
            done.stderr[-2000:],
        )

    def _call(
        self, command: Sequence[str], built: Path, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        words = [word.format(sources=SOURCES, built=built) for word in command]
        try:
            return subprocess.run(
                words,
                cwd=FOLDER,
                env={**clean, "LC_ALL": "C.UTF-8", **self.environment, **(more or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            said = expired.stdout.decode() if isinstance(expired.stdout, bytes) else expired.stdout
            raise AssertionError(f"{self.name} did not end; it has said:\n{said}") from None


def _built(name: str) -> str:
    return f"{{built}}/{name}"


def _node(name: str, file: str, probe: str) -> Program:
    return Program(
        name,
        ("node", "{sources}/" + file),
        "node, or none of its packages",
        ("node", "-e", probe),
        setup=_SETUP,
    )


def _go(name: str, package: str) -> Program:
    """GOPATH mode: the packages are the distribution's, nothing is fetched."""
    return Program(
        name,
        (_built(name),),
        f"go, or no {package}",
        ("test", "-d", str(GO / "src" / package)),
        build=("go", "build", "-o", _built(name), f"{{sources}}/{name}.go", "{sources}/steps.go"),
        environment={"GO111MODULE": "off", "GOPATH": str(GO), "GOFLAGS": ""},
    )


PROGRAMS = (
    _node("node_postgres", "node_postgres.js", "['pg', 'pg-cursor', 'pg-copy-streams'].forEach(require)"),
    _node("postgres_js", "postgres_js.mjs", "require('postgres')"),
    Program(
        "pgjdbc",
        ("java", "-XX:TieredStopAtLevel=1", "-cp", f"{{built}}:{JDBC}", "Jdbc"),
        "javac, or no pgjdbc jar",
        ("test", "-e", str(JDBC)),
        setup=_SETUP,
        build=("javac", "-encoding", "UTF-8", "-cp", str(JDBC), "-d", "{built}", "{sources}/Jdbc.java"),
    ),
    _go("lib_pq", "github.com/lib/pq"),
    _go("pgx", "github.com/jackc/pgx/v4"),
    Program("ruby_pg", ("ruby", "{sources}/ruby_pg.rb"), "ruby, or no pg", ("ruby", "-e", "require 'pg'")),
    Program(
        "php_pdo",
        ("php", "{sources}/php_pdo.php"),
        "php, or no pdo_pgsql",
        ("php", "-r", "exit(extension_loaded('pdo_pgsql') && extension_loaded('pgsql') ? 0 : 1);"),
    ),
    Program("dbd_pg", ("perl", "{sources}/dbd_pg.pl"), "DBD::Pg", ("perl", "-MDBD::Pg", "-e", "1")),
    Program(
        "odbc",
        (_built("odbc"),),
        "C compiler, unixODBC or psqlODBC",
        ("odbcinst", "-q", "-d", "-n", "PostgreSQL Unicode"),
        build=("cc", "-o", _built("odbc"), "{sources}/odbc.c", "-lodbc", "-lpthread"),
    ),
)
