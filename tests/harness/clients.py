"""psql and pgbench, as a user would run them."""

from __future__ import annotations

import subprocess
from functools import cache

from pgambassador.embedded import Installation, find


@cache
def _installation() -> Installation:
    return find()


def psql(dsn: str, sql: str, *arguments: str, check: bool = True, timeout: float = 30.0) -> str:
    """Rows as lines, columns parted by `|`; without `check` whatever it wrote, errors included."""
    options = ("-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", *arguments)
    return _run("psql", *options, "-d", dsn, stdin=sql, check=check, timeout=timeout).rstrip("\n")


def pgbench(dsn: str, *arguments: str, check: bool = True, timeout: float = 60.0) -> str:
    return _run("pgbench", *arguments, dsn, check=check, timeout=timeout)


def _run(program: str, *arguments: str, stdin: str = "", check: bool, timeout: float) -> str:
    installation = _installation()
    result = subprocess.run(
        [installation.folder / program, *arguments],
        env=installation.environment(PGCONNECT_TIMEOUT="20", PGGSSENCMODE="disable"),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if check else subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    if check and result.returncode:
        raise AssertionError(f"{program} ended with {result.returncode}: {result.stderr.strip()}")
    return result.stdout
