"""Certificates as OpenSSL and `cryptography` read them, and as we do."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth.certificate import read_der, read_pem

KEY = ec.generate_private_key(ec.SECP256R1())
BEGIN = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
END = datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)


def attribute(oid: x509.ObjectIdentifier, value: str) -> x509.NameAttribute:
    return x509.NameAttribute(oid, value, _validate=False)


def made(
    *names: x509.RelativeDistinguishedName | x509.NameAttribute,
    alternatives: tuple[x509.GeneralName, ...] = (),
    end: datetime = END,
) -> bytes:
    parts = [
        each if isinstance(each, x509.RelativeDistinguishedName) else x509.RelativeDistinguishedName([each])
        for each in names
    ]
    issuer = x509.Name([attribute(NameOID.COMMON_NAME, "the issuer")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(parts))
        .issuer_name(issuer)
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(BEGIN)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_who_and_when() -> None:
    found = read_der(
        made(
            attribute(NameOID.COUNTRY_NAME, "CH"),
            attribute(NameOID.ORGANIZATION_NAME, "Shop, Inc."),
            attribute(NameOID.COMMON_NAME, "alice"),
            attribute(NameOID.COMMON_NAME, "second"),
            alternatives=(
                x509.DNSName("a.example"),
                x509.RFC822Name("a@example.com"),
                x509.DNSName("b.example"),
            ),
        )
    )
    assert found.common_name == "alice"
    assert found.subject == "CN=second,CN=alice,O=Shop\\, Inc.,C=CH"
    assert (found.dns, found.emails) == (("a.example", "b.example"), ("a@example.com",))
    assert (found.not_before, found.not_after) == (BEGIN.timestamp(), END.timestamp())


def test_without_names() -> None:
    found = read_der(made())
    assert (found.common_name, found.subject, found.dns, found.emails) == (None, "", (), ())


def test_years_of_four_digits() -> None:
    end = datetime(2051, 1, 1, tzinfo=UTC)
    assert read_der(made(end=end)).not_after == end.timestamp()


@pytest.mark.parametrize("name", ["a\0b", "\0"])
def test_a_nul_in_a_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="NUL"):
        read_der(made(attribute(NameOID.COMMON_NAME, name)))
    with pytest.raises(ValueError, match="NUL"):
        read_der(made(alternatives=(x509.DNSName._init_without_validation(name),)))


SUBJECTS = [
    [attribute(NameOID.COMMON_NAME, 'quote " plus + comma , back \\ less < more > semi ; equal =')],
    [attribute(NameOID.COMMON_NAME, " spaces at both ends ")],
    [attribute(NameOID.COMMON_NAME, "#hash")],
    [attribute(NameOID.COMMON_NAME, "Grüße 漢 \U0001f600")],
    [attribute(NameOID.COMMON_NAME, "tab\tnewline\ndelete\x7f")],
    [attribute(NameOID.EMAIL_ADDRESS, "a@b"), attribute(NameOID.USER_ID, "u")],
    [attribute(NameOID.DOMAIN_COMPONENT, "x"), attribute(NameOID.SERIAL_NUMBER, "1")],
    [attribute(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), "unknown")],
    [attribute(NameOID.GIVEN_NAME, "g"), attribute(NameOID.SURNAME, "s")],
    [
        x509.RelativeDistinguishedName(
            [attribute(NameOID.COMMON_NAME, "both"), attribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "together")]
        ),
        attribute(NameOID.COUNTRY_NAME, "CH"),
    ],
    [x509.NameAttribute(NameOID.COMMON_NAME, "wide ü", _type=_ASN1Type.BMPString)],
    [x509.NameAttribute(NameOID.COMMON_NAME, "t61", _type=_ASN1Type.T61String)],
]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl command to compare with")
@pytest.mark.parametrize("names", SUBJECTS, ids=str)
def test_the_subject_is_what_openssl_writes(
    names: list[x509.NameAttribute | x509.RelativeDistinguishedName], tmp_path: Path
) -> None:
    """PostgreSQL prints it with XN_FLAG_RFC2253, as this command does."""
    der = made(*names)
    (tmp_path / "it.der").write_bytes(der)
    command = ["openssl", "x509", "-inform", "DER", "-in", str(tmp_path / "it.der"), "-noout", "-subject"]
    said = subprocess.run([*command, "-nameopt", "RFC2253"], capture_output=True, check=True).stdout
    assert read_der(der).subject == said.decode().removesuffix("\n").removeprefix("subject=")


def test_all_certificates_of_a_file() -> None:
    certificates = [made(attribute(NameOID.COMMON_NAME, name)) for name in ("one", "two")]
    pem = [
        x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM) for der in certificates
    ]
    broken = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    found = read_pem(b"a comment\n" + pem[0] + broken + pem[1])
    assert [each.common_name for each in found] == ["one", "two"]
    assert [each.der for each in found] == certificates
    assert read_pem(b"") == []


@given(st.binary(max_size=60))
def test_anything_else_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_der(data)


GOOD = made(attribute(NameOID.COMMON_NAME, "alice"), alternatives=(x509.DNSName("a.example"),))


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(position: int, byte: int) -> None:
    data = GOOD[:position] + bytes([byte]) + GOOD[position + 1 :]
    try:
        read_der(data)
    except ValueError:
        pass
