"""Where and with what a run was made: the machine and the versions, for the report's head."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
from pathlib import Path

_FOLDER = Path(__file__).parent


def describe() -> list[str]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        f"{os.cpu_count()} × {_processor()}, {memory:.0f} GiB, {platform.system()} {platform.release()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
    ]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=_FOLDER, capture_output=True, text=True
    ).stdout.strip()
    return [*lines, f"commit {commit}"] if commit else lines


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
