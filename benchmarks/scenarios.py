"""The measurements: each runs one load against one started target and returns plain numbers."""

from __future__ import annotations

import re
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks import policy, procfs
from benchmarks.idle import IdleClients
from benchmarks.local import BenchmarkError
from benchmarks.servers import (
    BOUNDED,
    CROWDED,
    DEFAULT,
    LOGIN,
    POOL_SIZE,
    RENEWALS,
    RENEWING,
    REPLICATED,
    SESSION,
    UNBATCHED,
    Flavour,
    Running,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.postgres import Database

CLIENTS = (1, 16, 64)
CROWDS = (64, 200)
"""Clients that share a pool of 8."""
COPY_ROWS = 1_048_576
COPY_SQL = f"COPY (SELECT repeat('x', 1023) FROM generate_series(1, {COPY_ROWS})) TO STDOUT"
COPY_BYTES = COPY_ROWS * 1024
IDLE_CLIENTS = 2000
RENEWAL_SECONDS = 12
NAP = 0.05
"""Seconds that a long statement of a mixed load takes."""
MIXED_RATE = 6000
"""Statements per second of a mixed load, the same with and without batching: clients that ask again
as soon as they are answered would fill more of the pool with long statements where batching is faster."""
UNSHARED = ", no batching"
READ = "SELECT abalance FROM pgbench_accounts WHERE aid ="
WRITE = "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid ="
BY_TWOS = "login, 2 at once"
BY_ONES = "login, 1 at once"
IN_TURN = "replicas, in turn"
IN_TURN_BOUNDED = "replicas, in turn, bounded"
NEAR = 0.25
"""Seconds before and after a renewal that count as near it."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """What every measurement needs: the server, a folder for files, how long to load, and in which round;
    `replicated` makes the primary that has replicas when it is needed first."""

    database: Database
    folder: Path
    seconds: int
    replicated: Callable[[], Database]
    round: int = 1

    def of(self, flavour: Flavour) -> Bench:
        """With the server that targets of that flavour stand before."""
        return replace(self, database=self.replicated()) if flavour.replicated else self

    def script(self, name: str, *lines: str) -> str:
        """A file for pgbench."""
        path = self.folder / f"{name}.sql"
        path.write_text("\n".join((*lines, "")))
        return str(path)


@dataclass(frozen=True)
class Scenario:
    """One load.  `fresh`: against a process of its own, so that nothing earlier is in its memory."""

    name: str
    measure: Callable[[Bench, Running], Numbers]
    flavour: Flavour = DEFAULT
    fresh: bool = False
    proxies_only: bool = False
    ours_only: bool = False


@contextmanager
def _watched(running: Running) -> Iterator[Callable[[], float]]:
    """CPU seconds that the target used inside the block, for after it."""
    pids = procfs.tree(running.pid) if running.pid else []
    before = procfs.cpu_seconds(pids)
    spent = 0.0
    yield lambda: spent
    spent = procfs.cpu_seconds(pids) - before


def select(mode: str, clients: int, flavour: Flavour = DEFAULT) -> Scenario:
    """pgbench's SELECT by primary key.

    With one client nothing runs at the same time as anything else, and the latency is mostly a matter of
    which cores the scheduler takes and how fast they wake up.  On one core it is the length of the path.
    """

    def measure(bench: Bench, running: Running) -> Numbers:
        if clients > 1:
            return _pgbench(bench, running, clients, f"-M{mode}")
        servers = procfs.tree(bench.database.pid)
        with procfs.on_one_core(servers + (procfs.tree(running.pid) if running.pid else [])):
            return _pgbench(bench, running, clients, f"-M{mode}")

    pool = f", pool {flavour.pool_size}" if flavour.pool_size != POOL_SIZE else ""
    return Scenario(f"{mode} {clients}{pool}", measure, flavour)


def _pgbench(
    bench: Bench,
    running: Running,
    clients: int,
    *options: str,
    scripts: Sequence[str] = ("-S",),
    threads: int = 2,
) -> Numbers:
    prefix = bench.folder / "latency"
    for old in bench.folder.glob("latency.*"):
        old.unlink()
    # One client has few transactions, so all are kept; with more, every fourth is plenty for a p99.
    rate = "1" if clients == 1 else "0.25"
    threads = min(clients, threads)
    with _watched(running) as cpu:
        output = bench.database.client(
            "pgbench",
            running.port,
            *("-n", *scripts, "-c", str(clients), "-j", str(threads)),
            *(
                "-T",
                str(bench.seconds),
                "-l",
                f"--log-prefix={prefix}",
                f"--sampling-rate={rate}",
                *options,
            ),
        )
    done = re.search(r"transactions actually processed: (\d+)", output)
    speed = re.search(r"tps = ([\d.]+) \((?:without|including)", output)
    failed = re.search(r"number of failed transactions: (\d+)", output)
    if not done or not speed or int(done[1]) == 0 or (failed and int(failed[1])):
        raise BenchmarkError(f"pgbench on port {running.port} did not succeed:\n{output}")
    latencies = sorted(micros for _, micros, _ in _transactions(bench))
    numbers = {
        "tps": float(speed[1]),
        "p50": statistics.median(latencies),
        "p99": _p99(latencies),
    }
    if running.pid:
        numbers["cpu"] = cpu() / int(done[1]) * 1e6
        numbers["rss"] = procfs.rss(procfs.tree(running.pid)) / 1e6
    return numbers


def _transactions(bench: Bench) -> Iterator[tuple[float, int, int]]:
    """From pgbench's log: when each ended, in seconds since 1970, how many microseconds it took, and which of
    the scripts it was."""
    for log in bench.folder.glob("latency.*"):
        for line in log.read_bytes().splitlines():
            _, _, micros, script, seconds, fraction = line.split(b" ")[:6]
            yield int(seconds) + int(fraction) / 1e6, int(micros), int(script)


def _p99(latencies: list[int]) -> int:
    return sorted(latencies)[int(len(latencies) * 0.99)]


def warm_up(bench: Bench, running: Running) -> None:
    """Open the whole pool, and let caches fill."""
    _pgbench(replace(bench, seconds=1), running, POOL_SIZE)


def login(name: str, at_once: int) -> Scenario:
    """A new connection for every statement of 8 clients, who log in with SCRAM. pgbench logs in one client of
    each of its threads at a time."""

    def measure(bench: Bench, running: Running) -> Numbers:
        numbers = _pgbench(bench, running, 8, "-C", threads=at_once)
        return {key: numbers[key] for key in ("tps", "cpu") if key in numbers}

    return Scenario(name, measure, LOGIN)


def copy(bench: Bench, running: Running) -> Numbers:
    """1 GiB in rows of 1 KiB to one psql."""
    pids = procfs.tree(running.pid) if running.pid else []
    procfs.reset_peak(pids)
    before = procfs.rss(pids)
    started = time.monotonic()
    with _watched(running) as cpu:
        bench.database.client("psql", running.port, "-qc", COPY_SQL, discard=True)
    numbers = {"speed": COPY_BYTES / 1e6 / (time.monotonic() - started)}
    if pids:
        numbers["cpu"] = cpu()
        numbers["growth"] = (procfs.peak_rss(pids) - before) / 1e6
    return numbers


def idle(bench: Bench, running: Running) -> Numbers:
    """16 active clients alone, then beside 2,000 that have run a statement and gone quiet."""
    alone = _pgbench(bench, running, 16)
    pids = procfs.tree(running.pid)
    before = procfs.rss(pids)
    with IdleClients(running.port, bench.database.user, IDLE_CLIENTS):
        per_client = (procfs.rss(pids) - before) / IDLE_CLIENTS / 1000
        beside = _pgbench(bench, running, 16)
    return {"rss": before / 1e6, "per_client": per_client, "slowdown": alone["tps"] / beside["tps"]}


def renewal(bench: Bench, running: Running) -> Numbers:
    """16 clients while the server's password is renewed again and again: the p99 near a renewal, and else."""
    _pgbench(replace(bench, seconds=max(bench.seconds, RENEWAL_SECONDS)), running, 16)
    asked = [float(line) for line in (bench.folder / RENEWALS).read_text().split()]
    near: list[int] = []
    far: list[int] = []
    for moment, micros, _ in _transactions(bench):
        (near if any(abs(moment - each) < NEAR for each in asked) else far).append(micros)
    if not near or not far:
        raise BenchmarkError("No password was renewed during the load, or nothing happened between.")
    return {"near": _p99(near), "far": _p99(far), "spike": _p99(near) / _p99(far)}


def replicas(name: str, scripts: dict[str, int], flavour: Flavour = REPLICATED) -> Scenario:
    """20 clients, who see what they have written, and where that ran. `scripts` and their shares."""

    def measure(bench: Bench, running: Running) -> Numbers:
        database = bench.database
        row = f"\\set aid random(1, {database.rows})"
        files = [
            f"-f{bench.script(f'replicas-{number}', row, text)}@{share}"
            for number, (text, share) in enumerate(scripts.items())
        ]
        kinds = (READ.split()[0], WRITE.split()[0])
        before = [database.asked(kind) for kind in kinds]
        numbers = _pgbench(bench, running, 20, scripts=files)
        read, written = (
            [now - then for now, then in zip(database.asked(kind), old, strict=True)]
            for kind, old in zip(kinds, before, strict=True)
        )
        return {
            "tps": numbers["tps"],
            "p99": numbers["p99"],
            "reads": 100 * read[0] / sum(read),
            "queries": 100 * (read[0] + written[0]) / (sum(read) + sum(written)),
            "writes": 100 * sum(written) / (sum(read) + sum(written)),
        }

    return Scenario(name, measure, flavour)


def mixed(flavour: Flavour, *, one_shape: bool) -> Scenario:
    """The p99 of short statements of 64 clients, pool of 8, where 1 % of all take 50 ms, three of the pool's
    connections on average. `one_shape`: nothing but a literal tells these from others."""

    def measure(bench: Bench, running: Running) -> Numbers:
        row = f"\\set aid random(1, {bench.database.rows})"
        nap = ", nap({})" if one_shape else ""
        sql = f"SELECT abalance{nap} FROM pgbench_accounts WHERE aid = :aid;"
        long = sql.format(NAP) if one_shape else f"SELECT nap({NAP});"
        scripts = (
            *("-f", bench.script("short", row, sql.format(0)) + "@99"),
            *("-f", bench.script("long", row, long) + "@1"),
        )
        # A hundredth of a few seconds is what one moment of a busy machine makes of it.
        patient = replace(bench, seconds=3 * bench.seconds)
        # The same statements at the same times with and without batching: how many long ones meet is chance.
        options = f"--rate={MIXED_RATE}", f"--random-seed={bench.round}"
        numbers = _pgbench(patient, running, 64, *options, scripts=scripts)
        short = [micros for _, micros, script in _transactions(bench) if script == 0]
        return {"tps": numbers["tps"], "p99": _p99(short)}

    shape = ", one shape" if one_shape else ""
    return Scenario(f"mixed{shape}{'' if flavour.batching else UNSHARED}", measure, flavour, ours_only=True)


def routing(bench: Bench, running: Running) -> Numbers:
    """What a decision costs, in microseconds of CPU; the target has nothing to do."""
    return {"known": policy.known(), "replica": policy.replica()}


def scenarios(*, prepared_in_transactions: bool) -> list[Scenario]:
    """All of them; prepared statements in session mode, if a proxy cannot keep them in transaction mode."""
    found = [select(mode, clients) for mode in ("simple", "extended") for clients in CLIENTS]
    if prepared_in_transactions:
        found += [select("prepared", clients) for clients in CLIENTS]
    else:
        # In session mode more clients than server connections would wait for each other forever.
        found += [select("prepared", clients, SESSION) for clients in CLIENTS if clients <= POOL_SIZE]
    in_turn = {f"{READ} :aid;": 9, f"{WRITE} :aid;": 1}
    modes = ["simple", "extended", *(["prepared"] if prepared_in_transactions else [])]
    return [
        *found,
        *(select(mode, clients, CROWDED) for mode in modes for clients in CROWDS),
        login("login", 8),
        login(BY_TWOS, 2),
        login(BY_ONES, 1),
        Scenario("copy", copy, fresh=True),
        Scenario("idle", idle, fresh=True, proxies_only=True),
        Scenario("renewal", renewal, RENEWING, ours_only=True),
        replicas("replicas", {f"\\if :client_id < 2\n{WRITE} :aid;\n\\else\n{READ} :aid;\n\\endif": 1}),
        replicas(IN_TURN, in_turn),
        replicas(IN_TURN_BOUNDED, in_turn, BOUNDED),
        *(mixed(flavour, one_shape=one) for one in (False, True) for flavour in (CROWDED, UNBATCHED)),
        Scenario("routing", routing, ours_only=True),
    ]
