from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.errors import AmbassadorError, ProtocolViolation, Refused
from pgambassador.protocol.negotiate import MAX_START_PACKET, Action, Cancel, Opening, Send, Start, Tls
from pgambassador.wire import build
from pgambassador.wire.parse import CancelRequest, StartupPacket

SSL = build.SSL_REQUEST
GSS = build.GSSENC_REQUEST
PARAMS = {"user": "app", "database": "shop", "options": "-c a=b"}
STARTUP = build.startup_message(PARAMS)
START = Start(StartupPacket(3 << 16, PARAMS))
CANCEL = build.cancel_request(7, b"key!")


def byte_by_byte(opening: Opening, data: bytes) -> list[Action]:
    return [action for byte in data for action in opening.feed(bytes([byte]))]


@pytest.mark.parametrize(
    "data, actions",
    [
        (STARTUP, [START]),
        (CANCEL, [Cancel(CancelRequest(7, b"key!"))]),
        (build.cancel_request(7, b"k" * 256), [Cancel(CancelRequest(7, b"k" * 256))]),
        (SSL, [Send(b"N")]),
        (GSS, [Send(b"N")]),
        (b"", []),
        (STARTUP[:-1], []),
    ],
)
def test_whole_and_byte_by_byte(data: bytes, actions: list[Action]) -> None:
    assert Opening().feed(data) == actions
    assert byte_by_byte(Opening(), data) == actions


def test_a_tail_belongs_to_the_session() -> None:
    assert Opening().feed(STARTUP + b"Q\0\0") == [Start(START.packet, b"Q\0\0")]
    assert Opening().feed(CANCEL + b"tail") == [Cancel(CancelRequest(7, b"key!"))]


@pytest.mark.parametrize("requests", [[SSL], [GSS], [SSL, GSS], [GSS, SSL]])
def test_encryption_refused_then_a_plain_startup(requests: list[bytes]) -> None:
    opening = Opening()
    for request in requests:
        assert byte_by_byte(opening, request) == [Send(b"N")]
    assert byte_by_byte(opening, STARTUP) == [START]


def test_a_cancel_after_encryption_was_refused() -> None:
    opening = Opening()
    opening.feed(SSL)
    assert opening.feed(CANCEL) == [Cancel(CancelRequest(7, b"key!"))]


def test_tls() -> None:
    opening = Opening(tls=True)
    assert opening.feed(GSS) == [Send(b"N")]
    assert opening.feed(SSL) == [Send(b"S"), Tls()]
    assert repr(opening) == "<Opening encrypted, 0 bytes held>"
    assert byte_by_byte(opening, STARTUP) == [START]
    assert repr(opening) == "<Opening encrypted, done>"


@pytest.mark.parametrize("hello", [b"\x16", b"\x16\3\1\2\0\1"])
def test_direct_tls(hello: bytes) -> None:
    opening = Opening(tls=True)
    assert opening.feed(hello) == [Tls(hello, direct=True)]
    assert opening.feed(STARTUP) == [START]


def test_direct_tls_where_none_is_offered() -> None:
    with pytest.raises(ProtocolViolation, match="begins with TLS, which is not offered here"):
        Opening().feed(b"\x16\3\1")


# --- negotiation


@pytest.mark.parametrize(
    "version, params, named, minor",
    [
        (3 << 16 | 3, {"user": "app"}, [], 2),
        (3 << 16 | 9999, {"user": "app", "_pq_.x": "1", "_pq_.y": ""}, ["_pq_.x", "_pq_.y"], 2),
        (3 << 16 | 2, {"user": "app", "_pq_.x": "1"}, ["_pq_.x"], 2),
        (3 << 16, {"user": "app", "_pq_.x": "1"}, ["_pq_.x"], 0),
    ],
)
def test_a_newer_protocol_is_negotiated_once(
    version: int, params: dict[str, str], named: list[str], minor: int
) -> None:
    send, start = byte_by_byte(Opening(), build.startup_message(params, version))
    assert send == Send(build.negotiate_protocol_version(minor, named))
    assert isinstance(start, Start)
    assert start.packet.minor == minor
    assert start.packet.params == {"user": "app"}
    assert list(start.packet.extensions) == named


@pytest.mark.parametrize("version", [3 << 16, 3 << 16 | 1, 3 << 16 | 2])
def test_what_we_speak_needs_no_negotiation(version: int) -> None:
    (start,) = byte_by_byte(Opening(), build.startup_message({"user": "app"}, version))
    assert isinstance(start, Start)
    assert start.packet.version == version


