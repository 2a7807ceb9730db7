import pytest

from pgambassador.auth.doorway import FEW, SHARE, Doorway


def test_one_place_takes_a_share_of_the_door() -> None:
    door: Doorway[int] = Doorway(10_000)
    assert door.each == 10_000 // SHARE
    left = [door.enter(number, "10.0.0.1", local=False) for number in range(2000)]
    assert left == [None] * 1000 + list(range(1000))  # who has stood longest goes
    assert door.enter(2000, "10.0.0.2", local=False) is None
    door.leave(1000)
    assert door.enter(2001, "10.0.0.1", local=False) is None
    assert door.enter(2002, "10.0.0.1", local=False) == 1001


def test_a_few_may_always_come() -> None:
    door: Doorway[int] = Doorway(1)
    assert (door.most, door.each) == (FEW, FEW)
    assert all(door.enter(number, "10.0.0.1", local=False) is None for number in range(FEW))


@pytest.mark.parametrize("local", [True, False])
def test_where_it_is_full_the_largest_crowd_makes_room(local: bool) -> None:
    door: Doorway[str] = Doorway(10)
    door.enter("early", "10.0.0.1", local=False)
    for number in range(FEW - 1):
        assert door.enter(f"crowd {number}", "10.0.0.9", local=local) is None
    assert door.enter("late", "10.0.0.2", local=False) == "crowd 0"
    assert door.enter("here", "127.0.0.1", local=True) == "crowd 1"
    assert len(door) == FEW
    assert repr(door) == "<Doorway 100 from 4 places>"


def test_this_machine_is_not_one_place() -> None:
    door: Doorway[int] = Doorway(10 * FEW)
    assert all(door.enter(number, "127.0.0.1", local=True) is None for number in range(10 * FEW))


def test_nothing_is_kept_of_those_who_left() -> None:
    door: Doorway[int] = Doorway(10)
    for number in range(1000):
        door.enter(number, f"10.0.0.{number}", local=False)
        door.leave(number)
        door.leave(number)  # of somebody who is not there any more
    assert repr(door) == "<Doorway 0 from 0 places>"
    assert not door._crowds
