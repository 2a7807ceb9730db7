from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth.throttle import LONGEST, MEMORY, Throttle


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
