"""Whatever happens around it, each client gets exactly its own answers, and what was confirmed is there.

Many clients share three server connections. Every question carries a token that was never used before, and
its answer must carry the same. Meanwhile clients vanish, cancel, fail and send halves of messages, and server
connections are killed. What is random follows a seed, which a failure shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, wait_until
from tests.harness.activity import sessions
from tests.harness.cancelling import Cancellable
from tests.messages import COPY_DONE, SYNC, bind, close_statement, copy_data, describe, execute, parse

SECONDS = 12.0
RAW = 9
ASYNCPG = 9
KILL_EVERY = 0.15
FATAL = {"57P01", "08006", "08007"}
"""How a client may learn that its server connection was killed; its session may go on or not."""
FATAL_AT_LOGIN = {*FATAL, "08001"}
ZONES = ("UTC", "Asia/Tokyo", "America/Bogota")


class Lost(Exception):
    """The connection has ended, which a kill explains."""


@dataclass
class Books:
    """What clients know about the rows that they have written."""

    confirmed: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    losses: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self.lock:
            self.done[what] = self.done.get(what, 0) + 1

    def check(self, expected: object, found: object, what: str) -> None:
        if expected != found:
            self.wrong.append(f"{what}: {expected!r} was asked, {found!r} was answered")

    def write(self, where: set[str], *tokens: str) -> None:
        with self.lock:
            where.update(tokens)


class Worker:
    """One client after another, each for a random number of steps."""

    def __init__(self, number: int, seed: int, books: Books, until: float) -> None:
        self.random = random.Random(f"{seed} {number}")
        self.books = books
        self.until = until
        self.number = number
        self._serial = itertools.count()

    def token(self) -> str:
        """Of a random size: replies shall lie on the edges of reads."""
        padding = "x" * self.random.choice((0, 0, 10, 500, 5000, 20_000))
        return f"{self.number}-{next(self._serial)}-{padding}"

    def over(self) -> bool:
        return time.monotonic() > self.until


class Raw(Worker):
    """Speaks the protocol itself, and breaks off wherever it likes."""

    doing = ""

    def run(self, port: int) -> None:
        steps = [
            self.simple, self.simple, self.several, self.pipeline, self.pipeline, self.prepared, self.error,
            self.broken_pipeline, self.commit, self.commit, self.rollback, self.insert, self.cancel,
            self.late_cancel, self.setting, self.copy, self.vanish, self.vanish_in_transaction, self.half,
            self.transaction,
        ]  # fmt: skip
        while not self.over():
            try:
                with Cancellable(port, timeout=10) as self.client:
                    self.login()
                    for _ in range(self.random.randint(1, 30)):
                        if self.over():
                            self.client.leave()
                            return
                        step = self.random.choice(steps)
                        self.doing = step.__name__
                        step()
                        self.books.count(self.doing)
            except Lost:
                self.books.losses += 1
            except Exception as error:
                self.books.wrong.append(f"{type(error).__name__} {str(error)[:500]}")

    # Asking.

    def login(self) -> None:
        try:
            self.zone = self.random.choice(ZONES)
            self.client.login(user="app", database="app", timezone=self.zone)
        except ConnectionError as error:
            if not any(f"C{sqlstate}\\x00" in str(error) for sqlstate in FATAL_AT_LOGIN):
                raise
            raise Lost from None

    def until_ready(self, times: int = 1) -> Answer:
        """What was answered; Lost if the server connection was killed, and if that was said properly."""
        answer = Answer()
        while times:
            try:
                message = self.client.receive()
            except (ConnectionError, TimeoutError) as error:
                fatal = [each.fields for each in answer if each.kind == "E" and each.fields["S"] == "FATAL"]
                if isinstance(error, TimeoutError) or len(fatal) > 1:
                    self.books.wrong.append(f"{self.doing}: no answer, {answer.kinds} {fatal} {error}")
                elif fatal and fatal[0]["C"] not in FATAL:
                    self.books.wrong.append(f"an unexpected end: {fatal[0]}")
                raise Lost from None
            answer.append(message)
            times -= message.kind == "Z"
        if any(each.kind == "E" and each.sqlstate in FATAL for each in answer):
            raise Lost  # the session goes on; what it was doing does not
        return answer

    def ask(self, *messages: bytes, times: int = 1) -> Answer:
        with contextlib.suppress(ConnectionError):  # its reason stands in what can still be read
            self.client.send(*messages)
        return self.until_ready(times)

    def check(self, expected: object, found: object) -> None:
        self.books.check(expected, found, f"raw client {self.number}")

    def simple(self) -> None:
        token = self.token()
        answer = self.ask(build.query(f"select '{token}'"))
        self.check(("TDCZ", [[token]]), (answer.kinds, answer.rows))

    def setting(self) -> None:
        """What it has set goes with it from one server connection to the other, and to nobody else."""
        self.check(self.zone, self.ask(build.query("show timezone")).value)
        if self.random.random() < 0.3:
            zone = self.random.choice(ZONES)
            answer = self.ask(build.query(f"set timezone = '{zone}'"))
            if answer.kinds == "EZ":  # a cancel request of before has hit it
                self.check("57014", answer.error.sqlstate)
            else:
                self.zone = zone

    def several(self) -> None:
        tokens = [self.token() for _ in range(3)]
        answer = self.ask(build.query("; ".join(f"select '{token}'" for token in tokens)))
        self.check([[token] for token in tokens], answer.rows)

    def pipeline(self) -> None:
        tokens = [self.token() for _ in range(self.random.randint(1, 12))]
        syncs = [self.random.random() < 0.5 for _ in tokens[1:]] + [True]
        messages = [
            parse(b"", b"select $1::text") + bind(b"", token.encode()) + execute() + (SYNC if sync else b"")
            for token, sync in zip(tokens, syncs, strict=True)
        ]
        answer = self.ask(*messages, times=sum(syncs))
        self.check([[token] for token in tokens], answer.rows)

    def prepared(self) -> None:
        """A name that all use, for texts of which some are shared."""
        suffix = self.random.choice(["ours", f"of {self.number}"])
        token = self.token()
        answer = self.ask(
            parse(b"name", f"select $1 || ' {suffix}'".encode()),
            describe(b"name"),
            SYNC,
            bind(b"name", token.encode()) + execute() + SYNC,
            close_statement(b"name") + SYNC,
            times=3,
        )
        self.check(("1tTZ2DCZ3Z", [[f"{token} {suffix}"]]), (answer.kinds, answer.rows))

    def error(self) -> None:
        token = self.token()
        answer = self.ask(build.query(f"select '{token}'::int"))
        self.check(("EZ", "22P02"), (answer.kinds.lstrip("T"), answer.error.sqlstate))
        self.check(True, token[:20] in answer.error.fields["M"])

    def broken_pipeline(self) -> None:
        before, after = self.token(), self.token()
        answer = self.ask(
            parse(b"", b"select $1") + bind(b"", before.encode()) + execute(),
            parse(b"", b"select $1::int") + bind(b"", b"no number") + execute(),
            parse(b"", b"select $1") + bind(b"", b"never") + execute() + SYNC,
            parse(b"", b"select $1") + bind(b"", after.encode()) + execute() + SYNC,
            times=2,
        )
        self.check(("12DC1EZ12DCZ", [[before], [after]]), (answer.kinds, answer.rows))

    # Writing.

    def write(self, tokens: list[str], *messages: bytes, times: int = 1) -> Answer:
        """The last message is the one that commits."""
        try:
            return self.ask(*messages, times=times)
        except Lost:
            self.books.write(self.books.unknown, *tokens)
            raise

    def insert(self) -> None:
        token = self.token()
        if self.random.random() < 0.5:
            answer = self.write([token], build.query(f"insert into deeds values ('{token}')"))
        else:
            sql = b"insert into deeds values ($1)"
            answer = self.write([token], parse(b"", sql), bind(b"", token.encode()), execute(), SYNC)
        self.check("CZ", answer.kinds.lstrip("12"))
        self.books.write(self.books.confirmed, token)

    def commit(self) -> None:
        tokens = [self.token() for _ in range(self.random.randint(1, 4))]
        committing = False
        try:
            self.ask(build.query("begin"))
            for token in tokens:
                self.check("CZ", self.ask(build.query(f"insert into deeds values ('{token}')")).kinds)
            committing = True
            answer = self.ask(build.query("commit"))
        except Lost:
            self.books.write(self.books.unknown if committing else self.books.refused, *tokens)
            raise
        self.check(("CZ", b"COMMIT\0", b"I"), (answer.kinds, answer[0].payload, answer[-1].payload))
        self.books.write(self.books.confirmed, *tokens)

    def rollback(self) -> None:
        token = self.token()
        self.books.write(self.books.refused, token)
        self.ask(build.query("begin"))
        self.ask(build.query(f"insert into deeds values ('{token}')"))
        if self.random.random() < 0.5:
            self.check("EZ", self.ask(build.query("select 1 / 0")).kinds.lstrip("T"))
            self.check(b"ROLLBACK\0", self.ask(build.query("commit"))[0].payload)
        else:
            self.check(b"ROLLBACK\0", self.ask(build.query("rollback"))[0].payload)

    def transaction(self) -> None:
        """All of it on one server connection."""
        self.ask(build.query("begin"))
        pids = [self.ask(build.query("select pg_backend_pid()")).value for _ in range(3)]
        self.check([pids[0]] * 3, pids)
        self.ask(build.query("commit"))

    def copy(self) -> None:
        tokens = [self.token() for _ in range(3)]
        data = [copy_data(token.encode() + b"\n") for token in tokens]
        answer = self.write(tokens, build.query("copy deeds from stdin"), *data, COPY_DONE)
        self.check(("GCZ", b"COPY 3\0"), (answer.kinds, answer[1].payload))
        self.books.write(self.books.confirmed, *tokens)

    # Interrupting.

    def cancel(self) -> None:
        """Only what is cancelled fails: not the question before, not the one behind it, not a neighbour's."""
        token = self.token()
        self.simple()
        self.client.send(build.query(f"select '{token}', pg_sleep(0.3)"))
        time.sleep(self.random.random() * 0.01)  # where in its life it is hit is left to chance
        self.client.cancel()
        answer = self.until_ready()
        if "E" in answer.kinds:
            self.check("57014", answer.error.sqlstate)
        else:
            self.check([[token, ""]], answer.rows)
        self.simple()

    def late_cancel(self) -> None:
        self.simple()
        self.client.cancel()
        self.simple()

    # Breaking off. The next client is a new one.

    def vanish(self) -> None:
        question = self.random.choice(
            (
                f"select '{self.token()}'",
                f"select '{self.token()}' from generate_series(1, 1000)",
                f"select pg_sleep(0.5), '{self.token()}'",
                f"copy (select '{self.token()}' from generate_series(1, 1000)) to stdout",
            )
        )
        self.client.send(*[build.query(question)] * self.random.randint(1, 3))
        for _ in range(self.random.randint(0, 3)):
            try:
                self.client.receive()
            except OSError:
                break
        self.client.vanish(reset=self.random.random() < 0.5)
        raise Lost

    def vanish_in_transaction(self) -> None:
        token = self.token()
        self.books.write(self.books.refused, token)
        self.ask(build.query("begin"))
        self.ask(build.query(f"insert into deeds values ('{token}')"))
        if self.random.random() < 0.5:
            self.client.send(build.query(f"select pg_sleep(0.5), '{self.token()}'"))
        self.client.vanish(reset=self.random.random() < 0.5)
        raise Lost

    def half(self) -> None:
        token = self.token()
        whole = self.random.choice(
            (
                build.query(f"insert into deeds values ('{token}')"),
                parse(b"", b"insert into deeds values ($1)") + bind(b"", token.encode()) + execute() + SYNC,
                build.query("begin") + build.query(f"insert into deeds values ('{token}')"),
                build.query("copy deeds from stdin") + copy_data(token.encode() + b"\n") + COPY_DONE,
            )
        )
        self.books.write(self.books.refused, token)
        self.client.send(whole[: self.random.randrange(1, len(whole))])
        self.client.vanish(reset=self.random.random() < 0.5)
        raise Lost


