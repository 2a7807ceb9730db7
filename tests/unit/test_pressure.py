"""Who is stopped and who has to go, over any load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgambassador.pool.pressure import PATIENCE, Load, Pressure

MOST = 1000


def load(who: str, weight: int, *, priority: int = 0, since: float = 0.0) -> Load[str]:
    return Load(who, weight, priority, since)


def test_with_room_for_all_nobody_is_stopped() -> None:
    assert Pressure[str](MOST).relieve(750, [load("a", 750)], 0.0) == ([], [], [])


def test_who_holds_much_is_stopped_until_there_is_room() -> None:
    pressure = Pressure[str](MOST)
    both = [load("a", 500), load("b", 300)]
    stop, go, end = pressure.relieve(800, both, 0.0)
    assert sorted(stop) == ["a", "b"]
    assert go == end == []
    assert pressure.relieve(800, both, 1.0) == ([], [], [])
    assert pressure.relieve(600, both[:1], 2.0).go == ["b", "a"]
    assert pressure.relieve(600, both[:1], 3.0) == ([], [], [])


def test_above_the_bound_the_lowest_go_first_and_of_these_the_newest() -> None:
    pressure = Pressure[str](MOST)
    loads = [
        load("high", 400, priority=1, since=9.0),
        load("old", 300, since=1.0),
        load("new", 300, since=2.0),
        load("low", 200, priority=-1),
    ]
    relief = pressure.relieve(1600, loads, 0.0)
    assert relief.end == ["low", "new", "old"]
    assert relief.stop == ["high"]


def test_who_is_stopped_for_ever_goes_but_only_as_many_as_make_room() -> None:
    pressure = Pressure[str](MOST)
    loads = [load(name, 200, since=float(number)) for number, name in enumerate("abcd")]
    assert sorted(pressure.relieve(800, loads, 0.0).stop) == list("abcd")
    assert pressure.relieve(800, loads, PATIENCE - 0.1).end == []
    assert pressure.relieve(800, loads, PATIENCE).end == ["d", "c", "b"]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 500), st.integers(-1, 1), st.integers(0, 20)), max_size=40
    )
)
def test_what_always_holds(changes: list[tuple[int, int, int, int]]) -> None:
    pressure, loads, now = Pressure[int](MOST), dict[int, Load[int]](), 0.0
    stopped: dict[int, float] = {}
    for who, weight, priority, seconds in changes:
        now += seconds
        if who not in stopped:
            loads[who] = Load(who, weight, priority, float(who))
        held = sum(each.weight for each in loads.values())
        relief = pressure.relieve(held, list(loads.values()), now)
        assert not set(relief.stop) & set(relief.end)
        for each in relief.end:
            assert held > pressure.hard or now - stopped[each] >= PATIENCE
            held -= loads.pop(each).weight
            stopped.pop(each, None)
        for each in relief.go:
            stopped.pop(each, None)
        stopped.update(dict.fromkeys(relief.stop, now))
        assert held <= pressure.hard
        if held > pressure.soft and not relief.end:
            assert set(stopped) == set(loads), "whoever holds much is not read"
            assert all(now - at < PATIENCE for at in stopped.values())
        elif not relief.end:
            assert not stopped
