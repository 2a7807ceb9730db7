"""What can happen to a server and to the way that leads to it, and how it ends.

A fault has struck when `strike` returns, and everything is as before when `heal` does.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgambassador.embedded import Postgres
from tests.harness.packets import Cable
from tests.harness.waiting import wait_until

GARBAGE = bytes(range(256)) * 3
LONGEST = 1.5
"""Seconds that a fault lasts."""


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[], None]
    heal: Callable[[], None] = lambda: None


def descendants(pid: int) -> list[int]:
    """Of a server: its processes."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    with contextlib.suppress(OSError):
        return [int(each) for each in path.read_text().split()]
    return []


def backends(server: Postgres, user: str = "app") -> list[int]:
    """Processes that serve the user's sessions; the server itself is not asked."""
    assert server.pid is not None
    found = []
    for pid in descendants(server.pid):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            if f": {user} " in title:
                found.append(pid)
    return found


def signal_all(number: signal.Signals, *pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def freeze(server: Postgres) -> None:
    """All of its processes: sessions hang, and so do connections to come."""
    assert server.pid is not None
    signal_all(signal.SIGSTOP, server.pid, *descendants(server.pid))


def thaw(server: Postgres) -> None:
    if server.running and server.pid is not None:
        signal_all(signal.SIGCONT, server.pid, *descendants(server.pid))


def well(server: Postgres) -> None:
    """Returns when it lets people in."""

    def answers() -> bool:
        try:
            with psycopg.connect(server.url(connect_timeout="5")):
                return True
        except psycopg.OperationalError:
            return False

    wait_until(answers, f"{server!r} to be well", deadline=30, poll=0.05)


def terminate(server: Postgres) -> None:
    server.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")


class Crowd:
    """Others have all the connections that the server allows."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._others: list[psycopg.Connection] = []

    def come(self, *, terminating: bool = True) -> None:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                self._others.append(psycopg.connect(self._server.url("app_trust", database="app")))
        if terminating:
            terminate(self._server)

    def go(self) -> None:
        while self._others:
            self._others.pop().close()


def stop_server(server: Postgres, how: str) -> None:
    if how == "kill":
        server.kill()
    else:
        server.stop(immediate=how == "crash")


def faults(server: Postgres, link: Cable, chance: random.Random, *, primary: bool) -> dict[str, Fault]:
    """By name, each for one server."""

    def some_backend(number: signal.Signals) -> Callable[[], None]:
        def strike() -> None:
            found = backends(server)
            signal_all(number, *chance.sample(found, k=min(1, len(found))))

        return strike

    def restart(how: str) -> Fault:
        return Fault(how, lambda: stop_server(server, how), server.start)

    def refuse() -> None:
        link.refuse()
        link.cut()

    found = [
        restart("fast"),
        restart("crash"),
        restart("kill"),
        Fault("backend killed", some_backend(signal.SIGKILL), lambda: well(server)),
        Fault("sessions terminated", lambda: terminate(server)),
        Fault("frozen", lambda: freeze(server), lambda: thaw(server)),
        Fault("backend frozen", some_backend(signal.SIGSTOP), lambda: thaw(server)),
        Fault("cut", link.cut),
        Fault("stalled", link.stall, link.resume),
        Fault("refused", refuse, link.allow),
        Fault("delayed", lambda: link.delay(chance.choice((0.005, 0.05, 0.3))), lambda: link.delay(0)),
        Fault("garbled", lambda: link.garble(GARBAGE)),
        Fault("half-open", link.half_open, link.cut),
    ]
    if Cable.possible:

        def unplug() -> None:
            link.pull()
            link.unplug()

        def plug() -> None:
            link.plug()
            link.cut()

        found += [Fault("pulled", link.pull, link.cut), Fault("unplugged", unplug, plug)]
    if not primary:

        def replay(what: str) -> None:
            server.sql(f"select pg_wal_replay_{what}()")

        found.append(Fault("replay paused", lambda: replay("pause"), lambda: replay("resume")))
    return {fault.name: fault for fault in found}
