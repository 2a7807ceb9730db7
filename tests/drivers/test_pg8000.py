"""pg8000: the protocol in plain Python; a statement has a name only when that is asked for."""

from __future__ import annotations

import io
import ipaddress
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pg8000.dbapi
import pg8000.native
import pytest
from pg8000.exceptions import DatabaseError
from psycopg import Connection

from tests.drivers.places import MANY, Place, when_running


@pytest.fixture
def connection(place: Place) -> Iterator[Any]:
    opened = pg8000.dbapi.connect(**place.arguments())
    yield opened
    opened.close()


@pytest.fixture
def native(place: Place) -> Iterator[Any]:
    with pg8000.native.Connection(**place.arguments()) as opened:
        yield opened


def failure(work: Callable[[], object]) -> dict[str, str]:
    """The fields of the server's error."""
    with pytest.raises((DatabaseError, pg8000.dbapi.Error)) as caught:
        work()
    fields: dict[str, str] = caught.value.args[0]
    return fields


def test_a_wrong_password_and_an_unknown_database_are_refused(place: Place, places: dict[str, Place]) -> None:
    wrong = failure(lambda: pg8000.dbapi.connect(**place.arguments(password="wrong")))
    assert (wrong["S"], wrong["C"]) == ("FATAL", "28P01")
    unknown = failure(lambda: pg8000.native.Connection(**places["three"].arguments(database="nowhere")))
    assert (unknown["S"], unknown["C"]) == ("FATAL", "3D000")


def test_transactions_and_savepoints(place: Place, table: str, connection: Any) -> None:
    cursor = connection.cursor()
    for turn in place.turns(6):
        cursor.execute(f"insert into {table} values (%s, 'kept')", (turn,))
        cursor.execute("savepoint s")
        again = failure(lambda: cursor.execute(f"insert into {table} values (0, 'twice')"))
        assert (again["C"], again["n"]) == ("23505", f"{table}_pkey")
        assert failure(lambda: cursor.execute("select 1"))["C"] == "25P02"
        cursor.execute("rollback to s")
        connection.commit()
        cursor.execute(f"delete from {table}")
        connection.rollback()
        cursor.execute(f"select count(*) from {table}")
        assert cursor.fetchone() == [turn + 1]
        connection.rollback()


def test_named_statements_go_over_every_server_connection(place: Place, native: Any) -> None:
    statements = [
        native.prepare(f"select pg_backend_pid(), cast(:n as int) * {number}") for number in range(5)
    ]
    pids = set()
    for turn in place.turns(9):
        for number, statement in enumerate(statements):
            ((pid, product),) = statement.run(n=turn)
            assert product == number * turn
            pids.add(pid)
    assert len(pids) == place.connections
    for statement in statements[:2]:
        statement.close()
    assert statements[2].run(n=7)[0][1] == 14
    assert failure(lambda: native.prepare("select nonsense"))["C"] == "42703"
    assert native.run("select 1") == [[1]]


def test_statements_without_a_name_go_over_every_server_connection(place: Place, native: Any) -> None:
    pids = set()
    for turn in place.turns(9):
        ((pid, number),) = native.run("select pg_backend_pid(), cast(:n as int)", n=turn)
        assert number == turn
        pids.add(pid)
    assert len(pids) == place.connections


def test_an_error_in_the_middle_of_a_batch(table: str, connection: Any) -> None:
    insert = f"insert into {table} values (%s, %s)"
    cursor = connection.cursor()
    cursor.executemany(insert, [(n, "x") for n in range(100)])
    assert cursor.rowcount == 100
    connection.commit()
    batch = [(200, "new"), (5, "known"), (201, "new")]
    assert failure(lambda: cursor.executemany(insert, batch))["C"] == "23505"
    connection.rollback()
    connection.autocommit = True
    assert failure(lambda: cursor.executemany(insert, batch))["C"] == "23505"
    cursor.execute(f"select count(*), max(id) from {table}")
    assert cursor.fetchall() == ([101, 200],)


def test_copies_in_and_out(table: str, connection: Any) -> None:
    cursor = connection.cursor()
    lines = [f"{n},näme {n}\n" for n in range(5000)]
    cursor.execute(f"copy {table} from stdin with (format csv)", stream=io.StringIO("".join(lines)))
    assert cursor.rowcount == 5000
    out = io.StringIO()
    cursor.execute(f"copy (select * from {table} order by id) to stdout with (format csv)", stream=out)
    assert out.getvalue() == "".join(lines)
    connection.commit()
    wrong = io.StringIO("x\ty\n" * 20_000)
    assert failure(lambda: cursor.execute(f"copy {table} from stdin", stream=wrong))["C"] == "22P02"
    connection.rollback()
    cursor.execute(f"copy {table} (id) from stdin", stream=iter([b"7000\n", b"7001\n"]))
    cursor.execute(f"select count(*) from {table}")
    assert cursor.fetchone() == [5002]
    connection.rollback()


