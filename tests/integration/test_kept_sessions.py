"""A server connection dies under a client: what it is told, and that its session goes on."""

from __future__ import annotations

import contextlib
import random
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, Link, Wire, wait_until
from tests.harness.activity import is_running, terminate, wait_running
from tests.messages import SYNC, bind, describe, describe_portal, execute, parse

FAULTS = 30
SLEEP = 0.7
"""Seconds in which a statement can be hit."""


@pytest.fixture(scope="module")
def proxy(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"size": 4})


@pytest.fixture
def shaky(link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    """Through a link that can be cut."""
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    return ambassador(url, pool={"size": 4})


@pytest.fixture
def observer(primary: Postgres) -> Iterator[Connection]:
    """A superuser in the clients' database, past every ambassador."""
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def room(primary: Postgres) -> Iterator[None]:
    yield
    primary.sql("drop table if exists ledger", database="app")


@pytest.fixture
def ledger(room: None, observer: Connection) -> Iterator[Callable[[], list[str]]]:
    """A table of what was written, and how to read it past everybody. It stays for the next test: behind a
    DROP nothing is known of statements for a moment."""
    if observer.execute("select to_regclass('ledger')").fetchone() == (None,):
        observer.execute("create table ledger (key text); grant all on ledger to public")
    observer.execute("delete from ledger")
    yield lambda: [key for (key,) in observer.execute("select key from ledger order by 1")]
    if observer.execute(
        "select relhasindex or relhastriggers from pg_class where relname = 'ledger'"
    ).fetchone() == (True,):
        observer.execute("drop table ledger")


def pid(client: Wire) -> int:
    return int(client.ask("select pg_backend_pid()").value or 0)


def knows_the_catalog(proxy: Ambassador, client: Wire) -> None:
    """Reads are repeated only once it is known what functions do."""

    def judged() -> bool:
        client.ask("select 1")
        return "only reads" in console(proxy, "show route 'select pg_sleep(1)'")

    wait_until(judged)


def console(proxy: Ambassador, command: str) -> str:
    with Wire.session(proxy.port, database="pgambassador") as admin:
        return str(admin.ask(command).rows)


def fails(answer: Answer, *sqlstates: str, status: bytes) -> None:
    assert answer.kinds.lstrip("123TD") == "EZ", answer
    assert answer.error.sqlstate in sqlstates, answer
    assert (answer.error.fields["S"], answer.error.fields["V"]) == ("ERROR", "ERROR")
    assert answer[-1].payload == status


def goes_on(client: Wire) -> None:
    answer = client.ask("select 'on'")
    assert (answer.kinds, answer.value, answer[-1].payload) == ("TDCZ", "on", b"I")


def kill(observer: Connection, text: str) -> None:
    wait_running(observer, text)
    rows = observer.execute(
        "select pid from pg_stat_activity where query like %s and state = 'active'"
        " and pid <> pg_backend_pid()",
        (f"%{text}%",),
    )
    terminate(observer, *(pid for (pid,) in rows.fetchall()))


def extended(sql: bytes) -> bytes:
    return parse(b"", sql) + bind(b"") + execute() + SYNC


# Outside a transaction.


@pytest.mark.parametrize("how", ["simple", "extended", "prepared"])
def test_a_read_is_asked_again(how: str, proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        knows_the_catalog(proxy, client)
        sql = f"select 'read again {how}', pg_sleep({SLEEP})"
        if how == "prepared":
            client.send(parse(b"mine", sql.encode()), SYNC)
            client.until("Z")
        client.send(
            {
                "simple": build.query(sql),
                "extended": extended(sql.encode()),
                "prepared": bind(b"mine") + execute() + SYNC,
            }[how]
        )
        kill(observer, f"read again {how}")
        answer = client.until("Z")
        assert answer.rows[0][0] == f"read again {how}", answer
        assert answer[-1].payload == b"I"
        goes_on(client)


def test_a_read_is_asked_again_whose_connection_breaks(
    shaky: Ambassador, link: Link, observer: Connection
) -> None:
    with Wire.session(shaky.port) as client:
        knows_the_catalog(shaky, client)
        client.send(build.query(f"select 'read again cut', pg_sleep({SLEEP})"))
        wait_running(observer, "read again cut")
        link.cut()
        assert client.until("Z").rows[0][0] == "read again cut"
        goes_on(client)


@pytest.mark.parametrize(
    "send", [build.query, lambda sql: extended(sql.encode())], ids=["simple", "extended"]
)
def test_a_write_is_not_asked_again(
    send: Callable[[str], bytes], proxy: Ambassador, observer: Connection, ledger: Callable[[], list[str]]
) -> None:
    with Wire.session(proxy.port) as client:
        client.send(send(f"insert into ledger select 'once' from pg_sleep({SLEEP})"))
        kill(observer, "insert into ledger")
        fails(client.until("Z"), "57P01", status=b"I")
        goes_on(client)
        assert ledger() == []


@pytest.mark.parametrize(
    "send", [build.query, lambda sql: extended(sql.encode())], ids=["simple", "extended"]
)
def test_what_became_of_a_write_is_not_known_when_its_connection_breaks(
    send: Callable[[str], bytes],
    shaky: Ambassador,
    link: Link,
    observer: Connection,
    ledger: Callable[[], list[str]],
) -> None:
    with Wire.session(shaky.port) as client:
        client.send(send(f"insert into ledger select 'perhaps' from pg_sleep({SLEEP})"))
        wait_running(observer, "insert into ledger")
        link.cut()
        fails(client.until("Z"), "08007", status=b"I")
        goes_on(client)
        wait_until(lambda: not is_running(observer, "insert into ledger"))
        assert len(ledger()) <= 1


def test_a_write_is_asked_again_that_is_marked(
    shaky: Ambassador, link: Link, observer: Connection, ledger: Callable[[], list[str]]
) -> None:
    observer.execute("create unique index on ledger (key)")
    with Wire.session(shaky.port) as client:
        client.send(
            build.query(
                f"/* pgambassador: idempotent */ insert into ledger select 'marked' from pg_sleep({SLEEP})"
                " on conflict do nothing"
            )
        )
        wait_running(observer, "insert into ledger")
        link.cut()
        assert client.until("Z").kinds == "CZ"
        assert ledger() == ["marked"]


def test_each_part_of_a_pipeline_is_answered(shaky: Ambassador, link: Link, observer: Connection) -> None:
    with Wire.session(shaky.port) as client:
        client.send(extended(f"select 'first part', pg_sleep({SLEEP})".encode()), extended(b"select 2"), SYNC)
        client.send(build.query("select 3"), parse(b"", b"select 4"), bind(b""))
        wait_running(observer, "first part")
        link.cut()
        answer = client.until("Z", times=4)
        assert answer.kinds == "EZEZZEZ", answer
        assert client.receive().kind == "E"
        client.send(execute(), SYNC)
        assert client.until("Z").kinds == "Z"
        goes_on(client)


def test_statements_are_what_they_were_before(
    shaky: Ambassador, link: Link, observer: Connection, ledger: Callable[[], list[str]]
) -> None:
    """One whose Parse was lost is not there; those before it are."""
    with Wire.session(shaky.port) as client:
        client.send(parse(b"before", b"select 'before'"), SYNC)
        client.until("Z")
        slow = b"insert into ledger select 'a lost Parse' from pg_sleep(%f)" % SLEEP
        client.send(parse(b"within", slow), bind(b"within"), execute(), SYNC)
        wait_running(observer, "a lost Parse")
        link.cut()
        fails(client.until("Z"), "08007", status=b"I")
        client.send(bind(b"before"), execute(), SYNC)
        assert client.until("Z").value == "before"
        client.send(bind(b"within"), execute(), SYNC)
        assert client.until("Z").error.sqlstate == "26000"


def test_a_read_is_asked_again_before_anything_is_known(
    primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    """It waits until it is known to be one."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    with Wire.session(proxy.port) as client:
        client.send(build.query(f"select 'before all', pg_sleep({SLEEP})"))
        kill(observer, "before all")
        answer = client.until("Z")
        assert answer.rows[0][0] == "before all", answer
        client.send(build.query(f"select 'before all', nextval('nowhere'), pg_sleep({SLEEP})"))
        assert client.until("Z").error.sqlstate == "42P01"
        goes_on(client)


def test_a_read_in_pieces_is_asked_again(proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        knows_the_catalog(proxy, client)
        sql = f"select $1::text, 'read in pieces', pg_sleep({SLEEP})".encode()
        value = b"x" * 30_000
        client.send(parse(b"", sql))
        wait_until(lambda: active(proxy) == 1)
        message = bind(b"", value) + execute() + SYNC
        for at in range(0, len(message), 4000):
            client.send(message[at : at + 4000])
        kill(observer, "read in pieces")
        answer = client.until("Z")
        assert answer.rows[0][0] == value.decode(), answer
        goes_on(client)


def active(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_server_connections", state="active")


@pytest.mark.parametrize("by", ["simple", "extended", "prepared"])
def test_a_begin_is_asked_again(
    by: str, shaky: Ambassador, link: Link, ledger: Callable[[], list[str]]
) -> None:
    """It is on its way when the connection breaks, and nobody knows whether it has arrived."""
    asked = {"simple": build.query("begin"), "extended": extended(b"begin")}.get(
        by, bind(b"b") + execute() + SYNC
    )
    with Wire.session(shaky.port) as client:
        client.send(parse(b"b", b"begin"), SYNC)
        client.until("Z")
        link.stall()
        client.send(asked)
        wait_until(lambda: active(shaky) == 1)
        link.cut()
        link.resume()
        answer = client.until("Z")
        assert (answer.kinds.lstrip("12"), answer[-1].payload) == ("CZ", b"T"), answer
        client.ask("insert into ledger values ('within')")
        assert ledger() == []
        assert client.ask("commit").kinds == "CZ"
        assert ledger() == ["within"]
        goes_on(client)


def test_what_follows_a_begin_in_one_go_is_not_asked_again(
    shaky: Ambassador, link: Link, ledger: Callable[[], list[str]]
) -> None:
    with Wire.session(shaky.port) as client:
        goes_on(client)
        link.stall()
        client.send(build.query("begin"), build.query("insert into ledger values ('perhaps')"))
        wait_until(lambda: active(shaky) == 1)
        link.cut()
        link.resume()
        fails(client.until("Z"), "08006", status=b"I")
        fails(client.until("Z"), "08007", status=b"I")
        goes_on(client)
        assert ledger() == []


@pytest.mark.parametrize("by", ["simple", "extended"])
@pytest.mark.parametrize("sql", ["set timezone = 'Asia/Tokyo'", "deallocate all"])
def test_what_is_done_to_a_connection_alone_is_asked_again(
    sql: str, by: str, shaky: Ambassador, link: Link
) -> None:
    with Wire.session(shaky.port) as client:
        client.send(parse(b"mine", b"select 1"), SYNC)
        client.until("Z")
        link.stall()
        client.send(build.query(sql) if by == "simple" else extended(sql.encode()))
        wait_until(lambda: active(shaky) == 1)
        link.cut()
        link.resume()
        answer = client.until("Z")
        assert (answer.kinds.lstrip("12").replace("S", ""), answer[-1].payload) == ("CZ", b"I"), answer
        zone = client.ask("show timezone").value
        assert (zone == "Asia/Tokyo") == sql.startswith("set")
        client.send(bind(b"mine") + execute() + SYNC)
        assert ("E" in client.until("Z").kinds) == (sql == "deallocate all")
        goes_on(client)


@pytest.mark.parametrize("by", ["simple", "extended"])
def test_what_was_just_set_is_set_again(by: str, proxy: Ambassador, observer: Connection) -> None:
    """The server has had no time to say what a SET has set, but its text does."""
    sql = "set timezone = 'Asia/Tokyo'"
    with Wire.session(proxy.port) as client:
        knows_the_catalog(proxy, client)
        client.send(
            build.query(sql) if by == "simple" else extended(sql.encode()),
            build.query(f"select 'just set {by}', pg_sleep({SLEEP})"),
        )
        client.until("Z")
        kill(observer, f"just set {by}")
        fails(client.until("Z"), "57P01", status=b"I")
        assert client.ask("show timezone").value == "Asia/Tokyo"
        goes_on(client)


def test_what_may_have_been_set_in_another_way_ends_the_session(
    proxy: Ambassador, observer: Connection
) -> None:
    with Wire.session(proxy.port) as client:
        client.send(
            build.query("select set_config('timezone', 'Asia/' || 'Tokyo', false)"),
            build.query(f"select 'set in another way', pg_sleep({SLEEP})"),
        )
        client.until("Z")
        kill(observer, "set in another way")
        answer = client.rest()
        assert answer.kinds.lstrip("T") == "E", answer
        assert (answer.error.fields["S"], answer.error.sqlstate) == ("FATAL", "57P01")
        assert "settings" in answer.error.fields["D"]


# In a transaction.


@pytest.mark.parametrize("by", ["simple", "extended"])
@pytest.mark.parametrize("how", ["killed", "cut"])
def test_a_transaction_is_lost_and_the_session_is_not(
    by: str, how: str, shaky: Ambassador, link: Link, observer: Connection, ledger: Callable[[], list[str]]
) -> None:
    def ask(sql: str) -> Answer:
        client.send(build.query(sql) if by == "simple" else extended(sql.encode()))
        return client.until("Z")

    with Wire.session(shaky.port) as client:
        client.ask("set timezone = 'Asia/Tokyo'")
        assert ask("begin")[-1].payload == b"T"
        ask("insert into ledger values ('lost')")
        ask("set timezone = 'UTC'")
        sql = f"select 'in a transaction {how}', pg_sleep({SLEEP})"
        client.send(build.query(sql) if by == "simple" else extended(sql.encode()))
        wait_running(observer, f"in a transaction {how}")
        if how == "cut":
            link.cut()
        else:
            kill(observer, f"in a transaction {how}")
        fails(client.until("Z"), "57P01" if how == "killed" else "08006", status=b"E")
        for _ in range(2):
            fails(ask("select 1"), "25P02", status=b"E")
        fails(ask("rollback to savepoint a"), "25P02", status=b"E")
        client.send(SYNC)
        assert client.until("Z")[-1].payload == b"E"
        answer = ask("rollback")
        assert answer.kinds.lstrip("12") == "CZ"
        assert answer[0].payload == b"ROLLBACK\0" if by == "simple" else answer[2].payload == b"ROLLBACK\0"
        assert answer[-1].payload == b"I"
        assert client.ask("show timezone").value == "Asia/Tokyo"
        assert ledger() == []
        ask("begin")
        ask("insert into ledger values ('kept')")
        assert ask("commit").kinds.lstrip("12") == "CZ"
        assert ledger() == ["kept"]


@pytest.mark.parametrize("how", ["killed", "cut"])
@pytest.mark.parametrize("next_", ["select 1", "commit", "rollback", "rollback; select 'and more'"])
def test_a_transaction_that_was_idle_is_lost(
    how: str, next_: str, shaky: Ambassador, link: Link, observer: Connection
) -> None:
    """The next message is told, but for a ROLLBACK. A COMMIT never seems to have been done."""
    with Wire.session(shaky.port) as client:
        client.ask("begin")
        victim = pid(client)
        if how == "cut":
            link.cut()
        else:
            terminate(observer, victim)
        wait_until(lambda: shaky.metrics().total("pgambassador_server_connections", state="active") == 0)
        assert client.quiet
        answer = client.ask(next_)
        sqlstate = "57P01" if how == "killed" else "08006"
        if next_ == "select 1":
            fails(answer, sqlstate, status=b"E")
            fails(client.ask("select 2"), "25P02", status=b"E")
            assert client.ask("commit")[0].payload == b"ROLLBACK\0"
        elif next_ == "commit":
            fails(answer, sqlstate, status=b"I")
        elif next_ == "rollback":
            assert (answer.kinds, answer[0].payload, answer[-1].payload) == ("CZ", b"ROLLBACK\0", b"I")
        else:
            assert answer.rows == [["and more"]] and answer[-1].payload == b"I", answer
        goes_on(client)


def test_prepared_ends_of_a_lost_transaction(proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        client.send(parse(b"c", b"commit"), parse(b"r", b"ROLLBACK WORK"), SYNC)
        client.until("Z")
        for name, told in ((b"r", False), (b"c", False), (b"c", True), (b"r", True)):
            client.ask("begin")
            terminate(observer, pid(client))
            if told:
                fails(client.ask("select 1"), "57P01", status=b"E")
            client.send(describe(name), bind(name), describe_portal(), execute(), SYNC)
            answer = client.until("Z")
            assert answer[-1].payload == b"I"
            if name == b"c" and not told:
                assert answer.kinds == "tn2nEZ", answer
                assert answer.error.sqlstate == "57P01"
            else:
                assert answer.kinds == "tn2nCZ", answer
            goes_on(client)


@pytest.mark.parametrize("by", ["simple", "extended"])
def test_a_commit_whose_answer_is_lost(
    by: str, shaky: Ambassador, link: Link, observer: Connection, ledger: Callable[[], list[str]]
) -> None:
    """A deferred trigger makes it last long enough."""
    observer.execute(
        "create or replace function slow() returns trigger language plpgsql as"
        f" $$ begin perform pg_sleep({SLEEP}); return null; end $$;"
        "create constraint trigger slow after insert on ledger initially deferred for each row"
        " execute function slow()"
    )
    with Wire.session(shaky.port) as client:
        client.ask("begin")
        client.ask("insert into ledger values ('perhaps')")
        client.send(build.query("commit") if by == "simple" else extended(b"commit"))
        wait_running(observer, "commit")
        link.cut()
        fails(client.until("Z"), "08007", status=b"I")
        goes_on(client)
    wait_until(lambda: not is_running(observer, "commit"))


def test_a_copy_is_lost(shaky: Ambassador, link: Link, ledger: Callable[[], list[str]]) -> None:
    with Wire.session(shaky.port) as client:
        client.send(build.query("copy ledger from stdin"))
        assert client.receive().kind == "G"
        client.send(build.frame(ord("d"), b"a\n"))
        link.cut()
        fails(client.until("Z"), "08007", status=b"I")
        client.send(build.frame(ord("d"), b"b\n"), build.frame(ord("c")))
        goes_on(client)
        assert ledger() == []


# What cannot be kept.


@pytest.mark.parametrize("tie", ["create temporary table mine ()", "listen something"])
def test_what_is_only_on_the_server_ends_with_it(tie: str, proxy: Ambassador, observer: Connection) -> None:
    with Wire.session(proxy.port) as client:
        client.ask(tie)
        terminate(observer, pid(client))
        answer = client.rest()
        assert answer.kinds == "E"
        assert (answer.error.fields["S"], answer.error.sqlstate) == ("FATAL", "57P01")


# Under load.


class Writer(threading.Thread):
    """Writes unique keys, alone and in transactions, over one connection; it keeps what it was told."""

    def __init__(self, proxy: Ambassador, name: str, stop: threading.Event) -> None:
        super().__init__(name=name)
        self.told: dict[str, str] = {}
        self.problem = ""
        self._proxy, self._stopping = proxy, stop

    def run(self) -> None:
        try:
            with psycopg.connect(self._proxy.dsn(), autocommit=True) as connection:
                for index in count():
                    if self._stopping.is_set():
                        break
                    self.write(connection, f"{self.name} {index}", index)
                    assert not connection.closed
        except BaseException:
            self.problem = traceback.format_exc()

    def write(self, connection: Connection, key: str, index: int) -> None:
        insert, marked = "insert into ledger values (%s)", ""
        if index % 3 == 2:
            marked = " on conflict do nothing /* pgambassador: idempotent */"
        committing = index % 3 == 0
        try:
            if index % 3 == 1:
                committing = False
                connection.execute("begin")
                connection.execute(insert, (key,))
                connection.execute("select count(*) from ledger")
                committing = True
                assert connection.execute("commit").statusmessage == "COMMIT"
            else:
                connection.execute(insert + marked, (key,), prepare=index % 2 == 0)
            self.told[key] = "done"
        except psycopg.Error as error:
            certain = error.sqlstate == "08006" or (error.sqlstate == "57P01" and not committing)
            known = {"08006", "08007", "57P01", "57P03", "08001"}
            assert error.sqlstate in known, error
            self.told[key] = "not done" if certain and index % 3 == 1 else "not known"
            if not _rests(connection):
                with contextlib.suppress(psycopg.OperationalError):
                    connection.execute("rollback")  # psycopg sends a DEALLOCATE ALL behind it, which may fail
                assert _rests(connection)


def test_no_write_is_done_twice_and_no_commit_is_lost(
    shaky: Ambassador, link: Link, observer: Connection, ledger: Callable[[], list[str]]
) -> None:
    """Connections are cut and terminated at random; each client keeps its session throughout."""
    observer.execute("create unique index on ledger (key)")
    chance = random.Random(6)
    stop = threading.Event()
    writers = [Writer(shaky, name, stop) for name in ("one", "two", "three")]
    for writer in writers:
        writer.start()

    def least() -> int:
        assert not any(w.problem for w in writers), "".join(w.problem for w in writers)
        return min(len(writer.told) for writer in writers)

    try:
        for _ in range(FAULTS):
            enough = least() + 1
            wait_until(lambda enough=enough: least() >= enough, "writes")  # type: ignore[misc]
            if chance.random() < 0.5:
                link.cut()
            else:
                observer.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = 'app'"
                    " and usename = 'app' order by random() limit 1"
                )
    finally:
        stop.set()
    for writer in writers:
        writer.join()
        assert not writer.problem, writer.problem
    written = Counter(ledger())
    assert not [key for key, count in written.items() if count > 1]
    told = {key: said for writer in writers for key, said in writer.told.items()}
    assert [key for key, said in told.items() if said == "done" and not written[key]] == []
    assert [key for key, said in told.items() if said == "not done" and written[key]] == []
    assert set(written) <= set(told)
    assert Counter(told.values())["done"] > FAULTS


def _rests(connection: psycopg.Connection) -> bool:
    return connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
