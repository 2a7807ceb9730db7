"""TLS towards a server: the context that an Upstream asks for, and sentences for what can go wrong with it.

1. Contexts are shared: a CA bundle is parsed once, not once a connection, and again when a file has changed.
2. OpenSSL decides about certificates. Here is only said what it decided, in words that name the remedy.
"""

from __future__ import annotations

import functools
import math
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pgambassador.auth.certificate import Certificate, read_pem
from pgambassador.cluster.upstream import RDS, SYSTEM, Endpoint, Upstream
from pgambassador.config.plain import read
from pgambassador.errors import ConfigError, Unreachable
from pgambassador.net.files import Reread

ALPN = "postgresql"
RDS_BUNDLE_VARIABLE = "PGAMBASSADOR_RDS_BUNDLE"
RDS_BUNDLE = Path(__file__).resolve().parents[1] / "rds-global-bundle.pem"
"""Where the bundle may be put, beside the file that the variable names; it does not come with the package."""

_RDS_BUNDLE_URL = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

# X509_V_ERR_* of OpenSSL's x509_vfy.h, which the ssl module does not name.
_EXPIRED, _NOT_YET_VALID, _REVOKED = 10, 9, 23
_NAME_MISMATCH = frozenset((62, 64))
_SELF_SIGNED = frozenset((18, 19))
_UNKNOWN_ISSUER = frozenset((2, 20, 21))


class Made(NamedTuple):
    """A context, and when the certificates in its files end: (option, seconds since 1970)."""

    context: ssl.SSLContext
    ends: tuple[tuple[str, float], ...]


def context(upstream: Upstream, *, check_name: bool = True) -> ssl.SSLContext:
    """The context for connections to this upstream; ConfigError if its files never were of use."""
    return _made(upstream, check_name=check_name).context


def ends(upstream: Upstream) -> tuple[tuple[str, float], ...]:
    """Of `sslcert` the first certificate of the chain to end, of `sslrootcert` the last of all."""
    return _made(upstream, check_name=True).ends


def reread(upstream: Upstream) -> None:
    """Its files, whether they seem to have changed or not; those of no use leave what there is."""
    for check_name in (True, False):
        _reader(upstream, check_name=check_name).again()


def _made(upstream: Upstream, *, check_name: bool) -> Made:
    return _reader(upstream, check_name=check_name).get()


def _reader(upstream: Upstream, *, check_name: bool) -> Reread[Made]:
    rootcert: str | None = upstream.sslrootcert
    if rootcert == SYSTEM:
        rootcert = None
    elif rootcert == RDS:
        rootcert = upstream.rds_bundle or _rds_bundle()
    return _files(
        upstream.checks_certificate,
        upstream.checks_name and check_name,
        upstream.sslrootcert in (SYSTEM, RDS),
        upstream.ssl_min_protocol_version,
        rootcert,
        upstream.sslcert,
        upstream.sslkey,
    )


@functools.lru_cache(maxsize=256)
def _files(
    checks_certificate: bool,
    checks_name: bool,
    trusts_system: bool,
    minimum: str,
    rootcert: str | None,
    cert: str | None,
    key: str | None,
) -> Reread[Made]:
    def make() -> Made:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = checks_name
        made.verify_mode = ssl.CERT_REQUIRED if checks_certificate else ssl.CERT_NONE
        made.minimum_version = VERSIONS[minimum]
        # PostgreSQL never renegotiates; without it a write never has to wait for a read.
        made.options |= ssl.OP_NO_RENEGOTIATION
        # Also without direct negotiation: a server that knows ALPN checks it, an older one ignores it.
        made.set_alpn_protocols([ALPN])
        found = []
        if rootcert is not None:
            found.append(("sslrootcert", load_ca(made, rootcert, "sslrootcert")))
        if trusts_system and checks_certificate:
            made.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if cert is not None:
            chain = load_cert(made, cert, key, ("sslcert", "sslkey"))
            found.append(("sslcert", first_end(chain)))
        return Made(made, tuple(found))

    return Reread((rootcert, cert, key), make)


