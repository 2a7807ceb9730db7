"""`clients.max_per_address`: clients on machines of their own, and those that are on the ambassador's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pgambassador.embedded import Postgres
from tests.harness import USERS, Ambassador, Wire, wait_until
from tests.harness.network import PREFIX, Lan, Machine

MOST = 2
HERE = f"{PREFIX}.1"


@pytest.fixture
def proxy(
    lan: Lan, primary: Postgres, ambassador: Callable[..., Ambassador], tmp_path: Path
) -> Iterator[Ambassador]:
    """Its network is that of the switch, and the test's too."""
    user = USERS["app"]
    socket = f"host={primary.socket_folder}&port={primary.port}&sslmode=disable"
    made = ambassador(
        f"postgresql://{user.name}:{user.password}@/app?{socket}",
        start=False,
        auth={"rules": [{"method": "trust"}]},
        clients={"max_per_address": MOST},
    )
    made.config["listen"] += [f"{HERE}:{made.port}", f"unix:{tmp_path}"]
    made.warm = None  # whose processes are in another network
    with lan.space.inside():
        made.start()
        yield made


def enter(machine: Machine, proxy: Ambassador) -> Wire:
    with machine.space.inside():
        return Wire.session((HERE, proxy.port))


def turned_away(machine: Machine, proxy: Ambassador) -> None:
    with machine.space.inside(), Wire((HERE, proxy.port)) as wire:
        wire.start(user="app", database="app")
        fields = wire.rest().error.fields
    assert (fields["S"], fields["C"]) == ("FATAL", "53300")
    assert fields["M"] == f"too many connections from {machine.address}"
    assert fields["H"] == f"At most {MOST} are allowed (clients.max_per_address)."


def rejected(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_clients_rejected_total", reason="too many from an address")


def test_each_address_has_its_own(lan: Lan, proxy: Ambassador) -> None:
    one, other = lan.machines
    clients = [enter(one, proxy) for _ in range(MOST)]
    turned_away(one, proxy)
    clients += [enter(other, proxy) for _ in range(MOST)]
    turned_away(other, proxy)
    assert rejected(proxy) == 2
    for client in clients:
        assert client.ask("select 1").value == "1"
        client.leave()


@pytest.mark.parametrize("vanishes", [False, True], ids=["leaves", "vanishes"])
def test_who_leaves_makes_room_for_the_next_one(lan: Lan, proxy: Ambassador, vanishes: bool) -> None:
    machine, other = lan.machines
    clients = [enter(machine, proxy) for _ in range(MOST)]
    for _ in range(3):
        turned_away(machine, proxy)
        first = clients.pop(0)
        first.vanish(reset=True) if vanishes else first.leave()
        wait_until(lambda: proxy.metrics().total("pgambassador_clients") == MOST - 1)
        clients.append(enter(machine, proxy))
    turned_away(machine, proxy)
    with enter(other, proxy) as client:
        assert client.ask("select 1").value == "1"
    for client in clients:
        assert client.ask("select 1").value == "1"
        client.leave()


def test_who_is_on_the_same_machine_does_not_count(lan: Lan, proxy: Ambassador, tmp_path: Path) -> None:
    """Behind loopback and sockets are all its programs, other proxies among them."""
    path = str(next(tmp_path.glob(".s.PGSQL.*")))
    with ExitStack() as stack:
        for _ in range(MOST + 1):
            for client in (Wire(proxy.port), Wire(proxy.port, source="127.0.0.2"), Wire(path)):
                stack.enter_context(client).login(user="app", database="app")
                assert client.ask("select 1").value == "1"
        stack.enter_context(enter(lan.machines[0], proxy))
    assert "pgambassador_clients_rejected_total{" not in proxy.http("/metrics")[1]


def test_a_reload_changes_it_for_those_who_come(lan: Lan, proxy: Ambassador) -> None:
    machine = lan.machines[0]
    with ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(enter(machine, proxy))
        turned_away(machine, proxy)
        proxy.reload(clients={"max_per_address": MOST + 1})
        proxy.wait_for_log(lambda line: "applied: clients.max_per_address" in line["message"])
        stack.enter_context(enter(machine, proxy))
        with machine.space.inside(), Wire((HERE, proxy.port)) as wire:
            wire.start(user="app", database="app")
            assert wire.rest().error.sqlstate == "53300"
