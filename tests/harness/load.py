"""Clients that write and read without end, and enter into a ledger what they were told."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

import psycopg
from psycopg import Connection

from pgambassador.wire import build
from tests.harness.ambassador import Ambassador
from tests.harness.ledger import DOUBTFUL, Ledger, Phase, Told, Trouble
from tests.harness.waiting import wait_until
from tests.harness.wire import Answer, Message, Wire
from tests.messages import COPY_DONE, SYNC, bind, copy_data, execute, parse

PATIENCE = 20.0
"""Who has no answer after this says so: it is always wrong."""
PAUSE = 0.02
"""After an error, as an application would."""
OWN = "22012"
"""What a statement is told that fails on purpose."""
INSERT = "insert into deeds (key) values (%s)"
UNDONE = "Nothing of the transaction has been done."
HALF = "A part of its answer had been passed on."
ASKED_BEFORE = "It had been asked again"


class Interrupted(Exception):
    """The step came to nothing, which stands in the ledger."""


class Client(threading.Thread):
    """One session after another; `where` is the port to connect to."""

    kind = "client"

    def __init__(self, number: int, seed: object, ledger: Ledger, port: int, stop: threading.Event) -> None:
        super().__init__(name=f"{self.kind} {number}", daemon=True)
        self.number, self.ledger, self.port, self.stopping = number, ledger, port, stop
        self.random = random.Random(f"{seed} {self.kind} {number}")
        self.mine: list[str] = []
        """What it knows to be committed, by this session."""
        self.answered = 0
        self.doing = "login"
        self._serial = itertools.count()

    def __repr__(self) -> str:
        return f"<{self.name} {self.doing}, {self.answered} answers>"

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self.session()
            except Interrupted:
                self.stopping.wait(PAUSE)
            except Exception as error:
                self.complain(f"{type(error).__name__} {error}")
                self.stopping.wait(PAUSE)

    def session(self) -> None:
        raise NotImplementedError

    def walk(self, steps: Sequence[Callable[[], None]]) -> None:
        """Random steps until a session ends; those that were interrupted end none by themselves."""
        self.mine.clear()
        while not self.stopping.is_set():
            step = self.random.choice(steps)
            self.doing = step.__name__
            try:
                step()
            except Interrupted:
                if self.over():
                    raise
                self.stopping.wait(PAUSE)
            else:
                self.ledger.count(f"{self.kind}: {step.__name__}")
                self.answered += 1

    def over(self) -> bool:
        """Whether the session has ended."""
        raise NotImplementedError

    def complain(self, what: str) -> None:
        self.ledger.complain(f"{self.name}: {what}")

    def check(self, expected: object, found: object, what: str = "") -> None:
        if expected != found:
            self.complain(f"{what} {expected!r:.200} was due, {found!r:.300} came")

    def key(self) -> str:
        return f"{self.kind[0]}{self.number}-{next(self._serial)}"

    def keys(self, most: int = 4) -> list[str]:
        return [self.key() for _ in range(self.random.randint(1, most))]

    def committed(self, *keys: str) -> None:
        self.ledger.tell(Told.COMMITTED, *keys)
        self.mine.extend(keys)
        del self.mine[:-50]


class Driver(Client):
    """psycopg."""

    kind = "driver"
    connection: Connection

    def session(self) -> None:
        dsn = f"postgresql://app@127.0.0.1:{self.port}/app"
        began = time.monotonic()
        with self.asking(Phase.LOGIN):
            connecting = psycopg.connect(
                dsn, autocommit=True, connect_timeout=int(PATIENCE), prepare_threshold=3
            )
        self.ledger.success(Phase.LOGIN, began)
        with connecting as self.connection:
            self.walk([
                self.insert, self.insert, self.insert, self.read, self.read, self.echo, self.own, self.own,
                self.commit, self.commit, self.roll_back, self.several, self.fail,
            ])  # fmt: skip

    def over(self) -> bool:
        return self.connection.closed

    @contextmanager
    def asking(self, phase: Phase, *keys: str) -> Iterator[None]:
        """An error becomes an entry; one that leaves it open whether the keys were written says so."""
        began = time.monotonic()
        try:
            yield
        except psycopg.Error as caught:
            error = caught if phase is Phase.LOGIN else self.told(caught)
            sqlstate = error.sqlstate or ""
            ended = phase is Phase.LOGIN or self.connection.closed
            if not sqlstate and phase is Phase.LOGIN:
                sqlstate = _login_sqlstate(str(error))
            if time.monotonic() - began > PATIENCE - 1:
                self.complain(f"no answer {phase.value} for {PATIENCE:g} s: {error}")
            detail = error.diag.message_detail or ""
            where = told_of(phase, detail, half=HALF in detail)
            self.ledger.trouble(Trouble(where, sqlstate, ended, str(error), time.monotonic()))
            if sqlstate in DOUBTFUL and phase in (Phase.WRITING, Phase.COMMITTING) and UNDONE not in detail:
                self.ledger.tell(Told.DOUBT, *keys)
            raise Interrupted from None
        if phase is not Phase.LOGIN:
            self.ledger.success(phase, began)

    def told(self, error: psycopg.Error) -> psycopg.Error:
        """An error at a pipeline's Sync, as PostgreSQL sends it where a deferred constraint fails: psycopg
        3.3 hides it behind one of its own, and its connection stays in pipeline mode for ever."""
        before = error.__context__
        return before if not error.sqlstate and self.adrift() and isinstance(before, psycopg.Error) else error

    def adrift(self) -> bool:
        return self.connection.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF

    def execute(self, sql: str, *values: object) -> list[tuple]:
        cursor = self.connection.execute(sql.encode(), values)
        return cursor.fetchall() if cursor.description else []

    # by itself

    def insert(self) -> None:
        key = self.key()
        self.ledger.intend(key)
        with self.asking(Phase.WRITING, key):
            self.execute(INSERT, key)
        self.committed(key)

    def several(self) -> None:
        """Rows of which each has a statement of its own; together they are there or not."""
        keys = self.keys(6)
        self.ledger.intend(*keys)
        try:
            with self.asking(Phase.WRITING, *keys), self.connection.pipeline():
                for key in keys:
                    self.connection.execute(INSERT, (key,))
        except Interrupted:
            # What was to be prepared psycopg 3.3 takes for prepared then, with PostgreSQL alone too.
            self.connection._prepared.clear()
            raise
        finally:
            if self.adrift():
                self.connection.close()
        self.committed(*keys)

    def echo(self) -> None:
        key = self.key()
        with self.asking(Phase.READING):
            found = self.execute("select %s::text", key)
        self.check([(key,)], found)

    def read(self) -> None:
        """Of others."""
        with self.asking(Phase.READING):
            found = self.execute("select key from deeds order by serial desc limit 20")
        self.ledger.seen(key for (key,) in found)

    def own(self) -> None:
        if self.mine:
            key = self.random.choice(self.mine[-5:])
            with self.asking(Phase.READING):
                found = self.execute("select count(*) from deeds where key = %s", key)
            self.check([(1,)], found, f"of {key}")

    def fail(self) -> None:
        """The server's own errors pass."""
        with self.asking(Phase.READING):
            try:
                self.execute("select 1 / (select 0)")
            except psycopg.errors.DivisionByZero:
                return
            self.complain("no division by zero")

    # transactions

    def commit(self) -> None:
        keys = self.transaction()
        with self.ending(), self.asking(Phase.COMMITTING, *keys):
            self.execute("commit")
        self.committed(*keys)

    def roll_back(self) -> None:
        self.transaction()
        with self.ending(), self.asking(Phase.INSIDE):
            self.execute("rollback")

    @contextmanager
    def ending(self) -> Iterator[None]:
        """It may be the statement's preparation that failed, which leaves a transaction that has failed."""
        try:
            yield
        except Interrupted:
            if self.connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                self.recover()
            raise

    def transaction(self) -> list[str]:
        """Up to the end of it; the keys that it has written."""
        keys = self.keys()
        self.ledger.intend(*keys)
        with self.asking(Phase.BEGINNING):
            self.execute("begin")
        try:
            for key in keys:
                with self.asking(Phase.INSIDE):
                    self.execute(INSERT, key)
                if self.random.random() < 0.3:
                    with self.asking(Phase.INSIDE):
                        found = self.execute("select count(*) from deeds where key = %s", key)
                    self.check([(1,)], found, f"of {key}")
        except Interrupted:
            self.recover()
            raise
        return keys

    def recover(self) -> None:
        """A session that has outlived its transaction takes ROLLBACK, and goes on."""
        if not self.connection.closed:
            with self.asking(Phase.INSIDE):
                self.execute("rollback")
            self.check(psycopg.pq.TransactionStatus.IDLE, self.connection.info.transaction_status)


