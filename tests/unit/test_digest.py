"""SHA-256 by way of OpenSSL's own functions is that of Python."""

from __future__ import annotations

import _hashlib
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
    assert digest.shown_by(bytes(proof), stored, message) == key
    proof[at] ^= fault
    assert digest.shown_by(bytes(proof), stored, message) == (None if fault else key)


def test_a_proof_of_another_size_is_none() -> None:
    for proof, stored in ((b"", bytes(32)), (bytes(33), bytes(32)), (bytes(32), bytes(31))):
        with pytest.raises(ValueError, match="32"):
            digest.shown_by(proof, stored, b"")


def test_it_is_there_where_it_can_be() -> None:
    """Where OpenSSL is part of Python, or under FIPS, it is Python's own that answers."""
    shared = getattr(_hashlib, "__file__", None) is not None
    assert digest.available == (shared and not _hashlib.get_fips_mode())
