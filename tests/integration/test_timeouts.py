"""What takes too long: who is told so, what becomes of the session, and that nobody else notices.

Nothing here measures times: what takes too long does not end by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, several, wait_until
from tests.harness.activity import sessions, wait_blocked, wait_over, wait_running
from tests.messages import SYNC, bind, copy_data, execute, extended, parse

FOREVER = "pg_sleep(600)"
MODES = ("transaction", "session")


def url(primary: Postgres) -> str:
    return primary.url("app", USERS["app"].password, "app")


def timeouts(proxy: Ambassador, name: str) -> float:
    return proxy.metrics().total("pgambassador_timeouts_total", timeout=name)


@pytest.fixture(scope="module", params=MODES)
def proxy(
    request: pytest.FixtureRequest, primary: Postgres, ambassadors: Callable[..., Ambassador]
) -> Ambassador:
    """Each user has one of the timeouts, by its name."""
    return ambassadors(
        url(primary),
        pool={"mode": request.param, "size": 4 if request.param == "transaction" else 20},
        timeouts={"statement": "400ms"},
        users={
            "patient": {"timeouts": {"statement": "off"}},
            "transaction": {"timeouts": {"statement": "off", "transaction": "1s"}},
            "idler": {"timeouts": {"idle_in_transaction": "500ms"}},
            "guest": {"timeouts": {"idle_client": "500ms"}},
            "hasty": {"pool": {"wait_timeout": "300ms"}},
        },
    )


@pytest.fixture(scope="module")
def pooled(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(
        url(primary),
        timeouts={"statement": "400ms"},
        users={
            "patient": {"timeouts": {"statement": "off"}},
            "guest": {"timeouts": {"statement": "off", "idle_client": "500ms"}},
        },
    )


QUESTIONS = {
    "simple": (build.query(f"select {FOREVER}"), 1),
    "several": (build.query(f"select 1; select {FOREVER}; select 2"), 1),
    "extended": (extended(f"select {FOREVER}".encode()) + SYNC, 1),
    "prepared": (
        parse(b"sleeps", f"select {FOREVER}".encode()) + SYNC + bind(b"sleeps") + execute() + SYNC,
        2,
    ),
    "copy": (build.query(f"copy (select i, {FOREVER} from generate_series(1, 9) i) to stdout"), 1),
    "do": (build.query(f"do $$ begin perform {FOREVER}; end $$"), 1),
}


@pytest.mark.parametrize("within", [False, True], ids=["outside", "within a transaction"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_statement_that_takes_too_long_is_cancelled_and_its_session_kept(
    question: str, within: bool, proxy: Ambassador, observer: Connection
) -> None:
    messages, times = QUESTIONS[question]
    with Wire.session(proxy.port) as client:
        before = timeouts(proxy, "statement")
        if within:
            client.ask("begin")
        client.send(messages)
        answer = client.until("Z", times)
        fields = answer.error.fields
        assert (fields["S"], fields["C"]) == ("ERROR", "57014")
        assert fields["M"] == "canceling statement due to pgambassador's statement timeout of 0.4 s"
        assert answer[-1].payload == (b"E" if within else b"I")
        if within:
            assert client.ask("select 1").error.sqlstate == "25P02"
            assert client.ask("rollback").kinds == "CZ"
        assert client.ask("select 'goes on'").value == "goes on"
        assert timeouts(proxy, "statement") == before + 1
    wait_over(observer, FOREVER)


def test_what_stands_behind_it_in_a_pipeline_is_done(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(extended(b"select 'before'"), extended(f"select {FOREVER}".encode()))
        client.send(extended(b"select 'skipped'"), SYNC, extended(b"select 'behind'"), SYNC)
        client.send(build.query(f"select {FOREVER}"), build.query("select 'last'"))
        first, second, third, fourth = (client.until("Z") for _ in range(4))
        assert (first.rows, first.error.sqlstate) == ([["before"]], "57014")
        assert "pgambassador" in first.error.fields["M"]
        assert second.value == "behind"
        assert "pgambassador" in third.error.fields["M"]
        assert fourth.value == "last"


def test_waiting_for_a_lock_counts(proxy: Ambassador, observer: Connection) -> None:
    """Also where the server waits before anything is executed, in a Parse that only we have sent."""
    observer.execute("select 1")
    with Wire.session(proxy.port, user="patient") as owner, Wire.session(proxy.port) as client:
        owner.ask("create table if not exists locked (x int)")
        client.send(parse(b"reads", b"select * from locked"), SYNC)
        client.until("Z")
        owner.ask("begin; lock table locked in access exclusive mode")
        for messages in (build.query("select * from locked"), bind(b"reads") + execute() + SYNC):
            client.send(messages)
            answer = client.until("Z")
            assert "statement timeout of 0.4 s" in answer.error.fields["M"]
            assert answer[-1].payload == b"I"
        owner.ask("rollback")
        client.send(bind(b"reads"), execute(), SYNC)
        assert "E" not in client.until("Z").kinds
        owner.ask("drop table locked")


def test_a_copy_that_its_client_feeds_counts(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("create temp table fed (x text)")
        client.send(build.query("copy fed from stdin"))
        client.until("G")
        feeding = threading.Event()

        def feed() -> None:
            while not feeding.wait(0.02):
                client.send(copy_data(b"more\n"))

        thread = threading.Thread(target=feed)
        thread.start()
        try:
            error = client.until("E").error
        finally:
            feeding.set()
            thread.join()
        assert "statement timeout of 0.4 s" in error.fields["M"]
        client.until("Z")
        assert client.ask("select 'goes on'").value == "goes on"


def test_the_servers_own_timeout_speaks_for_itself(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("set statement_timeout = 100")
        fields = client.ask(f"select {FOREVER}").error.fields
        assert (fields["C"], fields["M"]) == ("57014", "canceling statement due to statement timeout")
        client.ask("set lock_timeout = 100")
        assert client.ask("select 1").value == "1"


def test_a_session_that_is_tied_to_its_connection_keeps_it(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("create temp table kept (x int)")
        pid = client.ask("select pg_backend_pid()").value
        assert client.ask(f"select {FOREVER}").error.sqlstate == "57014"
        assert client.ask("select count(*) from kept").value == "0"
        assert client.ask("select pg_backend_pid()").value == pid


def test_a_transaction_that_takes_too_long(proxy: Ambassador, observer: Connection) -> None:
    """At rest and at work; each statement of it is short enough."""
    for last in ("select 1", f"select {FOREVER}"):
        with Wire.session(proxy.port, user="transaction") as client:
            client.ask("create temp table if not exists mine (x int) on commit drop")
            client.ask("begin; select 'too long'")
            client.send(build.query(last))
            rest = client.rest()
            fields = rest[-1].fields
            assert (fields["S"], fields["C"]) == ("FATAL", "25P04")
            assert fields["M"] == "terminating connection due to transaction timeout"
            assert "timeouts.transaction, 1 s" in fields["H"]
    wait_over(observer, FOREVER)
    wait_until(lambda: "idle in transaction" not in sessions(observer).values(), "the rollbacks")


def test_a_commit_that_takes_too_long(proxy: Ambassador, observer: Connection) -> None:
    """It may be done all the same, and so may a write by itself: 08007."""
    with Wire.session(proxy.port) as maker:
        maker.ask("drop table if exists slow; create table slow (n int)")
        maker.ask(
            f"create or replace function sleeps() returns trigger language plpgsql as"
            f" $$ begin perform {FOREVER}; return null; end $$"
        )
        maker.ask(
            "create constraint trigger sleeps after insert on slow deferrable initially deferred"
            " for each row execute function sleeps()"
        )
    for asked in (("begin", "insert into slow values (1)", "commit"), ("insert into slow values (2)",)):
        with Wire.session(proxy.port, user="transaction") as client:
            for text in asked[:-1]:
                assert "E" not in client.ask(text).kinds
            client.send(build.query(asked[-1]))
            fields = client.rest()[-1].fields
            assert (fields["S"], fields["C"]) == ("FATAL", "08007")
            assert fields["D"] == "What was under way may or may not have been done."
            assert "timeouts.transaction, 1 s" in fields["H"]
        wait_over(observer, asked[-1])
    with Wire.session(proxy.port) as maker:
        assert maker.ask("drop table slow").kinds == "CZ"


def test_transactions_one_after_the_other_are_not_one_long_one(proxy: Ambassador) -> None:
    with Wire.session(proxy.port, user="transaction") as client, Wire.session(proxy.port) as clock:
        client.ask("listen something")  # it stays on its connection
        before = timeouts(proxy, "statement")
        for _ in range(3):  # of 0.4 s at least
            client.ask("begin")
            clock.ask(f"select {FOREVER}")
            assert client.ask("commit").kinds == "CZ"
        assert timeouts(proxy, "statement") == before + 3
        assert client.ask("select 1").value == "1"


def test_idle_in_a_transaction(proxy: Ambassador, observer: Connection) -> None:
    """Its server connection is rolled back and serves others."""
    with Wire.session(proxy.port, user="idler") as client:
        client.ask("create table if not exists idled (x int)")
        client.ask("begin")
        client.ask("insert into idled values (1)")
        pid = int(client.ask("select pg_backend_pid()").value or 0)
        (fatal,) = client.rest()
        assert (fatal.fields["S"], fatal.sqlstate) == ("FATAL", "25P03")
        assert fatal.fields["M"] == "terminating connection due to idle-in-transaction timeout"
    wait_until(lambda: sessions(observer).get(pid) == "idle", "the rollback")
    with Wire.session(proxy.port) as other:
        assert other.ask("select count(*) from idled").value == "0"
        other.ask("drop table idled")


def test_who_works_in_a_transaction_is_not_idle(proxy: Ambassador) -> None:
    with Wire.session(proxy.port, user="idler") as client, Wire.session(proxy.port) as clock:
        client.ask("begin")
        for _ in range(4):
            client.send(build.query("select pg_sleep(0.3)"))
            assert client.until("Z")[-1].payload == b"T"
        assert client.ask("commit").kinds == "CZ"
        clock.ask(f"select {FOREVER}")
        clock.ask(f"select {FOREVER}")
        assert client.ask("select 1").value == "1", "outside of a transaction it may rest"


def test_an_idle_client(proxy: Ambassador) -> None:
    """Not one that is in a transaction or works."""
    with Wire.session(proxy.port, user="guest") as silent, Wire.session(proxy.port, user="guest") as client:
        client.ask("begin")
        (fatal,) = silent.rest()
        assert (fatal.fields["S"], fatal.sqlstate) == ("FATAL", "57P05")
        assert fatal.fields["M"] == "terminating connection due to idle-session timeout"
        assert client.ask("select 1").value == "1"
        for _ in range(4):
            assert client.ask("select pg_sleep(0.3)").rows == [[""]]
        client.ask("commit")
        assert client.rest()[-1].sqlstate == "57P05"
    assert timeouts(proxy, "idle_client") >= 2


# Whose it is.


@pytest.fixture(scope="module")
def tenants(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """One server connection for each of the databases, of which one has timeouts of its own."""
    return ambassadors(
        {"clusters": {"main": {"url": url(primary)}}},
        pool={"size": 1, "wait_timeout": "20s"},
        timeouts={"statement": "300ms"},
        databases={
            "app": {},
            "slow": {"database": "app", "timeouts": {"statement": "900ms"}, "pool": {"wait_timeout": "10s"}},
        },
        users={
            "quick": {"timeouts": {"statement": "200ms"}, "pool": {"wait_timeout": "500ms"}},
            "*": {"max_clients": 50},
        },
    )


@pytest.mark.parametrize(
    ("database", "user", "hint", "seconds"),
    [
        ("app", "app", "", "0.3"),
        ("slow", "app", "", "0.9"),
        ("slow", "quick", "", "0.2"),
        ("slow", "quick", "/* pgambassador: timeout=600ms */", "0.6"),
        ("app", "app", "/* pgambassador: timeout=off, primary */", ""),
    ],
)
def test_the_most_specific_counts(
    database: str, user: str, hint: str, seconds: str, tenants: Ambassador
) -> None:
    with Wire.session(tenants.port, user=user, database=database) as client:
        if not seconds:
            assert client.ask(f"select {hint} pg_sleep(1.2)").rows == [[""]]
            return
        for messages in (
            build.query(f"select {FOREVER} {hint}"),
            extended(f"{hint} select {FOREVER}".encode()) + SYNC,
        ):
            client.send(messages)
            assert client.until("Z").error.fields["M"].endswith(f"statement timeout of {seconds} s")


OWN = {"transaction": "25P04", "idle_in_transaction": "25P03", "idle_client": "57P05"}


@pytest.mark.parametrize("at_start", [False, True], ids=["set", "start packet"])
@pytest.mark.parametrize("timeout", OWN)
def test_what_a_session_has_set_for_itself(timeout: str, at_start: bool, pooled: Ambassador) -> None:
    name = f"pgambassador.{timeout}_timeout"
    options = {"options": f"-c {name}=600ms"} if at_start else {}
    with Wire.session(pooled.port, user="patient", **options) as client:
        if not at_start:
            client.ask(f"set {name} = '600ms'")
        if timeout != "idle_client":
            client.ask("begin")
            assert client.ask("select 1").value == "1"
        fields = client.rest()[-1].fields
        assert (fields["S"], fields["C"]) == ("FATAL", OWN[timeout])
        assert f"the session's {name}, 0.6 s" in fields["H"]


def test_a_session_may_be_slower_than_its_user(pooled: Ambassador) -> None:
    """Until it leaves that to the configuration again; what is no duration says nothing."""
    with (
        Wire.session(pooled.port, user="guest", options="-c pgambassador.idle_client_timeout=off") as slow,
        Wire.session(pooled.port, user="guest") as guest,
    ):
        slow.ask("set pgambassador.statement_timeout = '0'")
        assert guest.rest()[-1].sqlstate == "57P05"
        assert slow.ask("select pg_sleep(0.9)").rows == [[""]]
        slow.ask("set pgambassador.statement_timeout = '300ms'")
        assert slow.ask(f"select {FOREVER}").error.fields["M"].endswith("timeout of 0.3 s")
        slow.ask("set pgambassador.statement_timeout = 'soon'")
        slow.ask("reset pgambassador.idle_client_timeout")
        assert slow.ask("select pg_sleep(0.3)").rows == [[""]], "as it began, without one"
        slow.ask("set pgambassador.idle_client_timeout = '600ms'")
        assert slow.rest()[-1].sqlstate == "57P05"


def test_in_session_mode_only_the_start_packet_says_it(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Nobody asks a server there what has been set."""
    proxy = ambassador(url(primary), pool={"mode": "session"})
    with Wire.session(proxy.port, options="-c pgambassador.statement_timeout=400ms") as client:
        assert client.ask(f"select {FOREVER}").error.fields["M"].endswith("timeout of 0.4 s")


