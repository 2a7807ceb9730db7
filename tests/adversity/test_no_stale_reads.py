"""Beside a standby that is paused, killed and started again everybody reads what it has written, gets its own
answers, and notices nothing.

Many clients share two connections to each server. Each counts in a row of its own and knows what it was
told; whatever it reads says the token of its question and that count.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from tests.harness import Ambassador, several, wait_until

SECONDS = 12.0
CLIENTS = 14


@dataclass
class Books:
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    ports: dict[int, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.done[what] = self.done.get(what, 0) + 1

    def read_at(self, port: int) -> None:
        with self.lock:
            self.ports[port] = self.ports.get(port, 0) + 1


class Counter:
    """A client and its row."""

    def __init__(self, number: int, seed: int, books: Books, until: float) -> None:
        self.number, self.books, self.until = number, books, until
        self.random = random.Random(f"{seed} {number}")
        self.serial = itertools.count()
        self.told = 0

    def run(self, dsn: str) -> None:
        steps: list[Callable[[Connection], None]] = [
            self.read, self.read, self.mark, self.mark, self.prepared, self.prepared, self.simple, self.write,
            self.transaction, self.rolled_back, self.error, self.pipeline,
        ]  # fmt: skip
        try:
            with psycopg.connect(dsn, autocommit=True, prepare_threshold=None) as connection:
                while time.monotonic() < self.until:
                    step = self.random.choice(steps)
                    step(connection)
                    self.books.count(step.__name__)
        except Exception as error:
            self.books.wrong.append(f"client {self.number}: {type(error).__name__} {str(error)[:300]}")

    def token(self) -> str:
        return f"{self.number}-{next(self.serial)}-{'x' * self.random.choice((0, 0, 50, 3000))}"

    def check(self, token: str, row: tuple[object, ...] | None) -> None:
        expected = (token, self.told)
        if row is None or row[:2] != expected:
            self.books.wrong.append(f"client {self.number}: {expected} was due, {row} came")
        else:
            self.books.read_at(int(str(row[2])))

    def read(self, connection: Connection, prepare: bool = False) -> None:
        token = self.token()
        sql = "select %s::text, n, inet_server_port() from counts where client = %s"
        self.check(token, connection.execute(sql, (token, self.number), prepare=prepare).fetchone())

    def prepared(self, connection: Connection) -> None:
        self.read(connection, prepare=True)

    def mark(self, connection: Connection) -> None:
        """What may share a connection with others, for sure."""
        token = self.token()
        row = connection.execute("select %s::text", (token,)).fetchone()
        if row != (token,):
            self.books.wrong.append(f"client {self.number}: {token} was due, {row} came")

    def simple(self, connection: Connection) -> None:
        token = self.token()
        sql = f"select '{token}', n, inet_server_port() from counts where client = {self.number}"
        cursor = psycopg.ClientCursor(connection)
        self.check(token, cursor.execute(sql.encode()).fetchone())

    def write(self, connection: Connection) -> None:
        sql = "update counts set n = n + 1 where client = %s returning n"
        row = connection.execute(sql, (self.number,)).fetchone()
        self.told += 1
        if row != (self.told,):
            self.books.wrong.append(f"client {self.number}: {self.told} was due, {row} came of its write")
        self.read(connection)

    def transaction(self, connection: Connection) -> None:
        with connection.transaction():
            connection.execute("update counts set n = n + 2 where client = %s", (self.number,))
            connection.execute("update counts set n = n - 1 where client = %s", (self.number,))
        self.told += 1
        self.read(connection)

    def rolled_back(self, connection: Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute("update counts set n = n + 100 where client = %s", (self.number,))
        self.read(connection)

    def error(self, connection: Connection) -> None:
        with pytest.raises(psycopg.errors.DivisionByZero):
            # Of the primary: a server that dies between an error and what ends it cannot be hidden.
            connection.execute("update counts set n = 1 / (n - n) where client = %s", (self.number,))

    def pipeline(self, connection: Connection) -> None:
        """A write and a read behind it, in one part."""
        token = self.token()
        sql = "select %s::text, n, inet_server_port() from counts where client = %s"
        with connection.pipeline():
            connection.execute("update counts set n = n + 1 where client = %s", (self.number,))
            found = connection.execute(sql, (token, self.number))
        self.told += 1
        self.check(token, found.fetchone())


def disturb(standby: Postgres, seed: int, until: float) -> int:
    """The standby stands still, or dies; it ends as it began."""
    chance, kills = random.Random(f"{seed} disturb"), 0
    while time.monotonic() < until:
        if chance.random() < 0.6:
            standby.sql("select pg_wal_replay_pause()")
            time.sleep(0.4 * chance.random())  # the load's own rhythm, nothing is waited for
            standby.sql("select pg_wal_replay_resume()")
        elif chance.random() < 0.5:
            standby.sql("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
        else:
            standby.stop(immediate=True)
            standby.start()
            kills += 1
        time.sleep(0.5 * chance.random())
    return kills


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_everybody_reads_what_it_has_written_and_notices_nothing(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    standby = primary.replica("unsteady")
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        connection.execute("drop table if exists counts; create table counts (client int primary key, n int)")
        connection.execute("insert into counts select c, 0 from generate_series(1, %s) c", (CLIENTS,))
        connection.execute("grant all on counts to app")
    routing = {
        "functions": {"read": ["inet_server_port"]},
        "probe": {"interval": "100ms", "timeout": "500ms"},
    }
    proxy = ambassador(
        {"clusters": {"main": {"url": several(primary, standby), "routing": routing}}},
        pool={"size": 2, "wait_notice": "off"},
    )
    dsn = proxy.dsn(user="app", dbname="app")
    with psycopg.connect(dsn, autocommit=True) as first:

        def there() -> bool:
            return first.execute("select inet_server_port()").fetchone() == (standby.port,)

        wait_until(there, "reads on the standby")
    books = Books()
    until = time.monotonic() + SECONDS
    counters = [Counter(number, seed, books, until) for number in range(1, CLIENTS + 1)]
    threads = [threading.Thread(target=counter.run, args=(dsn,)) for counter in counters]
    for thread in threads:
        thread.start()
    kills = disturb(standby, seed, until - 1.0)
    for thread in threads:
        thread.join()

    about = f"seed {seed}, {kills} kills, {books.done}, read at {books.ports} (standby: {standby.port})"
    assert not books.wrong, "\n".join((about, *books.wrong[:20]))
    assert len(books.done) == 9 and min(books.done.values()) > 10, about
    assert books.ports.get(standby.port, 0) > 50 and books.ports.get(primary.port, 0) > 50, about
    odd = [line for line in proxy.log_lines() if line.get("level") == "error"]
    assert not odd, (about, odd[:3])
    with psycopg.connect(primary.url(database="app")) as connection:
        found: dict[int, int] = dict(connection.execute("select client, n from counts").fetchall())
    assert found == {counter.number: counter.told for counter in counters}, about
