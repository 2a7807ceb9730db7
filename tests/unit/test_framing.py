from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.errors import ProtocolViolation
from pgambassador.wire.build import frame
from pgambassador.wire.framing import CONTINUED, HEADER, WHOLE, Scanner
from tests.oracle import Framing

# A type passed on as it comes, one whose head is looked at, one that is wanted whole.
NEEDS = {ord("d"): 5, ord("B"): 12, ord("Q"): WHOLE}
LIMIT = 200
WHOLE_LIMIT = 100

QUERY = frame(ord("Q"), b"select 1\0")
DATA = frame(ord("d"), b"0123456789")


def scanner() -> Scanner:
    return Scanner(NEEDS, LIMIT, WHOLE_LIMIT)


def oracle() -> Framing:
    return Framing(NEEDS, LIMIT, WHOLE_LIMIT)


frames = st.one_of(
    st.builds(frame, st.just(ord("Q")), st.binary(max_size=WHOLE_LIMIT - HEADER)),
    st.builds(frame, st.sampled_from(b"dB"), st.binary(max_size=LIMIT - 4)),
)


@st.composite
def splits(draw: st.DrawFn, stream: st.SearchStrategy[bytes]) -> list[bytes]:
    data = draw(stream)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


streams = st.lists(frames, max_size=8).map(b"".join)


@given(st.data())
def test_any_frames_in_any_pieces(data: st.DataObject) -> None:
    stream = data.draw(streams)
    subject, expected = scanner(), oracle()
    out = []
    for piece in data.draw(splits(st.just(stream))):
        chunks = subject.feed(piece)
        assert chunks == expected.feed(piece)
        assert subject.held == len(expected.kept) < WHOLE_LIMIT
        assert subject.unfinished == expected.left
        out += chunks
    assert b"".join(chunk for _, chunk, _ in out) == stream
    assert subject.held == subject.unfinished == 0


@given(st.lists(frames, max_size=8))
def test_all_at_once_and_byte_by_byte_are_the_same_frames(some: list[bytes]) -> None:
    stream = b"".join(some)
    assert scanner().feed(stream) == [(each[0], each, len(each)) for each in some]
    slow = scanner()
    joined: list[tuple[int, bytes]] = []
    for i in range(len(stream)):
        for kind, chunk, _ in slow.feed(stream[i : i + 1]):
            if kind == CONTINUED:
                kind, begun = joined.pop()
                chunk = begun + chunk
            joined.append((kind, chunk))
    assert joined == [(each[0], each) for each in some]


@given(splits(st.one_of(st.binary(max_size=300), st.tuples(streams, st.binary(max_size=30)).map(b"".join))))
def test_garbage_is_refused_and_nothing_worse(pieces: list[bytes]) -> None:
    subject, expected = scanner(), oracle()
    for piece in pieces:
        try:
            wanted = expected.feed(piece)
        except ProtocolViolation:
            with pytest.raises(ProtocolViolation):
                subject.feed(piece)
            return
        assert subject.feed(piece) == wanted


@pytest.mark.parametrize("tail", [b"", b"Q", QUERY[:7], DATA[:4]])
def test_a_tail_waits(tail: bytes) -> None:
    subject = scanner()
    assert subject.feed(QUERY + tail) == [(ord("Q"), QUERY, len(QUERY))]
    assert subject.held == len(tail)


def test_a_message_to_pass_on_is_not_held() -> None:
    subject = scanner()
    assert subject.feed(DATA[:7]) == [(ord("d"), DATA[:7], len(DATA))]
    assert (subject.held, subject.unfinished) == (0, len(DATA) - 7)
    assert subject.feed(DATA[7:]) == [(CONTINUED, DATA[7:], len(DATA))]


def test_a_head_is_delivered_when_it_is_complete() -> None:
    bind = frame(ord("B"), b"0123456789")
    subject = scanner()
    assert subject.feed(bind[:11]) == []
    assert subject.feed(bind[11:13]) == [(ord("B"), bind[:13], len(bind))]


@pytest.mark.parametrize(
    ("stream", "message", "sqlstate"),
    [
        (b"Y\0\0\0\x04", "invalid message type 89", "08P01"),
        (b"\0\0\0\0\x04", "invalid message type 0", "08P01"),
        (b"Q\0\0\0\x03", "invalid message length 3 of message type 'Q'", "08P01"),
        (b"d\xff\xff\xff\xff", "invalid message length 4294967295 of message type 'd'", "08P01"),
        (b"d\0\0\0\xc9", "invalid message length 201 of message type 'd'", "08P01"),
        (b"Q\0\0\0\x64", "message of type 'Q' is 101 bytes long; at most 100 are taken", "54000"),
    ],
)
def test_a_bad_header_is_refused_before_its_body(stream: bytes, message: str, sqlstate: str) -> None:
    with pytest.raises(ProtocolViolation) as refused:
        scanner().feed(QUERY + stream)
    assert (refused.value.message, refused.value.sqlstate) == (message, sqlstate)


@pytest.mark.parametrize("stream", [b"d\0\0\0\xc8", b"Q\0\0\0\x63"])
def test_the_limits_themselves_are_allowed(stream: bytes) -> None:
    assert scanner().feed(stream) in ([], [(stream[0], stream, 201)])


def test_repr_shows_what_it_holds() -> None:
    subject = scanner()
    subject.feed(DATA[:7])
    assert repr(subject) == "<Scanner held=0 unfinished=8>"
    subject = scanner()
    subject.feed(QUERY[:6])
    assert repr(subject) == "<Scanner held=6 unfinished=0>"
