"""Wall clocks that jump over the end of a token and back, at a PostgreSQL that means it (`VALID UNTIL`).

The server and the issuer of the tokens go by one clock, the ambassador by the same or by another one. Only
wall clocks jump: timers go on, as on a machine that has slept or whose time was corrected.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.installation import Installation
from tests.harness import Ambassador, wait_until
from tests.harness.clock import Clock, missing

HOUR = 3600.0
ROLES = 4
DATABASES = 5
HBA = ("local all all scram-sha-256", "hostssl all all all password")

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "it can")

# Each role in its turn gets a new password that is good for an hour, by the clock of the server. What clients
# of the one before are doing is left alone.
ISSUER = """
import json, secrets, sys, time
from datetime import datetime, UTC
import psycopg
dsn, counter, roles = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(counter, "a+") as file:
    file.write("run\\n")
    file.seek(0)
    role = f"token_{len(file.readlines()) % roles}"
token, ends = secrets.token_urlsafe(300), datetime.fromtimestamp(time.time() + 3600, UTC).isoformat()
with psycopg.connect(dsn, autocommit=True) as server:
    server.execute(f"alter role {role} password '{token}' valid until '{ends}'")
print(json.dumps({"user": role, "password": token, "expires_at": ends}))
"""


@dataclass(frozen=True)
class Shifted(Installation):
    """Programs that go by a clock of ours."""

    clock: Clock | None = None

    def environment(self, **more: str) -> dict[str, str]:
        assert self.clock is not None
        return super().environment(**self.clock.environment, **more)


@dataclass(frozen=True)
class Server:
    postgres: Postgres
    clock: Clock
    offset: int = 0
    """Where its log ended when the test began."""

    def complaints(self) -> list[str]:
        """What it has written of logins that it refused."""
        lines = self.postgres.log.read_bytes()[self.offset :].decode().splitlines()
        return [line for line in lines if "FATAL" in line or "expired password" in line]


@pytest.fixture(scope="module")
def shifted(workspace: Workspace) -> Iterator[Server]:
    clock = Clock(workspace.folder)
    own = workspace.installation
    installation = Shifted(own.folder, own.version, own.libraries, clock)
    made = workspace.primary("shifted", hba=HBA, installation=installation)
    made.sql("".join(f"create role token_{number} login;" for number in range(ROLES)))
    for number in range(DATABASES):
        made.sql(f"create database db_{number}")
    yield Server(made, clock)
    made.stop(immediate=True)


@pytest.fixture
def server(shifted: Server) -> Server:
    shifted.clock.jump(-shifted.clock.ahead)
    return replace(shifted, offset=shifted.postgres.log.stat().st_size)


@pytest.fixture
def own(workspace: Workspace) -> Clock:
    """The ambassador's, where it is another one than the server's."""
    return Clock(workspace.folder, "own")


@dataclass(frozen=True)
class Place:
    """An ambassador whose tokens come from the issuer."""

    proxy: Ambassador
    counter: Path

    @property
    def runs(self) -> int:
        return len(self.counter.read_text().splitlines())

    def ask(self, number: int = 0) -> str:
        """Who a client is on the server."""
        dsn = self.proxy.dsn(database=f"db_{number % DATABASES}", connect_timeout="30")
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("select current_user").fetchone()
            assert row is not None
            return str(row[0])

    def crowd(self, first: int = 0, last: int = DATABASES) -> set[str]:
        """Many at once, of these databases; whoever is refused fails the test."""
        with ThreadPoolExecutor(20) as pool:
            return set(pool.map(self.ask, [first + number % (last - first) for number in range(40)]))

    def settle(self) -> None:
        """Until no login is under way at the server."""
        wait_until(
            lambda: self.proxy.metrics().total("pgambassador_server_connections", state="opening") == 0
        )

    def renewed(self) -> bool:
        """Whether the token of the issuer's last run is the one in use."""
        return self.proxy.metrics().total("pgambassador_credential_refreshes_total") == self.runs

    def failed(self) -> float:
        metrics = self.proxy.metrics()
        return metrics.total("pgambassador_server_connect_failures_total") + metrics.total(
            "pgambassador_login_failures_total"
        )


@pytest.fixture
def place(server: Server, ambassador: Callable[..., Ambassador], tmp_path: Path) -> Callable[..., Place]:
    def make(clock: Clock, **more: Any) -> Place:
        counter = tmp_path / "count"
        issuer = ["env", *(f"{name}={value}" for name, value in server.clock.environment.items())]
        issuer += [sys.executable, "-c", ISSUER, server.postgres.url(), str(counter), str(ROLES)]
        url = server.postgres.url("app", database="db_0")
        credentials = {"provider": "exec", "command": issuer}
        proxy = ambassador(
            {"clusters": {"main": {"url": url, "credentials": credentials}}}, start=False, **more
        )
        proxy.environment = clock.environment
        proxy.start()
        return Place(proxy, counter)

    return make