def first_end(chain: Sequence[Certificate]) -> float:
    """When a chain is of no use any more; infinity if it could not be read."""
    return min((each.not_after for each in chain), default=math.inf)


def _rds_bundle() -> str:
    if named := os.environ.get(RDS_BUNDLE_VARIABLE):
        return named
    if RDS_BUNDLE.exists():
        return str(RDS_BUNDLE)
    raise ConfigError(
        "sslrootcert=rds needs Amazon's bundle of CAs, which is not here.",
        hint=f"Fetch it with curl -fo FILE {_RDS_BUNDLE_URL}, and set rds_bundle of the cluster, or the"
        f" variable {RDS_BUNDLE_VARIABLE}, to FILE.",
    )


def load_ca(made: ssl.SSLContext, path: str, what: str) -> float:
    """Trust these CAs; when the last of them ends."""
    data = read(path, what)
    try:
        made.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigError(
            f"The {what} file {path} holds no certificate in PEM form.",
            hint='A CA certificate begins with "-----BEGIN CERTIFICATE-----".',
        ) from None
    return max((each.not_after for each in read_pem(data)), default=math.inf)


class _Encrypted(Exception):
    pass


def _ask_for_passphrase() -> str:
    # Without a callback OpenSSL would ask on the terminal.
    raise _Encrypted


