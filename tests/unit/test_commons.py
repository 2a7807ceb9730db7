"""Pools that share limits: years of it with invented time."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pgambassador.pool.commons import TURN, Cap, Commons
from pgambassador.pool.plan import Plan

NOW = 1000.0


class Pool:
    """A pool without sockets: `waiting` and `idle` since then; of `leaving` the server does not know yet."""

    def __init__(
        self, world: World, name: str, caps: list[Cap], *, size: int = 100, min_size: int = 0
    ) -> None:
        self.world, self.name, self.caps = world, name, caps
        self.plan = Plan(size, min_size)
        self.waiting: list[float] = []
        self.served: list[float] = []
        self.idle: list[float] = []
        self.busy = self.opening = self.leaving = 0
        self.contested = False
        self.evicted = 0
        world.commons.join(self)
        world.pools.append(self)

    # What the commons ask.

    @property
    def held(self) -> int:
        return len(self.idle) + self.busy + self.opening

    def lacks(self, now: float) -> int:
        return self.plan.openings(
            waiting=len(self.waiting), total=len(self.idle) + self.busy, opening=self.opening, now=now
        )

    def urgent(self) -> bool:
        return bool(self.waiting)

    def idle_since(self) -> tuple[bool, float] | None:
        if not self.idle:
            return None
        return len(self.idle) + self.busy <= self.plan.min_size, self.idle[0]

    def grant(self) -> None:
        self.opening += 1

    def evict(self) -> None:
        self.evicted += 1
        del self.idle[0]
        self._leaves()

    def contest(self, contested: bool) -> None:
        self.contested = contested

    # What happens.

    def comes(self, clients: int = 1) -> None:
        for _ in range(clients):
            if self.idle:
                self.idle.pop()
                self.busy += 1
            else:
                self.waiting.append(self.world.now)
        self.wants()

    def wants(self) -> None:
        if self.lacks(self.world.now):
            self.world.commons.claim(self, self.world.now)

    def opens(self) -> None:
        self.opening -= 1
        self.busy += 1
        self.plan.succeeded()
        self.finishes()
        self.wants()

    def fails(self) -> None:
        self.opening -= 1
        self.plan.failed(self.world.now, chance=1.0)
        self.world.commons.returned(self, self.world.now)

    def finishes(self) -> None:
        if self.contested and self.world.commons.yields(self, self.world.now):
            self.dies()
        elif self.waiting:
            self.served.append(self.world.now - self.waiting.pop(0))
        else:
            self.busy -= 1
            self.idle.append(self.world.now)

    def dies(self) -> None:
        self.busy -= 1
        self._leaves()

    def _leaves(self) -> None:
        self.leaving += 1
        self.world.commons.leaves(self, self.world.now)
        self.wants()

    def departs(self) -> None:
        """The server has closed its end."""
        self.leaving -= 1
        self.world.commons.left(self, self.world.now)

    def gives_up(self) -> None:
        self.waiting.pop()

    def __repr__(self) -> str:
        return (
            f"<{self.name} waiting={len(self.waiting)} idle={len(self.idle)} busy={self.busy}"
            f" opening={self.opening} leaving={self.leaving}>"
        )


class World:
    def __init__(self) -> None:
        self.now = NOW
        self.commons = Commons()
        self.pools: list[Pool] = []

    def ticks(self, seconds: float = 0.25) -> None:
        self.now += seconds
        for pool in self.pools:
            pool.wants()
        self.commons.settle(self.now)

    def comes_about(self) -> None:
        """Whatever is under way on the network; without time passing it comes to an end."""
        events = 0
        while any(pool.opening or pool.leaving for pool in self.pools):
            for pool in self.pools:
                for each in [pool.departs] * pool.leaving + [pool.opens] * pool.opening:
                    each()
                    events += 1
            assert events < 100 * len(self.pools), "connections go from hand to hand for ever"


@pytest.fixture
def world() -> World:
    return World()


def cap(most: int, what: str = "it") -> Cap:
    return Cap("limit", what, most)


def test_never_more_than_the_limit_and_in_turn(world):
    shared = cap(3)
    a, b = (Pool(world, name, [shared]) for name in "ab")
    a.comes(2)
    b.comes(2)
    assert (a.opening, b.opening, shared.used) == (2, 1, 3)
    world.comes_about()
    assert (a.busy, b.busy, len(b.waiting)) == (2, 1, 1)


def test_an_idle_connection_of_another_pool_makes_room(world):
    shared = cap(2)
    a, b, c = (Pool(world, name, [shared]) for name in "abc")
    for pool in (b, a):
        pool.comes()
        world.comes_about()
        pool.finishes()
        world.now += 1
    c.comes()
    assert (a.evicted, b.evicted) == (0, 1), "the one that was idle longest"
    assert (c.opening, shared.used) == (0, 2), "until the server has let go of it"
    world.comes_about()
    assert c.busy == 1


def test_those_kept_ready_are_taken_last_and_not_taken_back(world):
    shared = cap(2)
    a, b = Pool(world, "a", [shared], min_size=1), Pool(world, "b", [shared])
    a.wants()
    world.comes_about()
    world.now += 1
    b.comes()
    world.comes_about()
    b.finishes()
    c = Pool(world, "c", [shared])
    c.comes()
    assert (a.evicted, b.evicted) == (0, 1)
    world.comes_about()
    b.comes()
    assert a.evicted == 1
    world.comes_about()
    for _ in range(20):
        world.ticks()
    assert (b.busy, c.busy, a.held) == (1, 1, 0)
    c.finishes()
    for _ in range(20):
        world.ticks()
    assert (a.held, len(c.idle)) == (0, 1), "for one that is only to be ready nothing is closed"


def test_the_larger_one_gives_at_once(world):
    shared = cap(4)
    a, b = (Pool(world, name, [shared]) for name in "ab")
    a.comes(50)
    world.comes_about()
    b.comes(50)
    for _ in range(2):
        a.finishes()
        world.comes_about()
    assert (a.busy, b.busy) == (2, 2)
    for _ in range(10):
        for pool in (a, b):
            pool.finishes()
            world.comes_about()
    assert (a.busy, b.busy) == (2, 2), "equals do not rob each other"
    assert a.evicted == b.evicted == 0


def test_more_pools_than_places_take_turns(world):
    shared = cap(1)
    pools = [Pool(world, str(number), [shared]) for number in range(5)]
    for pool in pools:
        pool.comes(10_000)
    held = []
    for _ in range(400):
        world.comes_about()
        for pool in pools:
            if pool.busy:
                pool.finishes()
                held.append(pool.name)
        world.ticks(0.05)
    order = [name for name, _ in itertools.groupby(held)]
    assert len(order) >= 10
    assert order[:10] == ["0", "1", "2", "3", "4"] * 2
    changes = len(order)
    assert changes <= 400 * 0.05 / TURN + 2, "for a turn each, not for a statement"


def test_one_without_use_for_it_gives_it_to_whoever_waits(world):
    shared = cap(1)
    a, b = (Pool(world, name, [shared]) for name in "ab")
    a.comes()
    world.comes_about()
    b.comes()
    a.finishes()
    world.comes_about()
    assert (a.held, b.busy) == (0, 1)
    assert b.served == [0.0]


def test_a_limit_that_others_wait_for_is_nobody_elses_obstacle(world):
    everything, small, large = cap(3), cap(1), cap(10)
    a, b, c = (
        Pool(world, "a", [everything, small]),
        Pool(world, "b", [everything, small]),
        Pool(world, "c", [everything, large]),
    )
    a.comes()
    world.comes_about()
    b.comes()
    assert b.opening == 0
    c.comes(2)
    assert c.opening == 2


def test_two_limits_at_once_are_reached_in_the_end(world):
    """b needs a place of each; both are always taken again by others, but never free at the same time."""
    left, right = cap(1), cap(1)
    b = Pool(world, "b", [left, right])
    a, c = Pool(world, "a", [left]), Pool(world, "c", [right])
    for pool in (a, c):
        pool.comes(1000)
    world.comes_about()
    b.comes()
    for step in range(200):
        (a if step % 2 else c).finishes() if (a if step % 2 else c).busy else None
        world.comes_about()
        world.ticks(0.05)
        if b.busy:
            return
    pytest.fail("b never had its turn")


def test_a_failure_gives_its_place_to_the_next(world):
    shared = cap(1)
    a, b = (Pool(world, name, [shared]) for name in "ab")
    a.comes()
    b.comes()
    assert (a.opening, b.opening) == (1, 0)
    a.fails()
    assert (a.opening, b.opening) == (0, 1)


def test_who_leaves_is_forgotten(world):
    shared = cap(1)
    a, b = (Pool(world, name, [shared]) for name in "ab")
    a.comes()
    b.comes()
    b.gives_up()
    world.commons.leave(b)
    world.pools.remove(b)
    world.comes_about()
    a.finishes()
    world.ticks()
    assert (list(shared.members), shared.waiting, len(a.idle)) == ([a], [], 1)
    assert not a.contested


class Counting(Pool):
    """Counts how often it is asked what it lacks."""

    asked = 0

    def lacks(self, now: float) -> int:
        Counting.asked += 1
        return super().lacks(now)


def test_many_claims_cost_little(world):
    """A thousand pools that wait are not looked through for each statement of one of them."""
    shared = cap(1)
    first, *pools = [Counting(world, str(number), [shared]) for number in range(1000)]
    first.comes(100)
    world.comes_about()
    for pool in pools:
        pool.comes()
    Counting.asked = 0
    for pool in pools:
        pool.wants()
    assert Counting.asked == len(pools), "a claim under a limit that others wait for looks at nobody else"
    for _ in range(10):
        first.finishes()
    assert Counting.asked < len(pools) + 10 * 20


class Sharing(RuleBasedStateMachine):
    """Pools under one to three limits each, in a world where anything may happen next."""

    @initialize(
        most=st.lists(st.integers(1, 4), min_size=3, max_size=3),
        pools=st.lists(
            st.tuples(st.sets(st.integers(0, 2), min_size=1), st.integers(1, 4), st.integers(0, 1)),
            min_size=1,
            max_size=6,
        ),
    )
    def begins(self, most, pools):
        self.world = World()
        self.caps = [cap(each, str(number)) for number, each in enumerate(most)]
        for number, (limits, size, least) in enumerate(pools):
            caps = [self.caps[each] for each in sorted(limits)]
            Pool(self.world, str(number), caps, size=size, min_size=min(least, size))

    def pool(self, which):
        return self.world.pools[which % len(self.world.pools)]

    @rule(which=st.integers(0, 5), clients=st.integers(1, 4))
    def clients_come(self, which, clients):
        self.pool(which).comes(clients)

    @rule(
        which=st.integers(0, 5),
        what=st.sampled_from(["opens", "fails", "finishes", "dies", "departs", "gives_up"]),
    )
    def something_happens(self, which, what):
        pool = self.pool(which)
        needed = {
            "opens": pool.opening,
            "fails": pool.opening,
            "departs": pool.leaving,
            "gives_up": pool.waiting,
        }
        if needed.get(what, pool.busy):
            getattr(pool, what)()

    @rule(seconds=st.sampled_from([0.01, 0.25, 2.0]))
    def time_passes(self, seconds):
        self.world.ticks(seconds)

    @invariant()
    def never_above_a_limit(self):
        for each in self.caps:
            members = [pool for pool in self.world.pools if each in pool.caps]
            assert each.used == sum(pool.held + pool.leaving for pool in members)
            assert each.leaving == sum(pool.leaving for pool in members)
            assert 0 <= each.used <= each.most
        for pool in self.world.pools:
            assert pool.held <= pool.plan.size

    @invariant()
    def nobody_waits_beside_what_nobody_uses(self):
        """Unless one who has waited for longer than a turn is about to have it. Who gives up says nothing:
        that is seen when the claims are looked at next."""
        now = self.world.now
        late = any(now - since >= TURN for since in self.world.commons._claims.values())
        coming = any(each.leaving for each in self.caps)
        for pool in self.world.pools:
            if late or coming or not pool.waiting or not pool.lacks(now):
                continue
            full = [each for each in pool.caps if each.full]
            assert full, f"{pool} waits beside a free place"
            for other in self.world.pools:
                if other is not pool and other.idle:
                    assert not set(full) <= set(other.caps), f"{pool} waits beside what is idle in {other}"

    def teardown(self):
        """Nobody starves: if every connection is given back after a while, everybody is served."""
        if not hasattr(self, "world"):
            return
        for _ in range(400):
            self.world.comes_about()
            for pool in self.world.pools:
                if pool.busy:
                    pool.finishes()
            self.world.ticks(0.25)
            self.never_above_a_limit()
            if not any(pool.waiting for pool in self.world.pools):
                break
        assert not [pool for pool in self.world.pools if pool.waiting]


Sharing.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
test_sharing = Sharing.TestCase


@settings(max_examples=50)
@given(most=st.integers(1, 4), pools=st.integers(2, 8), seed=st.integers(0, 1 << 32))
def test_everybody_is_served_while_others_never_stop(most, pools, seed):
    """Each pool has clients all the time; each has its turn within so many turns."""
    world, shared = World(), cap(most)
    crowd = [Pool(world, str(number), [shared]) for number in range(pools)]
    for pool in crowd:
        pool.comes(10_000)
    last = dict.fromkeys(crowd, world.now)
    chance = random.Random(seed)
    for _ in range(int(pools * 6 * TURN / 0.1) + 50):
        world.comes_about()
        for pool in chance.sample(crowd, len(crowd)):
            if pool.busy:
                last[pool] = world.now
                for _ in range(pool.busy):
                    pool.finishes()
        world.ticks(0.1)
        assert max(world.now - since for since in last.values()) < (pools / most + 2) * 2 * (TURN + 0.5)
