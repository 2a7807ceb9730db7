import datetime
import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth import binding
from pgambassador.auth.binding import server_end_point
from pgambassador.errors import Refused
from pgambassador.protocol.startup import Channel, upstream_login
from pgambassador.wire import build
from pgambassador.wire.frames import Dialogue, Frame, take_frame


def element(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 128:
        return bytes((tag, len(content))) + content
    size = len(content).to_bytes(2, "big")
    return bytes((tag, 0x82)) + size + content


def oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    encoded = b""
    for number in (first * 40 + second, *rest):
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        encoded += bytes(reversed(digits))
    return element(0x06, encoded)


def certificate(*algorithm: bytes) -> bytes:
    """Only as much of a certificate as has to be read."""
    return element(0x30, element(0x30, b"x" * 300), element(0x30, *algorithm), element(0x03, b"\0signature"))


@pytest.mark.parametrize(
    ("signature", "used"),
    [
        ("1.2.840.113549.1.1.4", "sha256"),  # MD5
        ("1.2.840.113549.1.1.5", "sha256"),  # SHA-1
        ("1.2.840.113549.1.1.14", "sha224"),
        ("1.2.840.113549.1.1.11", "sha256"),
        ("1.2.840.113549.1.1.12", "sha384"),
        ("1.2.840.113549.1.1.13", "sha512"),
        ("1.2.840.10045.4.1", "sha256"),
        ("1.2.840.10045.4.3.1", "sha224"),
        ("1.2.840.10045.4.3.2", "sha256"),
        ("1.2.840.10045.4.3.3", "sha384"),
        ("1.2.840.10045.4.3.4", "sha512"),
    ],
)
def test_the_hash_is_that_of_the_signature(signature: str, used: str) -> None:
    der = certificate(oid(signature), element(0x05))
    assert server_end_point(der) == hashlib.new(used, der).digest()


def test_pss_names_its_hash_in_the_parameters() -> None:
    pss = oid("1.2.840.113549.1.1.10")
    sha384 = element(0xA0, element(0x30, oid("2.16.840.1.101.3.4.2.2")))
    der = certificate(pss, element(0x30, sha384, element(0xA2, b"\x02\x01\x30")))
    assert server_end_point(der) == hashlib.sha384(der).digest()
    der = certificate(pss, element(0x30, element(0xA2, b"\x02\x01\x30")))
    assert server_end_point(der) == hashlib.sha256(der).digest(), "the default is SHA-1"
    der = certificate(pss, element(0x30))
    assert server_end_point(der) == hashlib.sha256(der).digest()


def test_what_has_no_binding() -> None:
    assert server_end_point(certificate(oid("1.3.101.112"))) is None  # Ed25519
    assert server_end_point(certificate(oid("1.2.3"))) is None


def signed(key: object, algorithm: object, **options: object) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),  # type: ignore[attr-defined]
        serial_number=1,
        not_valid_before=day,
        not_valid_after=day + datetime.timedelta(days=1),
    )
    return builder.sign(key, algorithm, **options).public_bytes(serialization.Encoding.DER)  # type: ignore[arg-type]


def test_real_certificates() -> None:
    elliptic = ec.generate_private_key(ec.SECP384R1())
    der = signed(elliptic, hashes.SHA384())
    assert server_end_point(der) == hashlib.sha384(der).digest()
    big = rsa.generate_private_key(65537, 2048)
    der = signed(big, hashes.SHA512())
    assert server_end_point(der) == hashlib.sha512(der).digest()
    pss = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384.digest_size)
    der = signed(big, hashes.SHA384(), rsa_padding=pss)
    assert server_end_point(der) == hashlib.sha384(der).digest()
    der = signed(ed25519.Ed25519PrivateKey.generate(), None)
    assert server_end_point(der) is None


@given(st.binary(max_size=64))
def test_garbage_has_no_binding_and_does_no_harm(garbage: bytes) -> None:
    assert server_end_point(garbage) is None


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_spoilt_certificate_does_no_harm(position: int, value: int) -> None:
    der = bytearray(certificate(oid("1.2.840.113549.1.1.11"), element(0x05)))
    der[-position - 1] = value
    server_end_point(bytes(der))


def test_cut_short_at_every_byte() -> None:
    der = certificate(oid("1.2.840.113549.1.1.11"), element(0x05))
    assert [server_end_point(der[:end]) for end in range(len(der))] == [None] * len(der)


# --- channel_binding=require --------------------------------------------------------------------------------


def frame(message: bytes) -> Frame:
    found = take_frame(bytearray(message), 10_000)
    assert found is not None
    return found


def login(binding_hash: bytes | None = b"h" * 32) -> Dialogue[object]:
    channel = Channel(encrypted=True, verified=True, binding=binding_hash)
    dialogue = binding.insist(upstream_login({"database": "d"}, b"s3cret", user="u", channel=channel))
    assert next(dialogue).startswith(b"\0")
    return dialogue


@pytest.mark.parametrize(
    "first",
    [
        build.authentication_ok(),
        build.authentication_cleartext(),
        build.authentication_md5(b"salt"),
        build.authentication_sasl(["SCRAM-SHA-256"]),
        build.authentication_sasl_continue(b"")[:-4] + b"\0\0\0\7",  # GSS
    ],
)
def test_another_login_is_refused_before_anything_is_sent(first: bytes) -> None:
    with pytest.raises(Refused, match="channel_binding=require") as raised:
        login().send(frame(first))
    assert raised.value.hint


def test_scram_plus_is_taken() -> None:
    answer = login().send(frame(build.authentication_sasl(["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"])))
    assert answer[5:].startswith(b"SCRAM-SHA-256-PLUS\0")
    assert b"p=tls-server-end-point" in answer


def test_a_server_that_breaks_off_after_the_offer_is_refused() -> None:
    dialogue = login()
    dialogue.send(frame(build.authentication_sasl(["SCRAM-SHA-256-PLUS"])))
    with pytest.raises(Refused, match="channel_binding=require"):
        dialogue.send(frame(build.authentication_ok()))
