"""The suites: where each comes from, and how it is told where its server is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as Tree
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """`name`: direct, or the pool's mode."""

    name: str
    port: int
    database: str
    host: str = "127.0.0.1"
    user: str = "postgres"

    def url(self, scheme: str) -> str:
        return f"{scheme}://{self.user}@{self.host}:{self.port}/{self.database}"


@dataclass
class Suite:
    """Of a driver whose source archive has its tests, for pytest.

    `installed`: what the package is called here.
    """

    name: str
    tests: list[str] = field(default_factory=lambda: ["tests"])
    setup: str = "select"
    archive: str = ""
    installed: str = ""

    def prepare(self, folder: Path) -> None:
        """Put the suite into the folder."""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        package = f"{self.archive}=={version(self.installed or self.archive)}"
        subprocess.run([*command, "--no-binary", ":all:", "-d", str(folder), package], check=False)
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")

    def folder(self, folder: Path) -> Path:
        """Where its programme runs."""
        (inside,) = (each.parent for each in folder.glob("*/PKG-INFO"))
        return inside

    def command(self, place: Place, folder: Path) -> list[str]:
        report = f"--junitxml={folder / place.name}.xml"
        quiet = (
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            "--continue-on-collection-errors",
        )
        return [sys.executable, "-m", "pytest", *self.tests, *self.options(place), report, *quiet]

    def outcomes(self, place: Place, folder: Path) -> dict[str, str] | None:
        """How each test has ended; None if the programme did not get so far."""
        report = folder / f"{place.name}.xml"
        if not report.exists():
            return None
        found: dict[str, str] = {}
        for case in Tree.parse(report).iter("testcase"):
            kinds = {child.tag for child in case} & {"failure", "error", "skipped"}
            name = re.sub(r"_postgresql\S*?(?=::|$)", "", f"{case.get('classname')}::{case.get('name')}")
            found[name] = min(kinds, default="passed")
        return found

    def options(self, place: Place) -> list[str]:
        return []

    def environment(self, place: Place) -> dict[str, str]:
        names = {"HOST": place.host, "PORT": str(place.port), "USER": place.user, "DATABASE": place.database}
        return {f"PG{name}": value for name, value in names.items()}


class SqlAlchemy(Suite):
    """Its dialects' suite comes with the wheel, for whoever writes a dialect."""

    def prepare(self, folder: Path) -> None:
        (folder / "test_suite.py").write_text("from sqlalchemy.testing.suite import *\n")
        (folder / "conftest.py").write_text(
            "import pytest\n"
            "pytest.register_assert_rewrite('sqlalchemy.testing.assertions')\n"
            "from sqlalchemy.testing.plugin.pytestplugin import *\n"
        )
        (folder / "setup.cfg").write_text(
            "[sqla_testing]\nrequirement_cls=sqlalchemy.testing.requirements:SuiteRequirements\n"
            "profile_file=profiles.txt\n[tool:pytest]\npython_files=test_*.py\n"
        )

    def folder(self, folder: Path) -> Path:
        return folder

    def options(self, place: Place) -> list[str]:
        scheme = f"postgresql+{self.name.partition('-')[2]}"
        return ["--dburi", place.url(scheme), "--maxfail=10000", "-p", "no:randomly"]


_SCHEMAS = "create schema test_schema; create schema test_schema_2"


class Asyncpg(Suite):
    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        shutil.rmtree(self.folder(folder) / "asyncpg")  # that which is installed is meant


class Psycopg2(Suite):
    def environment(self, place: Place) -> dict[str, str]:
        return super().environment(place) | {"PSYCOPG2_TESTDB": place.database}


SUITES = {
    suite.name: suite
    for suite in (
        *(
            SqlAlchemy(f"sqlalchemy-{driver}", ["test_suite.py"], _SCHEMAS)
            for driver in ("psycopg", "psycopg2", "asyncpg", "pg8000")
        ),
        Asyncpg("asyncpg", archive="asyncpg"),
        Psycopg2("psycopg2", archive="psycopg2", installed="psycopg2-binary"),
    )
}
