"""Limits of what clients ask, with drivers and a server: the queue, priorities, rates; faults on purpose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import Connection, errors

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.messages import SYNC, bind, execute, parse

Make = Callable[..., Ambassador]


def url(primary: Postgres) -> str:
    return primary.url("app", USERS["app"].password, "app")


def total(proxy: Ambassador, name: str) -> float:
    return proxy.metrics().total(f"pgambassador_{name}")


def are_waiting(proxy: Ambassador, clients: int) -> bool:
    return total(proxy, "pool_waiting_clients") == clients


def connect(proxy: Ambassador, **more: str) -> Connection[Any]:
    return psycopg.connect(proxy.dsn(**more), autocommit=True)


# The queue.


def test_the_queue_is_bounded_and_who_is_refused_keeps_its_session(
    primary: Postgres, ambassador: Make
) -> None:
    proxy = ambassador(url(primary), pool={"size": 1, "max_waiting": 2})
    with ExitStack() as stack:
        holder, *queue = [stack.enter_context(Wire.session(proxy.port)) for _ in range(4)]
        holder.ask("begin")
        for number, client in enumerate(queue[:2]):
            client.send(build.query(f"select {number}"))
            wait_until(partial(are_waiting, proxy, number + 1))
        answer = queue[2].ask("select 2")
        assert answer.kinds == "EZ"
        assert answer.error.sqlstate == "53300"
        assert "pool.max_waiting" in answer.error.fields["H"]
        queue[2].send(parse(b"", b"select 2"), bind(b""), execute(), SYNC)
        assert queue[2].until("Z").error.sqlstate == "53300"
        assert total(proxy, "shed_total") == 2
        holder.ask("commit")
        assert [client.until("Z").value for client in queue[:2]] == ["0", "1"]
        assert queue[2].ask("select 2").value == "2"


def test_low_priorities_wait_longest_and_go_first(primary: Postgres, ambassador: Make) -> None:
    """By the configuration's rules, and by what a session calls itself now."""
    proxy = ambassador(
        url(primary),
        pool={"size": 1, "max_waiting": 3},
        limits={
            "priorities": [
                {"application_name": "checkout", "priority": "high"},
                {"application_name": ["cron", "batch"], "priority": "low"},
            ]
        },
    )
    with ExitStack() as stack:
        names = ("", "cron", "", "checkout", "")
        holder, low, normal, high, last = [
            stack.enter_context(Wire.session(proxy.port, application_name=name)) for name in names
        ]
        last.ask("set application_name = 'checkout'")
        holder.ask("create sequence if not exists precedence")
        holder.ask("begin")
        for number, client in enumerate((low, normal, high)):
            client.send(build.query("select nextval('precedence')"))
            wait_until(partial(are_waiting, proxy, number + 1))
        last.send(build.query("select nextval('precedence')"))
        assert low.until("Z").error.sqlstate == "53300"
        wait_until(partial(are_waiting, proxy, 3))
        holder.ask("commit")
        order = [int(client.until("Z").value or 0) for client in (high, last, normal)]
        assert order == sorted(order)
        assert low.ask("select 1").value == "1"


# Rates.


@pytest.fixture(scope="module")
def limited(primary: Postgres, ambassadors: Make) -> Ambassador:
    return ambassadors(
        url(primary),
        limits={
            "rates": [
                {"application_name": "few", "rate": 0.01, "burst": 2},
                {"application_name": "ahead", "rate": 0.01, "burst": 3},
                {"application_name": "inside", "rate": 0.01, "burst": 1},
                {"application_name": "mark", "fingerprint": MARK, "rate": 0.01, "burst": 1},
                {"application_name": "async", "rate": 0.01, "burst": 4},
            ]
        },
    )


MARK = "50fde20626009aba"  # SELECT 1


