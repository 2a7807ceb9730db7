"""How many clients may come, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import psycopg
import pytest
from psycopg import Connection

from pgambassador.auth.doorway import FEW as DOOR
from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, wait_until

MOST = 3


@pytest.fixture
def proxy(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(
        primary.url("app", USERS["app"].password, "app"),
        clients={"max": MOST},
        auth={"method": "scram-sha-256", "users": {"app": "client-secret"}},
    )


def enter(proxy: Ambassador, **more: str) -> Connection:
    return psycopg.connect(proxy.dsn(password="client-secret", **more))


def full(proxy: Ambassador) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        enter(proxy)
    return "53300" if "sorry, too many clients already" in str(caught.value) else str(caught.value)


def test_when_one_client_leaves_the_next_one_gets_in(proxy: Ambassador) -> None:
    clients = [enter(proxy) for _ in range(MOST)]
    for _ in range(3):
        assert full(proxy) == "53300"
        clients.pop(0).close()
        wait_until(lambda: proxy.metrics().total("pgambassador_clients") == MOST - 1)
        clients.append(enter(proxy))
    for client in clients:
        assert client.execute("select 1").fetchone() == (1,)
        client.close()


def test_failed_logins_and_vanished_clients_are_not_counted_on(proxy: Ambassador) -> None:
    for _ in range(2 * MOST):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(proxy.dsn(password="wrong"))
        with pytest.raises(psycopg.OperationalError, match="no_such"):
            psycopg.connect(proxy.dsn(database="no_such", password="client-secret"))
        with pytest.raises(psycopg.OperationalError, match="invalid value"):
            enter(proxy, options="-c work_mem=much")
        for reset in (False, True):
            wire = Wire(proxy.port)
            wire.start(user="app", database="app")
            assert wire.receive().kind == "R"
            wire.vanish(reset=reset)
        with Wire(proxy.port) as wire:
            wire.send(b"\0\0\0\0")
            assert wire.rest().kinds == "E"
    wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 0)
    clients = [enter(proxy) for _ in range(MOST)]
    assert full(proxy) == "53300"
    for client in clients:
        client.close()


@pytest.mark.parametrize("method", ["scram-sha-256", "md5"])
def test_who_has_shown_nothing_takes_nobodys_place(
    primary: Postgres, ambassador: Callable[..., Ambassador], method: str
) -> None:
    """Neither with start packets, nor with wrong answers whose refusal nobody waits for."""
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        clients={"max": MOST},
        auth={"method": method, "users": {"app": "client-secret"}},
    )
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(proxy.port)) for _ in range(DOOR)]
        for wire in wires:
            wire.start(user="stranger", database="app")
            assert wire.receive().kind == "R"
        enter(proxy).close()
        assert wires[0].rest().error.sqlstate == "53300"
    for _ in range(DOOR if method == "md5" else 0):
        with Wire(proxy.port) as wire:
            wire.start(user="app", database="app")
            assert wire.receive().kind == "R"
            wire.send(build.password_message(b"md5wrong"))
    enter(proxy).close()


def test_a_cancel_request_needs_no_place(proxy: Ambassador) -> None:
    clients = [enter(proxy, application_name="to be cancelled") for _ in range(MOST)]
    with pytest.raises(psycopg.errors.QueryCanceled):
        cancelling(clients[0])
    for client in clients:
        client.close()


def cancelling(client: Connection) -> None:
    """Asks for something long, and cancels it once the answer has begun."""
    with client.cursor() as cursor, cursor.copy("copy (select generate_series(1, 1e9)) to stdout") as copy:
        assert copy.read()
        client.cancel_safe()
        while copy.read():
            pass


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_idle_clients_cost_no_server_connection(
    primary: Postgres, ambassador: Callable[..., Ambassador], observer: Connection, mode: str
) -> None:
    """One was needed to learn what to tell them at their login."""

    def servers() -> object:
        row = observer.execute("select count(*) from pg_stat_activity where usename = 'app'").fetchone()
        assert row is not None
        return row[0]

    wait_until(lambda: servers() == 0, "the end of others' connections")
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 20})
    with ExitStack() as stack:
        clients = [stack.enter_context(Wire.session(proxy.port)) for _ in range(100)]
        assert proxy.metrics().total("pgambassador_clients") == 100
        few = servers()
        assert few in (1, 2)  # the ambassador looks at its server when it starts
        if mode == "transaction":
            for client in clients:
                assert client.ask("select 1").value == "1"
            assert servers() == few


def test_many_first_logins_at_once_need_one_server_connection(
    primary: Postgres, ambassador: Callable[..., Ambassador], link: Link
) -> None:
    """What it says of itself greets all of them."""
    url = primary.url("app", USERS["app"].password, "app").replace(str(primary.port), str(link.port))
    link.stall()
    proxy = ambassador(url, pool={"size": 20})
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(proxy.port)) for _ in range(30)]
        for wire in wires:
            wire.start(user="app", database="app")
        wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 30)
        link.resume()
        for wire in wires:
            wire.until("Z")
        assert link.accepted == 1


def test_a_start_packet_alone_opens_no_server_connection(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Who cannot show a password costs the server nothing."""
    proxy = ambassador(
        primary.url("someone", "wrong").replace("/postgres?", "/?"),
        auth={"users": {"app": "client-secret"}},
    )
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="app")
        assert wire.receive().kind == "R"
        wire.send(build.password_message(b"x"))
        assert wire.rest().kinds == "E"
    metrics = proxy.metrics()
    assert not any("server_connect" in name and value for (name, _), value in metrics.items())
