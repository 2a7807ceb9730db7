from pgambassador.auth.doorway import FEW, SHARE, Doorway


def test_one_place_takes_a_share_of_the_door() -> None:
    door = Doorway(10_000)
    entered = [door.enter("10.0.0.1", local=False) for _ in range(2000)]
    assert entered.count(True) == 10_000 // SHARE == door.each
    assert door.enter("10.0.0.2", local=False)
    door.leave("10.0.0.1")
    assert door.enter("10.0.0.1", local=False)
    assert not door.enter("10.0.0.1", local=False)


def test_a_few_may_always_come() -> None:
    door = Doorway(1)
    assert (door.most, door.each) == (FEW, FEW)
    assert all(door.enter("10.0.0.1", local=False) for _ in range(FEW))


def test_this_machine_is_not_one_place() -> None:
    door = Doorway(10)
    assert all(door.enter("127.0.0.1", local=True) for _ in range(10 * FEW))
    assert repr(door) == "<Doorway 0 from 0 places>"


def test_nothing_is_kept_of_those_who_left() -> None:
    door = Doorway(10)
    for number in range(1000):
        site = f"10.0.0.{number}"
        door.enter(site, local=False)
        door.leave(site)
        door.leave(site)  # of somebody who was not counted
    assert repr(door) == "<Doorway 0 from 0 places>"
