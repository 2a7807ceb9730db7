"""The ambassador as users run it: `python -m pgambassador run --config FILE` in a process of its own.

With `warm` it is forked from a process that has imported everything already, unless it is another command or
has an environment that matters before that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from pgambassador.embedded.ports import HOST, free_port
from tests.harness.look import VARIABLE, Look
from tests.harness.metrics import Metrics
from tests.harness.waiting import wait_until
from tests.harness.warm import ROOT, Child, Warm

COMMAND = (sys.executable, "-m", "pgambassador")
STOP_TIMEOUT = 30.0


class Ambassador:
    """`config` is the configuration file as a mapping, or the URL of its only cluster; `listen` and `http`
    are filled in if they are missing."""

    def __init__(self, folder: Path, config: Mapping[str, Any] | str, **more: Any) -> None:
        if isinstance(config, str):
            config = {"clusters": {"main": {"url": config}}}
        self.folder = folder
        self.port = free_port()
        self.http_port = free_port()
        self.config: dict[str, Any] = {
            "listen": [f"{HOST}:{self.port}"],
            "http": f"{HOST}:{self.http_port}",
            **config,
            **more,
        }
        self.environment: dict[str, str] = {}
        self.command: tuple[str, ...] = COMMAND
        self.warm: Warm | None = None
        self.config_file = folder / "pgambassador.yaml"
        self.stderr = folder / "stderr"
        self._process: subprocess.Popen[bytes] | Child | None = None

    def __repr__(self) -> str:
        return f"<Ambassador port {self.port} {'pid ' + str(self.pid) if self.running else 'stopped'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.poll() if self._process else None

    def start(self, *, ready: bool = True, write: bool = True) -> None:
        """Returns when it says that it has started; without `ready` at once. Without `write` the
        configuration file stays as it is."""
        assert not self.running
        if write:
            self.write_config()
        arguments = ("run", "--config", str(self.config_file))
        environment = {**clean_environment(), **self.environment}
        self._process = None
        with self.stderr.open("ab") as stderr:
            if self.warm is not None and self.command == COMMAND:
                self._process = self.warm.start(arguments, environment, stderr)
            if self._process is None:
                self._process = subprocess.Popen(
                    [*self.command, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stderr,
                    stderr=stderr,
                )
        if ready:
            wait_until(self._started, f"the start of {self!r}", deadline=20)

    def write_config(self) -> None:
        self.config_file.write_text(json.dumps(self.config, indent=2))  # every JSON document is YAML

    def reload(self, **changes: Any) -> None:
        """Write the changed file and send HUP; the caller knows what to wait for."""
        self.config.update(changes)
        self.write_config()
        self.send(signal.SIGHUP)

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """INT: open transactions are not waited for. The exit code."""
        return self._end(signal.SIGINT)

    def drain(self) -> int:
        """TERM, and what it takes. The exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        return self._end(signal.SIGKILL)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        assert self._process is not None
        return self._process.wait(timeout)

    def dsn(
        self,
        user: str = "app",
        database: str = "app",
        password: str | None = None,
        *,
        scheme: str = "postgresql",
        **parameters: str,
    ) -> str:
        """In plain text, as an application connects."""
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
        query = f"?{urlencode(parameters, quote_via=quote)}" if parameters else ""
        return f"{scheme}://{login}@{HOST}:{self.port}/{quote(database, safe='')}{query}"

    def http(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.http_port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metrics(self) -> Metrics:
        status, text = self.http("/metrics")
        assert status == 200, (status, text)
        return Metrics.parse(text)

    def output(self) -> str:
        return self.stderr.read_text(errors="replace") if self.stderr.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """Its log so far; a line that is not JSON fails the test."""
        lines = self.output().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def wait_for_log(
        self, matches: Callable[[dict[str, Any]], bool], what: str = "", *, deadline: float = 10.0
    ) -> dict[str, Any]:
        def search() -> dict[str, Any] | None:
            return next((line for line in self.log_lines() if matches(line)), None)

        found = wait_until(search, what or "the log line", deadline=deadline)
        assert found is not None
        return found

    def look_inside(self) -> None:
        """Before it starts: let `inside` say what goes on in it."""
        self.command = (sys.executable, "-m", "tests.inside")
        self.environment[VARIABLE] = str(self.folder / "inside")

    def inside(self) -> Look:
        return Look.at(self.folder / "inside")

    def files(self) -> int:
        """File descriptors that it has open. Linux only."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def rss(self) -> int:
        """Bytes of memory it holds, without what is only reserved. Linux only."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def _started(self) -> bool:
        if self.returncode is not None:
            raise AssertionError(f"{self!r} ended with {self.returncode}:\n{self.output()[-4000:]}")
        try:
            return self.http("/startupz")[0] == 200
        except (OSError, urllib.error.URLError):
            return False

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self.running:
            self._process.send_signal(number)
        try:
            return self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError(
                f"{self!r} did not end within {STOP_TIMEOUT:g} s of {number.name}:\n{self.output()[-4000:]}"
            ) from None


def clean_environment() -> dict[str, str]:
    """Ours without what would configure it or any libpq."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("PG")},
        "PYTHONWARNINGS": "default",  # resources not closed and coroutines not awaited are reported
    }
