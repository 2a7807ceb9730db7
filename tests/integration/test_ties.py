"""What lives in a session keeps it on its server connection while it is there, and reaches nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.harness.cancelling import Cancellable
from tests.messages import SYNC, bind, execute, extended, parse

ACTIVE = "pgambassador_server_connections"

TABLE = "select to_regclass('pg_temp.t') is not null"
HELD = "select count(*) > 0 from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"

# How it comes to be, what shows that it is there (true or not), how it ends, and what it is called.
TIES = [
    (["create temp table t (a int)"], TABLE, ["drop table t"], "temporary object"),
    (["select 1 as a into temporary t"], TABLE, ["discard temp"], "temporary object"),
    (["create temp view t as select 1"], TABLE, ["drop view t"], "temporary object"),
    (["create temp table t as select 1 a", "create temp table u (a int)", "drop table u"],
     "select count(*) = 1 from pg_temp.t", ["discard all"], "temporary object"),
    (["set search_path = pg_temp", "select 1 as a into t"], TABLE,
     ["reset search_path", "drop table pg_temp.t"], "search_path = pg_temp"),
    (["select pg_advisory_lock(7)"], HELD, ["select pg_advisory_unlock(7)"], "advisory lock"),
    (["select pg_advisory_lock(7), pg_advisory_lock(7)", "select pg_advisory_unlock(7)"], HELD,
     ["select pg_advisory_unlock_all()"], "advisory lock"),
    (["begin", "select pg_try_advisory_lock_shared(7)", "rollback"], HELD, ["discard all"], "advisory lock"),
    (["begin", "declare c cursor with hold for values (1), (2)", "commit"],
     "select count(*) = 1 from pg_cursors where name = 'c'", ["close c"], "cursor WITH HOLD"),
    (["listen news"], "select count(*) = 1 from pg_listening_channels()", ["unlisten news"], "LISTEN"),
    (["begin", "listen news", "commit", "listen more", "unlisten news"],
     "select count(*) = 1 from pg_listening_channels()", ["unlisten *"], "LISTEN"),
    (["prepare p as select 1"], "select count(*) = 1 from pg_prepared_statements where name = 'p'",
     ["deallocate p"], "PREPARE"),
]  # fmt: skip


@pytest.fixture(scope="module")
def proxy(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"size": 2})


def active(proxy: Ambassador) -> float:
    return proxy.metrics().total(ACTIVE, state="active")


def pins(proxy: Ambassador, reason: str) -> float:
    metrics = proxy.metrics()
    name = "pgambassador_session_pins_total"
    return metrics.total(name, reason=reason) if any(found == name for found, _ in metrics) else 0


def is_there(client: Wire, sql: str, how: str = "simple") -> bool:
    """An unknown table is not there either."""
    client.send(build.query(sql) if how == "simple" else extended(sql.encode()) + SYNC)
    answer = client.until("Z")
    return answer.rows == [["t"]]


def say(client: Wire, sql: str, how: str) -> str | None:
    client.send(build.query(sql) if how == "simple" else extended(sql.encode()) + SYNC)
    answer = client.until("Z")
    assert "E" not in answer.kinds, answer.error.fields
    return answer.rows[0][0] if answer.rows else None


@pytest.mark.parametrize("how", ["simple", "extended"])
@pytest.mark.parametrize(("begin", "there", "end", "name"), TIES, ids=lambda value: str(value)[:40])
def test_it_lasts_as_long_as_its_cause(
    proxy: Ambassador, begin: list[str], there: str, end: list[str], name: str, how: str
) -> None:
    before = pins(proxy, name)
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        for sql in begin:
            say(client, sql, how)
        for _ in range(3):
            assert not is_there(other, there, how)
            assert is_there(client, there, how)
        wait_until(lambda: active(proxy) == 1, "one connection to be kept")
        assert pins(proxy, name) == before + 1
        for sql in end:
            say(client, sql, how)
        wait_until(lambda: active(proxy) == 0, "no connection to be kept")
        assert say(client, "select 1", how) == "1"


@pytest.mark.parametrize("reset", [None, False, True], ids=["goodbye", "closed", "reset"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
def test_who_leaves_leaves_nothing_behind(
    primary: Postgres,
    ambassador: Callable[..., Ambassador],
    observer: Connection,
    reset: bool | None,
    waits: bool,
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    for begin, there, _, _ in TIES:
        client = Wire.session(proxy.port)
        for sql in begin:
            client.ask(sql)
        if waits:
            assert is_there(client, there)
        if reset is None:
            client.leave()
        else:
            client.vanish(reset=reset)
        with Wire.session(proxy.port) as other:
            assert not is_there(other, there)
    left = "select count(*) from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"
    assert observer.execute(left).fetchone() == (0,)


@pytest.mark.parametrize(
    "statements",
    [
        ["begin", "create temp table t (a int) on commit drop", "commit"],
        ["begin", "create temp table t (a int)", "rollback"],
        ["select pg_advisory_xact_lock(1)"],
        ["select 'pg_advisory_lock(1)', 'create temp table'"],
        ["begin", "declare c cursor for select 1", "commit"],
        ["begin", "listen news", "rollback"],
        ["notify news"],
    ],
    ids=lambda statements: "; ".join(statements)[:40],
)
def test_what_ends_with_its_transaction_ties_nobody(proxy: Ambassador, statements: list[str]) -> None:
    with Wire.session(proxy.port) as client:
        for sql in statements:
            client.ask(sql)
        wait_until(lambda: active(proxy) == 0, "no connection to be kept")


def test_a_cursor_is_read_from_wherever_it_was(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        for sql in ("begin", "declare c cursor with hold for select * from generate_series(1, 5)", "commit"):
            client.ask(sql)
        for n in range(1, 6):
            assert client.ask("fetch c").value == str(n)
            other.ask("select 1")
        client.ask("close all")
        wait_until(lambda: active(proxy) == 0, "no connection to be kept")


def test_notifications_reach_who_listens_and_nobody_else(proxy: Ambassador) -> None:
    with (
        Wire.session(proxy.port) as listener,
        Wire.session(proxy.port) as other,
        Wire.session(proxy.port) as notifier,
    ):
        listener.ask("listen news")
        for n in range(3):
            notifier.ask("begin")
            notifier.ask(f"notify news, '{n}'")
            assert listener.quiet
            notifier.ask("commit")
            payload = listener.receive().payload
            assert payload[4:] == f"news\0{n}\0".encode()
        assert other.ask("select 1").kinds == "TDCZ" and other.quiet
        listener.ask("unlisten news")
        notifier.ask("notify news, 'late'")
        assert listener.ask("select 1").kinds == "TDCZ"


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_client_knows_its_own_notifications(
    mode: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """By the process ID of its login, as drivers do that skip them."""
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, pool={"mode": mode, "size": 2})
    with Cancellable.session(proxy.port) as client, Cancellable.session(proxy.port) as other:
        client.ask("listen own")
        answer = client.ask("notify own, 'mine'")
        (payload,) = (message.payload for message in answer if message.kind == "A")
        assert payload == client.pid.to_bytes(4, "big") + b"own\0mine\0"
        pid = other.ask("select pg_backend_pid()").value
        other.ask("notify own, 'theirs'")
        assert client.receive().payload == int(pid or 0).to_bytes(4, "big") + b"own\0theirs\0"


def test_prepared_by_sql_and_executed_later(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.ask("prepare p (int) as select $1 + 1")
        other.ask("prepare p (int) as select $1 + 100")
        for n in range(3):
            assert client.ask(f"execute p ({n})").value == str(n + 1)
            assert other.ask(f"execute p ({n})").value == str(n + 100)
        client.ask("deallocate p")
        assert client.ask("execute p (1)").error.sqlstate == "26000"
        # The protocol's name for it is the same name.
        other.send(parse(b"", b"execute p (5)"), bind(b""), execute(), SYNC)
        assert other.until("Z").value == "105"


def test_the_reason_is_logged_once_for_each_client(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    with Wire.session(proxy.port) as client:
        for _ in range(3):
            client.ask("select pg_advisory_lock(1)")
            client.ask("select pg_advisory_unlock(1)")
        wait_until(lambda: active(proxy) == 0)
    said = [line for line in proxy.log_lines() if "keeps its server connection" in line.get("message", "")]
    assert [line["message"].partition(": ")[2] for line in said] == ["advisory lock"]
    assert pins(proxy, "advisory lock") == 3
