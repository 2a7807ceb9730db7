"""Channel binding: what a server's certificate is hashed to, and insisting that the server binds to it.

1. "tls-server-end-point" (RFC 5929, section 4.1) hashes the certificate with the hash function of its own
   signature, with SHA-256 in place of MD5 and SHA-1. A signature without one (Ed25519) has no such binding.
2. What is read is DER (X.690), and only as far as needed; anything odd yields None, never an error.
"""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar

from pgambassador.auth.der import OID, SEQUENCE, dotted, take
from pgambassador.auth.scram import SCRAM_SHA_256_PLUS
from pgambassador.errors import Refused
from pgambassador.wire import parse
from pgambassador.wire.frames import Authentication, Backend, Dialogue

T = TypeVar("T")

_PARAMETER_0 = 0xA0
_RSASSA_PSS: Final = "1.2.840.113549.1.1.10"

_SIGNATURES: Final = {
    # RSA, PKCS #1 v1.5
    "1.2.840.113549.1.1.4": "md5",
    "1.2.840.113549.1.1.5": "sha1",
    "1.2.840.113549.1.1.14": "sha224",
    "1.2.840.113549.1.1.11": "sha256",
    "1.2.840.113549.1.1.12": "sha384",
    "1.2.840.113549.1.1.13": "sha512",
    # ECDSA
    "1.2.840.10045.4.1": "sha1",
    "1.2.840.10045.4.3.1": "sha224",
    "1.2.840.10045.4.3.2": "sha256",
    "1.2.840.10045.4.3.3": "sha384",
    "1.2.840.10045.4.3.4": "sha512",
}
_HASHES: Final = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
}


def server_end_point(der: bytes) -> bytes | None:
    """The "tls-server-end-point" binding of a certificate, or None if it has none."""
    try:
        name = _signature_hash(der)
    except (IndexError, ValueError):
        return None
    if name is None:
        return None
    return hashlib.new("sha256" if name in ("md5", "sha1") else name, der).digest()


def _signature_hash(der: bytes) -> str | None:
    """Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { OID, … }, signature }"""
    certificate, _ = take(der, SEQUENCE)
    _, rest = take(certificate, SEQUENCE)
    algorithm, _ = take(rest, SEQUENCE)
    oid, parameters = take(algorithm, OID)
    name = dotted(oid)
    return _pss_hash(parameters) if name == _RSASSA_PSS else _SIGNATURES.get(name)


def _pss_hash(parameters: bytes) -> str | None:
    """RSASSA-PSS-params ::= SEQUENCE { [0] hashAlgorithm DEFAULT sha1, … } (RFC 4055)"""
    fields, _ = take(parameters, SEQUENCE)
    if not fields or fields[0] != _PARAMETER_0:
        return "sha1"
    tagged, _ = take(fields, _PARAMETER_0)
    algorithm, _ = take(tagged, SEQUENCE)
    oid, _ = take(algorithm, OID)
    return _HASHES.get(dotted(oid))


def insist(dialogue: Dialogue[T]) -> Dialogue[T]:
    """The same login, refused unless it goes by SCRAM-SHA-256-PLUS: libpq's channel_binding=require."""
    proven = False
    try:
        data = next(dialogue)
        while True:
            kind, payload = yield data
            if kind == Backend.AUTHENTICATION:
                step, rest = parse.authentication(payload)
                if step == Authentication.SASL_FINAL:
                    proven = True
                offered = step == Authentication.SASL and SCRAM_SHA_256_PLUS in parse.sasl_mechanisms(rest)
                if not (proven or offered or step == Authentication.SASL_CONTINUE):
                    raise Refused(
                        "the server does not bind the login to its certificate, which channel_binding=require"
                        " demands; no password was sent",
                        hint="Let it ask for scram-sha-256 over TLS, or leave out channel_binding.",
                    )
            data = dialogue.send((kind, payload))
    except StopIteration as end:
        result: T = end.value
        return result