def test_the_clock_is_shifted_for_whom_it_is_meant(server: Server) -> None:
    """Of the server and of Python; before it is believed in anything else."""
    script = "import time; print(time.time() - time.monotonic(), time.time_ns() // 10**9)"
    for seconds in (5 * HOUR, -10 * HOUR):
        server.clock.jump(seconds)
        said = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, **server.clock.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        shown, whole = map(float, said.stdout.split())
        assert shown == pytest.approx(server.clock.now() - time.monotonic(), abs=5)
        assert whole == pytest.approx(server.clock.now(), abs=5)
        at = float(server.postgres.sql("select extract(epoch from clock_timestamp())"))
        assert at == pytest.approx(server.clock.now(), abs=5)


def test_forward_past_the_end(server: Server, place: Callable[..., Place]) -> None:
    """As a machine that has slept: the token in hand has ended meanwhile, and nobody tries it."""
    here = place(server.clock)
    assert here.crowd(0, 2) == {"token_1"}
    assert here.runs == 1
    with psycopg.connect(here.proxy.dsn(database="db_0")) as old:
        assert old.execute("select current_user").fetchone() == ("token_1",)
        here.settle()
        server.clock.jump(2 * HOUR)
        assert here.crowd(2) == {"token_2"}, "connections of new pools"
        assert old.execute("select current_user").fetchone() == ("token_1",), "those that are open stay"
    here.crowd(0, 2)
    assert here.runs == 2
    assert here.failed() == 0
    assert server.complaints() == []


def test_backward_and_forward_again(server: Server, place: Callable[..., Place]) -> None:
    here = place(server.clock)
    assert here.ask(0) == "token_1"
    server.clock.jump(-2 * HOUR)
    # What is known of the token is of another time: it is renewed, beside those who use it.
    assert here.crowd(1, 3) <= {"token_1", "token_2"}
    wait_until(lambda: here.runs == 2, "the renewal")
    wait_until(here.renewed, "the new token is in use")
    here.settle()
    # The new one ends an hour before the time to which it goes back now.
    server.clock.jump(2 * HOUR)
    assert here.crowd(3) == {"token_3"}
    assert here.runs == 3
    assert here.failed() == 0
    assert server.complaints() == []


def test_the_own_clock_alone_goes_forward(server: Server, own: Clock, place: Callable[..., Place]) -> None:
    """By it no token is ever good: each is used by those who have waited for it."""
    here = place(own)
    assert here.ask(0) == "token_1"
    own.jump(2 * HOUR)
    here.crowd()
    assert here.runs >= 2
    # It was corrected: the token in hand is good again, and a new connection needs no other.
    own.jump(-2 * HOUR)
    wait_until(lambda: here.proxy.metrics().total("pgambassador_credential_failures") == 0)
    here.crowd()
    assert here.failed() == 0
    assert server.complaints() == []


def test_the_own_clock_alone_stays_behind(server: Server, own: Clock, place: Callable[..., Place]) -> None:
    """It cannot know that the token has ended. The server says so, and clients do not hear of it."""
    here = place(own)
    assert here.ask(0) == "token_1"
    for clock in (own, server.clock):
        clock.jump(60)  # its source could say something else by now
    server.clock.jump(2 * HOUR)
    assert here.crowd() <= {"token_1", "token_2"}
    assert here.failed() == 0
    assert here.runs == 2
    assert any("expired password" in line for line in server.complaints())
    here.proxy.wait_for_log(lambda line: "refuses a secret of exec, which is asked again" in line["message"])


def everybody_goes_on(done: list[int], failures: list[Exception]) -> None:
    before = list(done)
    wait_until(
        lambda: failures or all(now > then + 2 for now, then in zip(done, before, strict=True)),
        "two more logins of everybody",
        deadline=30,
    )


@pytest.mark.slow
def test_jumps_under_load(server: Server, place: Callable[..., Place]) -> None:
    """Connections are opened all the time, also in the moment of a jump."""
    here = place(server.clock, pool={"size": 2, "lifetime": "300ms"})
    failures: list[Exception] = []
    done = [0] * DATABASES
    over = threading.Event()

    def newer(runs: int) -> bool:
        return here.runs > runs or bool(failures)

    def work(number: int) -> None:
        while not over.is_set() and not failures:
            try:
                here.ask(number)
                done[number] += 1
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(DATABASES)]
    for thread in threads:
        thread.start()
    try:
        for seconds in (2, -2, 24, -30, 100, 2):
            everybody_goes_on(done, failures)
            # A run that is under way may look at the clock only after the jump: no other were needed then.
            wait_until(lambda: failures or here.renewed(), "the last token is in use", deadline=30)
            another = partial(newer, here.runs)
            server.clock.jump(seconds * HOUR)
            wait_until(another, "a new token", deadline=30)
            everybody_goes_on(done, failures)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert here.failed() == 0
