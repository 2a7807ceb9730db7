"""Positions, marks, and a simulation: nothing is called fresh that does not show what was acknowledged."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.secret import Secret
from pgambassador.config.structs import Cluster
from pgambassador.net.discovery.source import Found
from pgambassador.net.prober import Prober
from pgambassador.net.watch import Watch
from pgambassador.routing.freshness import MOST_MARKS, NEVER, Freshness, Mark, Marks, reachable
from pgambassador.routing.pace import Pace

BLOCK, SEGMENT = 128, 512


# --- where bytes of WAL lie, as the server counts (XLogBytePosToRecPtr, XLogBytePosToEndRecPtr) -------------


def place(count: int, block: int, segment: int, *, end: bool) -> int:
    """The position behind so many bytes of records: where the next record begins, or where the last ends."""
    in_segment = segment // block * (block - 24) - 16
    files, left = divmod(count, in_segment)
    if left < block - 40:
        offset = 0 if end and left == 0 else left + 40
    else:
        pages, rest = divmod(left - (block - 40), block - 24)
        offset = block * (1 + pages) + (0 if end and rest == 0 else rest + 24)
    return files * segment + offset


@pytest.mark.parametrize(("block", "segment"), [(BLOCK, SEGMENT), (1024, 1 << 20), (8192, 1 << 20)])
def test_what_replay_reaches_is_told_exactly(block: int, segment: int) -> None:
    """Record lengths are multiples of eight, so all that can be is tried."""
    several = min(3 * segment, 3 << 20)
    for count in range(0, several, 8):
        inserted = place(count, block, segment, end=False)
        assert reachable(inserted, block, segment) == place(count, block, segment, end=True)


# --- marks --------------------------------------------------------------------------------------------------


def test_marks_are_thinned_out_and_stay_true() -> None:
    marks = Marks()
    for second in range(1000):
        assert marks.add(Mark(float(second), second * 100, second * 100))
        assert len(marks) <= MOST_MARKS
    assert marks.shown(99_900) == 999.0
    assert marks.shown(10**9) == 999.0
    assert marks.shown(-1) == NEVER
    for position in range(0, 100_000, 777):
        shown = marks.shown(position)
        assert shown * 100 <= position
    # The newest are all there, and the oldest is kept.
    assert [marks.shown(position) for position in (99_850, 99_750)] == [998.0, 997.0]
    assert marks.shown(0) == 0.0


def test_an_idle_primary_needs_one_mark() -> None:
    marks = Marks()
    for second in range(5):
        assert marks.add(Mark(float(second), 800, 800))
    assert len(marks) == 1
    assert marks.shown(800) == 4.0


def test_marks_that_contradict_one_another() -> None:
    marks = Marks()
    assert marks.add(Mark(1.0, 800, 800))
    assert not marks.add(Mark(2.0, 792, 792))
    assert not marks.add(Mark(0.5, 900, 900))


def test_lag_goes_by_what_was_flushed() -> None:
    """What an open transaction has inserted and nobody has flushed is not waited for when lag is judged."""
    marks = Marks()
    assert marks.behind(0, 8192) is None
    marks.add(Mark(1.0, 1_000_000, 900_000))
    marks.add(Mark(2.0, 2_000_000, 900_000))
    assert marks.behind(900_000, 8192) == 0.0
    assert marks.shown(900_000) == NEVER
    marks.add(Mark(5.0, 2_000_000, 2_000_000))
    assert marks.behind(900_000, 8192) == 3.0
    assert marks.behind(0, 8192) == float("inf")


def standby(position: int | None, life: int = 7, timeline: int = 1, system: str = "x") -> Report:
    return Report(
        standby=True, life=life, position=position, durable=position, timeline=timeline, system=system
    )


def primary(position: int, life: int = 1, timeline: int = 1, system: str = "x") -> Report:
    return Report(
        standby=False, life=life, position=position, durable=position, timeline=timeline, system=system
    )


class Told:
    def __init__(self) -> None:
        self.moves: list[tuple[str, float]] = []
        self.freshness: Freshness[str] = Freshness(lambda key, value: self.moves.append((key, value)))

    def lead(self, report: Report | None, key: str | None = "p") -> None:
        self.freshness.lead(key, report)

    def mark(self, report: Report, asked: float, key: str = "p") -> None:
        self.freshness.mark(key, report, asked)

    def follow(self, report: Report, heard: float, key: str = "s") -> float:
        self.freshness.follow(key, report, heard)
        return self.freshness.fresh_until(key)


@pytest.fixture
def told() -> Told:
    """With a standby of which it is known that it is not ahead."""
    found = Told()
    found.lead(primary(8))
    found.follow(standby(0), 0.1)
    found.mark(primary(8), 0.2)
    assert found.moves == []
    return found


def test_fresh_until_the_time_at_which_the_mark_was_asked_for(told: Told) -> None:
    told.mark(primary(100_000), 1.0)
    assert told.follow(standby(99_992), 1.5) == 0.2
    assert told.follow(standby(100_000), 2.5) == 1.0
    # What was replayed then is enough for marks that come later and have nothing new.
    told.mark(primary(100_000), 3.0)
    assert told.moves == [("s", 0.2), ("s", 1.0), ("s", 3.0)]


@pytest.mark.parametrize(
    "report", [standby(100_000, timeline=2), standby(100_000, timeline=0), standby(100_000, system="y")]
)
def test_another_history_is_never_fresh(told: Told, report: Report) -> None:
    told.mark(primary(100_000), 1.0)
    assert told.follow(report, 2.0) == NEVER
    told.mark(primary(100_000), 3.0)
    assert told.moves == []


def test_two_that_know_no_timeline_prove_nothing() -> None:
    told = Told()
    told.lead(primary(0, timeline=0))
    told.mark(primary(100_000, timeline=0), 1.0)
    assert told.follow(standby(100_000, timeline=0), 2.0) == NEVER


@pytest.mark.parametrize("other", [primary(0, life=2), primary(0, timeline=2), primary(0, system="y"), None])
def test_another_primary_starts_anew(told: Told, other: Report | None) -> None:
    told.mark(primary(100_000), 1.0)
    assert told.follow(standby(100_000), 2.0) == 1.0
    told.lead(other)
    assert told.freshness.fresh_until("s") == NEVER
    assert told.moves[-1] == ("s", NEVER)
    # Answers of the old one, which were under way, count for nothing.
    told.mark(primary(100_000), 1.5)
    assert told.freshness.fresh_until("s") == NEVER
    assert told.follow(standby(100_000), 3.0) == NEVER


def test_another_run_of_a_standby_starts_anew(told: Told) -> None:
    """After a crash it may show less than it has shown before."""
    told.mark(primary(100_000), 1.0)
    assert told.follow(standby(100_000), 2.0) == 1.0
    assert told.follow(standby(99_000, life=8), 3.0) == NEVER
    told.mark(primary(100_000), 3.5)
    assert told.follow(standby(100_000, life=8), 4.0) == 3.5


def test_who_is_ahead_of_the_primary_follows_another(told: Told) -> None:
    told.follow(standby(200_000), 0.5)
    told.mark(primary(100_000), 1.0)
    assert told.freshness.fresh_until("s") == NEVER
    told.mark(primary(300_000), 2.0)
    assert told.follow(standby(300_000), 3.0) == NEVER
    told.follow(standby(300_000, life=8), 4.0)
    told.mark(primary(300_000), 5.0)
    assert told.freshness.fresh_until("s") == 5.0


def test_nothing_counts_before_it_is_known_that_it_is_not_ahead() -> None:
    """A primary that was put back in time has marks that its standbys have long passed."""
    told = Told()
    told.lead(primary(0))
    told.mark(primary(100_000), 1.0)
    assert told.follow(standby(200_000), 2.0) == NEVER
    told.mark(primary(100_000), 3.0)
    assert not told.freshness.doubtful and told.moves == []
    # One that is not: its first position counts, however far it is by now.
    told.follow(standby(90_000), 4.0, "t")
    told.follow(standby(100_000), 6.0, "t")
    told.mark(primary(100_000), 5.0)
    assert told.moves == [("t", 5.0)]


def test_who_has_heard_of_more_since_the_question_is_not_ahead(told: Told) -> None:
    told.follow(standby(200_000), 1.5)
    told.mark(primary(100_000), 1.0)
    assert told.moves[-1] == ("s", 1.0)


def test_a_standby_that_goes_back_within_one_run(told: Told) -> None:
    told.mark(primary(100_000), 1.0)
    assert told.follow(standby(100_000), 2.0) == 1.0
    assert told.follow(standby(99_000), 3.0) == NEVER


def test_a_primary_that_goes_back_within_one_run(told: Told) -> None:
    told.mark(primary(100_000), 1.0)
    assert told.follow(standby(100_000), 2.0) == 1.0
    told.mark(primary(90_000), 3.0)
    assert told.freshness.fresh_until("s") == NEVER
    assert len(told.freshness.marks) == 0


def test_a_bound_in_time(told: Told) -> None:
    told.freshness.bound("s", 7, 5.0)
    assert told.freshness.fresh_until("s") == 5.0
    told.freshness.bound("s", 7, 4.0)
    assert told.freshness.fresh_until("s") == 5.0
    told.freshness.bound("s", 8, 4.0)
    assert told.freshness.fresh_until("s") == 4.0
    told.freshness.drop("s")
    assert told.freshness.fresh_until("s") == NEVER
    assert told.moves == [("s", 5.0), ("s", NEVER), ("s", 4.0), ("s", NEVER)]


# --- the simulation -----------------------------------------------------------------------------------------


@dataclass
class Server:
    """`wal`: (bytes up to its end, commit or 0), one after the other; `known`: the timeline it can prove."""

    at: Endpoint
    life: int
    wal: list[tuple[int, int]] = field(default_factory=list)
    flushed: int = 0
    upstream: int | None = None
    timeline: int = 1
    known: int = 1
    alive: bool = True

    @property
    def size(self) -> int:
        return self.wal[-1][0] if self.wal else 0

    def commits(self) -> set[int]:
        return {commit for _, commit in self.wal}


class World:
    """Servers, a watch that hears of them late, and what clients were told."""

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        """Standbys tell the timeline that they are on; if not, it dawns on them, and a primary that is
        replaced is dead."""
        self.now = 1.0
        self.lives = 0
        self.commits = 0
        self.servers = [Server(Endpoint("h", port), self._life()) for port in (1, 2, 3)]
        for index in (1, 2):
            self.servers[index].upstream = 0
        self.acknowledged: list[tuple[float, int]] = []
        self.flying: dict[int, tuple[float, Report | None, int]] = {}
        cluster = Cluster(url=Secret("postgresql://u@h:1,h:2,h:3/d"))
        self.watch = Watch("main", cluster, _never, lambda _: None, lambda *_: None, clock=lambda: self.now)
        for server in self.servers:
            self.watch._found[server.at] = Found(server.at)
            self.watch.probers[server.at] = Prober(
                server.at, _never, self.watch, Pace(1.0), 1.0, lambda: self.now
            )

    def _life(self) -> int:
        self.lives += 1
        return self.lives

    def pass_time(self, index: int, amount: int) -> None:
        self.now += amount / 8

    def write(self, index: int, amount: int) -> None:
        """A client of ours, to where the watch sees the primary; now and then not flushed yet."""
        leader = self.watch.topology.leader
        server = next((each for each in self.servers if each.at == leader), None)
        if server is None or server.upstream is not None or not server.alive:
            return
        self.commits += 1
        self._append(server, amount, self.commits)
        if amount % 3:
            server.flushed = len(server.wal)
        self.acknowledged.append((self.now, self.commits))

    def noise(self, index: int, amount: int) -> None:
        """WAL of others, without a commit that we know of."""
        server = self.servers[index]
        if server.upstream is None and server.alive:
            self._append(server, amount, 0)

    def _append(self, server: Server, amount: int, commit: int) -> None:
        server.wal.append((server.size + 24 + 8 * amount, commit))

    def flush(self, index: int, amount: int) -> None:
        server = self.servers[index]
        server.flushed = len(server.wal)

    def replay(self, index: int, amount: int) -> None:
        server = self.servers[index]
        if server.upstream is None or not server.alive:
            return
        source = self.servers[server.upstream]
        count = len(server.wal)
        if source.wal[:count] != server.wal or not source.alive:
            return
        server.wal += source.wal[count : min(count + amount, source.flushed)]
        server.flushed = len(server.wal)
        server.timeline = max(server.timeline, source.timeline)
        if self.exact:
            server.known = server.timeline

    def restartpoint(self, index: int, amount: int) -> None:
        self.servers[index].known = self.servers[index].timeline

    def ask(self, index: int, amount: int) -> None:
        self.flying.setdefault(index, (self.now, None, self.servers[index].life))

    def answer(self, index: int, amount: int) -> None:
        flying, server = self.flying.get(index), self.servers[index]
        if flying is None or flying[1] is not None or not server.alive or server.life != flying[2]:
            return
        is_standby = server.upstream is not None
        report = Report(
            standby=is_standby,
            life=server.life,
            position=place(server.size, BLOCK, SEGMENT, end=is_standby),
            durable=place(
                server.wal[server.flushed - 1][0] if server.flushed else 0, BLOCK, SEGMENT, end=True
            ),
            system="x",
            timeline=server.known if is_standby else server.timeline,
            block=BLOCK,
            segment=SEGMENT,
        )
        self.flying[index] = (flying[0], report, server.life)

    def deliver(self, index: int, amount: int) -> None:
        asked, report, _ = self.flying.pop(index, (0.0, None, 0))
        if report is not None:
            prober = self.watch.probers[self.servers[index].at]
            prober.report, prober.trouble = report, ""
            prober.probes += 1
            self.watch.heard(prober, report, asked, self.now)

    def probe(self, index: int, amount: int) -> None:
        """All of it, with nothing in between."""
        self.flying.pop(index, None)
        self.ask(index, 0)
        self.answer(index, 0)
        self.deliver(index, 0)

    def lose(self, index: int, amount: int) -> None:
        """The question or its answer."""
        self.flying.pop(index, None)
        prober = self.watch.probers[self.servers[index].at]
        prober.trouble = "lost"
        prober.failures += 1
        self.watch.silent(prober)

    def restart(self, index: int, amount: int) -> None:
        """A standby may show less than before; a primary loses what was not flushed."""
        server = self.servers[index]
        server.life = self._life()
        if server.upstream is None:
            del server.wal[server.flushed :]
        else:
            del server.wal[max(0, len(server.wal) - amount) :]
        server.flushed = len(server.wal)
        self.lose(index, 0)

    def promote(self, index: int, amount: int) -> None:
        server = self.servers[index]
        if server.upstream is None or not server.alive:
            return
        if not self.exact:
            for other in self.servers:
                other.alive = other.alive and other.upstream is not None
        server.upstream = None
        server.timeline = server.known = max(each.timeline for each in self.servers) + 1
        self._append(server, 1, 0)
        server.flushed = len(server.wal)

    def follow(self, index: int, amount: int) -> None:
        """Behind another server from now on; what is not on its history is rewound, with a restart."""
        server, other = self.servers[index], (index + 1 + amount % 2) % 3
        source = self.servers[other]
        if source.upstream == index or not source.alive or source.timeline < server.timeline:
            return
        if server.upstream is None or not server.alive or source.wal[: len(server.wal)] != server.wal:
            same = 0
            for mine, its in zip(server.wal, source.wal, strict=False):
                if mine != its:
                    break
                same += 1
            del server.wal[same:]
            server.life = self._life()
            server.known = server.timeline = source.timeline
            self.lose(index, 0)
        server.upstream, server.alive = other, True
        server.flushed = len(server.wal)

    def check(self) -> None:
        leader = next((each for each in self.servers if each.at == self.watch.topology.leader), None)
        if leader is None:
            return
        true = leader.commits()
        if not leader.alive:
            # It lives on in its successor, and what that has not got is lost.
            living = [each for each in self.servers if each.alive and each.upstream is None]
            if not living:
                return
            leader = max(living, key=lambda each: each.timeline)
            true &= leader.commits()
        for server in self.servers:
            follower = self.watch.freshness.followers.get(server.at)
            if server is leader or follower is None or follower.life != server.life:
                continue
            shown = server.commits()
            for written, commit in self.acknowledged:
                if written < follower.fresh_until and commit in true:
                    assert commit in shown, (server, commit, written, self.watch.freshness)


async def _never(endpoint: Endpoint) -> Any:
    raise AssertionError


def probe(index: int) -> list[tuple[str, int, int]]:
    return [("ask", index, 0), ("answer", index, 0), ("deliver", index, 0)]


BEGINNING = [*probe(0), *probe(1), *probe(2)]

OFTEN = [
    "pass_time",
    "write",
    "noise",
    "flush",
    "replay",
    "replay",
    "probe",
    "probe",
    "probe",
    "ask",
    "answer",
    "deliver",
]
SELDOM = ["lose", "restart", "restartpoint", "promote", "follow"]
OPERATIONS = [*OFTEN * 3, *SELDOM]
STEPS = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 2), st.integers(0, 7)), min_size=40, max_size=120
)


def play(world: World, steps: list[tuple[str, int, int]]) -> None:
    for name, index, amount in steps:
        getattr(world, name)(index, amount)
        world.check()


@settings(max_examples=200)
@given(STEPS, st.booleans())
def test_nothing_is_fresh_that_does_not_show_what_was_acknowledged(
    steps: list[tuple[str, int, int]], exact: bool
) -> None:
    world = World(exact=exact)
    play(world, BEGINNING)
    play(world, steps)


@pytest.mark.parametrize("exact", [True, False])
def test_the_same_for_long(exact: bool) -> None:
    """Many things have to come together for a mistake to show: by chance, and not by a search."""
    chance = Random(20)
    for _ in range(80):
        world = World(exact=exact)
        play(world, BEGINNING)
        play(
            world,
            [(chance.choice(OPERATIONS), chance.randrange(3), chance.randrange(8)) for _ in range(400)],
        )


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["write", "replay", "ask", "answer", "deliver", "pass_time"]), max_size=40))
def test_what_is_replayed_becomes_fresh(between: list[str]) -> None:
    """The simulation is not right by never calling anything fresh."""
    world = World(exact=True)
    play(world, BEGINNING)
    play(world, [(name, 0 if name == "write" else 1, 3) for name in between])
    play(world, [("write", 0, 1), ("flush", 0, 0), ("pass_time", 0, 1), ("replay", 1, 100)])
    world.flying.clear()
    play(world, [*probe(0), *probe(1)])
    (written, _) = world.acknowledged[-1]
    assert world.watch.freshness.fresh_until(world.servers[1].at) > written


def test_a_standby_of_a_primary_that_was_left_behind() -> None:
    """It is as far as the new primary, with writes that the new one does not have."""
    world = World(exact=False)
    play(world, [*BEGINNING, ("write", 0, 5), ("replay", 1, 9), ("write", 0, 7), ("replay", 2, 9)])
    play(world, [("promote", 1, 0), *probe(1), ("pass_time", 0, 1), *probe(2)])
    assert world.watch.topology.leader == world.servers[1].at
    server = world.watch.topology.at(world.servers[2].at)
    assert server is not None and not server.well and "timeline 2" in server.objection