@pytest.mark.parametrize(
    ("user", "hint", "seconds", "option"),
    [
        ("quick", "", "0.5", "users.quick.pool.wait_timeout"),
        ("app", "/* pgambassador: wait_timeout=400ms */", "0.4", "the statement's hint wait_timeout"),
        ("quick", "/* pgambassador: wait_timeout=300ms */", "0.3", "the statement's hint wait_timeout"),
        ("set", "", "0.35", "pgambassador.wait_timeout"),
        ("set", "/* pgambassador: wait_timeout=300ms */", "0.3", "the statement's hint wait_timeout"),
    ],
)
def test_how_long_a_client_waits_for_a_connection(
    user: str, hint: str, seconds: str, option: str, tenants: Ambassador
) -> None:
    """Behind one who waits for longer, whose turn comes all the same."""
    with (
        Wire.session(tenants.port) as holder,
        Wire.session(tenants.port) as patient,
        Wire.session(
            tenants.port,
            user="quick" if user == "set" else user,
            options="-c pgambassador.wait_timeout=350ms" if user == "set" else "",
        ) as client,
    ):
        holder.ask("begin")
        patient.send(build.query("select 'in time'"))
        client.send(build.query(f"{hint} select 'too late'"))
        fields = client.until("Z").error.fields
        assert (fields["S"], fields["C"]) == ("ERROR", "53300")
        assert f"within {seconds} s" in fields["M"]
        assert option in fields["H"]
        assert patient.quiet
        holder.ask("commit")
        assert patient.until("Z").value == "in time"
        assert client.ask("select 1").value == "1"


