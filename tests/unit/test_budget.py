"""What may be asked again: a share of what is asked, and a little always."""

from __future__ import annotations

from pgambassador.pool.budget import WINDOW, Budget


def granted(budget: Budget, now: float, asked: int, most: int = 100_000) -> int:
    count = 0
    while count < most and budget.grant(now, asked):
        count += 1
    return count


def test_what_there_is_without_any_traffic() -> None:
    budget = Budget(0.0)
    assert granted(budget, 0.0, 0) == 100
    assert budget.denied == 1
    assert granted(budget, 0.05, 0) == 0
    assert 9 <= granted(budget, 1.0, 0) <= 10
    assert 95 <= granted(budget, 1000.0, 0) <= 100


def test_a_share_of_the_traffic() -> None:
    """In the long run a fifth of the statements and ten a second, whatever the rhythm."""
    for step in (0.01, 0.5, 3.0):
        budget = Budget(0.0)
        now, asked, count = 0.0, 0, 0
        while now < 100:
            now += step
            asked += int(1000 * step)
            count += granted(budget, now, asked)
        assert 0.75 * 21_000 < count < 21_100, (step, count)


def test_much_traffic_before_all_dies_at_once() -> None:
    budget = Budget(0.0)
    assert granted(budget, 100.0, 1_000_000) > 10_000


def test_what_was_saved_fades() -> None:
    budget = Budget(0.0)
    budget.grant(10.0, 100_000)
    assert granted(budget, 10.0 + 10 * WINDOW, 100_000) <= 101


def test_time_that_goes_backwards_earns_nothing() -> None:
    budget = Budget(100.0)
    granted(budget, 100.0, 0)
    assert granted(budget, 50.0, 0) == 0
    assert granted(budget, 100.0, 0) == 0
    assert "denied" in repr(budget)


def test_it_can_be_made_smaller_and_larger() -> None:
    budget = Budget(0.0, share=0.0, floor=10.0)
    budget.resize(0.0, 0.2)
    assert [budget.grant(0.0, 0) for _ in range(3)] == [True, True, False]
    budget.resize(1.0, 10.0)
    assert not budget.grant(0.0, 0), "what was not earned is not there"
    assert budget.grant(1.0, 0)