class Raw(Client):
    """Speaks the protocol itself: what no driver does."""

    kind = "raw"
    wire: Wire
    ended = False

    def session(self) -> None:
        self.ended = False
        began = time.monotonic()
        try:
            self.wire = Wire(self.port, timeout=PATIENCE)
        except OSError as error:
            self.ledger.trouble(Trouble(Phase.LOGIN, "", True, str(error), time.monotonic()))
            raise Interrupted from None
        with self.wire:
            self.wire.start(user="app", database="app")
            self.until_ready(Phase.LOGIN)
            self.ledger.success(Phase.LOGIN, began)
            self.walk([
                self.simple, self.syncs, self.syncs, self.script, self.copy, self.broken, self.large,
                self.mixed, self.vanish, self.commit, self.commit,
            ])  # fmt: skip
            if not self.ended:
                self.wire.leave()

    def over(self) -> bool:
        return self.ended

    def ask(self, phase: Phase, *messages: bytes, parts: Sequence[Sequence[str]] = ((),)) -> Answer:
        """Each part ends with a ReadyForQuery, which says that its keys are committed."""
        began = time.monotonic()
        for keys in parts:
            self.ledger.intend(*keys)
        self.send(*messages)
        answer = Answer()
        for number, keys in enumerate(parts):
            part = self.until_ready(phase, parts[number:])
            answer += part
            errors = [each for each in part if each.kind == "E"]
            if errors:
                self.check(1, len(errors), "errors in one part:")
                self.note(phase, part, errors[0], parts[number : number + 1])
            elif keys:
                self.committed(*keys)
        if "E" not in answer.kinds:
            self.ledger.success(phase, began)
        return answer

    def send(self, *messages: bytes) -> None:
        with contextlib.suppress(OSError):  # its reason stands in what can still be read
            self.wire.send(*messages)

    def until_ready(self, phase: Phase, parts: Sequence[Sequence[str]] = ()) -> Answer:
        answer = Answer()
        while not answer or answer[-1].kind != "Z":
            try:
                answer.append(self.wire.receive())
            except OSError as error:
                self.ended = True
                errors = [each for each in answer if each.kind == "E" and each.sqlstate != OWN]
                if isinstance(error, TimeoutError):
                    self.complain(f"no answer {phase.value} for {PATIENCE:g} s, only {answer.kinds}")
                self.check([], errors[1:], "more than one error at the end:")
                self.note(phase, answer, errors[0] if errors else None, parts)
                raise Interrupted from None
        return answer

    def note(
        self, phase: Phase, answer: Answer, error: Message | None, parts: Sequence[Sequence[str]]
    ) -> None:
        """What has been said of an answer cannot be taken back, so that no error can be kept from it."""
        fields = error.fields if error else {"C": "", "M": ""}
        where = told_of(phase, fields.get("D", ""), half=bool(answer.kinds.strip("EZ")))
        message = f"{fields['M']} {fields.get('D', '')}".rstrip()
        self.ledger.trouble(Trouble(where, fields["C"], self.ended, message, time.monotonic()))
        if fields["C"] in DOUBTFUL and phase is not Phase.INSIDE and UNDONE not in fields.get("D", ""):
            for keys in parts:
                self.ledger.tell(Told.DOUBT, *keys)

    def done(self, phase: Phase, *messages: bytes, parts: Sequence[Sequence[str]] = ((),)) -> Answer:
        """`ask`, where an error ends the step."""
        answer = self.ask(phase, *messages, parts=parts)
        if "E" in answer.kinds:
            raise Interrupted
        return answer

    def simple(self) -> None:
        key = self.key()
        message = build.query(f"with w as (select '{key}') insert into deeds (key) select * from w")
        answer = self.done(Phase.WRITING, message, parts=[[key]])
        self.check(b"INSERT 0 1\0", answer[0].payload)

    def syncs(self) -> None:
        """Several statements in one go, each with a Sync of its own or with the one before it."""
        parts = [self.keys(3) for _ in range(self.random.randint(1, 6))]
        messages = [b"".join(map(insertion, keys)) + SYNC for keys in parts]
        self.done(Phase.WRITING, *messages, parts=parts)

    def script(self) -> None:
        """One simple query of several statements is one transaction."""
        keys = self.keys()
        sql = "; ".join(f"insert into deeds (key) values ('{key}')" for key in keys)
        self.done(Phase.WRITING, build.query(sql), parts=[keys])

    def mixed(self) -> None:
        """Reads before and behind a write, in one go."""
        key, token = self.key(), self.key()
        asked = parse(b"", b"select $1::text") + bind(b"", token.encode()) + execute() + SYNC
        answer = self.done(Phase.WRITING, asked, insertion(key) + SYNC, asked, parts=[[], [key], []])
        self.check([[token], [token]], answer.rows)

    def broken(self) -> None:
        """What precedes an error in its transaction never happened."""
        keys = self.keys()
        self.ledger.intend(*keys)
        self.send(*map(insertion, keys), parse(b"", b"select 1 / (select 0)") + bind(b"") + execute(), SYNC)
        answer = self.until_ready(Phase.WRITING)
        if answer.error.sqlstate != OWN:
            self.note(Phase.WRITING, answer, answer.error, [])
            raise Interrupted

    def copy(self) -> None:
        keys = self.keys()
        data = [copy_data(key.encode() + b"\n") for key in keys]
        self.done(Phase.WRITING, build.query("copy deeds (key) from stdin"), *data, COPY_DONE, parts=[keys])

    def large(self) -> None:
        """Of many packets."""
        token, rows = self.key(), 300
        sql = f"select '{token}', repeat('x', 1000) from generate_series(1, {rows})"
        answer = self.done(Phase.READING, build.query(sql))
        self.check([[token, "x" * 1000]] * rows, answer.rows)

    def vanish(self) -> None:
        """In the middle of a transaction, or with a write on its way."""
        key = self.key()
        self.ledger.intend(key)
        if self.random.random() < 0.5:
            self.done(Phase.BEGINNING, build.query("begin"))
        else:
            self.ledger.tell(Told.DOUBT, key)
        self.send(build.query(f"insert into deeds (key) values ('{key}')"))
        self.wire.vanish(reset=self.random.random() < 0.5)
        self.ended = True
        self.ledger.count(f"{self.kind}: vanish")
        raise Interrupted

    def commit(self) -> None:
        keys = self.keys()
        self.done(Phase.BEGINNING, build.query("begin"))
        self.ledger.intend(*keys)
        for key in keys:
            answer = self.ask(Phase.INSIDE, build.query(f"insert into deeds (key) values ('{key}')"))
            if "E" in answer.kinds:
                self.check(b"E", answer[-1].payload, "after an error in a transaction")
                after = self.ask(Phase.INSIDE, build.query("rollback"))
                if (after.kinds, after[-1].payload) != ("CZ", b"I"):
                    self.complain(f"after ROLLBACK {after}, after {answer}")
                    self.ended = True
                raise Interrupted
        self.send(build.query("commit"))
        answer = self.until_ready(Phase.COMMITTING, [keys])
        if "E" in answer.kinds:
            self.note(Phase.COMMITTING, answer, answer.error, [keys])
            raise Interrupted
        self.check((b"COMMIT\0", b"I"), (answer[0].payload, answer[-1].payload))
        self.committed(*keys)


