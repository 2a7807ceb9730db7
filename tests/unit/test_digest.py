"""SHA-256 by way of OpenSSL's own functions is that of Python."""

from __future__ import annotations

import _hashlib
import hashlib
import hmac

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


def test_it_is_there_where_it_can_be() -> None:
    """Where OpenSSL is part of Python, or under FIPS, it is Python's own that answers."""
    shared = getattr(_hashlib, "__file__", None) is not None
    assert digest.available == (shared and not _hashlib.get_fips_mode())
