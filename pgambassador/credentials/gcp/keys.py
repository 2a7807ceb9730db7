"""Key pairs for client certificates, and what is read from a certificate."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pgambassador.errors import Unreachable


def key_pair() -> tuple[str, str]:
    """A new private key and its public key, PEM. Google's connectors use RSA with 2048 bits."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


def expiry(pem: str) -> float:
    """When the first certificate ends, in seconds since 1970."""
    try:
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()
    except ValueError:
        raise Unreachable(
            "Google has sent a client certificate that cannot be read", hint="It will be asked again."
        ) from None
