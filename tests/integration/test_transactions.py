"""When a client holds a server connection, and when it lets go of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests import messages
from tests.harness import USERS, Ambassador, Wire, psql, wait_until


@pytest.fixture(scope="module")
def single(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """Transaction mode, one server connection."""
    url = primary.url("app", USERS["app"].password, "app")
    return ambassadors(url, pool={"size": 1, "wait_timeout": "20s"})


@pytest.fixture(scope="module", params=["transaction", "session"])
def proxy(
    request: pytest.FixtureRequest, primary: Postgres, ambassadors: Callable[..., Ambassador]
) -> Ambassador:
    url = primary.url("app", USERS["app"].password, "app")
    return ambassadors(url, pool={"mode": request.param, "size": 3})


@pytest.fixture(scope="module", autouse=True)
def notes(primary: Postgres) -> None:
    primary.sql("create table notes (text text); grant all on notes to app", database="app")


def waiting(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_pool_waiting_clients")


def test_clients_that_alternate_share_one_server_connection(single: Ambassador) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as two:
        pids = set()
        for number in range(20):
            for wire in (one, two):
                answer = wire.ask(f"select pg_backend_pid(), {number}")
                assert answer.kinds == "TDCZ"
                pids.add(answer.rows[0][0])
        assert len(pids) == 1


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_keeps_the_server_and_others_wait_for_its_end(single: Ambassador, end: str) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as two:
        one.ask("begin")
        one.ask(f"insert into notes values ('{end}')")
        two.send(build.query("select 'two'"))
        wait_until(lambda: waiting(single) == 1, "two to wait")
        for _ in range(3):
            assert one.ask("select 'one'").value == "one"
        assert two.quiet
        assert one.ask(end).kinds == "CZ"
        assert two.until("Z").value == "two"
        assert two.ask(f"select count(*) from notes where text = '{end}'").value == (
            "1" if end == "commit" else "0"
        )


def test_those_who_wait_are_served_in_the_order_in_which_they_came(single: Ambassador) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(Wire.session(single.port))
        others = [stack.enter_context(Wire.session(single.port)) for _ in range(5)]
        first.ask("create sequence if not exists turns")
        first.ask("begin")
        for number, wire in enumerate(others):
            wire.send(build.query("select nextval('turns')"))
            wait_until(lambda number=number: waiting(single) == number + 1, "another to wait")  # type: ignore[misc]
        first.ask("commit")
        turns = [int(wire.until("Z").value or 0) for wire in others]
        assert turns == sorted(turns)


def test_a_failed_transaction_keeps_the_server_until_its_rollback(single: Ambassador) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as two:
        assert one.ask("begin")[-1].payload == b"T"
        failed = one.ask("select 1/0")
        assert failed.error.sqlstate == "22012"
        assert failed[-1].payload == b"E"
        two.send(build.query("select 'two'"))
        wait_until(lambda: waiting(single) == 1, "two to wait")
        again = one.ask("select 1")
        assert again.error.sqlstate == "25P02"
        assert again[-1].payload == b"E"
        assert two.quiet
        assert one.ask("rollback")[-1].payload == b"I"
        assert two.until("Z").value == "two"


def test_an_error_outside_a_transaction_releases_the_server(single: Ambassador) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as two:
        for _ in range(5):
            failed = one.ask("select 1/0")
            assert failed.kinds in ("EZ", "TEZ")
            assert failed[-1].payload == b"I"
            assert two.ask("select 1").value == "1"


def test_the_extended_protocol_keeps_the_server_until_sync(single: Ambassador) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as two:
        one.send(messages.extended(b"select 'one'"), messages.FLUSH)
        assert one.until("C").kinds == "12TDC"
        two.send(build.query("select 'two'"))
        wait_until(lambda: waiting(single) == 1, "two to wait")
        one.send(messages.SYNC)
        assert one.until("Z").kinds == "Z"
        assert two.until("Z").value == "two"


@pytest.mark.parametrize(
    ("data", "kinds"),
    [
        (build.query(""), "IZ"),
        (build.query(" ; -- nothing"), "IZ"),
        (build.SYNC, "Z"),
        (build.SYNC * 3, "ZZZ"),
        (build.query("") * 2 + build.SYNC, "IZIZZ"),
        (build.FLUSH + build.SYNC, "Z"),
        (build.query("select 1; select 2"), "TDCTDCZ"),
        (build.query("select 1") + build.query("select 1/0") + build.query("select 2"), "TDCZ?EZTDCZ"),
    ],
)
@pytest.mark.parametrize("begun", [False, True], ids=["outside", "in a transaction"])
def test_each_request_has_its_ready_for_query(
    proxy: Ambassador, data: bytes, kinds: str, begun: bool
) -> None:
    """The empty query, Sync alone or thrice, several statements in one query, several queries at once."""
    with Wire.session(proxy.port) as wire, Wire.session(proxy.port) as other:
        if begun:
            wire.ask("begin")
        wire.send(data)
        answer = wire.until("Z", kinds.count("Z"))
        if "?" in kinds:  # an error may come before or after the description of its row
            failed = answer.kinds.split("Z")[1]
            assert failed in ("E", "TE")
            last = "E" if begun else "TDC"
            assert answer.kinds == f"TDCZ{failed}Z{last}Z"
        else:
            assert answer.kinds == kinds
            assert {each.payload for each in answer if each.kind == "Z"} == {b"T" if begun else b"I"}
        assert other.ask("select 1").value == "1"
        assert wire.quiet
        wire.ask("rollback")
        assert wire.ask("select 'still here'").value == "still here"


def test_several_statements_in_one_query_are_one_transaction(single: Ambassador) -> None:
    with Wire.session(single.port) as wire:
        failed = wire.ask("insert into notes values ('a'); insert into notes values ('b'); select 1/0")
        assert failed.kinds in ("CCEZ", "CCTEZ")
        assert failed[-1].payload == b"I"
        assert wire.ask("select count(*) from notes where text in ('a', 'b')").value == "0"
        assert wire.ask("begin; insert into notes values ('c'); commit; select 'd'").kinds == "CCCTDCZ"
        assert wire.ask("select count(*) from notes where text = 'c'").value == "1"


def test_a_query_may_begin_a_transaction_behind_others(single: Ambassador) -> None:
    with Wire.session(single.port) as one, Wire.session(single.port) as two:
        assert one.ask("select 1; begin; select pg_backend_pid()")[-1].payload == b"T"
        two.send(build.query("select 'two'"))
        wait_until(lambda: waiting(single) == 1, "two to wait")
        assert one.ask("commit; select 'one'").rows == [["one"]]
        assert two.until("Z").value == "two"


def test_in_session_mode_a_client_keeps_its_server_connection(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url, pool={"mode": "session", "size": 2})
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two:
        pids = [wire.ask("select pg_backend_pid()").value for wire in (one, two)]
        assert len(set(pids)) == 2
        one.ask("create temporary table mine as select 42 as answer")
        one.ask("set work_mem = '5MB'")
        for _ in range(3):
            assert [wire.ask("select pg_backend_pid()").value for wire in (two, one)] == pids[::-1]
        assert one.ask("select answer from mine").value == "42"
        third = Wire.session(proxy.port)
        third.send(build.query("select pg_backend_pid(), to_regclass('mine'), current_setting('work_mem')"))
        wait_until(lambda: waiting(proxy) == 1, "the third to wait")
        one.leave()
        with third:
            assert third.until("Z").rows == [[pids[0], None, "4MB"]]


def test_there_is_no_statement_mode(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """It would refuse BEGIN; whoever asks for it is told what there is."""
    proxy = ambassador(primary.url("app", "x", "app"), start=False, pool={"mode": "statement"})
    proxy.start(ready=False)
    assert proxy.wait() != 0
    assert "statement" in proxy.output()


def test_psql_sees_its_transaction(proxy: Ambassador) -> None:
    script = (
        "begin; insert into notes values ('psql'); rollback; select count(*) from notes where text = 'psql'"
    )
    assert psql(proxy.dsn(), script) == "0"
