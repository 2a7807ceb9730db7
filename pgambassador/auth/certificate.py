"""What a certificate says of its owner and its time (X.509, RFC 5280), read from DER or PEM.

1. Nothing here decides whether a certificate is to be believed: that is OpenSSL's, before anybody asks.
2. The subject is written as PostgreSQL writes it for `clientname=DN`: RFC 2253 in OpenSSL's spelling, so that
   two different subjects never look alike. A type of attribute without a short name below is dotted numbers,
   with its value in hex.
3. Names with a NUL in them are refused: other programs would read only what stands before it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

from pgambassador.auth.der import OID, SEQUENCE, dotted, element, elements, take

_VERSION, _EXTENSIONS = 0xA0, 0xA3
_OCTETS, _UTC_TIME = 0x04, 0x17
_SUBJECT_ALTERNATIVES: Final = "2.5.29.17"
_EMAIL, _DNS = 0x81, 0x82
_COMMON_NAME: Final = "2.5.4.3"

_Attribute: TypeAlias = tuple[str, int, bytes]
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

# UTF8String, BMPString, UniversalString, T61String (as OpenSSL takes it), and what is ASCII.
_CHARACTERS: Final = {0x0C: "utf-8", 0x1E: "utf-16-be", 0x1C: "utf-32-be", 0x14: "latin-1"} | dict.fromkeys(
    (0x12, 0x13, 0x16, 0x1A), "ascii"
)
_X520: Final = (
    "3 CN|4 SN|5 serialNumber|6 C|7 L|8 ST|9 street|10 O|11 OU|12 title|13 description|15 businessCategory|"
    "17 postalCode|41 name|42 GN|43 initials|44 generationQualifier|45 x500UniqueIdentifier|"
    "46 dnQualifier|65 pseudonym|97 organizationIdentifier"
)
_SHORT: Final = {f"2.5.4.{n}": name for n, _, name in (each.partition(" ") for each in _X520.split("|"))} | {
    "1.2.840.113549.1.9.1": "emailAddress",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}


@dataclass(frozen=True, slots=True)
class Certificate:
    """Times are seconds since 1970. `common_name` is the first there is, None without one."""

    common_name: str | None
    subject: str
    dns: tuple[str, ...]
    emails: tuple[str, ...]
    not_before: float
    not_after: float
    der: bytes = field(repr=False)


def read_der(der: bytes) -> Certificate:
    """ValueError if it cannot be read.

    Certificate ::= SEQUENCE { SEQUENCE { [0] version, serial, signature, issuer, validity, subject, key, …,
    [3] extensions }, … }
    """
    try:
        certificate, _ = take(der, SEQUENCE)
        body, _ = take(certificate, SEQUENCE)
        fields = list(elements(body))
        start = 1 if fields[0][0] == _VERSION else 0
        validity, subject = fields[start + 3][1], fields[start + 4][1]
        (kind, begin), (other, end) = elements(validity)
        names = list(_names(subject))
        alternatives = list(_alternatives(next((c for tag, c in fields if tag == _EXTENSIONS), b"")))
        return Certificate(
            common_name=next((_text(t, v) for name in names for o, t, v in name if o == _COMMON_NAME), None),
            subject=_distinguished(names),
            dns=tuple(_text(0x16, value) for tag, value in alternatives if tag == _DNS),
            emails=tuple(_text(0x16, value) for tag, value in alternatives if tag == _EMAIL),
            not_before=_time(kind, begin),
            not_after=_time(other, end),
            der=der,
        )
    except (IndexError, OverflowError) as error:
        raise ValueError("not a certificate") from error


def read_pem(data: bytes) -> list[Certificate]:
    """All certificates of a PEM file that can be read, in its order."""
    found = []
    for block in _PEM.findall(data):
        try:
            found.append(read_der(ssl.PEM_cert_to_DER_cert(block.decode("ascii"))))
        except ValueError:
            continue
    return found


def _names(subject: bytes) -> Iterator[list[_Attribute]]:
    """RDNSequence ::= SEQUENCE OF SET OF SEQUENCE { type OID, value ANY }"""
    for _, several in elements(subject):
        attributes = []
        for _, pair in elements(several):
            oid, rest = take(pair, OID)
            tag, value, _ = element(rest)
            attributes.append((dotted(oid), tag, value))
        yield attributes


def _alternatives(extensions: bytes) -> Iterator[tuple[int, bytes]]:
    """Extensions ::= SEQUENCE OF SEQUENCE { OID, critical BOOLEAN DEFAULT FALSE, OCTET STRING }"""
    if not extensions:
        return
    for _, extension in elements(take(extensions, SEQUENCE)[0]):
        oid, rest = take(extension, OID)
        if dotted(oid) == _SUBJECT_ALTERNATIVES:
            for tag, value in elements(rest):
                if tag == _OCTETS:
                    yield from elements(take(value, SEQUENCE)[0])


def _text(tag: int, value: bytes) -> str:
    if tag not in _CHARACTERS:
        raise ValueError("a name that is not text")
    text = value.decode(_CHARACTERS[tag])
    if "\0" in text:
        raise ValueError("a name with a NUL")
    return text


def _distinguished(names: list[list[_Attribute]]) -> str:
    """The last comes first; what belongs together is joined by "+"."""
    return ",".join("+".join(_attribute(*each) for each in reversed(name)) for name in reversed(names))


def _attribute(oid: str, tag: int, value: bytes) -> str:
    if oid not in _SHORT or tag not in _CHARACTERS:
        return f"{_SHORT.get(oid, oid)}=#{_encoded(tag, value).hex().upper()}"
    text = _text(tag, value)
    escaped = "".join(map(_escape, text))
    if text[:1] in ("#", " "):
        escaped = "\\" + escaped
    if text[-1:] == " " and len(text) > 1:
        escaped = escaped[:-1] + "\\ "
    return f"{_SHORT[oid]}={escaped}"


def _escape(character: str) -> str:
    if character in ',+"\\<>;':
        return "\\" + character
    if " " <= character < "\x7f":
        return character
    return "".join(f"\\{byte:02X}" for byte in character.encode())


def _encoded(tag: int, value: bytes) -> bytes:
    size = len(value)
    length = size.to_bytes((size.bit_length() + 7) // 8 or 1, "big")
    return bytes([tag]) + (length if size < 0x80 else bytes([0x80 | len(length)]) + length) + value


def _time(tag: int, value: bytes) -> float:
    """UTCTime has years of two digits, from 1950 to 2049; GeneralizedTime of four."""
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