def test_too_many_statements_are_refused_by_name(limited: Ambassador) -> None:
    with connect(limited, application_name="few") as client, connect(limited) as other:
        assert client.execute("select 1").fetchone() == (1,)
        assert client.execute("select %s", (2,)).fetchone() == (2,)
        for _ in range(3):
            with pytest.raises(errors.ConfigurationLimitExceeded, match=r"limits\.rates\[0\]") as caught:
                client.execute("select 3")
            assert "Try again in" in (caught.value.diag.message_hint or "")
        assert not client.closed
        assert other.execute("select 4").fetchone() == (4,)
    assert limited.metrics().total("pgambassador_rate_limited_total", rule="limits.rates[0]") == 3


def test_a_transaction_is_one_and_is_never_refused_in_its_middle(limited: Ambassador) -> None:
    with connect(limited, application_name="inside") as client:
        with client.transaction():
            for number in range(20):
                assert client.execute("select %s", (number,)).fetchone() == (number,)
        with pytest.raises(errors.ConfigurationLimitExceeded), client.transaction():
            pass


def test_sending_ahead_gets_nobody_more(limited: Ambassador) -> None:
    with Wire.session(limited.port, application_name="ahead") as client:
        client.send(*[build.query(f"select {number}") for number in range(5)])
        answers = [client.until("Z") for _ in range(5)]
        assert [answer.kinds for answer in answers] == ["TDCZ"] * 3 + ["EZ"] * 2


def test_one_statement_has_a_limit_of_its_own(limited: Ambassador) -> None:
    with connect(limited, application_name="mark") as client:
        assert client.execute("select 1").fetchone() == (1,)
        for number in (1, 7):
            with pytest.raises(errors.ConfigurationLimitExceeded):
                client.execute(f"select {number}")
        assert client.execute("select 1 + 1").fetchone() == (2,)


def test_rates_follow_a_reload_and_sessions_that_are_there(primary: Postgres, ambassador: Make) -> None:
    proxy = ambassador(url(primary))
    with connect(proxy) as client:
        client.execute("select 1")
        proxy.reload(limits={"rates": [{"rate": 0.01, "burst": 1}]})
        proxy.wait_for_log(lambda line: "applied" in line["message"])
        client.execute("select 1")
        with pytest.raises(errors.ConfigurationLimitExceeded):
            client.execute("select 1")
        proxy.reload(limits={})
        wait_until(lambda: _works(client))


def _works(client: Connection[Any]) -> bool:
    try:
        client.execute("select 1")
    except errors.ConfigurationLimitExceeded:
        return False
    return True


# Faults on purpose.


@pytest.fixture(scope="module")
def staging(primary: Postgres, ambassadors: Make) -> Ambassador:
    return ambassadors(url(primary), console={"faults": True}, auth={"admins": ["op"]}, pool={"size": 2})


def console(proxy: Ambassador, sql: str, user: str = "op") -> list[tuple[Any, ...]]:
    with connect(proxy, user=user, database="pgambassador") as client:
        cursor = client.execute(sql)
        return cursor.fetchall() if cursor.description else []


def test_an_error_is_injected_and_seen_everywhere(staging: Ambassador) -> None:
    with connect(staging, application_name="victim") as victim, connect(staging) as other:
        console(staging, "FAULT ADD ERROR 40001 FOR application_name=victim FOR 1min")
        with pytest.raises(errors.SerializationFailure, match="injected on purpose"):
            victim.execute("select 1")
        assert other.execute("select 1").fetchone() == (1,)
        ((number, what, percent, scope, left, hits, by),) = console(staging, "SHOW FAULTS")
        assert (what, percent, scope, hits, by) == (
            "error 40001",
            "100",
            "application_name=victim",
            "1",
            "op",
        )
        assert 0 < int(left) <= 60
        status, text = staging.http("/readyz")
        assert status == 200
        assert "injected on purpose" in text
        assert total(staging, "faults_active") == 1
        assert staging.metrics().total("pgambassador_faults_injected_total", kind="error") == 1
        assert console(staging, "FAULT LIST")[0][0] == number
        console(staging, f"FAULT CLEAR {number}")
        assert victim.execute("select 1").fetchone() == (1,)
    assert total(staging, "faults_active") == 0
    assert "purpose" not in staging.http("/readyz")[1]
    assert any("begins, ordered by op" in line["message"] for line in staging.log_lines())
    assert any("cleared by op" in line["message"] for line in staging.log_lines())


