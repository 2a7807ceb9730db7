"""psycopg 3, what tests/integration/test_drivers.py does not do with it."""

from __future__ import annotations

import ipaddress
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor, Connection, IsolationLevel, RawCursor, errors
from psycopg.pq import TransactionStatus
from psycopg.types.range import Range

from tests.drivers.places import MANY, Place, when_running


@pytest.fixture
def connection(place: Place):
    with psycopg.connect(place.dsn(), autocommit=True) as opened:
        yield opened


def value(connection: Connection, query: str, *parameters: object) -> Any:
    row = connection.execute(query, parameters).fetchone()
    assert row is not None
    return row[0]


def test_a_wrong_password_and_an_unknown_database_are_refused(place: Place, places: dict[str, Place]) -> None:
    with pytest.raises(
        psycopg.OperationalError, match=f'password authentication failed for user "{place.user}"'
    ):
        psycopg.connect(place.dsn(password="wrong"))
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        psycopg.connect(places["three"].dsn(database="nowhere"))


def test_statements_are_prepared_by_themselves_on_every_server_connection(
    place: Place, connection: Connection
) -> None:
    """From the sixth execution on."""
    pids = set()
    for turn in place.turns(20):
        row = connection.execute("select pg_backend_pid(), %s::int, %s", (turn, f"n{turn}")).fetchone()
        assert row is not None and row[1:] == (turn, f"n{turn}")
        pids.add(row[0])
    assert len(pids) == place.connections
    if place.database != "app" and place.connections > 1:
        names = "select name from pg_prepared_statements where statement like 'select pg_backend_pid(), $1%%'"
        assert value(connection, f"select count(*) from ({names}) n") > 0


def test_a_transaction_stays_on_one_server_connection(place: Place, connection: Connection) -> None:
    for _ in place.turns(6):
        with connection.transaction():
            first = value(connection, "select pg_backend_pid()")
            with pytest.raises(errors.DivisionByZero), connection.transaction("point"):
                connection.execute("select 1 / 0")
            assert value(connection, "select pg_backend_pid()") == first
            states = [connection.info.transaction_status]
        states.append(connection.info.transaction_status)
        assert states == [TransactionStatus.INTRANS, TransactionStatus.IDLE]


def test_characteristics_of_a_session_go_with_it(place: Place) -> None:
    with psycopg.connect(place.dsn()) as connection:
        for level in (IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE):
            connection.isolation_level = level
            for _ in place.turns(3):
                expected = level.name.lower().replace("_", " ")
                assert value(connection, "show transaction_isolation") == expected
                connection.rollback()
        connection.deferrable = connection.read_only = True
        assert value(connection, "show transaction_deferrable") == "on"
        connection.rollback()


def test_a_batch_with_an_error_in_it_leaves_nothing(connection: Connection, table: str) -> None:
    rows = [(n % 90, "x") for n in range(100)]
    for _ in range(3):
        with connection.cursor() as cursor, pytest.raises(errors.UniqueViolation):
            cursor.executemany(f"insert into {table} values (%s, %s)", rows)
        assert value(connection, f"select count(*) from {table}") == 0
    with connection.cursor() as cursor:
        cursor.executemany(f"insert into {table} values (%s, %s)", rows[:90])
        assert cursor.rowcount == 90


def test_errors_say_all_that_the_server_says(connection: Connection, table: str) -> None:
    connection.execute(f"insert into {table} values (1, 'one')")
    for _ in range(7):
        with pytest.raises(errors.UniqueViolation) as unique:
            connection.execute(f"insert into {table} values (%s, 'again')", (1,))
        diagnostic = unique.value.diag
        assert (diagnostic.table_name, diagnostic.constraint_name) == (table, f"{table}_pkey")
        assert diagnostic.message_detail == "Key (id)=(1) already exists."
        with pytest.raises(errors.SyntaxError) as syntax:
            connection.execute("select 1 frm x where %s", (True,))
        assert (syntax.value.sqlstate, syntax.value.diag.statement_position) == ("42601", "14")
    assert value(connection, f"select name from {table}") == "one"


def test_a_cancelled_statement_ends_its_savepoint_only(
    place: Place, observer: Connection, table: str
) -> None:
    with psycopg.connect(place.dsn()) as connection:
        for number, cancel in enumerate((connection.cancel, connection.cancel_safe)):
            connection.execute(f"insert into {table} values ({number})")
            text = f"savepoint of {table} {number}"
            with (
                when_running(observer, text, cancel),
                pytest.raises(errors.QueryCanceled) as caught,
                connection.transaction(),
            ):
                connection.execute(f"select pg_sleep(30), '{text}'")
            assert caught.value.sqlstate == "57014"
            connection.commit()
        assert value(connection, f"select count(*) from {table}") == 2


