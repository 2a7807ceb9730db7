"""psycopg2: everything by the simple protocol, large objects by function calls."""

from __future__ import annotations

import io
import json
import select
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import psycopg2
import pytest
from psycopg import Connection
from psycopg2 import errors, extensions
from psycopg2.extras import (
    Json,
    NumericRange,
    execute_batch,
    execute_values,
    register_composite,
    register_uuid,
    wait_select,
)

from tests.drivers.places import MANY, Place, when_running


@pytest.fixture
def connection(place: Place) -> Iterator[Any]:
    opened = psycopg2.connect(place.dsn())
    yield opened
    opened.close()


def value(connection: Any, query: str, parameters: object = None) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]


def test_a_wrong_password_and_an_unknown_database_are_refused(place: Place, places: dict[str, Place]) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(place.dsn(password="wrong"))
    with pytest.raises(psycopg2.OperationalError, match='database "nowhere" does not exist'):
        psycopg2.connect(places["three"].dsn(database="nowhere"))


def test_transactions_and_savepoints(place: Place, table: str, connection: Any) -> None:
    for turn in place.turns(6):
        with connection, connection.cursor() as cursor:
            cursor.execute(f"insert into {table} values (%s, 'kept')", (turn,))
            cursor.execute("savepoint s")
            with pytest.raises(errors.UniqueViolation) as caught:
                cursor.execute(f"insert into {table} values (%s, 'twice')", (turn,))
            assert caught.value.pgcode == "23505"
            assert caught.value.diag.constraint_name == f"{table}_pkey"
            with pytest.raises(errors.InFailedSqlTransaction):
                cursor.execute("select 1")
            cursor.execute("rollback to s")
        with pytest.raises(ZeroDivisionError), connection, connection.cursor() as cursor:
            cursor.execute(f"delete from {table}")
            raise ZeroDivisionError
        assert value(connection, f"select count(*) from {table}") == turn + 1
        connection.rollback()
        assert connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE


def test_characteristics_of_a_session(place: Place, connection: Any) -> None:
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    for _ in place.turns(4):
        assert value(connection, "show transaction_isolation") == "serializable"
        with pytest.raises(errors.ReadOnlySqlTransaction):
            value(connection, "create table never (a int)")
        connection.rollback()
    connection.set_session(isolation_level="SERIALIZABLE", readonly=False, deferrable=False, autocommit=True)
    connection.set_client_encoding("LATIN1")
    for _ in place.turns(4):
        assert value(connection, "select 'ü' || current_setting('client_encoding')") == "üLATIN1"
        assert value(connection, "show default_transaction_isolation") == "serializable"
    connection.reset()
    assert connection.encoding == "UTF8"
    assert value(connection, "show default_transaction_isolation") == "read committed"


