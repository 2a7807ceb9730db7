"""Behind which statements others may wait: by single measures, and in a pool whose time is invented."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from pgambassador.routing.brevity import Brevity

MS = 0.001


def known(seconds: float, *, times: int = 2000) -> Brevity:
    """It has taken that long, alone."""
    brevity = Brevity()
    for _ in range(times):
        brevity.took(seconds, False, False)
    return brevity


def test_what_is_not_known_is_not_brief_and_not_tried_out() -> None:
    brevity = Brevity()
    assert not brevity.brief() and brevity.seconds < 0
    assert not any(brevity.volunteers() for _ in range(100))


def test_what_is_quick_alone_is_brief() -> None:
    assert known(1 * MS).brief()
    assert not known(6 * MS).brief()


def test_what_is_long_now_and_then_is_not() -> None:
    brevity = known(0)
    for number in range(2000):
        brevity.took(25 * MS if number % 10 == 0 else 0, False, False)
    assert brevity.seconds < 5 * MS and not brevity.brief()


def test_what_has_been_long_of_late_is_not_steady() -> None:
    brevity = known(0)
    brevity.took(25 * MS, True, False)
    assert brevity.steady()  # it may have been the machine
    brevity.took(25 * MS, True, False)
    assert brevity.brief() and not brevity.steady()
    quick = 0
    while not brevity.steady():
        brevity.took(0, True, False)
        quick += 1
    assert 200 < quick < 400
    for _ in range(10):
        brevity.took(0, True, True)
    assert brevity.steady()  # what fails is another matter


def test_what_lasts_is_not_steady() -> None:
    """It may have been a neighbour: what it takes itself is as it was."""
    brevity = known(0)
    brevity.lasts()
    assert brevity.steady()
    brevity.lasts()
    assert (brevity.brief(), brevity.steady(), brevity.seconds, brevity.long_ones) == (True, False, 0, 0)


@pytest.mark.parametrize(("share", "least", "most"), [(0.01, 0, 0), (1 / 4000, 9000, 10_000)])
def test_what_is_long_again_and_again_is_never_steady(share: float, least: int, most: int) -> None:
    """However long it was quick in between, as chance has it."""
    brevity, chance = known(0), random.Random(2)
    for _ in range(1000):
        brevity.took(50 * MS if chance.random() < share else 0, True, False)
    steady = 0
    for _ in range(10_000):
        steady += brevity.steady()
        brevity.took(50 * MS if chance.random() < share else 0, True, False)
    assert least <= steady <= most and brevity.brief()


def test_what_has_much_to_say_is_brief_and_not_steady() -> None:
    brevity = known(0)
    brevity.said(20_000)
    for _ in range(900):
        brevity.said(70)
        assert brevity.brief() and not brevity.steady()
    for _ in range(100):
        brevity.said(70)
    assert brevity.steady()  # it was the constant in it, perhaps


def test_what_it_has_to_say_is_the_most_of_late() -> None:
    brevity = known(0)
    assert brevity.volume == 0
    for size in (70, 500, 60):
        brevity.said(size)
    assert 490 < brevity.volume < 500
    brevity.said(500)
    assert brevity.volume == 500


def test_what_often_fails_where_others_share_its_transaction_is_not() -> None:
    brevity = known(0)
    for number in range(2000):
        brevity.took(0, number % 2 == 0, number % 5 == 0)
    assert not brevity.brief()


def test_what_it_takes_behind_another_says_more_than_what_it_takes_alone() -> None:
    brevity = known(1 * MS)
    for _ in range(1000):
        brevity.took(1 * MS, True, False)
        for _ in range(8):
            brevity.took(30 * MS, False, False)
    assert brevity.brief()
    for _ in range(10):
        brevity.took(30 * MS, True, False)
    assert not brevity.brief()


def test_without_others_what_it_takes_alone_counts_again() -> None:
    brevity = known(1 * MS)
    brevity.took(1 * MS, True, False)
    for _ in range(200):
        brevity.took(30 * MS, False, False)
    assert not brevity.brief()


def test_trials_prove_it_brief() -> None:
    brevity = known(30 * MS)
    for number in range(32):
        assert not brevity.brief(), number
        brevity.took(0.1 * MS, True, False)
    assert brevity.brief() and brevity.seconds < 1 * MS


def test_one_trial_that_takes_long_outweighs_many() -> None:
    brevity = known(30 * MS)
    for _ in range(10):
        for _ in range(31):
            brevity.took(0.1 * MS, True, False)
        brevity.took(30 * MS, True, False)
    assert not brevity.brief()


def test_what_is_long_is_tried_out_ever_more_seldom() -> None:
    brevity, trials = known(50 * MS), []
    for number in range(20_000):
        if brevity.volunteers():
            trials.append(number)
            brevity.took(50 * MS, True, False)
    pauses = [later - sooner for sooner, later in itertools.pairwise(trials)]
    assert pauses[0] < pauses[3] < pauses[-1] and len(trials) < 30


@dataclass
class Asked:
    shape: str
    work: float
    since: float
    again: bool = False
    role: str = ""


@dataclass
class Pool:
    """Clients that ask again at once, on few connections. `work(random)` is a statement's shape and what a
    server needs for it, `delay(random)` passes until a write is looked at. They share as `Lane` has it."""

    work: Callable[[random.Random], tuple[str, float]]
    delay: Callable[[random.Random], float] = lambda chance: 0.0
    sharing: bool = True
    clients: int = 64
    connections: int = 8
    known: dict[str, Brevity] = field(default_factory=dict)
    latencies: list[tuple[str, float]] = field(default_factory=list)
    riders: int = 0

    def run(self, statements: int) -> Pool:
        self.chance, self.numbers = random.Random(1), itertools.count()
        self.queue: deque[Asked] = deque()
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.idle, self.first_answer = self.connections, 0.5 * MS
        for _ in range(self.clients):
            self.ask(0.0)
        while len(self.latencies) < statements:
            now, _, event = heapq.heappop(self.events)
            event(now)
            while self.idle and self.queue:
                self.idle -= 1
                self.send(now)
        return self

    def at(self, when: float, event: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (when, next(self.numbers), event))

    def ask(self, now: float) -> None:
        shape, work = self.work(self.chance)
        asked = Asked(shape, work, now)
        brevity = self.known.setdefault(shape, Brevity())
        if self.sharing:
            asked.role = "any" if brevity.brief() else "last" if brevity.volunteers() else "first"
        self.at(now, lambda _: self.queue.append(asked))

    def send(self, now: float) -> None:
        riders = [self.queue.popleft()]
        most = min(max(len(self.queue) // self.connections, len(self.queue) // 2) + 1, 32)
        expected = self.known[riders[0].shape].seconds
        while self.queue and riders[0].role and len(riders) < most and riders[-1].role != "last":
            behind = self.queue[0]
            if behind.role == "any":
                expected += self.known[behind.shape].seconds
                if riders[0].role != "any" or expected > 10 * MS:
                    break
            elif behind.role != "last":
                break
            riders.append(self.queue.popleft())
        self.riders += len(riders) if len(riders) > 1 else 0
        begun = answered = now + self.delay(self.chance)
        looked, left = now, len(riders)
        for number, rider in enumerate(riders):
            answered += rider.work
            if number < left:
                usual = max(self.first_answer, self.known[rider.shape].seconds if rider.role != "last" else 0)
                if answered - looked >= (patience := max(5 * MS, 4 * usual)) and number + 1 < len(riders):
                    left = number + 1  # those behind ask elsewhere, the first of them first
                    self.at(looked + patience, partial(self.put_first, riders[left:]))
                self.at(answered, partial(self.ends, rider, looked, now))
                looked = answered
        if len(riders) > 1:
            self.first_answer *= 1.05 if begun + riders[0].work - now > self.first_answer else 0.95
        self.at(answered, self.free)

    def put_first(self, late: list[Asked], now: float) -> None:
        for rider in late:
            rider.role = ""
            self.queue.appendleft(rider)

    def free(self, now: float) -> None:
        self.idle += 1

    def ends(self, one: Asked, past: float, sent: float, now: float) -> None:
        self.known[one.shape].took(now - past, past > sent, False)
        self.latencies.append((one.shape, now - one.since))
        self.ask(now)

    def p99(self, shape: str) -> float:
        found = sorted(seconds for name, seconds in self.latencies if name == shape)
        return found[len(found) * 99 // 100]

    @property
    def seconds(self) -> float:
        """From when it was asked to its answer, on average."""
        return sum(seconds for _, seconds in self.latencies) / len(self.latencies)


def short(chance: random.Random) -> tuple[str, float]:
    return "short", 0.1 * MS


def sometimes(share: float, other: str) -> Callable[[random.Random], tuple[str, float]]:
    """Short ones, and some of 50 ms; if these have another literal only, nothing tells them apart."""
    return lambda chance: (other, 50 * MS) if chance.random() < share else short(chance)


def starved(chance: random.Random) -> float:
    return chance.expovariate(1 / (15 * MS))


@pytest.mark.parametrize("before", [None, 12 * MS, 60 * MS])
def test_where_machines_are_busy_sharing_goes_on(before: float | None) -> None:
    """Whatever it looked like when nobody shared: 15 ms until the server runs, and then 0.1 ms of work."""
    alone = Pool(short, starved, sharing=False).run(10_000)
    shared = Pool(short, starved)
    if before is not None:
        shared.known["short"] = known(before)
        assert not shared.known["short"].brief()
    shared.run(10_000)
    assert shared.known["short"].brief()
    assert shared.seconds < alone.seconds / 2


def test_a_server_that_is_far_away_is_no_reason_either() -> None:
    pool = Pool(short, lambda chance: 20 * MS).run(10_000)
    assert pool.known["short"].brief() and pool.riders > 5000


@pytest.mark.parametrize("delay", [lambda chance: 0.0, starved], ids=["idle", "busy"])
@pytest.mark.parametrize("other", ["nap", "short"])
def test_short_ones_wait_no_longer_than_if_nobody_shared(other: str, delay: Callable[..., float]) -> None:
    """One of a hundred takes 50 ms."""
    alone = Pool(sometimes(0.01, other), delay, sharing=False).run(30_000)
    shared = Pool(sometimes(0.01, other), delay).run(30_000)
    assert shared.p99("short") <= alone.p99("short") * 1.05
    assert shared.riders > 10_000 and not (other == "nap" and shared.known["nap"].brief())


@pytest.mark.parametrize("work", [lambda chance: ("short", 50 * MS), sometimes(0.15, "short")])
def test_what_is_long_or_often_so_goes_alone(work: Callable[[random.Random], tuple[str, float]]) -> None:
    """But for the trials, of which one in sixteen may be one."""
    pool, alone = Pool(work).run(20_000), Pool(work, sharing=False).run(20_000)
    assert pool.riders < 20_000 * 2.5 / 16
    assert pool.p99("short") <= alone.p99("short") * 1.05
