"""How many clients there are of each kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgambassador.pool.census import Census, Stay

SHOP = ("database", "shop")


def test_what_is_taken_is_given_back_once() -> None:
    census = Census()
    first, second = census.stay(), census.stay()
    assert first.take(SHOP, 1)
    assert not second.take(SHOP, 1)
    second.leave()
    assert not second.take(SHOP, 1)
    first.leave()
    first.leave()
    assert second.take(SHOP, 1)
    assert census.counts == {SHOP: 1}


def test_without_a_limit_nothing_is_counted() -> None:
    census = Census()
    assert census.stay().take(SHOP, None)
    assert census.counts == {}
    assert Stay().take(SHOP, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc"), st.booleans())))
def test_never_above_a_limit_and_nothing_remembered(events: list[tuple[int, str, bool]]) -> None:
    census = Census()
    stays = [census.stay() for _ in range(6)]
    taken = [0] * 6
    for who, name, leaves in events:
        if leaves:
            stays[who].leave()
            taken[who] = 0
        else:
            taken[who] += stays[who].take(("user", name), 2)
        assert all(0 < count <= 2 for count in census.counts.values())
        assert census.counts.total() == sum(taken)
    for stay in stays:
        stay.leave()
    assert not census.counts
