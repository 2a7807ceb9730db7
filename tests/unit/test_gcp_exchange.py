"""AlloyDB's metadata exchange as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.credentials.gcp import exchange
from pgambassador.errors import AmbassadorError, ProtocolViolation, ServerRefused
from tests.harness.doorman import fields


def framed(message: bytes) -> bytes:
    return len(message).to_bytes(4, "big") + message


def test_a_request_as_protobuf_writes_it() -> None:
    wanted = b"\x0a\x03a/1" + b"\x10\x02" + b"\x1a\x05token"
    assert exchange.request("token", iam=True, user_agent="a/1") == framed(wanted)
    assert exchange.request("token", iam=False, user_agent="a/1")[4:][5:7] == b"\x10\x01"


@given(st.text(max_size=3000))
def test_a_token_of_any_length(token: str) -> None:
    data = exchange.request(token, iam=True, user_agent="x")
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert fields(data[4:]) == {1: b"x", 2: exchange.AUTO_IAM, 3: token.encode()}


def test_an_answer_in_pieces() -> None:
    data = framed(b"\x08\x01")
    for size in range(len(data)):
        assert exchange.understand(data[:size]) is None
    assert exchange.understand(data) == len(data)
    assert exchange.understand(data + b"more") == len(data)


def test_fields_that_are_not_known() -> None:
    message = b"\x08\x01" + b"\x18\x07" + b"\x22\x02hi" + b"\x29" + bytes(8) + b"\x35" + bytes(4)
    assert exchange.understand(framed(message)) == 4 + len(message)


def test_a_refusal_in_the_servers_words() -> None:
    with pytest.raises(ServerRefused) as raised:
        exchange.understand(framed(b"\x08\x02\x12\x09no\nentry\xff"))
    assert raised.value.message == "AlloyDB refuses the login: no entry�"
    assert raised.value.sqlstate == "28000"
    assert "roles/alloydb.databaseUser" in (raised.value.hint or "")
    with pytest.raises(ServerRefused, match="it does not say why"):
        exchange.understand(framed(b""))


def test_a_refusal_that_repeats_the_token() -> None:
    token = "ya29." + "x" * 200
    error = f"the token {token} is bad".encode()
    with pytest.raises(ServerRefused) as raised:
        exchange.understand(
            framed(b"\x08\x02\x12" + bytes((len(error) & 0x7F | 0x80, len(error) >> 7)) + error)
        )
    assert raised.value.message == "AlloyDB refuses the login: the token … is bad"


@pytest.mark.parametrize(
    "message", [b"\x08", b"\x12\x05abc", b"\x0b", b"\x29\x00", b"\x08" + b"\xff" * 20, b"\x80" * 30]
)
def test_nonsense(message: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="not understood"):
        exchange.understand(framed(message))


def test_too_much() -> None:
    with pytest.raises(ProtocolViolation, match="more than any AlloyDB sends"):
        exchange.understand((exchange.LIMIT + 1).to_bytes(4, "big"))


@given(st.binary(max_size=300))
def test_any_answer_has_an_outcome(message: bytes) -> None:
    try:
        assert exchange.understand(framed(message)) == 4 + len(message)
    except AmbassadorError as error:
        assert error.hint
