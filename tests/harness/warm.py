"""Processes that are forked from one that has imported everything already (tests/warm.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

ROOT = Path(__file__).resolve().parents[2]
_EARLY = ("PYTHON", "LD_", "DYLD_", "MALLOC_", "GLIBC_", "OPENSSL_", "COVERAGE_")
"""What is looked at before anything is imported."""


class Warm:
    """One for a test run, begun when it is needed. `environment`: what those have that it starts, or more."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._asked.close()
            self._process.wait(30)

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], stderr: IO[bytes]
    ) -> Child | None:
        """`python -m pgambassador` with these arguments; None if such an environment needs a real start."""
        early = _early(environment)
        if early != _early(self._environment) or any(name.startswith("COVERAGE_") for name in early):
            return None
        wanted = {"arguments": list(arguments), "environment": dict(environment)}
        with self._turn:
            if self._process is None:
                self._begin()
            said, pipe = os.pipe()
            try:
                line = json.dumps(wanted).encode() + b"\n"
                socket.send_fds(self._asked, [line], [stderr.fileno(), pipe])
            finally:
                os.close(pipe)
            return Child(said)

    def _begin(self) -> None:
        self._asked, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(theirs.fileno())],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )


def _early(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_EARLY)}


class Child:
    """What an Ambassador uses of subprocess.Popen."""

    def __init__(self, said: int) -> None:
        self._said = os.fdopen(said, "rb", buffering=0)  # poll sees what is left
        self.pid = int(self._said.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode if self._ended(0.0) else None

    def wait(self, timeout: float | None = None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def _ended(self, timeout: float | None) -> bool:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._said, select.POLLIN)
            if not poller.poll(None if timeout is None else timeout * 1000):
                return False
            self.returncode = int(self._said.readline())
            self._said.close()
        return True

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
