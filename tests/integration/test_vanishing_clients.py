"""Clients that leave without a word, in the middle of anything: the next one never notices."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from struct import pack

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests import messages
from tests.harness import USERS, Ambassador, Wire, wait_until

CLIENT_ROWS = "select 'row of another client ' || repeat('x', 1000) from generate_series(1, 20000)"


@pytest.fixture(scope="module", params=["transaction", "session"])
def proxy(
    request: pytest.FixtureRequest, primary: Postgres, ambassadors: Callable[..., Ambassador]
) -> Ambassador:
    """One server connection."""
    url = primary.url("app", USERS["app"].password, "app")
    return ambassadors(url, pool={"mode": request.param, "size": 1, "wait_timeout": "20s"})


@pytest.fixture(params=[False, True], ids=["closed", "reset"])
def reset(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", autouse=True)
def left(primary: Postgres) -> None:
    primary.sql("create table left_behind (text text); grant all on left_behind to app", database="app")


def next_client_is_well(proxy: Ambassador) -> None:
    """It finds nothing of the one before: no transaction, no rows, no settings, no locks."""
    with Wire.session(proxy.port) as wire:
        assert wire.ask("select 'mine'").value == "mine"
        answer = wire.ask(
            "select pg_current_xact_id_if_assigned(), (select count(*) from left_behind),"
            " current_setting('work_mem'), to_regclass('pg_temp.of_the_former')"
        )
        assert answer.rows == [[None, "0", "4MB", None]]
        assert [each.payload for each in answer if each.kind == "Z"] == [b"I"]
        wire.send(messages.extended(b"select 'extended'"), messages.SYNC)
        answer = wire.until("Z")
        assert answer.kinds == "12TDCZ"
        assert answer.value == "extended"
        assert wire.quiet
        wire.leave()


@pytest.mark.parametrize(
    "statements",
    [
        ["begin", "insert into left_behind values ('open')"],
        ["begin", "insert into left_behind values ('failed')", "select 1/0"],
        ["begin", "lock left_behind in access exclusive mode"],
        ["begin", "set work_mem = '5MB'", "create temporary table of_the_former()"],
        ["begin", "savepoint s", "insert into left_behind values ('savepoint')"],
        ["begin", "declare c cursor for select * from left_behind", "fetch c"],
        ["begin isolation level serializable read only", "select 1"],
    ],
    ids=lambda statements: statements[-1][:30],
)
def test_an_open_transaction_is_rolled_back(proxy: Ambassador, statements: list[str], reset: bool) -> None:
    wire = Wire.session(proxy.port)
    for statement in statements:
        wire.ask(statement)
    wire.vanish(reset=reset)
    next_client_is_well(proxy)


def test_a_goodbye_in_a_transaction_rolls_it_back_and_keeps_the_server(proxy: Ambassador) -> None:
    wire = Wire.session(proxy.port)
    pid = wire.ask("select pg_backend_pid()").value
    wire.ask("begin")
    wire.ask("insert into left_behind values ('goodbye')")
    wire.leave()
    next_client_is_well(proxy)
    with Wire.session(proxy.port) as wire:
        assert wire.ask("select pg_backend_pid()").value == pid


def active(observer: Connection) -> list[object]:
    """What runs for users on the server."""
    rows = observer.execute(
        "select query from pg_stat_activity where usename = 'app' and state <> 'idle'"
    ).fetchall()
    return [query for (query,) in rows]


@pytest.mark.parametrize(
    "data",
    [
        build.query("select pg_sleep(100)"),
        build.query("insert into left_behind select 'slept' from pg_sleep(100)"),
        build.query("begin; insert into left_behind values ('before'); select pg_sleep(100)"),
        messages.extended(b"select pg_sleep(100)") + messages.SYNC,
        messages.extended(b"select pg_sleep(100)") + messages.FLUSH,
        messages.parse(b"s", b"select pg_sleep(100)")
        + messages.bind(b"s")
        + messages.execute()
        + messages.SYNC,
        build.query("select 1") + build.query("select pg_sleep(100)") + build.query("select 2"),
        build.query("do $$ begin loop perform pg_sleep(0.01); end loop; end $$"),
    ],
    ids=["query", "insert", "transaction", "extended", "no sync", "prepared", "pipeline", "loop"],
)
def test_a_running_query_is_cancelled(
    proxy: Ambassador, observer: Connection, data: bytes, reset: bool
) -> None:
    wire = Wire.session(proxy.port)
    wire.send(data)
    wait_until(lambda: any("pg_sleep" in str(query) for query in active(observer)), "the query to run")
    wire.vanish(reset=reset)
    wait_until(lambda: not active(observer), f"the end of {active(observer)}", deadline=10)
    next_client_is_well(proxy)


@pytest.mark.parametrize("reads", [0, 5000])
@pytest.mark.parametrize(
    "data",
    [
        build.query(CLIENT_ROWS),
        messages.extended(CLIENT_ROWS.encode()) + messages.SYNC,
        build.query(f"copy ({CLIENT_ROWS}) to stdout"),
        b"".join(build.query(f"select {n}") for n in range(500)),
    ],
    ids=["query", "extended", "copy", "pipeline"],
)
def test_unread_results_never_reach_another(proxy: Ambassador, data: bytes, reads: int, reset: bool) -> None:
    wire = Wire(proxy.port, buffer=4096)
    wire.login(user="app", database="app")
    wire.send(data)
    wire.take(max(reads, 1))
    wire.vanish(reset=reset)
    next_client_is_well(proxy)


def test_results_that_nobody_has_begun_to_read_never_reach_another(proxy: Ambassador, reset: bool) -> None:
    for _ in range(10):
        wire = Wire.session(proxy.port)
        wire.send(build.query(CLIENT_ROWS))
        wire.vanish(reset=reset)
    next_client_is_well(proxy)


@pytest.mark.parametrize(
    "data",
    [
        b"Q",
        b"Q\0\0",
        build.query("insert into left_behind values ('half')")[:-5],
        build.query("select '" + "x" * 300_000 + "'")[:200_000],
        messages.parse(b"half", b"select 1")[:-3],
        messages.parse(b"half", b"select '" + b"x" * 300_000 + b"'")[:200_000],
        messages.extended(b"insert into left_behind values ('no sync')"),
        messages.extended(b"insert into left_behind values ($1)", b"x" * 300_000)[:200_000],
        build.query("select 1") + b"B\0\0\1\0half",
        b"S\0\0\0",
    ],
)
def test_half_a_message_does_not_harm_the_server_connection(
    proxy: Ambassador, data: bytes, reset: bool
) -> None:
    wire = Wire.session(proxy.port)
    wire.send(data)
    wire.vanish(reset=reset)
    next_client_is_well(proxy)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        messages.copy_data(b"one\n") * 3,
        messages.copy_data(b"one\ntwo"),
        messages.copy_data(b"x" * 300_000)[:200_000],
        b"d" + pack("!I", 1000),
        b"c\0\0",
    ],
)
@pytest.mark.parametrize("extended", [False, True], ids=["simple", "extended"])
def test_half_a_copy_leaves_nothing(proxy: Ambassador, data: bytes, extended: bool, reset: bool) -> None:
    wire = Wire.session(proxy.port)
    if extended:
        wire.send(messages.extended(b"copy left_behind from stdin"), messages.FLUSH)
    else:
        wire.send(build.query("copy left_behind from stdin"))
    wire.until("G")
    wire.send(data)
    wire.vanish(reset=reset)
    next_client_is_well(proxy)


def test_what_was_sent_before_a_goodbye_is_done(proxy: Ambassador) -> None:
    """As with a server: Terminate comes after the queries before it."""
    for data in (
        build.query("insert into left_behind values ('simple')"),
        messages.extended(b"insert into left_behind values ('extended')") + messages.SYNC,
    ):
        wire = Wire.session(proxy.port)
        wire.send(data, build.TERMINATE)
        wire.socket.close()
    with Wire.session(proxy.port) as wire:
        wait_until(lambda: wire.ask("select count(*) from left_behind").value == "2", "both rows")
        wire.ask("delete from left_behind")


def test_a_goodbye_behind_a_query_lets_its_answer_come(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as wire:
        wire.send(build.query(CLIENT_ROWS), build.TERMINATE)
        answer = wire.rest()
        assert len(answer.rows) == 20_000
        assert answer.kinds.endswith("CZ")


def test_who_vanishes_while_waiting_is_forgotten(proxy: Ambassador, reset: bool) -> None:
    """Its statement is never run, and it does not keep its place in the queue."""

    def waiting() -> float:
        return proxy.metrics().total("pgambassador_pool_waiting_clients")

    with Wire.session(proxy.port) as holder:
        holder.ask("begin")
        impatient = [Wire.session(proxy.port) for _ in range(3)]
        for wire in impatient:
            wire.send(build.query("insert into left_behind values ('impatient')"))
        wait_until(lambda: waiting() == 3, "three to wait")
        for wire in impatient:
            wire.vanish(reset=reset)
        wait_until(lambda: waiting() == 0, "nobody to wait")
        assert holder.ask("commit").kinds == "CZ"
        holder.leave()
    next_client_is_well(proxy)


def test_in_session_mode_nothing_of_a_session_remains(
    primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection, reset: bool
) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, pool={"mode": "session", "size": 1})
    wire = Wire.session(proxy.port)
    for statement in (
        "create temporary table of_the_former()",
        "set work_mem = '5MB'",
        "set session characteristics as transaction read only",
        "prepare p as select 1",
        "declare c cursor with hold for select 1",
        "listen something",
        "select pg_advisory_lock(4711)",
    ):
        assert "E" not in wire.ask(statement).kinds
    wire.vanish(reset=reset)
    next_client_is_well(proxy)
    with Wire.session(proxy.port) as wire:
        assert wire.ask("select count(*) from pg_prepared_statements").value == "0"
        assert wire.ask("select count(*) from pg_cursors").value == "0"
        assert wire.ask("select count(*) from pg_listening_channels()").value == "0"
        assert wire.ask("show default_transaction_read_only").value == "off"
    row = observer.execute(
        "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711"
    ).fetchone()
    assert row == (0,)


def test_many_that_vanish_at_random_moments(
    primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, pool={"size": 2, "wait_timeout": "20s"})
    chance = random.Random(20)
    work = (
        build.query("begin; insert into left_behind values ('random')")
        + messages.extended(b"select repeat('x', 100000)")
        + messages.SYNC
        + messages.parse(b"s", b"select $1::text")
        + messages.bind(b"s", b"value")
        + messages.execute()
        + messages.SYNC
        + build.query("select pg_sleep(0.01); select generate_series(1, 3000); rollback")
    )
    with ExitStack() as stack:
        steady = [stack.enter_context(Wire.session(proxy.port)) for _ in range(3)]
        for number in range(150):
            wire = Wire.session(proxy.port)
            wire.send(work[: chance.randrange(len(work) + 1)])
            if chance.random() < 0.5:
                wire.socket.setblocking(False)
                try:
                    wire.socket.recv(chance.randrange(1, 100_000))
                except BlockingIOError:
                    pass
            wire.vanish(reset=chance.random() < 0.5)
            each = steady[number % 3]
            assert each.ask(f"select 'steady {number}'").value == f"steady {number}"
        metrics = proxy.metrics()
    wait_until(lambda: not active(observer), "the end of all work")
    next_client_is_well(proxy)
    assert metrics.total("pgambassador_server_connections") <= 2
