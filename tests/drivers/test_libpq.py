"""libpq's pipeline mode and what else it offers to C: by psycopg's pq module, and by a program in C."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import Connection, pq
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from tests.drivers.places import MANY, Place
from tests.harness.activity import wait_running

OK, TUPLES, SYNC, ABORTED, FATAL = (
    ExecStatus.COMMAND_OK,
    ExecStatus.TUPLES_OK,
    ExecStatus.PIPELINE_SYNC,
    ExecStatus.PIPELINE_ABORTED,
    ExecStatus.FATAL_ERROR,
)


@pytest.fixture
def connection(place: Place) -> Iterator[PGconn]:
    opened = pq.PGconn.connect(place.dsn().encode())
    assert opened.status == pq.ConnStatus.OK, opened.get_error_message()
    yield opened
    opened.finish()


def sqlstate(result: PGresult) -> bytes | None:
    return result.error_field(pq.DiagnosticField.SQLSTATE)


def results(connection: PGconn, number: int) -> list[PGresult]:
    """So many results of a pipeline; what ends each statement's results is left out."""
    found: list[PGresult] = []
    while len(found) < number:
        result = connection.get_result()
        if result is not None:
            found.append(result)
            if result.status != SYNC:
                assert connection.get_result() is None
    return found


def one(connection: PGconn, sql: bytes, *parameters: bytes) -> bytes | None:
    result = connection.exec_params(sql, parameters)
    assert result.status == TUPLES, result.get_error_message()
    return result.get_value(0, 0)


def test_a_pipeline_of_several_syncs_with_an_error_in_the_middle(connection: PGconn) -> None:
    for turn in range(3):
        connection.enter_pipeline_mode()
        connection.send_query_params(b"select $1::int", [b"%d" % turn])
        connection.pipeline_sync()
        connection.send_query_params(b"select 'first'", [])
        connection.send_query_params(b"select 1 / $1::int", [b"0"])
        connection.send_query_params(b"select 'skipped'", [])
        connection.send_prepare(b"skipped", b"select 'skipped too'")
        connection.pipeline_sync()
        connection.send_query_params(b"select 'behind'", [])
        connection.pipeline_sync()
        found = results(connection, 3 + 5 + 1)
        assert [each.status for each in found] == [
            TUPLES,
            SYNC,
            TUPLES,
            FATAL,
            ABORTED,
            ABORTED,
            SYNC,
            TUPLES,
            SYNC,
        ]
        assert found[0].get_value(0, 0) == b"%d" % turn
        assert sqlstate(found[3]) == b"22012"
        assert found[7].get_value(0, 0) == b"behind"
        assert connection.pipeline_status == PipelineStatus.ON
        connection.exit_pipeline_mode()
        unknown = connection.exec_prepared(b"skipped", [])
        assert sqlstate(unknown) == b"26000"


def test_statements_prepared_in_a_pipeline_go_over_every_server_connection(
    place: Place, connection: PGconn
) -> None:
    pids = set()
    connection.enter_pipeline_mode()
    for number in range(4):
        connection.send_prepare(b"s%d" % number, b"select pg_backend_pid(), $1::int * %d" % number, [23])
        connection.send_describe_prepared(b"s%d" % number)
    connection.pipeline_sync()
    assert [each.status for each in results(connection, 9)] == [OK] * 8 + [SYNC]
    for turn in place.turns(9):
        for number in range(4):
            connection.send_query_prepared(b"s%d" % number, [b"%d" % turn])
        connection.pipeline_sync()
        *rows, _ = results(connection, 5)
        assert [row.get_value(0, 1) for row in rows] == [b"%d" % (turn * number) for number in range(4)]
        pids |= {row.get_value(0, 0) for row in rows}
    assert len(pids) == place.connections


def test_a_flush_request_brings_results_before_the_sync(connection: PGconn) -> None:
    connection.enter_pipeline_mode()
    for turn in range(5):
        connection.send_query_params(b"select $1::int", [b"%d" % turn])
        connection.send_flush_request()
        connection.flush()
        assert results(connection, 1)[0].get_value(0, 0) == b"%d" % turn
    connection.pipeline_sync()
    assert results(connection, 1)[0].status == SYNC
    connection.exit_pipeline_mode()
    assert connection.transaction_status == TransactionStatus.IDLE


def test_a_transaction_in_a_pipeline(connection: PGconn) -> None:
    connection.enter_pipeline_mode()
    for sql in (b"begin", b"savepoint s", b"select 1/0", b"rollback to s", b"select 'kept'", b"commit"):
        connection.send_query_params(sql, [])
        connection.pipeline_sync()
    statuses = [each.status for each in results(connection, 12)]
    assert statuses == [OK, SYNC, OK, SYNC, FATAL, SYNC, OK, SYNC, TUPLES, SYNC, OK, SYNC]
    assert connection.transaction_status == TransactionStatus.IDLE


