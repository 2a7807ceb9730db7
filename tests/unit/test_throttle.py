import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth.throttle import FIRST, LONGEST, MEMORY, TURNS, Throttle


def test_the_wait_grows_up_to_a_bound() -> None:
    throttle = Throttle()
    waits = [throttle.failed("10.0.0.1", 1000.0) for _ in range(100)]
    assert waits[0] == 0  # people mistype
    assert 0 < waits[1] < waits[2] < waits[3]
    assert waits == sorted(waits)
    assert set(waits[20:]) == {LONGEST}


def test_one_address_is_not_anothers_business() -> None:
    throttle = Throttle()
    for _ in range(100):
        throttle.failed("10.0.0.1", 1000.0)
    assert throttle.failed("10.0.0.2", 1000.0) == 0


def test_it_forgets() -> None:
    throttle = Throttle()
    for second in range(10):
        throttle.failed("10.0.0.1", 1000.0 + second)
    assert throttle.failed("10.0.0.1", 1009.0 + MEMORY - 1) == LONGEST
    throttle.forget(1009.0 + 2 * MEMORY)
    assert len(throttle) == 0
    assert throttle.failed("10.0.0.1", 1009.0 + 2 * MEMORY) == 0


def test_it_is_bounded() -> None:
    throttle = Throttle(size=3)
    for site in ("a", "b", "a", "c", "d"):
        throttle.failed(site, 1000.0)
    assert repr(throttle) == "<Throttle 3 of 3>"
    assert throttle.failed("b", 1000.0) == 0  # failed longest ago
    assert throttle.failed("d", 1000.0) > 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=60))
def test_never_more_than_the_bound_nor_longer(failures: list[tuple[str, float]]) -> None:
    throttle, now = Throttle(size=4), 0.0
    counts: dict[str, list[float]] = {}
    for site, later in failures:
        now += later
        wait = throttle.failed(site, now)
        assert 0 <= wait <= LONGEST
        assert len(throttle) <= 4
        counts.setdefault(site, []).append(now)
        if len(counts[site]) == 1:
            assert wait == 0


def test_turns_are_taken_by_failures_until_they_are_told() -> None:
    throttle = Throttle()
    for _ in range(20):
        throttle.failed("a", 1000.0)
    assert throttle.wait("a", 1000.0) == LONGEST
    assert throttle.wait("b", 1000.0) == 0
    assert throttle.wait("a", 1000.0 + LONGEST - 1) == 1
    assert throttle.wait("a", 1000.0 + LONGEST) == 0
    for told in range(TURNS):
        assert throttle.wait("a", 1010.0 + told / 10) == 0
        throttle.failed("a", 1010.0 + told / 10)
    assert throttle.wait("a", 1011.0) == 1010 + LONGEST - 1011
    throttle.forget(1011 + MEMORY)
    assert throttle.wait("a", 1011 + MEMORY) == 0


def test_what_is_being_tried_takes_a_turn_whether_there_was_a_failure_or_not() -> None:
    throttle = Throttle()
    for _ in range(TURNS):
        assert throttle.wait("a", 1000.0) == 0
        throttle.begins("a")
    assert throttle.wait("a", 1000.0) == pytest.approx(FIRST)
    assert throttle.wait("b", 1000.0) == 0
    throttle.ends("a")
    assert throttle.wait("a", 1000.0) == 0
    throttle.failed("a", 1000.0)
    assert throttle.wait("a", 1000.0) == 0, "people mistype"
    throttle.failed("a", 1000.0)
    assert throttle.wait("a", 1000.0) == pytest.approx(FIRST)  # one is told later, four are being tried
    assert throttle.wait("a", 1001.0) == 0
    for _ in range(TURNS - 1):
        throttle.ends("a")
    assert not throttle._trying
