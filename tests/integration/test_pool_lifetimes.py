"""How long server connections are kept: reused while fresh, closed when old or idle, a few always warm."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from tests.harness import USERS, Ambassador, Wire, wait_until

Start = Callable[..., Ambassador]


@pytest.fixture(params=["transaction", "session"])
def start(request: pytest.FixtureRequest, primary: Postgres, ambassador: Callable[..., Ambassador]) -> Start:
    url = primary.url("app", USERS["app"].password, "app")
    return lambda **pool: ambassador(url, pool={"mode": request.param, **pool})


def pid(wire: Wire) -> str:
    value = wire.ask("select pg_backend_pid()").value
    assert value is not None
    return value


def pid_of_the_next(proxy: Ambassador) -> str:
    with Wire.session(proxy.port) as wire:
        value = pid(wire)
        wire.leave()
        return value


def exists(observer: Connection, pid: str) -> bool:
    rows = observer.execute("select from pg_stat_activity where pid = %s", (int(pid),)).fetchall()
    return bool(rows)


def servers(proxy: Ambassador, state: str | None = None) -> float:
    labels = {} if state is None else {"state": state}
    return proxy.metrics().total("pgambassador_server_connections", **labels)


def test_an_idle_pool_hands_out_the_same_connection(start: Start) -> None:
    proxy = start(size=5)
    seen = set()
    for _ in range(20):
        wait_until(
            lambda: servers(proxy, "idle") == servers(proxy) == 1, "one connection, cleaned up and idle"
        )
        seen.add(pid_of_the_next(proxy))
    with Wire.session(proxy.port) as wire:
        wait_until(lambda: servers(proxy, "idle") == 1)
        seen |= {pid(wire) for _ in range(20)}
    assert len(seen) == 1
    assert servers(proxy) == 1


def test_a_connection_over_its_lifetime_is_closed_and_replaced(start: Start, observer: Connection) -> None:
    proxy = start(size=1, lifetime="1s")
    old = pid_of_the_next(proxy)
    wait_until(lambda: not exists(observer, old), "the end of the old connection")
    new = pid_of_the_next(proxy)
    assert new != old
    assert exists(observer, new)


def test_work_is_not_interrupted_by_the_end_of_a_lifetime(start: Start, observer: Connection) -> None:
    proxy = start(size=1, lifetime="300ms")
    with Wire.session(proxy.port) as wire:
        wire.ask("begin")
        old = pid(wire)
        # It is twice as old as it may be, and still in use.
        age = "select clock_timestamp() - backend_start > '600ms' from pg_stat_activity where pid = %s"
        wait_until(lambda: observer.execute(age, (int(old),)).fetchone() == (True,), "age")
        assert pid(wire) == old
        assert wire.ask("commit").kinds == "CZ"
        wire.leave()
    wait_until(lambda: not exists(observer, old), "the end of the old connection")
    assert pid_of_the_next(proxy) != old


def test_a_client_in_no_hurry_never_notices_a_lifetime(start: Start) -> None:
    proxy = start(size=2, lifetime="200ms")
    seen = set()

    def two_seen() -> bool:
        seen.add(pid_of_the_next(proxy))
        return len(seen) > 2

    wait_until(two_seen, "connections that come and go")


def test_idle_connections_are_closed_down_to_the_minimum(start: Start) -> None:
    proxy = start(size=5, min_size=1, idle_timeout="300ms")
    wires = [Wire.session(proxy.port) for _ in range(5)]
    for wire in wires:
        wire.ask("begin")
    assert servers(proxy) == 5
    for wire in wires:
        wire.ask("commit")
        wire.leave()
    wait_until(lambda: servers(proxy) == 1, "one to remain")
    last = pid_of_the_next(proxy)
    assert pid_of_the_next(proxy) == last


def test_the_minimum_is_opened_before_anybody_comes_and_restored_when_one_dies(
    start: Start, observer: Connection
) -> None:
    proxy = start(size=5, min_size=3)
    wait_until(lambda: servers(proxy) == 3, "three warm connections")
    victim = pid_of_the_next(proxy)
    observer.execute("select pg_terminate_backend(%s)", (int(victim),))
    wait_until(lambda: not exists(observer, victim), "the end of one")
    wait_until(lambda: servers(proxy) == 3, "three warm connections again")
    assert pid_of_the_next(proxy) != victim


def test_the_pool_never_grows_beyond_its_size(start: Start) -> None:
    proxy = start(size=2, wait_timeout="300ms")
    wires = [Wire.session(proxy.port) for _ in range(3)]
    for wire in wires[:2]:
        wire.ask("begin")
    refused = wires[2].ask("select 1")
    assert refused.kinds == "EZ"
    assert servers(proxy) == 2
    wires[0].ask("commit")
    wires[0].leave()
    assert wires[2].ask("select 1").value == "1"
    for wire in wires[1:]:
        wire.leave()