def test_sql_prepared_statements_stay_with_their_client(place: Place, connection: Any) -> None:
    """psycopg2 has no others."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("prepare double (int) as select $1 * 2")
        for turn in place.turns(8):
            assert value(connection, "execute double (%s)", (turn,)) == turn * 2
        cursor.execute("deallocate double")
        with pytest.raises(errors.InvalidSqlStatementName):
            cursor.execute("execute double (1)")


def test_batches_with_an_error_in_the_middle(table: str, connection: Any) -> None:
    insert = f"insert into {table} values (%s, %s)"
    with connection.cursor() as cursor:
        cursor.executemany(insert, [(n, "many") for n in range(50)])
        execute_batch(cursor, insert, [(n, "batch") for n in range(50, 100)], page_size=7)
        ids = execute_values(
            cursor,
            f"insert into {table} values %s returning id",
            [(n, "values") for n in range(100, 200)],
            page_size=30,
            fetch=True,
        )
        assert len(ids) == 100
        connection.commit()
        for batch in (execute_batch, lambda c, q, rows: c.executemany(q, rows)):
            with pytest.raises(errors.UniqueViolation):
                batch(cursor, insert, [(300, "new"), (1, "known"), (301, "new")])
            connection.rollback()
    connection.autocommit = True
    with connection.cursor() as cursor, pytest.raises(errors.UniqueViolation):
        cursor.executemany(insert, [(400, "stays"), (1, "known"), (401, "is not reached")])
    assert value(connection, f"select count(*) || ' ' || max(id) from {table}") == "201 400"


def test_copies_in_and_out(table: str, connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.copy_from(io.StringIO("".join(f"{n}\tnäme {n}\n" for n in range(5000))), table)
        out = io.StringIO()
        cursor.copy_to(out, table)
        assert len(out.getvalue().splitlines()) == 5000
        cursor.copy_expert(f"copy {table} to stdout (format csv, header)", out := io.StringIO())
        assert out.getvalue().startswith("id,name\n0,näme 0\n")
        connection.commit()
        with pytest.raises(errors.InvalidTextRepresentation):
            cursor.copy_expert(f"copy {table} from stdin", io.StringIO("x\ty\n" * 10_000))
        connection.rollback()

        class Failing(io.StringIO):
            def read(self, size: int | None = -1, /) -> str:
                raise OSError("the disk is gone")

        with pytest.raises(errors.QueryCanceled, match="the disk is gone"):
            cursor.copy_expert(f"copy {table} from stdin", Failing())
        connection.rollback()
        assert value(connection, f"select count(*) from {table}") == 5000


def test_a_running_query_is_cancelled(place: Place, connection: Any, observer: Connection) -> None:
    for turn in range(3):
        text = f"psycopg2 {turn} at {place.port} {place.database}"
        with when_running(observer, text, connection.cancel), pytest.raises(errors.QueryCanceled) as caught:
            value(connection, f"select pg_sleep(30), '{text}'")
        assert caught.value.pgcode == "57014"
        connection.rollback()
        assert value(connection, "select 'fine'") == "fine"


def test_errors_leave_the_session_alive(connection: Any) -> None:
    for query, code in (("selec 1", "42601"), ("select 1/0", "22012"), ("select * from no_such", "42P01")):
        with pytest.raises(psycopg2.Error) as caught:
            value(connection, query)
        assert caught.value.pgcode == code
        connection.rollback()
    assert value(connection, "select 1") == 1
    connection.commit()
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("do $$ begin raise warning 'careful'; end $$")
    assert connection.notices == ["WARNING:  careful\n"]


def test_values_of_many_types(connection: Any) -> None:
    register_uuid()
    values: dict[str, Any] = {
        "bigint": -(2**62),
        "numeric": Decimal("-1234567890.0987654321"),
        "float8": 1.5e300,
        "text": "quotes ' \" and \\ and \U0001f418",
        "timestamptz": datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
        "date": date(1, 1, 1),
        "time": time(1, 2, 3),
        "interval": timedelta(days=3, seconds=4),
        "text[]": ["ä", None, 'a "b", {c}'],
        "int[]": [[1, 2], [3, 4]],
        "int4range": NumericRange(1, 10),
        "uuid": uuid.UUID(int=5),
        "bool": True,
    }
    for kind, given in values.items():
        for each in (given, None):
            assert value(connection, f"select %s::{kind}", (each,)) == each
    everything = bytes(range(256)) * 10
    assert bytes(value(connection, "select %s::bytea", (psycopg2.Binary(everything),))) == everything
    document = {"list": [1, None, {"ä": "'"}]}
    assert value(connection, "select %s::jsonb", (Json(document),)) == document
    assert json.loads(value(connection, "select %s::json::text", (Json(document),))) == document


def test_composite_types_are_looked_up(table: str, connection: Any) -> None:
    register_composite(table, connection)
    row = value(connection, f"select (7, 'seven')::{table}")
    assert (row.id, row.name) == (7, "seven")


def test_notifications_are_polled(place: Place, connection: Any) -> None:
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("listen bells")
        cursor.execute("notify bells, 'mine'")
    place.notify("bells", "theirs")
    while len(connection.notifies) < 2:
        assert select.select([connection], [], [], 10)[0]
        connection.poll()
    assert [each.payload for each in connection.notifies] == ["mine", "theirs"]


def test_server_side_cursors(connection: Any) -> None:
    with connection.cursor("named", scrollable=True) as cursor:
        cursor.itersize = 500
        cursor.execute("select generate_series(1, 3000)")
        assert sum(n for (n,) in cursor) == 3000 * 3001 // 2
        cursor.scroll(10, mode="absolute")
        assert cursor.fetchone() == (11,)
    connection.commit()
    with connection.cursor("holding", withhold=True) as cursor:
        cursor.execute("select generate_series(1, 100)")
        connection.commit()
        assert len(cursor.fetchmany(40)) == 40
        connection.rollback()
        assert len(cursor.fetchall()) == 60
    connection.commit()


def test_a_big_result(connection: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute("select n, 'row ' || n from generate_series(1, %s) n", (MANY,))
        rows = cursor.fetchall()
    assert len(rows) == MANY and rows[-1] == (MANY, f"row {MANY}")


def test_large_objects(place: Place, connection: Any) -> None:
    data = bytes(range(256)) * 1000
    with connection:
        large = connection.lobject(0, "wb")
        assert large.write(data) == len(data)
        number = large.oid
    for _ in place.turns(3):
        with connection:
            large = connection.lobject(number, "rb")
            assert large.seek(1000) == 1000
            assert large.read(10) == data[1000:1010]
            assert large.seek(0, 2) == len(data)
    with connection:
        connection.lobject(number, "wb").unlink()
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        connection.lobject(number, "rb")


def test_a_connection_that_is_polled(place: Place) -> None:
    """psycopg2's own asynchronous mode."""
    connection = psycopg2.connect(place.dsn(), async_=1)
    wait_select(connection)
    cursor = connection.cursor()
    for turn in place.turns(5):
        cursor.execute("select %s, n from generate_series(1, 1000) n", (turn,))
        wait_select(connection)
        assert cursor.fetchall()[-1] == (turn, 1000)
        cursor.execute("select 1/0")
        with pytest.raises(errors.DivisionByZero):
            wait_select(connection)
    connection.close()


def test_two_phases_are_what_the_server_allows(connection: Any) -> None:
    """max_prepared_transactions is 0."""
    connection.tpc_begin(connection.xid(1, "global", "branch"))
    assert value(connection, "select 1") == 1
    with pytest.raises(psycopg2.OperationalError) as caught:
        connection.tpc_prepare()
    assert caught.value.pgcode == "55000"
    connection.tpc_rollback()
    assert value(connection, "select 2") == 2
