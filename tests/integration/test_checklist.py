"""Prepared statements of the protocol while the server connections under a client change all the time.

Each client gets another of three server connections than the time before, because others hold the one that it
had last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire
from tests.harness.elsewhere import Elsewhere
from tests.harness.tap import Tap
from tests.messages import (
    FLUSH,
    SYNC,
    bind,
    close_statement,
    describe,
    execute,
    extended,
    parse,
)

SIZE = 3
KB = 1024
PID = b"select pg_backend_pid(), $1::text"


@pytest.fixture
def proxy(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": SIZE})


@pytest.fixture
def few(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    """Keeps two statements on each server connection."""
    url = primary.url("app", USERS["app"].password, "app")
    return ambassador(url, pool={"size": SIZE, "statements": 2})


@pytest.fixture
def elsewhere(proxy: Ambassador) -> Iterator[Elsewhere]:
    with Elsewhere(proxy, SIZE) as moving:
        yield moving


@pytest.fixture
def tap(primary: Postgres) -> Iterator[Tap]:
    with Tap(primary.port) as tap:
        yield tap


@pytest.fixture
def tapped(tap: Tap, primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    """Its server connections are in plain text, for all to read."""
    url = primary.url("app_plain", USERS["app_plain"].password, "app", sslmode="disable")
    return ambassador(url.replace(f":{primary.port}/", f":{tap.port}/"), pool={"size": SIZE})


def prepare(client: Wire, name: bytes, sql: bytes) -> None:
    client.send(parse(name, sql), SYNC)
    assert client.until("Z").kinds == "1Z"


def run(client: Wire, name: bytes, *values: bytes) -> list[str | None]:
    """The only row."""
    client.send(bind(name, *values), execute(), SYNC)
    answer = client.until("Z")
    assert answer.kinds == "2DCZ", answer
    return answer.rows[0]


# On whatever server connection.


def test_prepared_once_and_executed_a_hundred_times(proxy: Ambassador, elsewhere: Elsewhere) -> None:
    with Wire.session(proxy.port) as client:
        prepare(client, b"s", PID)
        pids = set()
        for turn in range(100):
            elsewhere()
            pid, value = run(client, b"s", b"%d" % turn)
            assert value == str(turn)
            pids.add(pid)
        assert len(pids) == SIZE


def test_one_text_of_many_clients_is_parsed_once_on_each_server_connection(
    tap: Tap, tapped: Ambassador
) -> None:
    text = b"select pg_backend_pid(), $1 || ' parsed once'"
    with Elsewhere(tapped, SIZE) as moving, ExitStack() as stack:
        clients = [stack.enter_context(Wire.session(tapped.port)) for _ in range(4)]
        pids = set()
        for number, client in enumerate(clients):
            prepare(client, b"of %d" % number, text)
        for turn in range(6 * len(clients)):
            moving()
            number = turn % len(clients)
            pid, value = run(clients[number], b"of %d" % number, b"%d" % turn)
            assert value == f"{turn} parsed once"
            pids.add(pid)
        assert len(pids) == SIZE
        assert [bytes(each).count(text) for each in tap.said] == [1] * SIZE
        for client in clients:
            moving()
            look = "select count(*) from pg_prepared_statements where statement like '%' || 'parsed once''%'"
            assert client.ask(look).value == "1"


def test_an_unnamed_statement_is_bound_on_another_server_connection(
    proxy: Ambassador, elsewhere: Elsewhere
) -> None:
    """Parse and Sync, then Bind and Sync. Others have unnamed statements too."""
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        pids = set()
        for turn in range(9):
            prepare(client, b"", PID + b" || 'of turn %d'" % turn)
            elsewhere()
            other.send(extended(b"select 'other', $1", b"x"), SYNC)
            other.until("Z")
            for value in (b"one", b"two", b"three"):
                elsewhere()
                pid, said = run(client, b"", value)
                assert said == f"{value.decode()}of turn {turn}"
                pids.add(pid)
        assert len(pids) == SIZE


def test_a_conversation_by_flushes_stays_where_it_began(proxy: Ambassador) -> None:
    """Parse, Flush, Describe, Flush, Bind, Execute, Sync is one piece, whoever comes meanwhile."""
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:

        def others() -> str | None:
            return other.ask("select pg_backend_pid()").value

        prepare(client, b"one", PID)
        for name in (b"one", b"two", b"", b"one"):
            client.send(close_statement(name), parse(name, PID), FLUSH)
            assert [client.receive().kind for _ in range(2)] == ["3", "1"]
            before = others()
            client.send(describe(name), FLUSH)
            assert [client.receive().kind for _ in range(2)] == ["t", "T"]
            between = others()
            client.send(bind(name, b"x"), FLUSH, execute(), FLUSH)
            assert client.receive().kind == "2"
            row = client.receive()
            behind = others()
            client.send(SYNC)
            assert client.until("Z").kinds == "CZ"
            assert row.values[0] not in (before, between, behind)


def test_rows_in_portions_over_several_syncs(proxy: Ambassador) -> None:
    """Within a transaction a portal outlives its Sync, and is found by its name."""
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        prepare(client, b"rows", b"select generate_series(1, $1::int)")
        client.send(build.query("begin"), bind(b"rows", b"7", portal=b"p"), execute(b"p", 3), SYNC)
        assert client.until("Z").kinds == "CZ"
        assert client.until("Z").kinds == "2DDDsZ"
        prepare(other, b"rows", b"select 'other', $1")
        other.send(bind(b"rows", b"x", portal=b"p"), SYNC, execute(b"p"), SYNC)
        assert [other.until("Z").kinds for _ in range(2)] == ["2Z", "EZ"]
        client.send(execute(b"p", 3), SYNC, execute(b"p", 3), SYNC)
        assert [client.until("Z").kinds for _ in range(2)] == ["DDDsZ", "DCZ"]
        assert client.ask("commit").kinds == "CZ"
        client.send(execute(b"p", 3), SYNC)
        assert client.until("Z").error.sqlstate == "34000"


@pytest.mark.timeout(90)
def test_statements_larger_than_any_buffer_go_along(proxy: Ambassador, elsewhere: Elsewhere) -> None:
    """Half a buffer of 128 kB, one, four, and far beyond: named, so that each server is taught them anew."""
    with Wire.session(proxy.port) as client:
        for size in (64 * KB, 128 * KB - 40, 128 * KB, 128 * KB + 1, 512 * KB, 20 * KB * KB):
            text = b"x" * size
            prepare(client, b"large", b"select pg_backend_pid(), length($1), '" + text + b"' = $1")
            pids = set()
            for _ in range(SIZE):
                elsewhere()
                pid, *rest = run(client, b"large", text)
                assert rest == [str(size), "t"]
                pids.add(pid)
            assert len(pids) == SIZE
            client.send(close_statement(b"large"), SYNC)
            assert client.until("Z").kinds == "3Z"


def test_a_name_longer_than_any_buffer(proxy: Ambassador, elsewhere: Elsewhere) -> None:
    with Wire.session(proxy.port) as client:
        for size in (64 * KB - 1, 64 * KB, 64 * KB + 1, 300 * KB):
            name = b"n" * size
            prepare(client, name, PID)
            for turn in range(SIZE):
                elsewhere()
                assert run(client, name, b"%d" % turn)[1] == str(turn)
            client.send(describe(name), close_statement(name), SYNC)
            assert client.until("Z").kinds == "tT3Z"
            client.send(bind(name, b"x"), SYNC)
            assert client.until("Z").error.sqlstate == "26000"


# Closing and forgetting.


def test_closes_and_parses_of_one_name_in_one_pipeline(proxy: Ambassador, elsewhere: Elsewhere) -> None:
    with Wire.session(proxy.port) as client:
        for turn in range(6):
            elsewhere()
            client.send(close_statement(b"x"), parse(b"x", b"select 'one'"), close_statement(b"x"))
            client.send(parse(b"y", b"select 'two %d'" % turn), SYNC)
            assert client.until("Z").kinds == "3131Z"
            client.send(bind(b"x"), SYNC)
            assert client.until("Z").error.sqlstate == "26000"
            assert run(client, b"y") == [f"two {turn}"]
            client.send(close_statement(b"y"), SYNC)
            assert client.until("Z").kinds == "3Z"


@pytest.mark.parametrize("sql", ["deallocate all", "discard all", "DEALLOCATE PREPARE ALL"])
@pytest.mark.parametrize("how", ["simple", "extended"])
def test_a_name_is_free_when_all_have_been_forgotten(
    sql: str, how: str, proxy: Ambassador, elsewhere: Elsewhere
) -> None:
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        prepare(other, b"x", b"select 'not forgotten'")
        for turn in range(4):
            prepare(client, b"x", b"select 'turn %d'" % turn)
            elsewhere()
            assert run(client, b"x") == [f"turn {turn}"]
            client.send(build.query(sql) if how == "simple" else extended(sql.encode()) + SYNC)
            assert "E" not in client.until("Z").kinds
            elsewhere()
            client.send(bind(b"x"), SYNC)
            assert client.until("Z").error.sqlstate == "26000"
            assert run(other, b"x") == ["not forgotten"]


@pytest.mark.parametrize("sql", [b"deallocate all", b"discard all"])
def test_forgotten_prepared_and_bound_in_one_segment(
    sql: bytes, proxy: Ambassador, elsewhere: Elsewhere
) -> None:
    with Wire.session(proxy.port) as client:
        prepare(client, b"x", b"select 'before'")
        for turn in range(4):
            elsewhere()
            behind = parse(b"x", b"select 'after %d'" % turn) + bind(b"x") + execute() + SYNC
            client.send(build.query(sql.decode()), behind)
            assert client.until("Z").kinds == "CZ"
            answer = client.until("Z")
            assert (answer.kinds, answer.value) == ("12DCZ", f"after {turn}")
            if sql == b"deallocate all":  # DISCARD ALL cannot run in a pipeline
                client.send(parse(b"", sql), bind(b""), execute(), behind)
                answer = client.until("Z")
                assert (answer.kinds, answer.value) == ("12C12DCZ", f"after {turn}")
            elsewhere()
            assert run(client, b"x") == [f"after {turn}"]


# Errors.


def test_a_parse_that_fails_leaves_its_name_free(proxy: Ambassador, elsewhere: Elsewhere) -> None:
    with Wire.session(proxy.port) as client:
        for turn in range(4):
            elsewhere()
            client.send(parse(b"x", b"selec 1"), SYNC)
            answer = client.until("Z")
            assert (answer.kinds, answer.error.sqlstate) == ("EZ", "42601")
            client.send(bind(b"x"), SYNC)
            assert client.until("Z").error.sqlstate == "26000"
            prepare(client, b"x", b"select 'right %d'" % turn)
            elsewhere()
            assert run(client, b"x") == [f"right {turn}"]
            client.send(close_statement(b"x"), parse(b"x", b"select wrong"), SYNC)
            assert client.until("Z").kinds == "3EZ"


def test_more_statements_in_rotation_than_are_kept(few: Ambassador) -> None:
    with (
        Elsewhere(few, SIZE) as moving,
        Wire.session(few.port) as client,
        Wire.session(few.port) as other,
    ):
        for number in range(5):
            prepare(client, b"s%d" % number, b"select pg_backend_pid(), '%d', $1" % number)
        pids = set()
        for turn in range(60):
            if turn % 4 == 0:
                moving()
            number = turn % 5
            pid, *rest = run(client, b"s%d" % number, b"%d" % turn)
            assert rest == [str(number), str(turn)]
            pids.add(pid)
            assert int(other.ask("select count(*) from pg_prepared_statements").value or "") <= 2
        assert len(pids) == SIZE
        # All of them in one pipeline, twice.
        client.send(*(bind(b"s%d" % (turn % 5), b"") + execute() for turn in range(10)), SYNC)
        answer = client.until("Z")
        assert [row[1] for row in answer.rows] == [str(turn % 5) for turn in range(10)]


@pytest.mark.parametrize("wrong", range(5))
def test_statements_make_room_for_others_in_a_pipeline_that_fails(wrong: int, few: Ambassador) -> None:
    """Whatever was skipped, each statement works afterwards, everywhere."""
    with Elsewhere(few, SIZE) as moving, Wire.session(few.port) as client:
        for number in range(5):
            prepare(client, b"s%d" % number, b"select '%d', 1 / $1::int" % number)
        for _ in range(4):
            moving()
            client.send(*(bind(b"s%d" % n, b"0" if n == wrong else b"1") + execute() for n in range(5)), SYNC)
            answer = client.until("Z")
            assert answer.kinds == "2DC" * wrong + "EZ"
            assert answer.error.sqlstate == "22012"
            client.send(parse(b"new", b"selec"), bind(b"s%d" % wrong, b"1"), execute(), SYNC)
            assert client.until("Z").kinds == "EZ"
            for number in range(5):
                assert run(client, b"s%d" % number, b"1") == [str(number), "1"]
                moving()


def test_after_a_change_of_its_table_a_statement_fails_once_on_each_server_connection(
    proxy: Ambassador, elsewhere: Elsewhere
) -> None:
    with Wire.session(proxy.port) as client:
        client.ask("drop table if exists changing; create table changing (a int)")
        client.ask("insert into changing values (1)")
        prepare(client, b"all", b"select * from changing")
        for _ in range(SIZE):
            elsewhere()
            assert run(client, b"all") == ["1"]
        client.ask("alter table changing add b text default 'new'")
        failures = 0
        for _ in range(4 * SIZE):
            elsewhere()
            client.send(bind(b"all"), execute(), SYNC)
            answer = client.until("Z")
            if "E" in answer.kinds:
                assert answer.error.sqlstate == "0A000"
                failures += 1
            else:
                assert answer.rows == [["1", "new"]]
        assert 1 <= failures <= SIZE
        assert run(client, b"all") == ["1", "new"]
        client.ask("drop table changing")


# Where it differs from PostgreSQL.


@pytest.mark.parametrize(
    "before", [bind(b"x"), describe(b"x"), parse(b"", b"select 1")], ids=["Bind", "Describe", "Parse"]
)
def test_a_name_in_use_is_refused_behind_other_messages(before: bytes, proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        prepare(client, b"x", b"select 'first'")
        client.send(before, parse(b"x", b"select 'second'"), SYNC)
        assert client.until("Z").error.sqlstate == "42P05"
        assert run(client, b"x") == ["first"]


def test_a_parse_that_was_skipped_leaves_the_statement_of_its_name(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        prepare(client, b"x", b"select 'first'")
        client.send(bind(b"unknown"), parse(b"x", b"select 'second'"), SYNC)
        assert client.until("Z").error.sqlstate == "26000"
        assert run(client, b"x") == ["first"]


@pytest.mark.parametrize(
    "skipped", [close_statement(b"x"), parse(b"y", b"select 'x'")], ids=["Close", "Parse"]
)
def test_what_was_skipped_did_not_happen_for_what_follows_in_the_same_segment(
    skipped: bytes, proxy: Ambassador
) -> None:
    with Wire.session(proxy.port) as client:
        prepare(client, b"x", b"select 'x'")
        client.send(bind(b"unknown"), skipped, SYNC, bind(b"x"), execute(), SYNC, bind(b"y"), execute(), SYNC)
        assert [client.until("Z").kinds for _ in range(3)] == ["EZ", "2DCZ", "EZ"]


def test_an_error_names_a_statement_as_its_client_does(proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as client:
        prepare(client, b"mine", b"select 1")
        client.send(bind(b"mine", b"too many"), SYNC)
        assert '"mine"' in client.until("Z").error.fields["M"]
