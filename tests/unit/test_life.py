"""The life of a secret over invented hours: outages of its source, jumps of the clock, refusals."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.credentials.life import JUST_NOW, MARGIN, RETRY_MOST, Life, pause

NOW = 1_000_000_000.0
TICK = 0.25
LONGEST_DELAY = 60.0
CHANCE = st.floats(0, 1, exclude_max=True)


def born(length: float | None, chance: float = 0.0) -> Life:
    life = Life()
    life.begin(NOW, None if length is None else NOW + length, chance)
    return life


def test_a_secret_is_used_until_shortly_before_its_end() -> None:
    life = born(900)
    assert life.usable(NOW)
    assert life.usable(NOW + 900 - MARGIN - 0.1)
    assert not life.usable(NOW + 900 - MARGIN)
    # Half a minute of a life of ten seconds would be all of it.
    life = born(10)
    assert life.usable(NOW + 8.9)
    assert not life.usable(NOW + 9)


@pytest.mark.parametrize("length", [None, 0.0, -5.0])
def test_what_has_no_life_is_never_kept(length: float | None) -> None:
    life = born(length)
    assert not life.usable(NOW)
    assert not life.just_now(NOW)


@pytest.mark.parametrize("length", [0.0, -5.0, -7200.0])
def test_what_is_over_when_it_comes_is_not_renewed_all_the_time(length: float) -> None:
    """By a clock that goes ahead of its source's: the next would be over as well."""
    life = born(length)
    assert not any(life.due(NOW + seconds) for seconds in range(3600))


def test_nothing_is_renewed_that_has_no_end() -> None:
    life = born(None)
    life.failed(NOW, 0.5)
    assert not life.due(NOW - 1e6)
    assert not life.due(NOW + 1e9)
    life = born(math.inf)
    assert life.usable(NOW + 1e9)
    assert not life.due(NOW + 1e9)


@given(length=st.floats(1, 1e6), chance=CHANCE)
def test_when_it_is_renewed(length: float, chance: float) -> None:
    life = born(length, chance)
    assert not life.due(NOW + 0.499 * length)
    assert life.due(NOW + 0.801 * length)
    assert life.usable(NOW + 0.801 * length)


@given(length=st.floats(1, 1e6), chance=CHANCE)
def test_connections_are_replaced_before_the_end(length: float, chance: float) -> None:
    life = born(length)
    assert NOW + 0.79 * length <= life.retire_at(chance) <= life.not_after - life.margin  # type: ignore[operator]


@given(length=st.floats(20, 7200), chances=st.lists(CHANCE, min_size=1, max_size=20))
def test_nobody_waits_while_the_source_answers(length: float, chances: list[float]) -> None:
    """Hours without a gap, and without more questions than needed."""
    life, now, fetches = born(length, chances[0]), NOW, 1
    while now < NOW + 20 * length:
        now += max(TICK, length / 200)
        assert life.usable(now)
        if life.due(now):
            fetches += 1
            life.begin(now, now + length, chances[fetches % len(chances)])
    assert fetches <= 41


@given(chances=st.lists(CHANCE, min_size=1, max_size=20))
def test_an_hour_without_the_source(chances: list[float]) -> None:
    life = born(3600, 0.0)
    now, asked = NOW + 1800, list[float]()
    while now < NOW + 5400:
        now += TICK
        assert life.usable(now) == (now < NOW + 3600 - MARGIN)
        if life.due(now):
            asked.append(now)
            life.failed(now, chances[len(asked) % len(chances)])
    assert life.failures == len(asked)
    gaps = [late - early for early, late in itertools.pairwise(asked)]
    assert min(gaps) >= 0.5
    assert max(gaps) <= LONGEST_DELAY + TICK
    assert all(gap >= 0.5 * LONGEST_DELAY for gap in gaps[7:])
    life.begin(now, now + 3600, 0.0)
    assert life.failures == 0
    assert not life.due(now)


STRETCH = st.tuples(
    st.integers(1, 1200),  # ticks, some of which are long
    st.sampled_from([0.0, 0.0, -1e7, -4000.0, -50.0, 50.0, 4000.0, 1e7]),  # the clock jumps by this
    st.booleans(),  # whether the source answers
)


@given(
    length=st.floats(5, 3600),
    stretches=st.lists(STRETCH, min_size=1, max_size=6),
    chance=CHANCE,
    step=st.sampled_from([TICK, 10.0]),
)
def test_whatever_the_clock_does(
    length: float, stretches: list[tuple[int, float, bool]], chance: float, step: float
) -> None:
    life, clock = born(length, chance), NOW

    def tick(up: bool) -> bool:
        nonlocal clock
        clock += step
        assert life.not_after is not None
        assert not life.usable(max(clock, life.not_after))
        assert not life.valid(max(clock, life.not_after))
        assert life.valid(clock) or not life.usable(clock)
        if not life.due(clock):
            return False
        if up:
            life.begin(clock, clock + length, chance)
            assert life.usable(clock)
        else:
            was = life.not_after
            life.failed(clock, chance)
            assert life.not_after == was
        assert not life.due(clock), "asked again at once"
        return True

    for ticks, jump, up in stretches:
        clock += jump
        asked = sum(tick(up) for _ in range(ticks))
        assert asked <= 10 + ticks * step / min(0.5 * length, 30.0)
    # The clock goes right again, and the source answers: it does not take long until all is well.
    calm = 0.0
    while calm <= RETRY_MOST + 0.8 * length + step:
        tick(True)
        calm += step
    if step < 0.1 * length:
        assert life.usable(clock)
    assert life.born <= clock
    assert life.refresh_at <= clock + 0.8 * length + step


def refusal(**changes: object) -> float | None:
    facts: dict = {"fresh": False, "newer": False, "tries": 0, "waited": 0.0, "window": 0.0, "chance": 0.0}
    return pause(**(facts | changes))


def test_after_a_refusal() -> None:
    assert refusal() == 0
    assert refusal(tries=1) is None
    # Its source would say the same.
    assert refusal(fresh=True) is None
    # But what came since is worth a try.
    assert refusal(fresh=True, newer=True) == 0
    assert refusal(tries=1, newer=True) is None


@given(window=st.floats(1, 120), chance=CHANCE, fresh=st.booleans())
def test_a_source_that_rotates_is_asked_until_its_window_ends(
    window: float, chance: float, fresh: bool
) -> None:
    waited, tries = 0.0, 0
    while (
        seconds := refusal(window=window, chance=chance, fresh=fresh, tries=tries, waited=waited)
    ) is not None:
        assert seconds == 0 or seconds >= 0.25 or waited + seconds == pytest.approx(window)
        waited, tries, fresh = waited + seconds, tries + 1, True
        assert waited <= window
    assert waited == pytest.approx(window)
    assert tries <= 5 + window / 2


def test_just_now() -> None:
    assert born(3600).just_now(NOW + JUST_NOW - 0.1)
    assert not born(3600).just_now(NOW + JUST_NOW)
    assert not born(3600).just_now(NOW - 1)
    assert not born(5).just_now(NOW + 0.5)
