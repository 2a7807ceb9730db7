"""The way to a server that its provider knows: TLS 1.3 from the first byte, and a word before the login.

1. The server's chain ends at one of the way's own CAs, whatever the system trusts, and its certificate has
   one of the way's names; both are checked before the greeting, which may hold a token, is sent.
2. The private key is never in a file.
3. The answer to the greeting has a time limit and a size, and nothing may come behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import ssl
from collections.abc import Mapping
from typing import Any

from pgambassador.credentials.provider import Way
from pgambassador.errors import ProtocolViolation, Unreachable
from pgambassador.net import tls
from pgambassador.net.transport import Transport

GREETING_TIMEOUT = 30.0
LIMIT = 65_536
# What a pipe holds at least, so that writing into it does not wait for its reader.
_PIPE = 65_536
# X509_V_FLAG_PARTIAL_CHAIN: the CAs that the provider names are trusted as they are, roots or not.
_PARTIAL_CHAIN = 0x80000


async def secure(way: Way, transport: Transport) -> None:
    """Make a fresh connection ready for a start packet; raises Unreachable or what `understand` does."""
    try:
        session = await transport.secure(context(way), _server_name(way.host))
        check_names(way, session.getpeercert() or {})
        if way.greeting:
            async with asyncio.timeout(GREETING_TIMEOUT):
                await _greet(way, transport)
    except ssl.SSLError as error:
        raise explain(error) from None
    except TimeoutError:
        raise Unreachable(
            f"no answer to the greeting within {GREETING_TIMEOUT:g} s",
            hint="Look at the state of the instance.",
        ) from None


def context(way: Way) -> ssl.SSLContext:
    """What the handshake is made with; Unreachable if the provider's certificates are of no use."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False  # check_names does it: not every name of a way could be a host's
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_flags |= ssl.VerifyFlags(_PARTIAL_CHAIN)
    try:
        made.load_verify_locations(cadata=way.roots)
        _load_pair(made, way.certificate.encode(), way.key.encode())
    except (OSError, TypeError, ValueError):  # an SSLError is an OSError
        raise Unreachable(
            "the certificates that the provider has sent for it are of no use",
            hint="They will be asked for again.",
        ) from None
    return made


def check_names(way: Way, certificate: Mapping[str, Any]) -> None:
    """Unreachable if a verified certificate (`getpeercert`) is somebody else's."""
    found = {_canonical(str(value)) for _, value in certificate.get("subjectAltName", ())}
    common = [str(v) for part in certificate.get("subject", ()) for k, v in part if k == "commonName"]
    for name in way.names:
        if _canonical(name) in found or (_is_no_host(name) and common == [name]):
            return
    shown = ", ".join(name[:100] for name in tls.names(certificate)[:8]) or "nobody"
    raise Unreachable(
        f"its certificate is not for {' or '.join(way.names)} but for {shown}",
        hint="Do not trust the network between here and there, unless the instance was just replaced.",
    )


def explain(error: ssl.SSLError) -> Unreachable:
    """What a TLS error on a way means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            f"its certificate was not accepted ({error.verify_message[:200]})",
            hint="Check the clock here, and what stands between here and the instance.",
        )
    reason = (error.reason or "").lower().replace("_", " ")
    if "certificate" in reason or "unknown ca" in reason:
        return Unreachable(
            f"it refused our client certificate ({reason.partition('alert ')[2] or reason})",
            hint="Check the clock here; a new certificate will be asked for.",
        )
    return Unreachable(
        f"the TLS handshake failed ({reason or 'no reason given'})",
        hint="Check that the network lets this port through, and the state of the instance.",
    )


async def _greet(way: Way, transport: Transport) -> None:
    await transport.send(way.greeting)
    if way.understand is None:
        return
    received = b""
    while (taken := way.understand(received)) is None:
        data = await transport.receive()
        if not data:
            raise Unreachable(
                "it closed the connection instead of answering the greeting",
                hint="Look at the state of the instance.",
            )
        received += data
        if len(received) > LIMIT:
            raise ProtocolViolation(f"its answer to the greeting has more than {LIMIT} bytes")
    if taken != len(received):
        raise ProtocolViolation("it has said something before it was asked")


def _load_pair(made: ssl.SSLContext, chain: bytes, key: bytes) -> None:
    """The ssl module reads certificates and keys from files only; a pipe is one that nobody else can open."""
    if max(len(chain), len(key)) > _PIPE:
        raise ValueError("too long for a pipe")
    with contextlib.ExitStack() as stack:
        names = []
        for data in (chain, key):
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            with open(writing, "wb", buffering=0) as pipe:
                pipe.write(data)
            names.append(f"/dev/fd/{reading}")
        made.load_cert_chain(*names)


def _server_name(host: str) -> str | None:
    """What is asked for in the handshake; an address never is."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _is_no_host(name: str) -> bool:
    return ":" in name and _server_name(name) is not None


def _canonical(name: str) -> str:
    try:
        return str(ipaddress.ip_address(name.strip()))
    except ValueError:
        return name.lower()
