"""Scenes of failure, with clients on the stage: the tests judge what comes of them, `figures` measures it.

The tables that clients write into are there before the ambassador is (`Pair.fresh`): for a second after that
it would not know what statements do.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.harness import Ambassador, Wire, wait_until
from tests.harness.crowd import ENDED, Crowd, Round
from tests.harness.faults import stop_server
from tests.harness.ledger import Ledger
from tests.harness.load import Load
from tests.harness.pair import Pair

MIB = 1 << 20
QUICK = 0.005
"""Seconds within which a client has an answer that nobody had to wait for."""


def seed() -> int:
    return int(os.environ.get("SEED", "0")) or random.randrange(1 << 30)


@dataclass(frozen=True)
class Played:
    """What clients were told, and what is wrong with the table."""

    ledger: Ledger
    problems: list[str]
    first_write: float = 0.0
    """Seconds from the new primary's first write to the first by a client."""

    @property
    def about(self) -> str:
        return "\n".join((self.ledger.summary(), *self.problems[:10], *self.ledger.wrong[:10]))


def standby_dies(pair: Pair, proxy: Ambassador, seed: int, ways: Sequence[str]) -> Played:
    with Load(proxy, seed) as load:
        for how in ways:
            load.everybody(10, "beside a standby")
            stop_server(pair.standby, how)
            load.everybody(10, "without a standby")
            pair.standby.start()
            pair.caught_up()
        load.everybody(10, "beside the standby again")
    return Played(load.ledger, load.ledger.compare(pair.found()))


def primary_restarts(pair: Pair, proxy: Ambassador, seed: int, how: str) -> Played:
    with Load(proxy, seed) as load:
        load.everybody(10, "before")
        stop_server(pair.primary, how)
        pair.primary.start()
        load.everybody(10, "after")
    return Played(load.ledger, load.ledger.compare(pair.found()))


def standby_takes_over(pair: Pair, proxy: Ambassador, seed: int, *, kill: bool) -> Played:
    """The primary is switched off or dies, the standby is promoted, and then the old primary follows it."""
    pair.synchronous(True)
    with Load(proxy, seed) as load:
        load.everybody(10, "before")
        pair.down(kill=kill)
        down = time.monotonic()
        promoted = pair.promote()
        load.everybody(10, "of the new primary")
        pair.demote()
        load.everybody(10, "beside the old one")
    first = min(success.ended for success in load.ledger.written if success.ended > down)
    return Played(load.ledger, load.ledger.compare(pair.found()), max(0.0, first - promoted))


def knows(proxy: Ambassador, client: Wire, read: str, database: str = "app") -> None:
    """Asks until it is known to be a read, which it is not before the database's catalog was read."""
    with Wire.session(proxy.port, user="pgambassador", database="pgambassador") as console:

        def known() -> bool:
            assert client.ask(read).kinds == "TDCZ"
            return ["class", "read"] in console.ask(f"show route for app {database} '{read}'").rows

        wait_until(known, "its pool to know what only reads")


# A black hole.


@dataclass
class Hole:
    clients: int
    before: Round
    rounds: list[Round] = field(default_factory=list)
    """Of what the primary alone could answer."""
    reads: Round = field(default_factory=lambda: Round([]))
    lag: float = 0.0
    """Seconds, the worst; `median` is the usual."""
    median: float = 0.0
    memory: list[int] = field(default_factory=list)
    """Bytes after each round."""
    after: float = 0.0
    """Seconds until everybody had an answer again."""

    @property
    def about(self) -> str:
        rounds = [f"{each.slowest:.2f} s {dict(each.kinds)}" for each in (*self.rounds, self.reads)]
        lag = f"lag {1000 * self.lag:.1f} ms, usually {1000 * self.median:.3f} ms"
        return f"{'; '.join(rounds)}; {lag}; {[each >> 10 for each in self.memory]} kB; {self.after:.2f} s"


