"""Running everything in turn.

1. Every round measures every load on every target before the next round begins, so that a slow minute
   of the machine falls on all of them.
2. The order of the targets rotates from round to round.
3. A target that is not measured stays up and idle; `fresh` loads get a process of their own.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.results import Results
from benchmarks.scenarios import Bench, Scenario, warm_up
from benchmarks.servers import DIRECT, Flavour, Running, Target
from benchmarks.targets import OURS

if TYPE_CHECKING:
    from collections.abc import Sequence


class Rounds:
    def __init__(self, bench: Bench, targets: Sequence[Target], stack: ExitStack) -> None:
        self._bench = bench
        self._targets = list(targets)
        self._stack = stack
        self._kept: dict[tuple[str, Flavour], Running] = {}

    def run(self, loads: Sequence[Scenario], count: int) -> Results:
        results = Results()
        for number in range(count):
            self._bench = replace(self._bench, round=number + 1)
            shift = number % len(self._targets)
            order = self._targets[shift:] + self._targets[:shift]
            for load in loads:
                for target in order:
                    if load.ours_only and target.name != OURS:
                        continue
                    if not (load.proxies_only and target.name == DIRECT):
                        _progress(f"round {number + 1}/{count}: {load.name}, {target.name}")
                        results.add(load.name, target.name, self._measure(load, target))
        _progress("")
        return results

    def _measure(self, load: Scenario, target: Target) -> dict[str, float]:
        if not load.fresh:
            key = (target.name, load.flavour)
            if key not in self._kept:
                self._kept[key] = self._start(target, load.flavour, self._stack)
            return load.measure(self._bench.of(load.flavour), self._kept[key])
        with ExitStack() as own:
            return load.measure(self._bench.of(load.flavour), self._start(target, load.flavour, own))

    def _start(self, target: Target, flavour: Flavour, stack: ExitStack) -> Running:
        bench = self._bench.of(flavour)
        running = target.start(bench.database, bench.folder, flavour)
        stack.callback(running.stop)
        warm_up(bench, running)
        return running


def _progress(text: str) -> None:
    """One line that overwrites itself, for whoever watches."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)