@pytest.mark.parametrize("major", [0, 1, 2, 4, 1234])
def test_another_protocol_is_refused_at_its_header(major: int) -> None:
    with pytest.raises(
        ProtocolViolation, match=f"unsupported frontend protocol {major}.0: only 3.0"
    ) as caught:
        Opening().feed(b"\0\0\1\x28" + (major << 16).to_bytes(4, "big"))
    assert caught.value.sqlstate == "0A000"


# --- attacks and mistakes


@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("request_, name", [(SSL, "SSL"), (GSS, "GSSAPI encryption")])
@pytest.mark.parametrize("glued", [b"x", STARTUP, CANCEL, SSL])
def test_nothing_may_be_glued_to_an_encryption_request(tls, request_, name, glued) -> None:
    with pytest.raises(ProtocolViolation, match=f"received unencrypted data after {name} request"):
        Opening(tls=tls).feed(request_ + glued)


@pytest.mark.parametrize("request_", [SSL, GSS])
def test_encryption_is_asked_for_once(request_: bytes) -> None:
    opening = Opening()
    opening.feed(request_)
    with pytest.raises(ProtocolViolation, match="unsupported frontend protocol 1234"):
        opening.feed(request_)


@pytest.mark.parametrize("request_", [SSL, GSS])
def test_no_encryption_inside_encryption(request_: bytes) -> None:
    opening = Opening(tls=True)
    opening.feed(SSL)
    with pytest.raises(ProtocolViolation, match="unsupported frontend protocol 1234"):
        opening.feed(request_)


@pytest.mark.parametrize("length", [0, 3, 4, 7, MAX_START_PACKET + 1, 2 << 30, 0xFFFFFFFF])
def test_a_bad_length_is_refused_after_four_bytes(length: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"invalid length of startup packet: {length}"):
        Opening().feed(length.to_bytes(4, "big"))


def test_the_longest_startup_packet() -> None:
    room = MAX_START_PACKET - len(build.startup_message({"user": "app", "options": ""}))
    params = {"user": "app", "options": "x" * room}
    data = build.startup_message(params)
    assert len(data) == MAX_START_PACKET
    assert Opening().feed(data) == [Start(StartupPacket(3 << 16, params))]


@pytest.mark.parametrize(
    "data, sentence",
    [
        (b"\0\0\0\x0c" + SSL[4:] + b"more", "invalid length of SSL request: 12, not 8"),
        (b"\0\0\0\x0c" + CANCEL[4:8] + b"\0\0\0\1", "malformed CancelRequest"),
        (build.cancel_request(1, b"k" * 257), "malformed CancelRequest"),
        (b"\0\0\0\x08\0\3\0\0", "malformed StartupMessage"),
        (b"\0\0\0\x0d\0\3\0\0user\0", "malformed StartupMessage"),
        (b"\0\0\0\x0f\0\3\0\0user\0a\0", "malformed StartupMessage"),
    ],
)
def test_malformed_packets(data: bytes, sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        Opening().feed(data)


@pytest.mark.parametrize("params", [{}, {"user": ""}, {"database": "shop"}])
def test_a_client_without_a_name(params: dict[str, str]) -> None:
    with pytest.raises(Refused, match="no PostgreSQL user name") as caught:
        Opening().feed(build.startup_message(params))
    assert caught.value.sqlstate == "28000"


# --- anything


@given(st.lists(st.sampled_from([SSL, GSS, STARTUP, CANCEL]) | st.binary(max_size=12), max_size=5), st.data())
def test_any_split_gives_the_same(packets: list[bytes], data: st.DataObject) -> None:
    """Only a request for encryption depends on where the reads end, and it ends the stream here."""
    stream = b"".join(packets)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]

    def first_result(reads: list[bytes]) -> object:
        opening = Opening()
        for read in reads:
            try:
                actions = opening.feed(read)
            except AmbassadorError as error:
                return "after SSL or GSS" if "unencrypted data" in error.message else error.message
            match actions:
                case [Send(b"N")]:
                    return "after SSL or GSS"
                case [*_, Start(packet, _)]:
                    return packet
                case [*_, Cancel(request)]:
                    return request
        return None

    assert first_result(pieces) == first_result([stream])
