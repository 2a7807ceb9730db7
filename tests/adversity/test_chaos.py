"""Whatever happens to the servers and on the way to them, at random: no acknowledged commit is lost, nothing
runs twice, nobody gets what is not theirs, and afterwards nothing is left over.

SEED=n strikes the same blows again; SOAK=n goes on for n seconds.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.net.reception import IDLE
from tests.adversity.promises import AGAIN_MOST, IN_FORCE, broken
from tests.adversity.scenes import MIB, seed
from tests.harness import Ambassador, wait_until
from tests.harness.faults import LONGEST, Fault, faults, well
from tests.harness.ledger import Phase
from tests.harness.load import Load
from tests.harness.pair import Pair

SECONDS = float(os.environ.get("SOAK", "30"))
SIZE = 4
CONFIG: dict[str, Any] = {
    "pool": {"size": SIZE, "wait_timeout": "15s", "wait_notice": "off"},
    "query_log": {"slow": "off", "errors": False},
}
PROBE = {"probe": {"interval": "100ms", "timeout": "500ms"}}
TCP = {"connect_timeout": "2", "tcp_user_timeout": "1000", "keepalives_idle": "1", "keepalives_interval": "1"}


class Storm:
    """One blow after another, now and then one at each server."""

    def __init__(self, pair: Pair, chance: random.Random) -> None:
        self.struck: Counter[str] = Counter()
        self._chance = chance
        self._faults = [
            {
                f"{'primary' if primary else 'standby'} {name}": fault
                for name, fault in faults(server, pair.links[server], chance, primary=primary).items()
            }
            for primary, server in ((True, pair.primary), (False, pair.standby))
        ]
        self._names = [list(each) for each in self._faults]

    def blow(self) -> None:
        both = self._chance.random() < 0.2
        sides = [0, 1] if both else [self._chance.randrange(2)]
        chosen: list[Fault] = []
        try:
            for side in sides:
                # Each once before any comes again.
                if not self._names[side]:
                    self._names[side] = list(self._faults[side])
                name = self._names[side].pop(self._chance.randrange(len(self._names[side])))
                chosen.append(self._faults[side][name])
                self.struck[name] += 1
                self._faults[side][name].strike()
            time.sleep(LONGEST * self._chance.random() ** 2)  # the storm's own rhythm, nothing is waited for
        finally:
            for fault in chosen:
                fault.heal()

    def rage(self, until: float) -> None:
        while time.monotonic() < until:
            self.blow()
            time.sleep(0.5 * self._chance.random())


class Holdings:
    """What a process holds that must not grow."""

    def __init__(self, proxy: Ambassador) -> None:
        self.connections = int(proxy.metrics().total("pgambassador_server_connections"))
        self.files = proxy.files() - self.connections
        tasks = proxy.inside().tasks  # at the door some may wait for somebody to come
        self.tasks = sum(tasks.values()) - min(tasks.get("login", 0), IDLE)
        self.memory = proxy.rss()

    def __repr__(self) -> str:
        return f"<{self.files} files, {self.tasks} tasks, {self.memory / MIB:.0f} MiB>"


def left_over(proxy: Ambassador, before: Holdings, *servers: Postgres) -> None:
    """Waits for what is still on its way out; nothing else may be left."""

    def at_rest() -> bool:
        metrics = proxy.metrics()
        return not (
            metrics.total("pgambassador_clients")
            or metrics.total("pgambassador_pool_waiting_clients")
            or metrics.total("pgambassador_server_connections", state="active")
            or metrics.total("pgambassador_server_connections", state="opening")
        )

    wait_until(at_rest, "the end of everything", deadline=30)

    def no_more_than_before() -> bool:
        now = Holdings(proxy)
        return now.files <= before.files + 2 and now.tasks <= before.tasks + 2

    try:
        wait_until(no_more_than_before, "the end of what holds files or tasks", deadline=15, poll=0.2)
    except AssertionError as error:
        raise AssertionError(f"{error}: {before} before, {Holdings(proxy)} now, {proxy.inside()}") from None
    sessions = 0
    for server in servers:
        with psycopg.connect(server.url()) as connection:
            asked = "select count(*) from pg_stat_activity where usename = 'app'"
            sessions += connection.execute(asked).fetchall()[0][0]
    known = proxy.metrics().total("pgambassador_server_connections")
    assert sessions <= known + 2 * len(servers), f"{known:g} connections, and {sessions} sessions"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 150)
def test_no_commit_is_lost_and_nothing_runs_twice(
    workspace: Workspace, ambassador: Callable[..., Ambassador]
) -> None:
    number = seed()
    print(f"SEED={number}")
    with Pair(workspace, "chaos") as pair:
        pair.fresh()
        clusters = {"main": {"url": pair.url(**TCP), "routing": PROBE}}
        proxy = ambassador({"clusters": clusters}, **CONFIG, start=False)
        proxy.look_inside()
        proxy.start()
        with psycopg.connect(proxy.dsn()) as first:
            first.execute("select 1")
        wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 0)
        before = Holdings(proxy)
        storm = Storm(pair, random.Random(f"{number} storm"))
        with Load(proxy, number) as load:
            load.everybody(20, "at first", 30)
            warm = proxy.rss()
            storm.rage(time.monotonic() + SECONDS)
            for server in pair.links:
                well(server)
            load.everybody(5, f"after the storm, SEED={number}", 30)
        ledger = load.ledger
        lost = {
            key: n
            for key, n in proxy.metrics().items()
            if key[0] == "pgambassador_lost_statements_total" and n
        }
        about = f"SEED={number}\n{ledger.summary()}\n{dict(storm.struck)}\n{lost}"
        print(about)
        pair.caught_up()
        problems = ledger.compare(pair.found())
        assert not problems, "\n".join((about, *problems[:20]))
        assert not ledger.wrong, "\n".join((about, *ledger.wrong[:20]))
        beyond = ledger.beyond(IN_FORCE)
        assert not beyond, f"{broken(beyond)}\n{about}"
        bereft = sum(each.phase is Phase.ONCE_MORE for each in ledger.troubles)
        assert bereft <= 1 + AGAIN_MOST * sum(ledger.successes.values()), (
            f"{bereft} were asked again in vain\n{about}"
        )
        assert storm.struck.total() > SECONDS / 4 and len(ledger.done) == 17, about
        left_over(proxy, before, *pair.links)
        assert proxy.rss() < warm * 1.3 + 8 * MIB, (warm, proxy.rss(), about)
        bad = [line for line in proxy.log_lines() if line["level"] == "error"]
        assert not bad, (bad[:5], about)
