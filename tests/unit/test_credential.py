import base64

import pytest

from pgambassador.auth.credential import Md5Hash, Plain, md5_digest, md5_response, read_credential
from pgambassador.auth.verifier import Verifier

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    "secret, credential",
    [
        ("", None),
        ("secret", Plain(b"secret")),
        ("ä\udcff", Plain(b"\xc3\xa4\xff")),
        ("md5" + "0a" * 16, Md5Hash(b"0a" * 16)),
        ("md5" + "0A" * 16, Plain(b"md5" + b"0A" * 16)),
        ("md5" + "0a" * 15, Plain(b"md5" + b"0a" * 15)),
        ("md5" + "0a" * 16 + "\n", Plain(b"md5" + b"0a" * 16 + b"\n")),
        (f"SCRAM-SHA-256$1:c2FsdA==${KEY}:{KEY}", Verifier(1, b"salt", b"k" * 32, b"k" * 32)),
        ("SCRAM-SHA-256$1:c2FsdA==", Plain(b"SCRAM-SHA-256$1:c2FsdA==")),
    ],
)
def test_what_a_secret_is(secret: str, credential: object) -> None:
    assert read_credential(secret) == credential


def test_no_secret_is_shown() -> None:
    assert repr(Plain(b"secret")) == "Plain()"
    assert repr(Md5Hash(b"secret")) == "Md5Hash()"


def test_md5() -> None:
    # md5("secretapp"), and md5(that + "salt")
    digest = md5_digest(b"secret", "app")
    assert digest == b"6a422f785c9e20873908ce25d1736ae2"
    assert md5_response(digest, b"salt") == b"md57f097e06031b34893c20e25a0e68242c"
