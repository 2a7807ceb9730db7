"""All clients together make the process hold no more than it may, whatever they do; and overload sheds."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, wait_until

Make = Callable[..., Ambassador]

MOST = 32 << 20
HUGE = 60 << 20
PIECE = b"x" * (1 << 16)


def url(primary: Postgres) -> str:
    return primary.url("app", USERS["app"].password, "app")


def held(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_buffered_bytes")


def push(wires: list[Wire], rounds: int) -> int:
    """Everybody says as much as is taken; how many bytes that was."""
    pushed = 0
    for _ in range(rounds):
        for wire in wires:
            try:
                pushed += wire.socket.send(PIECE)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass
    return pushed


@pytest.fixture
def proxy(primary: Postgres, ambassador: Make) -> Ambassador:
    return ambassador(url(primary), clients={"memory": MOST}, pool={"size": 2})


@pytest.mark.slow
def test_a_hundred_halves_of_long_messages(proxy: Ambassador) -> None:
    """Each would be kept whole. Others are served meanwhile, and those who hold on are ended."""
    with ExitStack() as stack:
        good = stack.enter_context(psycopg.connect(proxy.dsn(), autocommit=True))
        good.execute("select 1")
        wires = [stack.enter_context(Wire.session(proxy.port)) for _ in range(100)]
        before = proxy.rss()
        for wire in wires:
            wire.send(b"P" + HUGE.to_bytes(4, "big") + b"\0")
            wire.socket.setblocking(False)
        highest = 0.0
        for _ in range(40):
            push(wires, 2)
            assert good.execute("select 1").fetchone() == (1,)
            highest = max(highest, held(proxy))
        assert MOST / 2 < highest <= MOST
        assert proxy.rss() - before < 3 * MOST
        with pytest.raises(psycopg.OperationalError, match="too much is held for other clients"):
            psycopg.connect(proxy.dsn())
        wait_until(lambda: held(proxy) <= MOST * 3 / 4, "room", deadline=30)
        assert proxy.metrics().total("pgambassador_memory_ended_total") > 0
        psycopg.connect(proxy.dsn()).close()
        assert proxy.rss() - before < 3 * MOST


@pytest.mark.slow
def test_who_is_ended_is_told_why(proxy: Ambassador) -> None:
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.session(proxy.port)) for _ in range(30)]
        for wire in wires:
            wire.send(b"P" + HUGE.to_bytes(4, "big") + b"\0")
            wire.socket.setblocking(False)
        wait_until(
            lambda: push(wires, 1) < 0 or proxy.metrics().total("pgambassador_memory_ended_total") > 0,
            "somebody's end",
            deadline=30,
        )
        told = [data for wire in wires if (data := everything(wire.socket))]
        assert told
        assert all(b"53200" in data and b"clients.memory" in data for data in told)


def everything(sock: socket.socket) -> bytes:
    found = b""
    try:
        while part := sock.recv(65536):
            found += part
    except (BlockingIOError, ConnectionResetError):
        pass
    return found


def test_long_statements_one_after_the_other(proxy: Ambassador) -> None:
    """A client that sends them without waiting is held back, and each is answered."""
    statement = b"\0select '" + b"x" * (3 << 20) + b"'\0\0\0"
    before = proxy.rss()
    with Wire.session(proxy.port) as wire:
        for _ in range(20):
            wire.send(b"P" + (len(statement) + 4).to_bytes(4, "big") + statement)
        wire.send(b"S\0\0\0\4")
        assert wire.until("Z").kinds == "1" * 20 + "Z"
        assert proxy.rss() - before < 3 * MOST
        assert wire.ask("select 1").value == "1"


def test_many_more_clients_than_may_wait(primary: Postgres, ambassador: Make) -> None:
    """2,000 for two connections and 100 places: each gets an answer, and the process stays as it was."""
    proxy = ambassador(
        {"clusters": {"main": {"url": url(primary), "routing": {"batching": False}}}},
        pool={"size": 2, "max_waiting": 100},
    )
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire.session(proxy.port)) for _ in range(2000)]
        before = proxy.rss()
        first = wires[0].ask("select 1").value
        assert first == "1"
        stalls = []
        for round_ in range(3):
            for wire in wires:
                wire.send(build.query("select pg_sleep(0.002)"))
            began = time.monotonic()
            proxy.http("/livez")
            stalls.append(time.monotonic() - began)
            answers = [wire.until("Z") for wire in wires]
            served = sum(answer.kinds == "TDCZ" for answer in answers)
            refused = [answer.error for answer in answers if answer.kinds == "EZ"]
            assert served + len(refused) == len(wires), round_
            assert served >= 2
            assert all(error.sqlstate == "53300" for error in refused)
        assert proxy.metrics().total("pgambassador_pool_waiting_clients") == 0
        assert proxy.metrics().total("pgambassador_shed_total") > 0
        assert proxy.rss() - before < 64 << 20
        print("answers of /livez under load, in seconds:", [round(each, 3) for each in stalls])
        assert [wire.ask("select 1").value for wire in wires[:50]] == ["1"] * 50
