import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth.credential import Md5Hash, Plain
from pgambassador.auth.lookup import NOBODY, Entry, askable, look_up
from pgambassador.errors import AmbassadorError, ConfigError, ProtocolViolation, ServerRefused
from pgambassador.wire.frames import Frame
from tests.messages import error, row

DONE = [(ord("C"), b"SELECT 1\0"), (ord("Z"), b"I")]


def rows(*found: tuple[bytes | None, ...]) -> list[Frame]:
    return [(ord("1"), b""), (ord("2"), b""), *((ord("D"), row(*each)[5:]) for each in found), *DONE]


def told(frames: list[Frame], user: str = "alice") -> Entry:
    dialogue = look_up("select $1", user)
    next(dialogue)
    with pytest.raises(StopIteration) as stop:
        for frame in frames:
            assert dialogue.send(frame) == b""
    found: Entry = stop.value.value
    return found


@pytest.mark.parametrize(
    ("frames", "entry"),
    [
        (rows(), NOBODY),
        (rows((b"alice", b"secret")), Entry(Plain(b"secret"))),
        (rows((b"alice", b"secret", b"t")), Entry(Plain(b"secret"))),
        (rows((b"alice", b"md5" + b"0a" * 16, b"t")), Entry(Md5Hash(b"0a" * 16))),
        (rows((b"alice", None, b"t")), Entry(None)),
        (rows((b"alice", b"secret", b"f")), Entry(Plain(b"secret"), "the account has expired")),
        (rows((b"alice", b"secret", None)), Entry(Plain(b"secret"), "the account has expired")),
        (rows((b"bob", b"secret", b"t")), NOBODY),
        (rows((None, b"secret", b"t")), NOBODY),
        ([(ord("N"), b"\0"), (ord("S"), b"a\0b\0"), *rows((b"alice", b"x"))], Entry(Plain(b"x"))),
    ],
)
def test_what_a_row_means(frames: list[Frame], entry: Entry) -> None:
    assert told(frames) == entry


def test_the_name_is_a_parameter() -> None:
    name = "x'; drop table users; --"
    sent = next(look_up("select $1", name))
    head, _, tail = sent.partition(name.encode())
    assert head.startswith(b"P") and b"select $1\0" in head
    assert head.endswith(len(name).to_bytes(4, "big"))
    assert tail.startswith(b"\0\0E") and tail.endswith(b"S\0\0\0\4")


@pytest.mark.parametrize(
    ("user", "expected"),
    [("alice", True), ("x" * 63, True), ("x" * 64, False), ("ü" * 32, False), ("\udcff", False)],
)
def test_what_can_be_a_name(user: str, expected: bool) -> None:
    assert askable(user) is expected


def test_a_name_that_is_not_utf8_comes_back_as_it_was() -> None:
    assert told(rows((b"\xff", b"secret")), b"\xff".decode("utf-8", "surrogateescape")).credential


@pytest.mark.parametrize(
    ("frames", "kind", "said"),
    [
        (rows((b"alice", b"a"), (b"alice", b"b")), ConfigError, "more than one row"),
        (rows((b"alice",)), ConfigError, "1 columns"),
        (rows((b"alice", b"a", b"t", b"x")), ConfigError, "4 columns"),
        ([(ord("E"), error("42501", "permission denied")[5:]), DONE[1]], ServerRefused, "permission denied"),
        ([(ord("E"), b"SFATAL\0VFATAL\0C57P01\0Mshutting down\0\0")], ServerRefused, "shutting down"),
        ([(ord("E"), b"SPANIK\0VPANIC\0Mover\0\0")], ServerRefused, "over"),
        ([(ord("N"), b"\0")] * 200, ProtocolViolation, "does not come to an end"),
    ],
)
def test_what_is_no_answer(frames: list[Frame], kind: type[AmbassadorError], said: str) -> None:
    dialogue = look_up("select $1", "alice")
    next(dialogue)
    with pytest.raises(kind, match=said):
        for frame in frames:
            dialogue.send(frame)


@given(st.lists(st.tuples(st.sampled_from(b"DCEZTN12"), st.binary(max_size=40)), max_size=10))
def test_garbage_is_an_answer_or_an_error(frames: list[Frame]) -> None:
    dialogue = look_up("select $1", "alice")
    next(dialogue)
    try:
        for frame in frames:
            dialogue.send(frame)
    except (AmbassadorError, StopIteration):
        pass
