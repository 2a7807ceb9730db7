import base64

import pytest

from pgambassador.auth.verifier import (
    Borrowed,
    KeyCache,
    Keys,
    Verifier,
    derive,
    make_verifier,
    mock_verifier,
    own_salt,
    read_verifier,
)
from pgambassador.errors import Refused

# What PostgreSQL 15 stored for CREATE ROLE … PASSWORD.
STORED = {
    "secret": "SCRAM-SHA-256$4096:3vvvgfD7xFBgyd7MdISknQ==$lSzJk8XriNaIz9WsdHFbNjdbHcTR5I2bdtY/o8AGYRE="
    ":CUyTwmKKsfh5p6sMqT+ehPAA/wSDcA0CujwoxbriQmI=",
    "\u2168": "SCRAM-SHA-256$4096:oFIfWVM/5Yq+9wqbIFmHGw==$kMdKf4qk1rEmc/KvP0ZjVjUdjucTLXXBB3GMl2TWmF8="
    ":aLnzAyU74xQvE70AvpV4yvRu6KgaVzfMveV5WINMrUc=",
    "a\u200bb\u1806ä": "SCRAM-SHA-256$4096:suVnPrYHlVO51/WJnRuADw==$9+6BLuto5y4sBuCIPO/Qnp2Jbm9zDPpycupovQg7"
    "pYs=:11xCL8aovtTgqc61fMN0lv3XC5Nhii4yNDRxdpBesO8=",
    "ä\u0221\U0001f600": "SCRAM-SHA-256$4096:mK8Rm0oHkOTtVhSq3wULZw==$5G3dzEKnqnBm8EiTCsexOpEKIGqfyBvtX+Rb"
    "DPpCCWc=:xKsMlI7d7PtOKXWrb1o/Zkx2wH7iYKVh8iFbCSblRnY=",
    "\u06271": "SCRAM-SHA-256$4096:edbW6Niu/PlLWvCxMDv0zQ==$tSy+1IudWuCrzjDEkMGyYAnoIAnWE2PxtULjm8yMF+I="
    ":D91kqAaMHDZiu0d8PCyk6YjGcaDkyVzNUpH3fag/Frk=",
}


@pytest.mark.parametrize("password", STORED)
def test_a_verifier_of_postgresql_is_that_of_its_password(password: str) -> None:
    verifier = read_verifier(STORED[password])
    assert verifier is not None
    assert verifier.iterations == 4096
    assert verifier == make_verifier(password.encode(), verifier.salt)
    assert verifier != make_verifier(password.encode() + b"x", verifier.salt)


KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "SCRAM-SHA-256",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}",
        f"SCRAM-SHA-256$0:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$99999999999:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:a2V5",
        f"SCRAM-SHA-256$4096:not base64!${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:ä${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:{KEY} ",
    ],
)
def test_what_is_no_verifier(text: str) -> None:
    assert read_verifier(text) is None


def test_passwords_of_any_size_and_kind() -> None:
    keys = [derive(password, b"salt", 1) for password in (b"", b"x" * 20_000, b"\xff", "\u2168".encode())]
    assert len({key.stored_key for key in keys}) == 4
    assert derive(b"IX", b"salt", 1) == keys[3]


def test_keys_are_not_shown() -> None:
    verifier = Verifier(1, b"salt", b"stored", b"server")
    assert repr(verifier) == "Verifier(iterations=1, salt=b'salt')"
    assert "secret" not in repr(Keys(b"secret", b"secret"))


def test_the_cache_remembers_the_last_keys() -> None:
    cache = KeyCache(size=2)
    first = cache(b"one", b"salt", 1)
    assert first == derive(b"one", b"salt", 1)
    cache(b"two", b"salt", 1)
    assert cache(b"one", b"salt", 1) is first
    cache(b"three", b"salt", 1)  # pushes out "two", which was used longest ago
    assert repr(cache) == "<KeyCache 2 of 2>"
    assert cache(b"one", b"salt", 1) is first


def test_the_cache_tells_its_arguments_apart() -> None:
    cache = KeyCache()
    calls = [(b"pw", b"salt", 1), (b"pw", b"salt", 2), (b"tpw", b"sal", 1), (b"w", b"saltp", 1)]
    assert [cache(*call) for call in calls] == [derive(*call) for call in calls]
    assert len(cache) == 4


def test_the_cache_holds_no_password() -> None:
    cache = KeyCache()
    cache(b"plain text", b"salt", 1)
    assert b"plain text" not in repr(vars(cache)).encode()


def test_an_unknown_user_has_a_stable_salt_and_no_password() -> None:
    one, again, other = (mock_verifier(user, b"process") for user in ("one", "one", "other"))
    assert one.salt == again.salt == own_salt("one", b"process")
    assert one.salt != other.salt
    assert one.salt != own_salt("one", b"another process")
    assert one.stored_key != again.stored_key
    assert (one.iterations, len(one.salt)) == (4096, 16)


@pytest.mark.parametrize(("salt", "iterations"), [(b"other", 1), (b"salt", 2)])
def test_a_borrowed_key_fits_one_verifier(salt: bytes, iterations: int) -> None:
    keys = derive(b"secret", b"salt", 1)
    borrowed = Borrowed(keys, b"salt", 1)
    assert borrowed(b"", b"salt", 1) is keys
    with pytest.raises(Refused, match="another SCRAM verifier") as caught:
        borrowed(b"", salt, iterations)
    assert caught.value.sqlstate == "28P01"
    assert keys.client_key.hex() not in repr(borrowed)
    assert repr(keys.client_key) not in repr(borrowed)
