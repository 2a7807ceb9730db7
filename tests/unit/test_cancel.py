import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pgambassador.protocol.cancel import MAX_PID, CancelKeys, random_pid


def test_a_key_finds_its_session() -> None:
    keys: CancelKeys[str] = CancelKeys()
    pid, key = keys.issue("session")
    assert keys.find(pid, key) == "session"
    assert repr(keys) == "<CancelKeys 1 sessions>"


@pytest.mark.parametrize("wrong", [b"", b"\0\0\0", b"\0\0\0\0\0", b"k" * 256])
def test_a_wrong_key_finds_nothing(wrong: bytes) -> None:
    keys: CancelKeys[str] = CancelKeys()
    pid, key = keys.issue("session")
    assert keys.find(pid, wrong) is None
    assert keys.find(pid, bytes([key[0] ^ 1]) + key[1:]) is None
    assert keys.find(pid ^ 1, key) is None


def test_a_released_key_finds_nothing() -> None:
    keys: CancelKeys[str] = CancelKeys()
    pid, key = keys.issue("session")
    keys.release(pid)
    keys.release(pid)
    assert keys.find(pid, key) is None
    assert len(keys) == 0


def test_a_pid_is_not_given_twice_while_it_lives() -> None:
    drawn = iter([5, 5, 5, 6, 5])
    keys: CancelKeys[str] = CancelKeys(draw_pid=lambda: next(drawn))
    assert keys.issue("one")[0] == 5
    assert keys.issue("two")[0] == 6
    keys.release(5)
    assert keys.issue("three")[0] == 5


def test_what_was_drawn_may_be_somebody_elses_by_now() -> None:
    keys: CancelKeys[str] = CancelKeys(draw_pid=lambda: 5)
    pid, key = keys.draw()
    assert keys.find(pid, key) is None
    assert keys.issue("one")[0] == pid
    assert not keys.give("two", pid, key)
    assert keys.find(pid, key) is None
    keys.release(pid)
    assert keys.give("two", pid, key)
    assert keys.find(pid, key) == "two"


def test_pids_and_keys_are_what_clients_expect() -> None:
    assert all(1 <= random_pid() <= MAX_PID for _ in range(1000))
    keys: CancelKeys[int] = CancelKeys()
    issued = [keys.issue(number) for number in range(1000)]
    assert len({pid for pid, _ in issued}) == 1000
    assert len({key for _, key in issued}) > 990
    assert {len(key) for _, key in issued} == {4}
    assert {len(keys.issue(number, long=True)[1]) for number in range(10)} == {32}
    # Unguessable means that neither half tells the next one.
    assert sorted(issued) != issued


def test_no_key_is_shown() -> None:
    keys: CancelKeys[str] = CancelKeys()
    _, key = keys.issue("session")
    assert repr(key) not in repr(keys)


class Registry(RuleBasedStateMachine):
    """Sessions come and go on a tiny range of pids."""

    issued = Bundle("issued")

    def __init__(self) -> None:
        super().__init__()
        self.pids = iter(range(10_000))
        self.keys: CancelKeys[object] = CancelKeys(draw_pid=lambda: next(self.pids) % 50 + 1)
        self.living: dict[tuple[int, bytes], object] = {}

    @rule(target=issued)
    def connect(self) -> tuple[int, bytes]:
        session = object()
        entry = self.keys.issue(session)
        assert entry[0] not in {pid for pid, _ in self.living}
        self.living[entry] = session
        return entry

    @rule(entry=consumes(issued))
    def disconnect(self, entry: tuple[int, bytes]) -> None:
        self.keys.release(entry[0])
        del self.living[entry]
        assert self.keys.find(*entry) is None

    @rule(pid=st.integers(0, 60), key=st.binary(max_size=5))
    def guess(self, pid: int, key: bytes) -> None:
        assert self.keys.find(pid, key) is self.living.get((pid, key))

    @invariant()
    def each_key_finds_its_own_session(self) -> None:
        assert len(self.keys) == len(self.living)
        assert all(self.keys.find(*entry) is session for entry, session in self.living.items())


TestRegistry = Registry.TestCase