def test_a_delay_holds_no_connection_and_ends_with_its_fault(staging: Ambassador) -> None:
    with connect(staging, application_name="slow") as victim, connect(staging) as other:
        console(staging, "FAULT ADD DELAY 200ms FOR application_name=slow FOR 1min")
        assert victim.execute("select 1").fetchone() == (1,)
        console(staging, "FAULT CLEAR")
        console(staging, "FAULT ADD DELAY 1min FOR application_name=slow FOR 1min")
        with Wire.session(staging.port, application_name="slow") as waits:
            waits.send(build.query("select 1"))
            assert other.execute("select 1").fetchone() == (1,)
            wait_until(lambda: console(staging, "SHOW FAULTS")[0][5] == "1")
            assert total(staging, "pool_waiting_clients") == 0
            console(staging, "FAULT CLEAR")
            assert waits.until("Z").value == "1"


@pytest.mark.parametrize("when", ["BEFORE", "AFTER"])
def test_a_connection_is_cut(staging: Ambassador, when: str) -> None:
    """What a client sees is what it would see if the network had done it, whenever it tries."""
    with connect(staging) as other, connect(staging, application_name="cut") as victim:
        other.execute("drop table if exists cuts; create table cuts (n int)")
        open_before = total(staging, "server_connections")
        console(staging, f"FAULT ADD CUT {when} FOR application_name=cut FOR 1min")
        with pytest.raises(psycopg.OperationalError) as caught:
            victim.execute("insert into cuts values (1)")
        ((*_, hits, _user),) = console(staging, "SHOW FAULTS")
        console(staging, "FAULT CLEAR")
        # What was not sent may be sent again, some times; what was open at the first loss does not count.
        least, most = (4, 4 + int(open_before) - 1) if when == "BEFORE" else (1, 1)
        assert caught.value.sqlstate == ("08006" if when == "BEFORE" else "08007")
        assert least <= int(hits) <= most
        ((rows,),) = other.execute("select count(*) from cuts").fetchall()
        assert rows <= (when == "AFTER")
        victim.execute("insert into cuts values (2)")


def test_a_fault_ends_by_itself(staging: Ambassador) -> None:
    console(staging, "FAULT ADD ERROR FOR 1s")
    with connect(staging) as client:
        with pytest.raises(psycopg.DatabaseError, match="injected") as caught:
            client.execute("select 1")
        assert caught.value.sqlstate == "58000"
        wait_until(lambda: total(staging, "faults_active") == 0)
        assert client.execute("select 1").fetchone() == (1,)
    staging.wait_for_log(lambda line: "its time is up" in line["message"])


def test_who_may_not(staging: Ambassador, primary: Postgres, ambassador: Make) -> None:
    with pytest.raises(errors.InsufficientPrivilege, match="may not order faults"):
        console(staging, "FAULT ADD ERROR", user="app")
    with pytest.raises(errors.InsufficientPrivilege, match="may not order faults"):
        console(staging, "FAULT CLEAR", user="app")
    with pytest.raises(errors.InvalidParameterValue, match="60 minutes at most"):
        console(staging, "FAULT ADD ERROR FOR 2h")
    with pytest.raises(errors.InvalidParameterValue, match="no fault 77"):
        console(staging, "FAULT CLEAR 77")
    production = ambassador(url(primary), auth={"admins": ["op"]})
    with pytest.raises(errors.InsufficientPrivilege, match="may not be injected here"):
        console(production, "FAULT ADD ERROR")
    assert console(production, "SHOW FAULTS") == []
