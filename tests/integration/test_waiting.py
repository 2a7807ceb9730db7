"""Clients that wait for a server connection: in order, told about it, and not for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.messages import FUNCTION_CALL, SYNC, bind, execute, parse


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def proxy(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """Two server connections; a client is told at once, and sent away after a second."""
    pool = {"mode": mode, "size": 2, "wait_notice": "300ms", "wait_timeout": "1s"}
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool=pool)


@pytest.fixture(scope="module")
def patient(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """One server connection, and no end of waiting."""
    pool = {"mode": mode, "size": 1, "wait_notice": "off", "wait_timeout": "off"}
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool=pool)


def waiting(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_pool_waiting_clients")


def _are_waiting(proxy: Ambassador, clients: int) -> bool:
    return waiting(proxy) == clients


QUESTIONS = {
    "simple": (build.query("select 'too late'"), "EZ"),
    "extended": (parse(b"", b"select 'too late'") + bind(b"") + execute() + SYNC, "EZ"),
    "several": (build.query("select 'too late'") + build.query("select 'in time'"), "EZTDCZ"),
    "function": (FUNCTION_CALL, "EZ"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_one_who_waits_too_long_gets_an_error_of_its_own(question: str, mode: str, proxy: Ambassador) -> None:
    """Told first by a notice; then by an error that is no protocol violation. The session goes on."""
    messages, kinds = QUESTIONS[question]
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two, Wire.session(proxy.port) as client:
        one.ask("begin")
        two.ask("begin")
        timeouts = proxy.metrics().total("pgambassador_wait_timeouts_total")
        began = time.monotonic()
        client.send(messages)
        notice = client.receive()
        assert (notice.kind, notice.fields["S"], notice.fields["C"]) == ("N", "NOTICE", "00000")
        assert "wait" in notice.fields["M"]
        assert 0.2 < time.monotonic() - began < 0.9
        answer = client.until("Z")
        assert 0.9 < time.monotonic() - began < 2.5
        assert answer.kinds == "EZ"
        fields = answer.error.fields
        assert (fields["S"], fields["C"]) == ("ERROR", "53300")
        assert "1 s" in fields["M"]
        assert "pool" in fields["H"]
        assert answer[-1].payload == b"I"
        assert proxy.metrics().total("pgambassador_wait_timeouts_total") == timeouts + 1
        one.ask("commit")
        if mode == "session":
            one.leave()
        if kinds != "EZ":
            assert [message.kind for message in client.until("Z") if message.kind != "N"] == list(kinds[2:])
        assert client.ask("select 'still here'").value == "still here"
        two.ask("commit")


def test_a_driver_gets_too_many_connections(proxy: Ambassador) -> None:
    heard: list[str | None] = []
    with (
        Wire.session(proxy.port) as one,
        Wire.session(proxy.port) as two,
        psycopg.connect(proxy.dsn(), autocommit=True) as connection,
    ):
        one.ask("begin")
        two.ask("begin")
        connection.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        with pytest.raises(psycopg.errors.TooManyConnections, match="no server connection became free"):
            connection.execute("select 1")
        assert len(heard) == 1
        assert not connection.closed


def test_one_who_is_served_in_time_is_told_once_and_served(mode: str, proxy: Ambassador) -> None:
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as two, Wire.session(proxy.port) as client:
        one.ask("begin")
        two.ask("begin")
        client.send(build.query("select 'served'"))
        assert client.receive().kind == "N"
        one.ask("commit")
        if mode == "session":
            one.leave()
        answer = client.until("Z")
        assert (answer.kinds, answer.value) == ("TDCZ", "served")


def test_who_came_first_is_served_first(mode: str, patient: Ambassador) -> None:
    holder = Wire.session(patient.port)
    holder.ask("create sequence if not exists turn")
    holder.ask("begin")
    first = int(holder.ask("select nextval('turn')").value or 0)
    queue = [Wire.session(patient.port) for _ in range(8)]
    for index, client in enumerate(queue):
        client.send(build.query("select nextval('turn')"))
        wait_until(partial(_are_waiting, patient, index + 1))
    if mode == "transaction":
        holder.ask("commit")
    holder.leave()
    for index, client in enumerate(queue):
        assert client.until("Z").value == str(first + index + 1)
        client.leave()


def test_one_who_leaves_the_queue_is_not_waited_for(mode: str, patient: Ambassador) -> None:
    with Wire.session(patient.port) as holder, Wire.session(patient.port) as last:
        holder.ask("begin")
        impatient = [Wire.session(patient.port) for _ in range(5)]
        for client in impatient:
            client.send(build.query("select 'nobody reads this'"))
        wait_until(lambda: waiting(patient) == 5)
        last.send(build.query("select 'last'"))
        wait_until(lambda: waiting(patient) == 6)
        for index, client in enumerate(impatient):
            client.vanish(reset=index % 2 == 0)
        wait_until(lambda: waiting(patient) == 1)
        holder.ask("commit")
        if mode == "session":
            holder.leave()
        assert last.until("Z").value == "last"


def test_idle_clients_do_not_wait_and_cost_nothing(mode: str, patient: Ambassador) -> None:
    """A hundred that are logged in, and one that works."""
    idle = [Wire.session(patient.port) for _ in range(100)]
    assert waiting(patient) == 0
    with Wire.session(patient.port) as client:
        for index in range(20):
            assert client.ask(f"select {index}").value == str(index)
    for each in idle:
        each.leave()
    wait_until(lambda: patient.metrics().total("pgambassador_clients") == 0)


def test_a_crowd_is_served(mode: str, patient: Ambassador) -> None:
    """Many more clients than server connections: everybody gets all of its own answers."""
    wrong: list[object] = []

    def ask(number: int) -> None:
        with Wire.session(patient.port) as client:
            for index in range(20):
                value = client.ask(f"select '{number} {index}'").value
                if value != f"{number} {index}":
                    wrong.append((number, index, value))

    crowd = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for each in crowd:
        each.start()
    for each in crowd:
        each.join(30)
    assert not wrong
    assert waiting(patient) == 0
