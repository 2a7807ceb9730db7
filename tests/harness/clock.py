"""A wall clock that jumps, for programs that are started with it; other clocks go on as they were."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = os.environ.get("CC", "cc")


def missing() -> str:
    """Why there is none on this machine, or nothing."""
    if sys.platform != "linux":
        return "the wall clock of a program can be shifted on Linux only"
    return "" if shutil.which(COMPILER) else "no C compiler, which shifting the wall clock needs"


class Clock:
    """`folder` must be one that the programs can read."""

    def __init__(self, folder: Path, name: str = "clock") -> None:
        self._library = folder / f"{name}.so"
        self._shift = folder / f"{name}.shift"
        subprocess.run(
            [COMPILER, "-shared", "-fPIC", "-O", "-Wall", "-Werror", "-o", self._library, SOURCE], check=True
        )
        self._write(0.0)
        for each in (self._library, self._shift):
            each.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that goes by this clock, and of all that it starts."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_SHIFT": str(self._shift)}

    @property
    def ahead(self) -> float:
        """Seconds before the machine's own."""
        (nanoseconds,) = struct.unpack("=q", self._shift.read_bytes())
        return float(nanoseconds) / 1e9

    def now(self) -> float:
        """In seconds since 1970."""
        return time.time() + self.ahead

    def jump(self, seconds: float) -> None:
        """On from where it is; back, if it is less than 0."""
        self._write(self.ahead + seconds)

    def _write(self, seconds: float) -> None:
        with self._shift.open("r+b" if self._shift.exists() else "wb") as file:
            file.write(struct.pack("=q", round(seconds * 1e9)))

    def __repr__(self) -> str:
        return f"<Clock {self.ahead:+g} s>"
