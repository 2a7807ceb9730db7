"""A resolver of a test's own, for programs that are started with it: names, and what becomes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
COMPILER = os.environ.get("CC", "cc")


def missing() -> str:
    """Why there is none on this machine, or nothing."""
    if sys.platform != "linux":
        return "the resolver of a program can be replaced on Linux only"
    return "" if shutil.which(COMPILER) else "no C compiler, which replacing the resolver needs"


class NameServer:
    """`folder` must be one that the programs can read."""

    def __init__(self, folder: Path) -> None:
        self._library, self._file = folder / "names.so", folder / "names"
        subprocess.run(
            [COMPILER, "-shared", "-fPIC", "-O", "-Wall", "-Werror", "-o", self._library, SOURCE, "-ldl"],
            check=True,
        )
        self.say()

    @property
    def environment(self) -> dict[str, str]:
        """Of a program that asks here, and of all that it starts."""
        return {"LD_PRELOAD": str(self._library), "NAMES_FILE": str(self._file)}

    def say(self, **answers: str) -> None:
        """From now on: an address, "again", "gone" or "silent" for each name."""
        new = self._file.with_suffix(".new")
        new.write_text("".join(f"{name} {answer}\n" for name, answer in answers.items()))
        new.replace(self._file)

    def __repr__(self) -> str:
        return f"<NameServer {self._file.read_text().split()}>"
