"""The query log: its lines, its bounds, and what a failing sink costs."""

from __future__ import annotations

import errno
import json
import threading

import pytest

from pgambassador.observe import querylog
from pgambassador.observe.querylog import Formatter, QueryLog


class MemorySink:
    """Takes lines, or fails as it is told to."""

    def __init__(self) -> None:
        self.data = b""
        self.error: OSError | None = None
        self.closed = False
        self.gate = threading.Event()
        self.gate.set()

    def __repr__(self) -> str:
        return "memory"

    def write(self, data: bytes) -> None:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.data += data

    def close(self) -> None:
        self.closed = True

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.data.splitlines()]


@pytest.fixture
def sink():
    return MemorySink()


def record(text: bytes = b"select 1", *, duration: float = 0.3, sqlstate: str = "", user: str = "ann"):
    return (
        1700000000.1239,
        "127.0.0.1:5",
        "shop",
        user,
        "app",
        text,
        duration,
        0.0125,
        3,
        40,
        50,
        "db:5432",
        sqlstate,
        "replica",
        "read",
        True,
    )


def test_a_line():
    line = Formatter(slow=0.25, literals=False)(
        record(b"select * from t where name = 'Ann'", sqlstate="22012")
    )
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "client": "127.0.0.1:5",
        "database": "shop",
        "user": "ann",
        "application_name": "app",
        "query": "select * from t where name = $1",
        "fingerprint": "4bf430b3976e5acb",
        "duration_ms": 300.0,
        "wait_ms": 12.5,
        "rows": 3,
        "bytes_in": 40,
        "bytes_out": 50,
        "server": "db:5432",
        "route": "replica",
        "why": "read",
        "batched": True,
        "sqlstate": "22012",
        "slow": True,
    }


@pytest.mark.parametrize(
    ("text", "query", "parses"),
    [
        (b"select 'x' || \n 1", "select $1 || $2", True),
        (b"selec 'x' 1", "selec $1 $2", False),
        (b"select 'x", "select …", False),
        (b"select '\xff\xfe', a", "select $1, a", True),
        (b"", "", True),
        (b"\x00\xff", "…", True),
        (b"select " + b"'x'," * 20_000, "select " + "$1", False),
        # The grammar would take more than a second for these, in which nothing else runs.
        (b"select " + b"+" * 16_000 + b"1", "select +++", False),
        (b"/*" * 4000 + b"*/" * 4000 + b"select 1", "select $1", False),
        (b"select 1" + b", 1" * 4000, "select $1, $2", False),
    ],
)
def test_statements_without_literals(text, query, parses):
    line = json.loads(Formatter(slow=None, literals=False)(record(text)))
    assert line["query"].startswith(query)
    assert "'x" not in line["query"]
    assert (line["fingerprint"] is not None) is parses
    assert line["slow"] is False


def test_literals_when_asked_for():
    line = json.loads(Formatter(slow=1.0, literals=True)(record(b"select 'x' -- why\n")))
    assert line["query"] == "select 'x' -- why\n"
    long = json.loads(Formatter(slow=1.0, literals=True)(record(b"select '" + b"x" * 9000)))
    assert len(long["query"]) == querylog.TEXT_LIMIT + 1
    assert long["query"].endswith("…")


def test_no_text_is_longer_than_the_limit():
    formatter = Formatter(slow=None, literals=False)
    for text in (b"a," * 9000, b'"' + b"a" * 9000 + b'"', b"select " + b"1," * 9000, b"x" * 100_000):
        line = json.loads(formatter(record(text)))
        assert len(line["query"]) <= querylog.TEXT_LIMIT + 1
        assert line["query"].endswith("…")


def test_names_that_are_not_utf8():
    line = json.loads(Formatter(slow=None, literals=False)(record(user="a\udcffb")))
    assert line["user"] == "a?b"


def test_the_memory_of_statements_is_bounded():
    formatter = Formatter(slow=None, literals=False)
    for number in range(querylog.CACHE_LIMIT + 50):
        formatter(record(b"select %d" % number))
    formatter(record(b"select " + b"1," * 4000 + b"1"))
    assert len(formatter._seen) == querylog.CACHE_LIMIT


def test_which_statements_are_wanted(sink):
    log = QueryLog(sink, slow=0.25, sample=0.0, errors=True)
    assert [log.wants(0.25, ""), log.wants(0.2, ""), log.wants(0.0, "23505")] == [True, False, True]
    log = QueryLog(sink, slow=None, sample=0.0, errors=False)
    assert [log.wants(9.0, ""), log.wants(0.0, "23505")] == [False, False]
    assert QueryLog(sink, slow=None, sample=1.0, errors=False).wants(0.0, "")
    assert QueryLog(sink, slow=0.0).wants(0.0, "")


def test_everything_queued_is_written_at_close(sink):
    log = QueryLog(sink)
    log.start()
    for number in range(500):
        log.add(record(b"select %d" % number))
    log.close(timeout=20)
    assert [line["query"] for line in sink.lines] == ["select $1"] * 500
    assert (log.written, log.dropped, log.failed) == (500, 0, 0)
    assert sink.closed
    assert repr(log) == "<QueryLog memory queued=0 written=500 dropped=0 failed=0>"


def test_a_full_queue_drops_and_counts(sink):
    log = QueryLog(sink)  # not started, so nothing leaves the queue
    for _ in range(querylog.RECORDS_LIMIT + 7):
        log.add(record())
    assert log.dropped == 7
    log = QueryLog(sink)
    for _ in range(querylog.RECORDS_LIMIT):
        log.add(record(b"x" * 1_000_000))
    held = sum(len(each[5]) for each in log._queue)
    assert held <= querylog.BYTES_LIMIT
    assert log.dropped == querylog.RECORDS_LIMIT - len(log._queue) > 0


def test_the_thread_is_woken_once_for_many_records(sink):
    log = QueryLog(sink)
    woken = 0

    class Wake(threading.Event):
        def set(self) -> None:
            nonlocal woken
            woken += 1
            super().set()

    log._wake = Wake()
    for _ in range(1000):
        log.add(record())
    assert woken == 1


def test_a_failing_sink_costs_lines_and_one_message(sink, caplog):
    log = QueryLog(sink)
    sink.error = OSError(errno.ENOSPC, "No space left on device")
    for _ in range(3):
        log._write([b"{}\n"] * 2)
    sink.error = None
    log._write([b"{}\n"])
    assert (log.written, log.failed) == (1, 6)
    assert [message.getMessage() for message in caplog.records] == [
        "The query log memory cannot be written: No space left on device. Statements are lost.",
        "The query log memory is written again; 6 statements were lost.",
    ]


def test_a_sink_that_hangs_does_not_hang_the_end(sink):
    log = QueryLog(sink)
    log.start()
    sink.gate.clear()
    log.add(record())
    log.close(timeout=0.01)
    assert log.written == 0
    sink.gate.set()
    log.close(timeout=20)
    assert log.written == 1


def test_a_log_that_never_started_closes(sink):
    QueryLog(sink).close()
