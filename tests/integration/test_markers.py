"""No reply ever reaches the wrong client: a crowd shares few server connections, its short questions share
writes, and each answer must be the one to its own marker, to the last byte.

`make adversity` has it for a minute and more: PGAMBASSADOR_SECONDS=n.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest

from pgambassador.embedded import Postgres
from tests.harness import USERS, Ambassador, wait_until
from tests.harness.activity import sessions
from tests.marked import RARE, SIMPLE, Crowd

SECONDS = float(os.environ.get("PGAMBASSADOR_SECONDS", "0") or "0")
"""For all tests of this file together; 0: a few."""
KILL_EVERY = 0.25
JOINED = "\n;\nselect %"
OFTEN = {"simple", "unnamed", "named", "rows", "two", "zone", "cancel", "canceled", "vanish"}


@contextmanager
def killing(primary: Postgres, seed: int) -> Iterator[list[int]]:
    """Server connections end, one at a time, whatever they are doing."""
    over = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        chance = random.Random(f"{seed} kill")
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            while not over.wait(2 * KILL_EVERY * chance.random()):
                if victims := sorted(sessions(connection)):
                    killed.append(chance.choice(victims))
                    connection.execute("select pg_terminate_backend(%s)", killed[-1:])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60)
@pytest.mark.parametrize(("size", "killed"), [(2, True), (8, True), (2, False)])
def test_every_answer_carries_the_marker_of_who_has_asked(
    size: int,
    killed: bool,
    primary: Postgres,
    ambassador: Callable[..., Ambassador],
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        pool={"size": size, "statements": 10, "wait_notice": "off"},
    )
    crowd = Crowd(proxy.port, 64, seed, unruly=True, killed=killed)
    before = time.monotonic()
    with ExitStack() as stack:
        ended = stack.enter_context(killing(primary, seed)) if killed else []
        crowd.run(SECONDS / 3 or 2.5)
    metrics = proxy.metrics()
    batches = metrics.total("pgambassador_batches_total")
    batched = metrics.total("pgambassador_batched_queries_total")
    about = (
        f"{crowd!r}, {batched:.0f} of them in {batches:.0f} batches, {len(ended)} server connections killed"
    )
    if SECONDS:
        with capsys.disabled():
            print(f"\n{about} in {time.monotonic() - before:.0f} s")
    assert not crowd.wrong, "\n".join((about, *crowd.wrong))
    # On a machine that has no time for it nothing counts as short, and rare things are rarer still.
    assert crowd.checked > 500 and batched, about
    assert crowd.checked < 30_000 or {kind.__name__ for kind in RARE} | OFTEN <= crowd.done.keys(), about
    assert not killed or ended, about
    assert metrics.total("pgambassador_pool_waiting_clients") == 0, about
    assert not [line for line in proxy.log_lines() if line.get("level") == "error"], about


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_simple_queries_become_one(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """As the server shows them; some of them fail, each by itself, at a place in its own text."""
    seed = int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"), pool={"size": 1, "wait_notice": "off"}
    )
    crowd = Crowd(proxy.port, 32, seed, kinds=SIMPLE)
    thread = threading.Thread(target=crowd.run, args=(30.0,))
    thread.start()
    try:
        with psycopg.connect(primary.url(), autocommit=True) as connection:

            def several() -> bool:
                found = connection.execute(
                    "select count(*) from pg_stat_activity where query like %s",
                    (f"select %as marker{JOINED}",),
                ).fetchone()
                return found == (1,) and crowd.done["simple"] > 1000 and crowd.done["refused"] > 100

            wait_until(several, "several statements in one query", deadline=25.0)
    finally:
        crowd.stop()
        thread.join()
    assert not crowd.wrong, (crowd, *crowd.wrong)
