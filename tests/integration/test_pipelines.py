"""The extended protocol as drivers and others may use it: pipelines, prepared statements, function calls."""

from __future__ import annotations

import random
from collections.abc import Callable
from struct import pack, unpack

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire
from tests.messages import (
    FLUSH,
    SYNC,
    bind,
    close_portal,
    close_statement,
    describe,
    describe_portal,
    execute,
    parse,
)

INT4PL = 177
"""The function behind + of two integers, in every PostgreSQL (pg_proc.dat)."""


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def proxy(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 4})


def one(value: object, sql: bytes = b"select $1") -> bytes:
    """A statement of the unnamed kind with one parameter, without a Sync."""
    return parse(b"", sql) + bind(b"", str(value).encode()) + execute()


# Pipelines.


def test_a_thousand_statements_before_one_sync(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(*(one(index) for index in range(1000)), SYNC)
        answer = client.until("Z")
        assert answer.kinds == "12DC" * 1000 + "Z"
        assert answer.rows == [[str(index)] for index in range(1000)]


def test_a_thousand_syncs_before_the_first_answer_is_read(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(*(one(index) + SYNC for index in range(1000)))
        for index in range(1000):
            answer = client.until("Z")
            assert (answer.kinds, answer.value) == ("12DCZ", str(index))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_pipeline_in_pieces_of_any_size(size: int, proxy: Ambassador) -> None:
    pipeline = b"".join((parse(b"p", b"select $1"), describe(b"p"), SYNC)) + b"".join(
        bind(b"p", b"%d" % index) + describe_portal() + execute() + (SYNC if index % 3 else FLUSH)
        for index in range(10)
    )
    pipeline += SYNC + close_statement(b"p") + SYNC
    with Wire.session(proxy.port) as client:
        for at in range(0, len(pipeline), size):
            client.send(pipeline[at : at + size])
        answer = client.until("Z", pipeline.count(SYNC))
        assert [row[0] for row in answer.rows] == [str(index) for index in range(10)]
        assert answer.kinds == "1tTZ" + "2TDC" + 3 * ("2TDCZ" * 2 + "2TDC") + "Z3Z"


@pytest.mark.parametrize("wrong", range(5))
def test_an_error_skips_to_the_next_sync_and_no_further(wrong: int, proxy: Ambassador) -> None:
    """Everything in its pipeline is undone; the pipelines around it are not touched."""
    with Wire.session(proxy.port) as client:
        for pipeline in range(3):
            for index in range(5):
                bad = pipeline == 1 and index == wrong
                client.send(one(index, b"select 1 / ($1::int - %d)" % (index if bad else 100)))
            client.send(SYNC)
        for pipeline in range(3):
            answer = client.until("Z")
            if pipeline == 1:
                assert answer.kinds == "12DC" * wrong + "1EZ"  # planned, and so computed, at the Bind
                assert answer.error.sqlstate == "22012"
            else:
                assert answer.kinds == "12DC" * 5 + "Z"


def test_an_error_whose_sync_comes_much_later(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(parse(b"", b"select nonsense"), FLUSH)
        assert client.receive().sqlstate == "42703"
        for index in range(100):
            client.send(one(index), parse(b"n%d" % index, b"select 1"), close_statement(b"n%d" % index))
        client.send(FLUSH)
        assert client.quiet
        client.send(SYNC)
        assert client.until("Z").kinds == "Z"
        client.send(one("after it"), SYNC)
        assert client.until("Z").value == "after it"


def test_simple_queries_between_pipelines(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(
            *(
                message
                for index in range(50)
                for message in (one(f"e{index}"), SYNC, build.query(f"select 's{index}'; select 't{index}'"))
            )
        )
        for index in range(50):
            assert client.until("Z").value == f"e{index}"
            assert client.until("Z").rows == [[f"s{index}"], [f"t{index}"]]


def test_a_transaction_over_several_pipelines(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.send(
            *(
                parse(b"", sql) + bind(b"") + execute() + SYNC
                for sql in (b"begin", b"select pg_backend_pid()", b"select pg_backend_pid()", b"commit")
            )
        )
        other.ask("select 1")
        states = [client.until("Z") for _ in range(4)]
        assert [answer[-1].payload for answer in states] == [b"T", b"T", b"T", b"I"]
        assert states[1].value == states[2].value


def test_rows_in_portions(proxy: Ambassador) -> None:
    """Execute with a limit; the portal lives on until the transaction's end."""
    with Wire.session(proxy.port) as client:
        client.send(parse(b"", b"select generate_series(1, 10)"), bind(b"", portal=b"portal"))
        for _ in range(4):
            client.send(execute(b"portal", 3))
        client.send(close_portal(b"portal"), SYNC)
        answer = client.until("Z")
        assert answer.kinds == "12" + "DDDs" * 3 + "DC" + "3Z"
        assert [row[0] for row in answer.rows] == [str(number) for number in range(1, 11)]


def test_a_flush_brings_the_answers_without_a_sync(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        for known in (False, True):
            client.send(parse(b"flushed", b"select 'flushed', $1"), FLUSH)
            assert client.receive().kind == "1"
            client.send(describe(b"flushed"), FLUSH)
            assert [client.receive().kind for _ in range(2)] == ["t", "T"]
            client.send(bind(b"flushed", b"x"), execute(), FLUSH)
            assert [client.receive().kind for _ in range(3)] == ["2", "D", "C"]
            client.send(SYNC)
            assert client.until("Z").kinds == "Z"
            client.send(close_statement(b"flushed"), SYNC)
            assert client.until("Z").kinds == "3Z", known


def test_messages_of_every_size(proxy: Ambassador) -> None:
    """Around the sizes of buffers, and far beyond."""
    with Wire.session(proxy.port) as client:
        for size in (1, 4095, 4096, 8191, 16384, 65530, 65536, 65541, 131072, 262144, 1 << 20, 20 << 20):
            text = b"x" * size
            client.send(
                parse(b"", b"select length($1), '" + text + b"' = $1"), bind(b"", text), execute(), SYNC
            )
            assert client.until("Z").rows == [[str(size), "t"]], size


# Prepared statements.


def test_a_prepared_statement_works_on_every_server_connection(mode: str, proxy: Ambassador) -> None:
    """Clients with transactions push each other around, so that each statement gets to all connections."""
    rounds = random.Random(1)
    clients = [Wire.session(proxy.port) for _ in range(4)]
    seen: list[set[str | None]] = [set() for _ in clients]
    for number, client in enumerate(clients):
        # The same name with another text for each, and a text that all share.
        client.send(parse(b"mine", b"select pg_backend_pid(), $1 || ' of %d'" % number))
        client.send(parse(b"ours", b"select pg_backend_pid(), $1 || ' of all'"), SYNC)
        assert client.until("Z").kinds == "11Z"
    for index in range(40):
        order = rounds.sample(range(len(clients)), len(clients))
        for number in order:
            client = clients[number]
            client.send(build.query("begin"), bind(b"mine", b"%d" % index), execute(), SYNC)
            client.send(bind(b"ours", b"%d" % index), execute(), SYNC)
            assert client.until("Z").kinds == "CZ"
            for owner in (number, "all"):
                answer = client.until("Z")
                assert answer.kinds == "2DCZ"
                assert answer.rows[0][1] == f"{index} of {owner}"
            seen[number].add(answer.rows[0][0])
        for number in rounds.sample(order, len(order)):
            assert clients[number].ask("commit").kinds == "CZ"
    assert all(len(pids) == (1 if mode == "session" else 4) for pids in seen), seen
    for client in clients:
        client.leave()


def test_a_name_may_be_used_again_after_close_and_not_before(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(parse(b"name", b"select 'first'"), SYNC)
        assert client.until("Z").kinds == "1Z"
        client.send(parse(b"name", b"select 'second'"), SYNC)
        answer = client.until("Z")
        assert (answer.kinds, answer.error.sqlstate) == ("EZ", "42P05")
        client.send(bind(b"name"), execute(), SYNC)
        assert client.until("Z").value == "first"
        client.send(
            close_statement(b"name"), parse(b"name", b"select 'third'"), bind(b"name"), execute(), SYNC
        )
        answer = client.until("Z")
        assert (answer.kinds, answer.value) == ("312DCZ", "third")


def test_an_unknown_statement_is_an_error_and_nothing_more(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        for message in (bind(b"unknown"), describe(b"unknown")):
            client.send(message, SYNC)
            answer = client.until("Z")
            assert (answer.kinds, answer.error.sqlstate) == ("EZ", "26000")
            assert "unknown" in answer.error.fields["M"]
        client.send(close_statement(b"unknown"), SYNC)
        assert client.until("Z").kinds == "3Z"


# Function calls.


def call(function: int, *arguments: bytes | None) -> bytes:
    """FunctionCall with everything in binary."""
    values = b"".join(
        pack("!i", -1) if value is None else pack("!i", len(value)) + value for value in arguments
    )
    return build.frame(ord("F"), pack("!IhhH", function, 1, 1, len(arguments)) + values + pack("!h", 1))


def test_a_function_call(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        for index in range(20):
            client.send(call(INT4PL, pack("!i", index), pack("!i", 1000)))
            answer = client.until("Z")
            assert answer.kinds == "VZ"
            assert unpack("!ii", answer[0].payload) == (4, index + 1000)
        client.send(call(INT4PL, pack("!i", 1), None))
        assert client.until("Z")[0].payload == pack("!i", -1)


def test_function_calls_that_fail(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(call(INT4PL, pack("!i", 2**31 - 1), pack("!i", 1)), call(0), call(INT4PL, pack("!i", 1)))
        assert [client.until("Z").error.sqlstate[:2] for _ in range(3)] == ["22", "42", "08"]
        client.ask("begin")
        client.send(call(0))
        answer = client.until("Z")
        assert (answer.kinds, answer[-1].payload) == ("EZ", b"E")
        client.ask("rollback")
        assert client.ask("select 1").value == "1"


def test_function_calls_among_others(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        client.send(
            one("before"), SYNC, call(INT4PL, pack("!i", 40), pack("!i", 2)), build.query("select 'behind'")
        )
        assert client.until("Z").value == "before"
        assert client.until("Z")[0].payload == pack("!ii", 4, 42)
        assert client.until("Z").value == "behind"
