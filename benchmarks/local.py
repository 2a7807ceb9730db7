"""Starting and ending programs on this machine: free ports, waiting for a condition, dropped privileges."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


class BenchmarkError(Exception):
    """One sentence that says what is missing and how to get it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def unprivileged_user() -> str | None:
    """PostgreSQL and PgBouncer refuse to run as root: who runs them if we are root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def give(path: Path) -> None:
    """Hand a file or folder to the unprivileged user, if there has to be one."""
    user = unprivileged_user()
    if user:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def allow_many_files() -> None:
    """Thousands of connections need as many descriptors; children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{what} did not happen within {seconds:g} s.")
        time.sleep(0.02)


class Program:
    """A server in the background, its output in a file, ended by its process id."""

    def __init__(
        self, argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, drop: bool = False
    ) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                user=unprivileged_user() if drop else None,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for_port(self, port: int) -> None:
        def listening() -> bool:
            if self._process.poll() is not None:
                tail = self.log.read_text(errors="replace")[-1500:]
                raise BenchmarkError(f"{self._process.args!r} ended with {self._process.returncode}:\n{tail}")
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        wait_until(listening, f"listening on port {port}")

    def stop(self) -> None:
        """SIGINT first: for PostgreSQL that is the fast shutdown, for the proxies too."""
        for number in (signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