def test_a_pipeline_larger_than_all_buffers_without_blocking(connection: PGconn) -> None:
    """Both sides send at once: who does not read while it writes stands still for ever."""
    connection.nonblocking = 1
    connection.enter_pipeline_mode()
    size, number = 5000, 4000
    for index in range(number):
        connection.send_query_params(b"select $1 || '.'", [b"%d " % index + b"x" * size])
    connection.pipeline_sync()
    found: list[PGresult] = []
    unsent = connection.flush()
    while not found or found[-1].status != SYNC:
        read, write, _ = select.select([connection.socket], [connection.socket] if unsent else [], [], 20)
        assert read or write
        if read:
            connection.consume_input()
        unsent = connection.flush()
        while not connection.is_busy() and (not found or found[-1].status != SYNC):
            result = connection.get_result()
            if result is not None:
                found.append(result)
    assert len(found) == number + 1
    for index, result in enumerate(found[:-1]):
        assert result.get_value(0, 0) == b"%d " % index + b"x" * size + b"."


def test_rows_one_by_one(connection: PGconn) -> None:
    connection.send_query_params(b"select generate_series(1, $1::int)", [b"%d" % MANY])
    connection.set_single_row_mode()
    rows = 0
    while result := connection.get_result():
        rows += result.ntuples
        last = result.status
    assert (rows, last) == (MANY, TUPLES)


@pytest.mark.skipif(pq.version() < 170000, reason="chunks of rows are from libpq 17 on")
def test_rows_in_chunks_and_statements_closed(connection: PGconn) -> None:
    assert connection.prepare(b"numbers", b"select generate_series(1, $1::int)").status == OK
    for _ in range(2):
        connection.send_query_prepared(b"numbers", [b"1000"])
        connection.set_chunked_rows_mode(300)
        sizes = []
        while result := connection.get_result():
            sizes.append(result.ntuples)
        assert sizes == [300, 300, 300, 100, 0]
    assert connection.close_prepared(b"numbers").status == OK
    assert sqlstate(connection.exec_prepared(b"numbers", [b"1"])) == b"26000"
    assert one(connection, b"select 'fine'") == b"fine"


def test_a_pipeline_is_cancelled(place: Place, connection: PGconn, observer: Connection) -> None:
    text = f"libpq at {place.port} {place.database}"
    cancel = connection.get_cancel()
    for _ in range(2):
        connection.enter_pipeline_mode()
        connection.send_query_params(f"select pg_sleep(30), '{text}'".encode(), [])
        connection.send_query_params(b"select 'skipped'", [])
        connection.pipeline_sync()
        connection.send_query_params(b"select 'behind'", [])
        connection.pipeline_sync()
        wait_running(observer, text)
        cancel.cancel()
        found = results(connection, 5)
        assert [each.status for each in found] == [FATAL, ABORTED, SYNC, TUPLES, SYNC]
        assert sqlstate(found[0]) == b"57014"
        connection.exit_pipeline_mode()
        assert one(connection, b"select 'fine'") == b"fine"


def test_what_a_connection_says_of_itself(place: Place, connection: PGconn) -> None:
    assert connection.used_password
    assert connection.db == place.database.encode()
    assert connection.user == place.user.encode()
    for name in (b"server_version", b"server_encoding", b"standard_conforming_strings", b"integer_datetimes"):
        assert connection.parameter_status(name) == one(connection, b"select current_setting($1)", name)
    assert connection.exec_(b"set application_name = 'itself'").status == OK
    assert connection.parameter_status(b"application_name") == b"itself"
    connection.reset()
    assert connection.status == pq.ConnStatus.OK
    assert one(connection, b"show application_name") == b""


# C

PROGRAM = Path(__file__).with_name("pipeline.c")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler, config = shutil.which(os.environ.get("CC", "cc")), shutil.which("pg_config")
    if compiler is None or config is None:
        pytest.skip(f"{'a C compiler' if compiler is None else 'pg_config'} is not installed")

    def folder(option: str) -> str:
        return subprocess.run([config, option], capture_output=True, text=True, check=True).stdout.strip()

    if not (Path(folder("--includedir")) / "libpq-fe.h").is_file():
        pytest.skip("libpq's headers are not installed")
    made = tmp_path_factory.mktemp("libpq") / "pipeline"
    libraries = folder("--libdir")
    subprocess.run(
        [
            *(compiler, "-Wall", "-Werror", f"-I{folder('--includedir')}", str(PROGRAM)),
            *("-o", str(made), f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lpq"),
        ],
        check=True,
    )
    return made


def test_a_program_in_c(place: Place, program: Path, table: str) -> None:
    """With the libpq that this machine has installed, whatever its version."""
    done = subprocess.run(
        [program, place.dsn(), table],
        env={name: value for name, value in os.environ.items() if not name.startswith("PG")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "pipeline copy call cancel\n", "")
