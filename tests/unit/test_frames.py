import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.errors import ProtocolViolation
from pgambassador.wire import build
from pgambassador.wire.frames import Backend, Frontend, letter, take_frame

LIMIT = 1000


@pytest.mark.parametrize("payload", [b"", b"x", b"y" * (LIMIT - 4)])
def test_whole_byte_by_byte_and_with_a_tail(payload: bytes) -> None:
    data = build.frame(Frontend.QUERY, payload)
    expected = (Frontend.QUERY, payload)

    whole = bytearray(data)
    assert take_frame(whole, LIMIT) == expected
    assert whole == b""

    slowly = bytearray()
    for byte in data[:-1]:
        slowly.append(byte)
        assert take_frame(slowly, LIMIT) is None
    slowly.append(data[-1])
    assert take_frame(slowly, LIMIT) == expected

    followed = bytearray(data + b"tail")
    assert take_frame(followed, LIMIT) == expected
    assert followed == b"tail"


@pytest.mark.parametrize("length", [0, 3, LIMIT + 1, 2 << 30, 0xFFFFFFFF])
def test_a_bad_length_is_refused_at_the_header(length: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"type 'Z' claims a length of {length}; 4 to {LIMIT}"):
        take_frame(bytearray(b"Z" + length.to_bytes(4, "big")), LIMIT)


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))), st.binary(max_size=4))
def test_any_run_of_frames_comes_out_again(frames: list[tuple[int, bytes]], tail: bytes) -> None:
    buffer = bytearray(b"".join(build.frame(*frame) for frame in frames) + tail)
    assert [take_frame(buffer, LIMIT) for _ in frames] == frames
    assert buffer == tail


def test_a_type_byte_in_a_sentence() -> None:
    assert [letter(kind) for kind in (Backend.READY_FOR_QUERY, 0, 0xFF)] == ["'Z'", "0x00", "0xff"]