def black_hole(pair: Pair, proxy: Ambassador, clients: int, rounds: int = 3) -> Hole:
    """Everybody asks at the moment when the primary is cut off: no packet comes back from there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * clients + 1000)), hard))
    link = pair.links[pair.primary]
    with Wire.session(proxy.port) as client:
        knows(proxy, client, "select 2")

    async def play() -> Hole:
        async with Crowd(proxy.port, clients) as crowd:
            hole = Hole(clients, await crowd.ask("select 1"))
            proxy.inside()
            await asyncio.to_thread(link.pull)
            await asyncio.to_thread(link.unplug)
            try:
                for _ in range(rounds):
                    hole.rounds.append(await crowd.ask("insert into firsts values (2)"))
                    hole.memory.append(proxy.rss())
                hole.reads = await crowd.ask("select 2")
                look = await asyncio.to_thread(proxy.inside)
                hole.lag, hole.median = look.lag, look.median
            finally:
                await asyncio.to_thread(link.plug)
            began = time.monotonic()
            while (await crowd.ask("insert into firsts values (3)")).kinds.keys() - {"answered", ENDED}:
                assert time.monotonic() - began < 30, "no answers after the black hole"
            hole.after = time.monotonic() - began
            return hole

    return asyncio.run(play())


# A sick server.


@dataclass(frozen=True)
class Sickness:
    opened: float
    """Seconds until clients were refused at once."""
    refusals: float
    """Seconds that half of them then took at most."""
    asked: int
    """Questions while it was sick,"""
    reached: int
    """and connections that were tried."""
    recovered: float
    """Seconds from when the server was well until the first answer."""
    errors: Counter[str]


class _Asker(threading.Thread):
    def __init__(self, port: int, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[float, float, str]] = []
        """When, how long it took, and what came."""
        self._port, self._stopping = port, stop

    def run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                with Wire.session(self._port) as wire:
                    while not self._stopping.wait(0.01):
                        began = time.monotonic()
                        answer = wire.ask("select 1")
                        self._note(began, answer.error.sqlstate if "E" in answer.kinds else "")
            except OSError:
                self._note(began, ENDED)

    def _note(self, began: float, what: str) -> None:
        ended = time.monotonic()
        self.answers.append((ended, ended - began, what))


def sick_primary(pair: Pair, proxy: Ambassador, seconds: float, clients: int = 8) -> Sickness:
    """The primary takes connections and ends them at once, for so long."""
    link = pair.links[pair.primary]
    stop = threading.Event()
    askers = [_Asker(proxy.port, stop) for _ in range(clients)]
    for asker in askers:
        asker.start()

    def answers(since: float) -> list[tuple[float, float, str]]:
        return sorted(each for asker in askers for each in list(asker.answers) if each[0] > since)

    try:
        wait_until(lambda: all(len(asker.answers) > 5 for asker in askers), "first answers")
        accepted = link.accepted
        fell_ill = time.monotonic()
        pair.primary.stop(immediate=True)
        wait_until(lambda: any(each[2] for each in answers(fell_ill)), "the first refusal", deadline=60)
        time.sleep(seconds)  # what is measured is a time
        reached, asked = link.accepted - accepted, len(answers(fell_ill))
        pair.primary.start()
        well = time.monotonic()
        wait_until(lambda: any(not each[2] for each in answers(well)), "the first answer", deadline=60)
        wait_until(lambda: all(not asker.answers[-1][2] for asker in askers), "all answers", deadline=60)
    finally:
        stop.set()
        for asker in askers:
            asker.join(60)
    refused = [each for each in answers(fell_ill) if each[2]]
    at_once = [each for each in refused if each[1] < QUICK]
    times = sorted(each[1] for each in refused)
    return Sickness(
        opened=(at_once[0][0] if at_once else refused[-1][0]) - fell_ill,
        refusals=times[len(times) // 2],
        asked=asked,
        reached=reached,
        recovered=next(each[0] for each in answers(well) if not each[2]) - well,
        errors=Counter(each[2] for each in refused),
    )