def load_cert(
    made: ssl.SSLContext, cert: str, key: str | None, options: tuple[str, str]
) -> list[Certificate]:
    """Show this certificate; its chain. `options` are what the configuration calls certificate and key."""
    cert_is, key_is = options
    where = f"The {key_is} file {key}" if key else f"The {cert_is} file {cert}"
    data = read(cert, cert_is)
    if key is not None:
        read(key, key_is)
    try:
        made.load_cert_chain(cert, key, password=_ask_for_passphrase)
    except _Encrypted:
        raise ConfigError(
            f"{where} holds an encrypted key, and there is nobody to ask for its passphrase.",
            hint="Decrypt it with: openssl pkey -in KEY -out NEW_KEY",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            sentence = f"{where} holds a key that does not belong to the certificate in {cert}."
            hint = "Name the key that the certificate was made for."
        elif key is None:
            sentence = f"The {cert_is} file {cert} does not hold both a certificate and its key in PEM form."
            hint = f"Name the file of the key with {key_is}."
        else:
            sentence = (
                f"The files {cert_is} {cert} and {key_is} {key} are not a certificate and a key in PEM form."
            )
            hint = f"Give the certificate (its chain after it) as {cert_is} and the private key as {key_is}."
        raise ConfigError(sentence, hint=hint) from None
    return read_pem(data)


def server_name(upstream: Upstream, endpoint: Endpoint) -> str | None:
    """The name for SNI and for the check of the certificate; the ssl module keeps IP addresses out of SNI."""
    return endpoint.host if upstream.sslsni or upstream.checks_name else None


def names(certificate: Mapping[str, Any]) -> list[str]:
    """What a verified certificate (`getpeercert`) vouches for; the common name only if nothing else."""
    alternatives = [str(value) for _, value in certificate.get("subjectAltName", ())]
    if alternatives:
        return alternatives
    return [str(v) for part in certificate.get("subject", ()) for k, v in part if k == "commonName"]


def is_about_name(error: ssl.SSLError) -> bool:
    return isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _NAME_MISMATCH


def explain(
    error: ssl.SSLError, upstream: Upstream, endpoint: Endpoint, found: Sequence[str] = ()
) -> Unreachable:
    """What a failed handshake means. `found` are the certificate's names, if it is its name that is wrong."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_verification(error, upstream, endpoint, found)
    reason = error.reason or ""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "UNEXPECTED_EOF" in reason:
        if upstream.sslnegotiation == "direct":
            hint = (
                "Direct TLS needs PostgreSQL 17 or newer; leave out sslnegotiation=direct for older servers."
            )
        else:
            hint = "Look into the server's log, and at whatever stands between here and there."
        what = "it closed the connection during the TLS handshake"
        return Unreachable(what, hint=hint, passing=True)
    if "APPLICATION_PROTOCOL" in reason:
        return Unreachable(
            f"it does not speak PostgreSQL over TLS (the ALPN protocol {ALPN} was refused)",
            hint="Check the port, and what terminates TLS there.",
        )
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return Unreachable(
            f"it does not accept {upstream.ssl_min_protocol_version} or newer",
            hint="Look at ssl_min_protocol_version and ssl_max_protocol_version on the server.",
        )
    if reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return Unreachable(
            "it answered the TLS handshake with something that is not TLS",
            hint="Check host and port.",
            strange=True,
        )
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        what = "the client certificate" if upstream.sslcert else "a connection without a client certificate"
        return Unreachable(
            f"it refused {what} ({words(reason)})",
            hint="Name a certificate that the server's CA has signed with sslcert=FILE and sslkey=FILE.",
        )
    return Unreachable(
        f"the TLS handshake failed ({words(reason) or 'no reason given'})",
        hint="Look into the server's log.",
        strange=True,
    )


def _explain_verification(
    error: ssl.SSLCertVerificationError, upstream: Upstream, endpoint: Endpoint, found: Sequence[str]
) -> Unreachable:
    code = error.verify_code
    if code == _EXPIRED:
        return Unreachable(
            "a certificate it showed has expired", hint="Renew it on the server, and check the clock here."
        )
    if code == _NOT_YET_VALID:
        return Unreachable(
            "a certificate it showed is not valid yet", hint="Check the clocks here and on the server."
        )
    if code == _REVOKED:
        return Unreachable(
            "a certificate it showed has been revoked", hint="Install a new one on the server."
        )
    if code in _NAME_MISMATCH:
        shown = ", ".join(name[:100] for name in found[:8]) + (", …" if len(found) > 8 else "")
        belongs = f" but for {shown}" if shown else ""
        return Unreachable(
            f"its certificate is not for {endpoint.host}{belongs}",
            hint="Use a name from the certificate as the host; hostaddr=IP can say where to connect.",
        )
    if code in _SELF_SIGNED or code in _UNKNOWN_ISSUER:
        kind = "is self-signed, by a CA" if code in _SELF_SIGNED else "comes from a CA"
        where = {
            SYSTEM: "among the system's CAs",
            RDS: "in the RDS bundle, nor among the system's CAs",
        }.get(upstream.sslrootcert, f"in {upstream.sslrootcert}")
        hint = "Name the file with the CA of your database with sslrootcert=FILE."
        if upstream.sslrootcert == RDS:
            hint = f"The bundle may be too old: fetch it anew from {_RDS_BUNDLE_URL}."
        return Unreachable(f"its certificate {kind} that is not {where}", hint=hint)
    return Unreachable(
        f"its certificate was not accepted ({error.verify_message[:200]})",
        hint="Install a correct one on the server.",
    )


def explain_client(error: ssl.SSLCertVerificationError, ca: str) -> str:
    """Why a client's certificate was not accepted; `ca` is the file of those that may have signed it."""
    code = error.verify_code
    if code == _EXPIRED:
        return "a certificate it showed has expired"
    if code == _NOT_YET_VALID:
        return "a certificate it showed is not valid yet"
    if code in _SELF_SIGNED or code in _UNKNOWN_ISSUER:
        return f"its certificate comes from a CA that is not in {ca}"
    return f"its certificate was not accepted ({error.verify_message[:200]})"


def words(reason: str) -> str:
    """OpenSSL's `TLSV1_ALERT_UNKNOWN_CA` as `unknown ca`."""
    return reason.partition("_ALERT_")[2].lower().replace("_", " ") or reason.lower().replace("_", " ")