def test_values_of_the_less_common_types(connection: Connection) -> None:
    values: list[Any] = [
        [["ä", None], ["\U0001f418", ""]],
        [b"\x00\x01", b""],
        Range(1, 5),
        Range(Decimal("0.5"), None, "()"),
        ipaddress.ip_network("10.0.0.0/8"),
        time(23, 59, 59, 999999),
        timedelta(days=-3, microseconds=1),
        [date(1, 1, 1), date(9999, 12, 31)],
        Decimal("NaN"),
        "\u20ac" * 5000,
    ]
    kinds = [
        "text[]",
        "bytea[]",
        "int4range",
        "numrange",
        "cidr",
        "time",
        "interval",
        "date[]",
        "numeric",
        "text",
    ]
    for binary in (False, True):
        for given, kind in zip(values, kinds, strict=True):
            for _ in range(6):
                row = connection.execute(f"select %s::{kind}", (given,), binary=binary).fetchone()
                assert repr(row) == repr((given,))


def test_notifications_come_from_anywhere(place: Place, connection: Connection) -> None:
    connection.execute("listen greetings")
    connection.execute("select pg_notify('greetings', 'mine')")
    place.notify("greetings", "theirs")
    heard = [(n.channel, n.payload) for n in connection.notifies(timeout=10, stop_after=2)]
    assert heard == [("greetings", "mine"), ("greetings", "theirs")]
    connection.execute("unlisten greetings")
    place.notify("greetings", "nobody hears it")
    assert value(connection, "select 1") == 1
    assert list(connection.notifies(timeout=0)) == []


def test_cursors_that_scroll_and_that_outlive_their_transaction(place: Place) -> None:
    with psycopg.connect(place.dsn()) as connection:
        with connection.cursor("scrolling", scrollable=True) as cursor:
            cursor.execute("select generate_series(1, 100)")
            cursor.scroll(50)
            assert cursor.fetchone() == (51,)
            cursor.scroll(-10)
            assert cursor.fetchmany(2) == [(42,), (43,)]
        with connection.cursor("holding", withhold=True) as cursor:
            cursor.execute("select generate_series(1, 100)")
            connection.commit()
            assert cursor.fetchmany(2) == [(1,), (2,)]
            connection.commit()
            assert len(cursor.fetchall()) == 98
        connection.commit()
        with pytest.raises(errors.InvalidCursorName):
            connection.execute("fetch 1 from holding")
        connection.rollback()


@pytest.mark.parametrize("binary", [False, True])
def test_a_big_result(connection: Connection, binary: bool) -> None:
    query = "select n, 'row ' || n from generate_series(1, %s::int) n"
    rows = connection.execute(query, (MANY,), binary=binary).fetchall()
    assert len(rows) == MANY and rows[-1] == (MANY, f"row {MANY}")
    with connection.cursor(binary=binary) as cursor:
        assert sum(1 for _ in cursor.stream(query, (MANY,))) == MANY


def test_a_stream_that_is_left_early(connection: Connection) -> None:
    with connection.cursor() as cursor:
        for row in cursor.stream("select n from generate_series(1, %s::int) n", (MANY,)):
            if row == (10,):
                break
    assert value(connection, "select 'fine'") == "fine"


def test_parameters_bound_by_the_client_and_raw_ones(place: Place, connection: Connection) -> None:
    with ClientCursor(connection) as client:
        client.execute("select %s; select %s", ("it's \\", b"\\x00"))
        assert client.fetchone() == ("it's \\",)
        assert client.nextset() and client.fetchone() == (b"\\x00",)
    with RawCursor(connection) as raw:
        for turn in place.turns(12):
            assert raw.execute("select $1::int * $2::int", (turn, 3)).fetchone() == (turn * 3,)


def test_several_statements_in_one_text_with_an_error_among_them(connection: Connection, table: str) -> None:
    """One transaction: what came before the error is undone."""
    with pytest.raises(errors.DivisionByZero):
        connection.execute(f"insert into {table} values (1); select 1 / 0; insert into {table} values (2)")
    assert value(connection, f"select count(*) from {table}") == 0
    cursor = connection.execute(f"insert into {table} values (1); select id from {table}")
    assert cursor.nextset() and cursor.fetchone() == (1,)


def test_a_batch_that_has_ended_holds_no_server_connection(places: dict[str, Place]) -> None:
    """libpq sends a Flush behind the Sync that ends executemany(); it comes while the server is at work."""
    dsn = places["hasty"].dsn()
    with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as two:
        with one.cursor() as cursor:
            cursor.executemany("select pg_sleep(%s)", [(0.2,), (0,)])
        assert value(two, "select 2") == 2
