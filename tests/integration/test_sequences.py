"""currval() and lastval() mean what their own session has done, or they are an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, Wire
from tests.messages import SYNC, bind, close_statement, execute, extended, parse

Ask = Callable[[Wire, str], Answer]


@pytest.fixture(autouse=True)
def table(observer: psycopg.Connection[tuple[object, ...]], primary: Postgres) -> Iterator[None]:
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        connection.execute("create table numbered (id serial, who text); grant all on numbered to app;"
                           " grant all on sequence numbered_id_seq to app")  # fmt: skip
        yield
        connection.execute("drop table numbered")


@pytest.fixture
def proxy(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 2})


def simple(wire: Wire, sql: str) -> Answer:
    return wire.ask(sql)


def unnamed(wire: Wire, sql: str) -> Answer:
    wire.send(extended(sql.encode()), SYNC)
    return wire.until("Z")


def named(wire: Wire, sql: str) -> Answer:
    name = sql.encode()[:60]
    wire.send(parse(name, sql.encode()), bind(name), execute(), SYNC)
    answer = wire.until("Z")
    wire.send(close_statement(name), SYNC)
    wire.until("Z")
    return answer


WAYS = pytest.mark.parametrize("ask", [simple, unnamed, named])
INSERT = "insert into numbered (who) values ('{}')"
READS = ["select currval('numbered_id_seq')", "select lastval()"]


@WAYS
@pytest.mark.parametrize("read", READS)
def test_in_a_transaction(proxy: Ambassador, ask: Ask, read: str) -> None:
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
        ask(two, INSERT.format("two"))
        ask(one, "begin")
        ask(one, INSERT.format("one"))
        assert ask(one, read).value == "2"
        ask(one, "commit")


@WAYS
@pytest.mark.parametrize("read", READS)
def test_alone_on_the_connection(proxy: Ambassador, ask: Ask, read: str) -> None:
    with Wire.session(proxy.port) as one:
        ask(one, INSERT.format("one"))
        assert ask(one, read).value == "1"


@WAYS
@pytest.mark.parametrize("read", READS)
def test_anothers_is_never_seen(proxy: Ambassador, ask: Ask, read: str) -> None:
    """The server's own error says so; from then on the session keeps its connection, and it works."""
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
        ask(one, INSERT.format("one"))
        ask(two, INSERT.format("two"))
        assert ask(one, read).error.sqlstate == "55000"
        ask(one, INSERT.format("one"))
        ask(two, INSERT.format("two"))
        assert ask(one, read).value == "3"
        assert ask(two, read).value == "4"
    assert proxy.metrics().total("pgambassador_session_pins_total", reason="sequence") == 2


@WAYS
def test_where_it_is_defined_by_the_statement_itself(proxy: Ambassador, ask: Ask) -> None:
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
        ask(two, INSERT.format("two"))
        answer = ask(one, "select nextval('numbered_id_seq'), currval('numbered_id_seq')")
        assert (answer.rows, answer[-1].payload) == ([["2", "2"]], b"I")
        assert ask(one, "select 1")[-1].payload == b"I"
        assert ask(one, "select lastval()").value == "2"


def test_behind_other_messages_in_one_write(proxy: Ambassador) -> None:
    """The statement ends its own transaction, and what it has inserted stays."""
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
        two.ask(INSERT.format("two"))
        one.send(
            parse(b"x", b"select 1"),
            SYNC,
            build.query("insert into numbered (who) values ('kept') returning lastval()"),
        )
        one.until("Z")
        answer = one.until("Z")
        assert (answer.kinds, answer[-1].payload) == ("TDCZ", b"I")
        one.vanish()
        assert two.ask("select count(*) from numbered where who = 'kept'").value == "1"


def test_where_clients_rely_on_it_who_inserts_keeps_the_connection(proxy: Ambassador) -> None:
    """Once it has failed somewhere, it does not fail again."""
    with Wire.session(proxy.port) as first:
        first.ask("select 1")
    with Wire.session(proxy.port) as first:
        assert first.ask("select lastval()").error.sqlstate == "55000"
    for _ in range(3):
        with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
            one.ask(INSERT.format("one"))
            two.ask(INSERT.format("two"))
            number = one.ask("select lastval()").value
            assert number is not None
            assert one.ask(f"select who from numbered where id = {number}").value == "one"
            assert two.ask("select currval('numbered_id_seq')").value == str(int(number) + 1)