def test_a_query_that_the_server_cancels(place: Place, native: Any, observer: Connection) -> None:
    """pg8000 cannot cancel."""
    text = f"pg8000 at {place.port} {place.database}"

    def cancel() -> None:
        observer.execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where query like %s and state = 'active'"
            " and pid <> pg_backend_pid()",
            (f"%{text}%",),
        )

    for _ in range(2):
        with when_running(observer, text, cancel):
            assert failure(lambda: native.run(f"select pg_sleep(30), '{text}'"))["C"] == "57014"
        assert native.run("select 'fine'") == [["fine"]]


def test_errors_leave_the_session_alive(native: Any) -> None:
    for query, code in (("selec 1", "42601"), ("select 1/0", "22012"), ("select * from no_such", "42P01")):
        for parameters in ({}, {"unused": 1}):
            error = failure(lambda query=query, p=parameters: native.run(query, **p))  # type: ignore[misc]
            assert (error["S"], error["C"]) == ("ERROR", code)
    native.run("do $$ begin raise notice 'careful'; end $$")
    assert native.notices[-1][b"M"] == b"careful"
    assert native.run("select 1; select 2") == [[1], [2]]


def test_values_of_many_types(native: Any) -> None:
    values: dict[str, Any] = {
        "bigint": -(2**62),
        "numeric": Decimal("-1234567890.0987654321"),
        "float8": 1.5e300,
        "text": "quotes ' \" and \\ and \U0001f418",
        "bytea": bytes(range(256)) * 10,
        "timestamptz": datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
        "timestamp": datetime(2020, 2, 29, 1, 2, 3),  # noqa: DTZ001
        "date": date(2020, 2, 29),
        "time": time(1, 2, 3),
        "int[]": [1, None, 3],
        "text[]": ["ä", None, 'a "b", {c}', ""],
        "jsonb": {"list": [1, None, {"ä": "'"}]},
        "uuid": uuid.UUID(int=5),
        "inet": ipaddress.ip_address("10.1.2.3"),
        "bool": True,
    }
    for kind, given in values.items():
        for value in (given, None):
            assert native.run(f"select cast(:v as {kind})", v=value) == [[value]]
            assert native.prepare(f"select cast(:v as {kind})").run(v=value) == [[value]]


def test_notifications_are_heard(place: Place, native: Any) -> None:
    native.run("listen bells")
    native.run("notify bells, 'mine'")
    place.notify("bells", "theirs")
    native.run("select 1")
    assert [(channel, payload) for _, channel, payload in native.notifications] == [
        ("bells", "mine"),
        ("bells", "theirs"),
    ]


def test_declared_cursors(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("declare c scroll cursor for select generate_series(1, 100)")
    cursor.execute("move absolute 40 in c")
    cursor.execute("fetch 2 from c")
    assert cursor.fetchall() == ([41], [42])
    cursor.execute("close c")
    connection.commit()


def test_a_big_result(native: Any) -> None:
    rows = native.run("select n, 'row ' || n from generate_series(1, cast(:n as int)) n", n=MANY)
    assert len(rows) == MANY and rows[-1] == [MANY, f"row {MANY}"]


def test_what_a_client_sets_goes_with_it(place: Place) -> None:
    with pg8000.native.Connection(
        **place.arguments(application_name="eight", startup_params={"search_path": "of_the_start"})
    ) as connection:
        connection.run("set timezone = 'Asia/Tokyo'")
        for _ in place.turns(6):
            assert connection.run("show timezone") == [["Asia/Tokyo"]]
            assert connection.run("show search_path") == [["of_the_start"]]
            assert connection.run("show application_name") == [["eight"]]
        assert connection.parameter_statuses["TimeZone"] == "Asia/Tokyo"


def test_two_phases_are_what_the_server_allows(connection: Any) -> None:
    """max_prepared_transactions is 0."""
    connection.tpc_begin(connection.xid(1, "global", "branch"))
    connection.cursor().execute("select 1")
    assert failure(connection.tpc_prepare)["C"] == "55000"
    connection.rollback()
    cursor = connection.cursor()
    cursor.execute("select 2")
    assert cursor.fetchone() == [2]
