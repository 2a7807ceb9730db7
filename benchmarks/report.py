"""The report of one run, as Markdown tables that read well in a terminal too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.scenarios import BY_ONES, BY_TWOS, IN_TURN, IN_TURN_BOUNDED, UNSHARED
from benchmarks.servers import DIRECT
from benchmarks.targets import OURS, verdicts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from benchmarks.results import Results


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    format: str


MIXED = tuple(f"{load}{how}" for load in ("mixed", "mixed, one shape") for how in ("", UNSHARED))
LOAD_METRICS = (
    Metric("tps", "Throughput, queries per second (more is better)", "{:,.0f}"),
    Metric("cpu", "CPU of the proxy per query, µs (less is better)", "{:.1f}"),
    Metric("p50", "Latency p50, µs (less is better)", "{:,.0f}"),
    Metric("p99", "Latency p99, µs (less is better)", "{:,.0f}"),
)
OTHER_METRICS = (
    ("login", Metric("tps", "logins per second", "{:,.0f}")),
    ("login", Metric("cpu", "CPU per login and query, µs", "{:,.0f}")),
    (BY_TWOS, Metric("tps", "logins per second, two at once", "{:,.0f}")),
    (BY_ONES, Metric("tps", "logins per second, one at once", "{:,.0f}")),
    ("copy", Metric("speed", "1 GiB COPY TO, MB/s", "{:,.0f}")),
    ("copy", Metric("cpu", "CPU for the COPY, s", "{:.2f}")),
    ("copy", Metric("growth", "RSS growth during the COPY, MB", "{:.1f}")),
    ("renewal", Metric("near", "p99 within 0.25 s of a password's renewal, µs", "{:,.0f}")),
    ("renewal", Metric("far", "p99 at all other times, µs", "{:,.0f}")),
    *(
        (load, Metric(key, f"{load}: {title}", shown))
        for load in ("replicas", IN_TURN, IN_TURN_BOUNDED)
        for key, title, shown in (
            ("tps", "queries per second", "{:,.0f}"),
            ("p99", "p99, µs", "{:,.0f}"),
            ("writes", "writes, of all queries, %", "{:.1f}"),
            ("queries", "queries that the primary got, %", "{:.1f}"),
            ("reads", "reads that the primary got, %", "{:.1f}"),
        )
    ),
    *(
        (load, Metric(key, f"{load}: {title}", "{:,.0f}"))
        for load in MIXED
        for key, title in (("p99", "p99 of the short ones, µs"), ("tps", "queries per second"))
    ),
    ("routing", Metric("known", "finding what is known of a shape, µs of CPU", "{:.2f}")),
    ("routing", Metric("replica", "finding the replica for it, µs of CPU", "{:.2f}")),
    ("idle", Metric("rss", "RSS, pool open, no client, MB", "{:.1f}")),
    ("idle", Metric("per_client", "RSS for each of 2,000 idle clients, kB", "{:.1f}")),
    ("idle", Metric("slowdown", "slow-down of 16 active clients beside them, ×", "{:.2f}")),
)


class Report:
    def __init__(self, results: Results, names: Sequence[str]) -> None:
        self._results = results
        self._names = list(names)
        self._bouncer = next((name for name in names if name not in (DIRECT, OURS)), None)
        self._compare = self._bouncer is not None and OURS in names

    def sections(self) -> Iterator[str]:
        """Tables with their headings; those without a number are left out."""
        if self._bouncer is not None:
            rows = [
                [verdict.what, verdict.wanted, verdict.measured, "yes" if verdict.reached else "**no**"]
                for verdict in verdicts(self._results, self._bouncer)
            ]
            yield from _section("Targets", ["what", "target", "measured", "reached"], rows)
        for metric in LOAD_METRICS:
            loads = [load for load in self._results.loads(metric.key) if load[-1].isdigit()]
            rows = [self._row(load, load, metric) for load in loads]
            yield from _section(metric.title, self._header("mode, clients"), rows)
        rows = [
            self._row(metric.title, load, metric)
            for load, metric in OTHER_METRICS
            if load in self._results.loads(metric.key)
        ]
        yield from _section("Logins, big results, replicas, idle clients", self._header("what"), rows)

    def _header(self, first: str) -> list[str]:
        return [first, *self._names, *([f"{OURS} / {self._bouncer}"] if self._compare else [])]

    def _row(self, label: str, load: str, metric: Metric) -> list[str]:
        medians = [self._results.median(load, name, metric.key) for name in self._names]
        cells = ["–" if value is None else metric.format.format(value) for value in medians]
        if self._compare and self._bouncer:
            ratio = self._results.ratio(load, OURS, self._bouncer, metric.key)
            cells.append(str(ratio) if ratio else "–")
        return [label, *cells]


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield f"## {title}\n\n{table(header, rows)}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def written(cells: Sequence[str]) -> str:
        first, *rest = (cell for cell in cells)
        padded = [
            first.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)),
        ]
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * widths[0]}", *(f"{'-' * (width - 1)}:" for width in widths[1:])]
    return "\n".join([written(lines[0]), f"| {' | '.join(rule)} |", *map(written, lines[1:])])
