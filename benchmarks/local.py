"""Starting and ending programs on this machine, and waiting for a condition."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from pgambassador.embedded.account import account
from pgambassador.errors import AmbassadorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class BenchmarkError(AmbassadorError):
    """A load or a program did not do what it should."""


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
    """A server in the background, its output in a file.  `drop`: it refuses to run as root.

    It has a session of its own, as a service has: where Linux shares processors out by session (`autogroup`),
    it would have to share what the load gets, beside servers' processes of which each has a session.
    """

    def __init__(self, argv: Sequence[str], log: Path, *, drop: bool = False) -> None:
        self.log = log
        with log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    **(account().identity if drop else {}),
                )
            except OSError as error:
                who = f" by the account {account().name}" if drop else ""
                raise BenchmarkError(f"{argv[0]} cannot be started{who}: {error.strerror}.") from None

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
