"""Servers that die, restart and change places under load: who notices, and what becomes of their writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgambassador.embedded import Workspace
from tests.adversity.promises import IN_FORCE, WITHOUT_STANDBY, Promises, broken
from tests.adversity.scenes import (
    MIB,
    Played,
    black_hole,
    primary_restarts,
    seed,
    standby_dies,
    standby_takes_over,
)
from tests.harness import Ambassador
from tests.harness.crowd import ENDED
from tests.harness.packets import Cable
from tests.harness.pair import Pair

CLIENTS = 1000
DEADLINE = 10.0
PROBE = {"probe": {"interval": "100ms", "timeout": "500ms"}}
POOL: dict[str, Any] = {"size": 4, "wait_notice": "off"}


@pytest.fixture(scope="module")
def pair(workspace: Workspace) -> Iterator[Pair]:
    with Pair(workspace, "failover") as made:
        yield made


@pytest.fixture
def proxy(pair: Pair, ambassador: Callable[..., Ambassador]) -> Ambassador:
    pair.fresh()
    clusters: dict[str, Any] = {"main": {"url": pair.url(connect_timeout="2"), "routing": PROBE}}
    return ambassador({"clusters": clusters}, pool=POOL, query_log={"slow": "off", "errors": False})


def judge(played: Played, promises: Promises) -> None:
    print(played.about)
    assert not played.problems, played.about
    assert not played.ledger.wrong, played.about
    beyond = played.ledger.beyond(promises)
    assert not beyond, f"{broken(beyond)}\n{played.about}"
    assert len(played.ledger.done) > 15, played.about


@pytest.mark.slow
def test_nobody_notices_that_a_standby_dies(pair: Pair, proxy: Ambassador) -> None:
    """Unless a part of an answer has been passed on."""
    judge(standby_dies(pair, proxy, seed(), ("kill", "crash", "fast")), WITHOUT_STANDBY)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", ["fast", "crash", "kill"])
def test_a_primary_that_restarts(how: str, pair: Pair, proxy: Ambassador) -> None:
    judge(primary_restarts(pair, proxy, seed(), how), IN_FORCE)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kill", [False, True], ids=["planned", "killed"])
def test_a_standby_that_takes_over(kill: bool, pair: Pair, proxy: Ambassador) -> None:
    """And the old primary, which comes back as a standby."""
    judge(standby_takes_over(pair, proxy, seed(), kill=kill), IN_FORCE)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_thousand_clients_before_a_black_hole(pair: Pair, ambassador: Callable[..., Ambassador]) -> None:
    """Everybody is answered in the time that was set, the event loop turns, and memory stays as it is."""
    if not Cable.possible:
        pytest.skip("losing packets on purpose takes Linux, and here a privilege that this user has not")
    pair.fresh()
    url = pair.url(connect_timeout="2", tcp_user_timeout="1000")
    proxy = ambassador(url, pool={**POOL, "wait_timeout": "2s"}, start=False)
    proxy.look_inside()
    proxy.start()
    hole = black_hole(pair, proxy, CLIENTS)
    about = hole.about
    print(about)
    # Whose write is in doubt reads at the primary only.
    assert hole.reads.kinds["answered"] >= CLIENTS - POOL["size"], about
    for each in hole.rounds:
        assert each.kinds.keys() <= {"08001", "08006", "08007", "53300", "57P03", ENDED}, about
        assert each.kinds[ENDED] <= POOL["size"] and each.slowest < DEADLINE, about
    assert hole.median < 0.05, about
    assert max(hole.memory) < hole.memory[0] * 1.2 + 4 * MIB, about
