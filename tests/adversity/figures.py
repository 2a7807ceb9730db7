"""`python -m tests.adversity.figures`: what failures cost, measured, as a table for the documentation.

Each scene is played several times; a number is the median, the worst stands behind it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pgambassador.config import Config
from pgambassador.embedded import Workspace
from tests.adversity.promises import FULL
from tests.adversity.scenes import (
    Played,
    black_hole,
    primary_restarts,
    sick_primary,
    standby_dies,
    standby_takes_over,
)
from tests.harness import Ambassador
from tests.harness.ledger import Phase
from tests.harness.packets import Cable
from tests.harness.pair import Pair

CLIENTS = 1000
SICK = 10.0
NOBODY_WAITS: dict[str, Any] = {"failover": {"hold": "off"}} if "failover" in Config.__struct_fields__ else {}
"""So that it shows what the breaker does."""
QUIET: dict[str, Any] = {"query_log": {"slow": "off", "errors": False}}


@contextmanager
def before(pair: Pair, size: int = 4, **config: Any) -> Iterator[Ambassador]:
    """An ambassador as it comes, but for the pool's size."""
    pair.fresh()
    cluster = {"url": pair.url(connect_timeout="2", tcp_user_timeout="1000"), **config.pop("cluster", {})}
    pool = {"size": size, **config.pop("pool", {})}
    with tempfile.TemporaryDirectory() as folder:
        proxy = Ambassador(Path(folder), {"clusters": {"main": cluster}}, pool=pool, **QUIET, **config)
        proxy.look_inside()
        with proxy:
            yield proxy


def seconds(values: Sequence[float]) -> str:
    def show(value: float) -> str:
        return f"{1000 * value:.1f} ms" if value < 0.1 else f"{value:.2f} s"

    middle, worst = statistics.median(values), max(values)
    return show(middle) if len(values) == 1 else f"{show(middle)} ({show(worst)})"


def count(values: Sequence[float]) -> str:
    return f"{statistics.median(values):g} ({max(values):g})"


def noticed(played: Played) -> int:
    """Errors of clients that were not in a transaction, and that no write under way explains."""
    outside = (Phase.LOGIN, Phase.READING, Phase.BEGINNING, Phase.WRITING)
    return sum(
        each.phase in outside and each.sqlstate not in FULL[each.phase] for each in played.ledger.troubles
    )


def told(played: Played) -> int:
    return len(played.ledger.troubles)


def wrong(played: Played) -> int:
    return len(played.problems) + len(played.ledger.wrong)


class Table:
    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def add(self, what: str, measure: str, value: str) -> None:
        self.rows.append((what, measure, value))
        print(f"{what}: {measure}: {value}", flush=True)

    def __str__(self) -> str:
        lines = ["| what happens | what is measured | |", "| --- | --- | ---: |"]
        previous = ""
        for what, measure, value in self.rows:
            lines.append(f"| {what if what != previous else ''} | {measure} | {value} |")
            previous = what
        return "\n".join(lines)


def under_load(table: Table, pair: Pair, rounds: int) -> None:
    scenes: dict[str, Callable[[Ambassador, int], Played]] = {
        "a standby is killed": lambda proxy, seed: standby_dies(pair, proxy, seed, ("kill",)),
        "the primary is restarted": lambda proxy, seed: primary_restarts(pair, proxy, seed, "fast"),
        "the primary is killed and started": lambda proxy, seed: primary_restarts(pair, proxy, seed, "kill"),
        "the primary is switched off, a standby promoted": lambda proxy, seed: standby_takes_over(
            pair, proxy, seed, kill=False
        ),
        "the primary is killed, a standby promoted": lambda proxy, seed: standby_takes_over(
            pair, proxy, seed, kill=True
        ),
    }
    for what, scene in scenes.items():
        played = []
        for seed in range(rounds):
            with before(pair) as proxy:
                played.append(scene(proxy, seed))
        table.add(
            what, "longest stall outside a transaction", seconds([each.ledger.stall() for each in played])
        )
        if any(each.first_write for each in played):
            about = "first write, after the new primary's first"
            table.add(what, about, seconds([each.first_write for each in played]))
        table.add(what, "errors outside a transaction", count([noticed(each) for each in played]))
        table.add(what, "errors in all, of 10 clients", count([told(each) for each in played]))
        table.add(what, "commits lost, statements run twice", count([wrong(each) for each in played]))


def sickness(table: Table, pair: Pair, rounds: int) -> None:
    what = f"the primary refuses connections for {SICK:g} s, 8 clients ask"
    found = []
    for _ in range(rounds):
        with before(pair, cluster={"routing": {"reads": "primary"}}, **NOBODY_WAITS) as proxy:
            found.append(sick_primary(pair, proxy, SICK))
    table.add(what, "until clients are refused at once", seconds([each.opened for each in found]))
    table.add(what, "a refusal takes", seconds([each.refusals for each in found]))
    table.add(what, "questions meanwhile", count([each.asked for each in found]))
    table.add(what, "connections tried meanwhile", count([each.reached for each in found]))
    table.add(what, "from its return to the first answer", seconds([each.recovered for each in found]))


def hole(table: Table, pair: Pair, rounds: int) -> None:
    what = f"packets of the primary are lost, {CLIENTS} clients write at once"
    found = []
    for _ in range(rounds):
        with before(pair, pool={"wait_timeout": "5s"}) as proxy:
            found.append(black_hole(pair, proxy, CLIENTS))
    slowest = [max(each.slowest for each in one.rounds) for one in found]
    table.add(what, "the last of them has an answer after", seconds(slowest))
    table.add(what, "reads, which a standby answers", seconds([one.reads.slowest for one in found]))
    table.add(what, "event loop's lag, as usual", seconds([one.median for one in found]))
    table.add(what, "event loop's lag, at worst", seconds([one.lag for one in found]))
    grown = [max(one.memory) - one.memory[0] for one in found]
    table.add(
        what,
        "more memory after the third round than after the first, kB",
        count([each >> 10 for each in grown]),
    )
    table.add(what, "all can write again after", seconds([one.after for one in found]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each scene is played")
    rounds = parser.parse_args().rounds
    table = Table()
    with Workspace() as workspace, Pair(workspace, "figures") as pair:
        under_load(table, pair, rounds)
        sickness(table, pair, rounds)
        if Cable.possible:
            hole(table, pair, rounds)
    print(f"\n{table}")


if __name__ == "__main__":
    main()