def test_a_reload_changes_it_for_those_who_are_connected(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(url(primary), users={"app": {}})
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        proxy.reload(timeouts={"statement": "10min"}, users={"app": {"timeouts": {"statement": "300ms"}}})
        proxy.wait_for_log(lambda line: "reload" in str(line).lower(), "the reload")
        assert "timeout of 0.3 s" in client.ask(f"select {FOREVER}").error.fields["M"]
        proxy.reload(timeouts={"idle_client": "300ms"})
        assert client.rest()[-1].sqlstate == "57P05"


def test_the_console_shows_them(tenants: Ambassador) -> None:
    with Wire.session(tenants.port, database="pgambassador") as console:
        found = {row[0]: row[1:] for row in console.ask("show config").rows}
    assert found["timeouts.statement"] == ["300ms", "off", "yes"]
    assert found["timeouts.transaction"] == ["off", "off", "yes"]
    assert found["databases.slow.timeouts.statement"] == ["900ms", None, "yes"]
    assert found["users.quick.pool.wait_timeout"] == ["500ms", None, "yes"]
    assert found["pool.wait_timeout"] == ["20s", "120s", "no"]
    assert USERS["app"].password not in str(found)


# Replicas.


@pytest.fixture(scope="module")
def split(primary: Postgres, replica: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    proxy = ambassadors(
        {
            "clusters": {
                "main": {"url": several(primary, replica), "routing": {"probe": {"interval": "200ms"}}}
            }
        },
        timeouts={"statement": "500ms", "idle_in_transaction": "500ms"},
        users={"brief": {"timeouts": {"transaction": "500ms", "idle_in_transaction": "off"}}},
    )
    with Wire.session(proxy.port) as client:
        where = "/* pgambassador: replica */ select inet_server_port()"
        wait_until(
            lambda: client.ask(where).value == str(replica.port), "reads reach the replica", deadline=20
        )
    return proxy


def test_a_read_on_a_replica_is_cancelled_there_and_not_repeated(
    split: Ambassador, replica: Postgres
) -> None:
    with Wire.session(split.port) as client, psycopg.connect(replica.url(), autocommit=True) as observer:
        for messages in (
            build.query(f"/* pgambassador: replica */ select {FOREVER}"),
            extended(f"/* pgambassador: replica */ select {FOREVER}".encode()) + SYNC,
        ):
            client.send(messages)
            wait_running(observer, FOREVER)
            assert "statement timeout of 0.5 s" in client.until("Z").error.fields["M"]
            wait_over(observer, FOREVER)
        assert client.ask("select 1").value == "1"


@pytest.mark.parametrize(("user", "sqlstate"), [("app", "25P03"), ("brief", "25P04")])
def test_a_transaction_that_no_server_has_heard_of(
    user: str, sqlstate: str, split: Ambassador, observer: Connection
) -> None:
    """A BEGIN that does not say what it does is answered at once, and sent with what comes next."""
    with Wire.session(split.port, user=user) as client:
        client.ask("begin")
        assert "idle in transaction" not in sessions(observer).values()
        (fatal,) = client.rest()
        assert (fatal.fields["S"], fatal.sqlstate) == ("FATAL", sqlstate)
    with Wire.session(split.port, user=user) as client:
        client.ask("begin")
        client.ask("select 1")
        assert client.rest()[-1].sqlstate == sqlstate


# Servers that do not react, and others that must not notice.


@pytest.mark.slow
def test_a_server_that_does_not_react_loses_the_connection(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(url(primary), pool={"size": 1}, timeouts={"statement": "500ms"})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.socket.settimeout(30)
        pid = int(client.ask("select pg_backend_pid()").value or 0)
        client.send(build.query("select pg_sleep(0.2), 'stopped'"))
        os.kill(pid, signal.SIGSTOP)
        try:
            errors = [message for message in client.until("Z") if message.kind == "E"]
            assert "within 10 s" in errors[-1].fields["D"]
            assert other.ask("select 1").value == "1"
        finally:
            os.kill(pid, signal.SIGCONT)
    assert timeouts(proxy, "unanswered") == 1


@pytest.mark.slow
def test_a_client_that_does_not_read_its_answer(
    primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    """Its server hears of nothing while it cannot write."""
    proxy = ambassador(url(primary), pool={"size": 1}, timeouts={"statement": "500ms"})
    with Wire(proxy.port, buffer=4096) as client, Wire.session(proxy.port) as other:
        client.login(user="app", database="app")
        client.send(build.query("select repeat('x', 1000), 'unread' from generate_series(1, 1000000)"))
        wait_blocked(observer, "'unread'")
        other.socket.settimeout(30)
        assert other.ask("select 1").value == "1"
    assert timeouts(proxy, "unanswered") == 0


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_nobody_else_is_cancelled(
    mode: str, primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    """Statements that end at about the moment at which they are given up, others on the same connections."""
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    proxy = ambassador(
        url(primary),
        pool={"mode": mode, "size": 3 if mode == "transaction" else 9},
        timeouts={"statement": "300ms"},
        users={"bystander": {"timeouts": {"statement": "off"}}},
    )
    wrong: list[str] = []
    cancelled: list[int] = []
    over = threading.Event()

    def race(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        with Wire.session(proxy.port) as client:
            client.socket.settimeout(60)
            for turn in range(12):
                within = chance.random() < 0.5
                if within:
                    client.ask("begin")
                long = turn % 4 == 0
                sleep = FOREVER if long else f"pg_sleep({chance.uniform(0.25, 0.6):.3f})"
                answer = client.ask(f"select {sleep}, '{number} {turn}'")
                failed = "E" in answer.kinds
                if failed and "statement timeout of 0.3 s" not in answer.error.fields["M"]:
                    wrong.append(f"{number} {turn}: {answer.error.fields}")
                cancelled.extend([turn] * failed)
                if long and not failed:
                    wrong.append(f"{number} {turn}: not cancelled")
                behind = client.ask("rollback" if within and failed else "select 'behind'")
                if "E" in behind.kinds:
                    wrong.append(f"behind {number} {turn}: {behind.error.fields}")
                if within and not failed:
                    client.ask("rollback")

    def look_on(number: int) -> None:
        with Wire.session(proxy.port, user="bystander") as client:
            client.socket.settimeout(60)
            while not over.is_set():
                answer = client.ask("select 'bystander', pg_sleep(0.01)")
                if answer.kinds != "TDCZ":
                    wrong.append(f"bystander {number}: {answer}")

    racers = [threading.Thread(target=race, args=(number,)) for number in range(5)]
    others = [threading.Thread(target=look_on, args=(number,)) for number in range(3)]
    for thread in (*racers, *others):
        thread.start()
    for thread in racers:
        thread.join()
    over.set()
    for thread in others:
        thread.join()
    assert not wrong, "\n".join((f"seed {seed}", *wrong[:20]))
    assert len(cancelled) >= 5 * 3
    wait_until(lambda: set(sessions(observer).values()) <= {"idle"}, "the end of all statements")


class Crowd:
    """Clients that ask all at once and share connections, for what they ask is known to be brief."""

    def __init__(self, proxy: Ambassador, protocol: str) -> None:
        self.protocol = protocol
        self.clients = [Wire.session(proxy.port) for _ in range(8)]

        def batches() -> float:
            return proxy.metrics().total("pgambassador_batches_total")

        def shared() -> bool:
            before = batches()
            for _ in range(10):
                self.ask(lambda number: "select * from clear" if number else "select * from met")
                self.heard()
            return batches() > before

        wait_until(shared, "clients that share a connection", deadline=20)

    def ask(self, text: Callable[[int], str]) -> None:
        for number, client in enumerate(self.clients):
            asked = text(number)
            simple = self.protocol == "simple"
            client.send(build.query(asked) if simple else extended(asked.encode()) + SYNC)

    def heard(self) -> list[Any]:
        return [client.until("Z") for client in self.clients]

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


@pytest.fixture
def tables(primary: Postgres) -> Iterator[None]:
    primary.sql("create table met (); create table clear ()", database="app")
    primary.sql("grant select on met, clear to app", database="app")
    yield
    primary.sql("drop table met, clear", database="app")


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_those_who_share_its_connection_are_answered(
    protocol: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Reads that were brief until now share a write; one of them meets a lock."""
    proxy = ambassador(url(primary), pool={"size": 1}, timeouts={"statement": "500ms"})
    crowd = Crowd(proxy, protocol)
    with contextlib.closing(crowd):
        with psycopg.connect(primary.url(database="app")) as locker:
            locker.execute("lock table met in access exclusive mode")
            for _ in range(3):
                crowd.ask(lambda number: f"select * from {'met' if number == 3 else 'clear'}")
                answers = crowd.heard()
                assert "statement timeout of 0.5 s" in answers[3].error.fields["M"]
                assert not [answer for answer in answers[:3] + answers[4:] if "E" in answer.kinds]
        crowd.ask(lambda number: "select * from met")
        assert not [each for each in crowd.heard() if "E" in each.kinds]


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_they_are_without_a_limit_too(
    protocol: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Who met the lock waits for it, alone. What those who went elsewhere have left behind is cancelled."""
    blocked = "select count(*) from pg_locks where relation = 'met'::regclass and not granted;"
    proxy = ambassador(url(primary), pool={"size": 3})
    crowd = Crowd(proxy, protocol)
    with contextlib.closing(crowd):
        with psycopg.connect(primary.url(database="app")) as locker:
            locker.execute("lock table met in access exclusive mode")
            crowd.ask(lambda number: f"select * from {'met' if number == 5 else 'clear'}")
            late = crowd.clients.pop(5)
            assert not [each for each in crowd.heard() if "E" in each.kinds]
            wait_until(lambda: primary.sql(blocked, database="app") == "1", "the other is cancelled")
            assert not select.select([late.socket], [], [], 0)[0]
        assert "E" not in late.until("Z").kinds
        late.socket.close()


# Opening connections.


@pytest.mark.parametrize(
    ("database", "user", "seconds"),
    [("quick", "app", "0.3"), ("app", "hasty", "0.2"), ("quick", "hasty", "0.2")],
)
def test_how_long_opening_a_connection_may_take(
    database: str, user: str, seconds: str, ambassador: Callable[..., Ambassador]
) -> None:
    """To a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = ambassador(
            f"postgresql://127.0.0.1:{silent.getsockname()[1]}/app?sslmode=disable&connect_timeout=600",
            pool={"connect_timeout": "5min"},
            databases={"app": {}, "quick": {"database": "app", "pool": {"connect_timeout": "300ms"}}},
            users={"hasty": {"connect_timeout": "200ms"}},
            failover={"hold": "off"},
        )
        with pytest.raises(psycopg.OperationalError, match=f"within {seconds} s"):
            psycopg.connect(proxy.dsn(database=database, user=user))
