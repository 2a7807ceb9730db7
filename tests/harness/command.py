"""`pgambassador` with its arguments, as typed into a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from tests.harness.warm import ROOT


@dataclass(frozen=True)
class Run:
    """A process that has ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line that it wrote to standard error."""
        assert "Traceback" not in self.out + self.err, self.err
        (line,) = self.err.splitlines()
        return line


def command(*arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 30.0) -> Run:
    """Nothing of our own environment configures it."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "UPSTREAM_", "TLS_ENABLED"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pgambassador", *arguments],
        cwd=ROOT,
        env={**clean, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)
