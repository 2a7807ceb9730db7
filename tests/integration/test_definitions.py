"""Definitions that change while others wait, are asked again, or have answers kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.routing.catalog import Catalog, Effect
from pgambassador.routing.decision import decide
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, wait_until
from tests.harness.activity import wait_running
from tests.messages import SYNC, bind, execute, parse

SCHEMA = """
drop schema if exists attacked cascade; create schema attacked; grant all on schema attacked to public;
set search_path = attacked;
create table ledger (key text); create table source (n int); create table shadow (n int);
insert into source values (1); insert into shadow values (1);
create function f() returns int stable language sql as 'select 1';
grant all on all tables in schema attacked to public; grant all on schema attacked to app;
alter function f() owner to app; alter table source owner to app; alter table shadow owner to app;
"""
WRITES = """create or replace function attacked.f() returns int volatile language plpgsql as
 $$ begin insert into attacked.ledger values ('called'); return 2; end $$"""

SETS = """; create function attacked.g() returns text language sql as
 $$ select set_config('app.mark', 'x', false) $$"""


@pytest.fixture
def observer(primary: Postgres) -> Iterator[Connection]:
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        connection.execute(SCHEMA)
        yield connection
        connection.execute("drop schema attacked cascade")


def ledger(observer: Connection) -> int:
    (count,) = observer.execute("select count(*) from attacked.ledger").fetchone() or (0,)
    return int(count)


def route(proxy: Ambassador, sql: str) -> str:
    with Wire.session(proxy.port, database="pgambassador") as admin:
        return str(admin.ask(f"show route for app app '{sql}'").rows)


def knows(proxy: Ambassador, client: Wire, sql: str) -> None:
    def judged() -> bool:
        for _ in range(20):
            client.ask("select 1")
        return "only reads" in route(proxy, sql)

    wait_until(judged, "it is known what functions do")


def changed(proxy: Ambassador, client: Wire) -> None:
    """Until it has been noticed that functions have changed, and it is known what the new ones do."""

    def noticed() -> bool:
        client.ask("select 1")
        new = "may change its session" in route(proxy, "select attacked.g()")
        return new and "may change its session" not in route(proxy, "select 1")

    wait_until(noticed, "it is known what the new functions do to their session")


def extended(sql: bytes, *values: bytes) -> bytes:
    return parse(b"", sql) + bind(b"", *values) + execute() + SYNC


def test_a_function_that_is_replaced_while_others_wait_to_call_it(
    primary: Postgres, observer: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    """What was acknowledged lasts, whatever a neighbour's statement does."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    calls, fails = b"select attacked.f()", b"select 1 / $1::int"
    with (
        Wire.session(proxy.port) as holder,
        Wire.session(proxy.port) as one,
        Wire.session(proxy.port) as two,
        Wire.session(proxy.port) as third,
    ):
        knows(proxy, one, calls.decode())
        for _ in range(50):  # they are brief
            holder.ask("begin")
            one.send(extended(calls))
            two.send(extended(fails, b"1"))
            holder.ask("commit")
            assert one.until("Z").value == "1"
            assert two.until("Z").value == "1"
        holder.ask("begin")
        assert holder.ask(WRITES).kinds == "CZ"
        one.send(extended(calls))
        two.send(extended(calls))
        third.send(extended(fails, b"0"))

        def waiting() -> bool:
            return proxy.metrics().total("pgambassador_pool_waiting_clients") == 3

        wait_until(waiting)
        holder.ask("commit")
        assert third.until("Z").error.sqlstate == "22012"
        acknowledged = [client.until("Z").kinds.endswith("CZ") for client in (one, two)].count(True)
        assert acknowledged == ledger(observer) == 2


def test_a_function_that_is_replaced_past_us_is_not_called_twice(
    primary: Postgres, link: Link, observer: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    """That functions have changed is noticed within a second or so."""
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    proxy = ambassador(url, pool={"size": 4})
    with Wire.session(proxy.port) as client:
        knows(proxy, client, "select attacked.f()")
        observer.execute(WRITES.replace("insert", "perform pg_sleep(0.7); insert") + SETS)

        changed(proxy, client)
        client.send(build.query("select attacked.f()"))
        wait_running(observer, "select attacked.f()")
        link.stall()
        wait_until(lambda: ledger(observer) == 1, "it has been called")
        link.cut()
        link.resume()
        assert client.until("Z").error.sqlstate == "08007"  # 08006 would say that nothing has been done
        assert ledger(observer) == 1


@pytest.mark.parametrize("between", ["between", "not between", "between symmetric"])
def test_what_between_compares_with(between: str) -> None:
    operators = {sign: frozenset({"writes"}) for sign in ("<", ">", "<=", ">=")}
    catalog = Catalog({"writes": Effect.VOLATILE}, frozenset({"t"}), operators=operators)
    assert decide(f"select a {between} b and c from t", catalog).kind == "write"


@pytest.mark.parametrize(
    "sql",
    [
        "select a in (select b from t) from t",
        "select case a when b then 1 end from t",
        "select 1 from t join t as u using (a)",
        "select 1 from t natural join t as u",
    ],
)
def test_what_compares_without_a_sign(sql: str) -> None:
    catalog = Catalog({"writes": Effect.VOLATILE}, frozenset({"t"}), operators={"=": frozenset({"writes"})})
    assert decide(sql, catalog).kind == "write"
    assert decide(sql, Catalog({}, frozenset({"t"}))).kind == "read"