class Driver(Worker):
    """asyncpg, with its prepared statements, transactions and timeouts."""

    async def run(self, dsn: str) -> None:
        steps = [
            self.fetch,
            self.fetch,
            self.many,
            self.error,
            self.insert,
            self.commit,
            self.rollback,
            self.timeout,
        ]
        while not self.over():
            connection: asyncpg.Connection | None = None
            try:
                connection = await asyncpg.connect(dsn, timeout=20, command_timeout=20)
                for _ in range(self.random.randint(1, 40)):
                    if self.over():
                        break
                    step = self.random.choice(steps)
                    await step(connection)
                    self.books.count(step.__name__)
                if self.random.random() < 0.7:
                    await connection.close(timeout=10)
            except (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, OSError) as error:
                sqlstate = getattr(error, "sqlstate", None)
                if sqlstate not in (None, "08003", *(FATAL if connection else FATAL_AT_LOGIN)):
                    self.books.wrong.append(f"an unexpected end for asyncpg: {sqlstate} {error}")
                self.books.losses += 1
            except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
                # The latter is asyncpg between a FATAL error and the connection's end.
                if "closed" not in str(error) and "another operation (2)" not in str(error):
                    self.books.wrong.append(f"asyncpg: {error}")
                self.books.losses += 1
            except Exception as error:
                self.books.wrong.append(f"asyncpg: {type(error).__name__} {str(error)[:500]}")
            finally:
                if connection is not None:
                    connection.terminate()

    def check(self, expected: object, found: object) -> None:
        self.books.check(expected, found, f"asyncpg client {self.number}")

    async def fetch(self, connection: asyncpg.Connection) -> None:
        token = self.token()
        suffix = self.random.randrange(20)
        self.check(f"{token} {suffix}", await connection.fetchval(f"select $1::text || ' {suffix}'", token))

    async def many(self, connection: asyncpg.Connection) -> None:
        token = self.token()
        rows = await connection.fetch("select $1::text || i from generate_series(1, 100) i", token)
        self.check([f"{token}{i}" for i in range(1, 101)], [row[0] for row in rows])

    async def error(self, connection: asyncpg.Connection) -> None:
        token = self.token()
        try:
            await connection.fetchval("select ($1::text)::int", token)
        except asyncpg.InvalidTextRepresentationError as error:
            self.check(True, token[:20] in str(error))
        else:
            self.check("an error", "none")

    async def insert(self, connection: asyncpg.Connection) -> None:
        token = self.token()
        try:
            await connection.execute("insert into deeds values ($1)", token)
        except BaseException:
            self.books.write(self.books.unknown, token)
            raise
        self.books.write(self.books.confirmed, token)

    async def commit(self, connection: asyncpg.Connection) -> None:
        tokens = [self.token() for _ in range(self.random.randint(1, 4))]
        try:
            async with connection.transaction():
                for token in tokens:
                    await connection.execute("insert into deeds values ($1)", token)
        except BaseException:
            self.books.write(self.books.unknown, *tokens)
            raise
        self.books.write(self.books.confirmed, *tokens)

    async def rollback(self, connection: asyncpg.Connection) -> None:
        token = self.token()
        self.books.write(self.books.refused, token)
        with contextlib.suppress(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute("insert into deeds values ($1)", token)
                raise ZeroDivisionError

    async def timeout(self, connection: asyncpg.Connection) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await connection.fetchval("select pg_sleep(0.3)", timeout=0.02)
        await self.fetch(connection)


def kill(url: str, seed: int, until: float) -> int:
    """Server connections, one at a time, whatever they are doing."""
    chance = random.Random(f"{seed} kill")
    killed = 0
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < until:
            victims = sorted(sessions(connection))
            if victims:
                connection.execute("select pg_terminate_backend(%s)", (chance.choice(victims),))
                killed += 1
            time.sleep(KILL_EVERY * 2 * chance.random())  # the load's own rhythm, nothing is waited for
    return killed


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kills", [False, True], ids=["undisturbed", "servers killed"])
def test_everybody_gets_their_own_answers_and_what_was_confirmed_is_there(
    kills: bool,
    primary: Postgres,
    observer: Connection,
    ambassador: Callable[..., Ambassador],
    tmp_path: Path,
) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        pool={"size": 3, "statements": 10, "wait_notice": "off"},
        query_log={"slow": 0, "file": str(tmp_path / "queries")},
    )
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        connection.execute("drop table if exists deeds; create unlogged table deeds (token text)")
        connection.execute("grant all on deeds to app")
    books = Books()
    until = time.monotonic() + SECONDS / (1 if kills else 2)
    raw = [Raw(number, seed, books, until) for number in range(RAW)]
    drivers = [Driver(RAW + number, seed, books, until) for number in range(ASYNCPG)]
    threads = [threading.Thread(target=worker.run, args=(proxy.port,)) for worker in raw]
    killed: list[int] = []
    if kills:
        threads.append(threading.Thread(target=lambda: killed.append(kill(primary.url(), seed, until - 1.0))))
    for thread in threads:
        thread.start()

    async def drive() -> None:
        await asyncio.gather(*(driver.run(proxy.dsn()) for driver in drivers))

    asyncio.run(drive())
    for thread in threads:
        thread.join()

    about = (
        f"seed {seed}, {sum(books.done.values())} steps {books.done}, {books.losses} losses, killed {killed}"
    )
    assert not books.wrong, "\n".join((about, *books.wrong[:20]))
    assert len(books.done) > 15 and min(books.done.values()) > 1, about
    assert len(books.confirmed) > 50, about
    assert not kills or killed[0] > 10, about

    # On the servers' side: nothing is left open.
    def at_rest() -> bool:
        return set(sessions(observer).values()) <= {"idle"}

    wait_until(at_rest, f"the end of all transactions ({about})")
    metrics = proxy.metrics()
    assert metrics.total("pgambassador_clients") == 0, about
    assert metrics.total("pgambassador_pool_waiting_clients") == 0, about
    assert metrics.total("pgambassador_server_connections", state="active") == 0, about
    assert metrics.total("pgambassador_server_connections") <= 3, about
    reasons = {
        dict(labels).get("reason", "") for name, labels in metrics if name.endswith("disconnects_total")
    }
    assert not [reason for reason in reasons if "protocol" in reason or "internal" in reason], (
        about,
        reasons,
    )
    assert not [line for line in proxy.log_lines() if line["level"] == "error"], about

    # What was confirmed is there, once; what was refused is not. The rest may have gone either way.
    with psycopg.connect(primary.url(database="app")) as connection:
        found = [token for (token,) in connection.execute("select token from deeds")]
    assert len(found) == len(set(found)), about
    assert books.confirmed <= set(found), (about, sorted(books.confirmed - set(found))[:5])
    assert not books.refused & set(found), (about, sorted(books.refused & set(found))[:5])
    assert set(found) <= books.confirmed | books.unknown, about
