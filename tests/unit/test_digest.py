"""SHA-256 by way of OpenSSL's own functions is that of Python."""

from __future__ import annotations

import _hashlib
import base64
import binascii
import hashlib
import hmac

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgambassador.auth import digest

KEYS = st.binary(max_size=130)


@given(KEYS, st.binary(max_size=300))
@example(b"", b"")
@example(b"k" * 64, b"m" * 55)
@example(b"k" * 65, b"m" * 64)
def test_it_is_pythons(key: bytes, message: bytes) -> None:
    assert digest.sha256(message) == hashlib.sha256(message).digest()
    assert digest.hmac_sha256(key, message) == hmac.digest(key, message, "sha256")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.integers(0, 255), st.integers(0, 31))
def test_what_a_proof_shows(key: bytes, message: bytes, fault: int, at: int) -> None:
    stored = hashlib.sha256(key).digest()
    signature = hmac.digest(stored, message, "sha256")
    proof = bytearray(a ^ b for a, b in zip(key, signature, strict=True))
    assert digest.shown_by(base64.b64encode(proof), stored, signature) == key
    proof[at] ^= fault
    assert digest.shown_by(base64.b64encode(proof), stored, signature) == (None if fault else key)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 43), st.integers(0, 255))
@example(bytes(32), 42, ord("B"))  # the same bytes, written in another way
@example(bytes(32), 43, ord("A"))
@example(bytes(32), 43, ord("="))
def test_a_proof_is_base64_in_one_spelling(proof: bytes, at: int, letter: int) -> None:
    text = bytearray(base64.b64encode(proof))
    text[at] = letter
    try:
        meant = base64.b64decode(text, validate=True)
    except binascii.Error:
        meant = b""
    if len(meant) == 32 and base64.b64encode(meant) == text:
        assert digest.shown_by(bytes(text), hashlib.sha256(meant).digest(), bytes(32)) == meant
    else:
        with pytest.raises(ValueError, match="32 bytes in base64"):
            digest.shown_by(bytes(text), bytes(32), bytes(32))


def test_a_proof_of_another_size_is_none() -> None:
    text = base64.b64encode(bytes(32))
    for proof, stored, signature in (
        (b"", bytes(32), bytes(32)),
        (text[:-1], bytes(32), bytes(32)),
        (text + b"=", bytes(32), bytes(32)),
        (text, bytes(31), bytes(32)),
        (text, bytes(32), bytes(33)),
    ):
        with pytest.raises(ValueError, match="32"):
            digest.shown_by(proof, stored, signature)


def test_it_is_there_where_it_can_be() -> None:
    """Where OpenSSL is part of Python, or under FIPS, it is Python's own that answers."""
    shared = getattr(_hashlib, "__file__", None) is not None
    assert digest.available == (shared and not _hashlib.get_fips_mode())