def told_of(phase: Phase, detail: str, *, half: bool) -> Phase:
    """What an error is about that has come in this phase; `half` a part of the answer had come before."""
    if phase is Phase.READING and half:
        return Phase.HALFWAY
    return Phase.ONCE_MORE if phase in (Phase.READING, Phase.BEGINNING) and ASKED_BEFORE in detail else phase


def insertion(key: str) -> bytes:
    """Without a Sync."""
    return parse(b"", b"insert into deeds (key) values ($1)") + bind(b"", key.encode()) + execute()


class Load:
    """So many of each kind, at work until its end."""

    def __init__(
        self, proxy: Ambassador, seed: object, ledger: Ledger | None = None, *, drivers: int = 6, raw: int = 4
    ) -> None:
        self.ledger = ledger or Ledger()
        self._stop = threading.Event()
        kinds = [Driver] * drivers + [Raw] * raw
        self.clients: list[Client] = [
            kind(number, seed, self.ledger, proxy.port, self._stop) for number, kind in enumerate(kinds)
        ]

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for client in self.clients:
            client.join(2 * PATIENCE)
            assert not client.is_alive(), f"{client.name} hangs"

    def everybody(self, more: int, what: str, deadline: float = 60.0) -> None:
        """Returns when each has had so many answers more."""
        marks = [client.answered + more for client in self.clients]

        def missing() -> list[Client]:
            return [
                client for client, mark in zip(self.clients, marks, strict=True) if client.answered < mark
            ]

        try:
            wait_until(lambda: not missing(), f"everybody's answers {what}", deadline=deadline)
        except AssertionError as error:
            last = [str(each) + f": {each.message:.200}" for each in self.ledger.troubles[-5:]]
            wrong = self.ledger.wrong[:5]
            raise AssertionError(f"{error}: not {missing()}; last {last}; wrong {wrong}") from None


def _login_sqlstate(text: str) -> str:
    """psycopg gives none for an error at a login."""
    known = {
        "could not connect": "57P03",
        "shutting down": "57P03",
        "starting up": "57P03",
        "too many": "53300",
        "broke": "08006",
    }
    return next((sqlstate for words, sqlstate in known.items() if words in text), "")
