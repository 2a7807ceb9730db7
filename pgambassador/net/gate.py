"""TLS towards clients: whether it is offered, the context for their handshakes, and what failed ones mean.

1. As PostgreSQL does it: no session tickets and no session cache, no renegotiation, no compression. A
   handshake is a whole one, so that each client's certificate is judged anew.
2. Unix sockets never speak TLS; `require` is about TCP.
3. With `ca` clients are asked for a certificate. One that is shown must be good; that one is shown at all is
   asked for by `mode: verify-ca`, or by what authenticates the client.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from pgambassador.auth.binding import server_end_point
from pgambassador.auth.certificate import Certificate
from pgambassador.config import Tls
from pgambassador.errors import Refused
from pgambassador.net import openssl, tls
from pgambassador.net.files import Reread


@dataclass(frozen=True, slots=True)
class Armour:
    """What a handshake needs. `binding` is the "tls-server-end-point" of `ours`, if it has one."""

    context: ssl.SSLContext
    binding: bytes | None
    ours: Certificate | None
    ends: tuple[tuple[str, float], ...]
    """When the certificates end: (option, seconds since 1970)."""


class Gate:
    """`mode` is `off`, `allow`, `require` or `verify-ca`."""

    def __init__(self, config: Tls) -> None:
        self._config = config
        self.mode = config.effective_mode
        paths = (config.certificate, config.key, config.ca) if self.offers else ()
        self._files = Reread(paths, self._make)

    @property
    def offers(self) -> bool:
        return self.mode != "off"

    @property
    def demands(self) -> bool:
        return self.mode in ("require", "verify-ca")

    def armour(self) -> Armour:
        """As the files are now; ConfigError if they never were of use."""
        assert self.offers
        return self._files.get()

    def ends(self) -> tuple[tuple[str, float], ...]:
        return self.armour().ends if self.offers else ()

    def check_plain(self) -> None:
        """Refuse a client that came by TCP and begins its session without TLS."""
        if self.demands:
            raise Refused(
                "connections without TLS are not accepted here",
                hint="Connect with sslmode=verify-full, or with sslmode=require.",
            )

    def _make(self) -> Armour:
        config = self._config
        assert config.certificate is not None
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.minimum_version = tls.VERSIONS[config.min_version]
        made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        made.num_tickets = 0
        made.set_alpn_protocols([tls.ALPN])
        chain = tls.load_cert(made, config.certificate, config.key, ("tls.certificate", "tls.key"))
        ends = [("tls.certificate", tls.first_end(chain))]
        if config.ca is not None:
            ends.append(("tls.ca", tls.load_ca(made, config.ca, "tls.ca")))
            made.verify_mode = ssl.CERT_REQUIRED if self.mode == "verify-ca" else ssl.CERT_OPTIONAL
        openssl.forget_sessions(made.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True))
        return Armour(
            context=made,
            binding=server_end_point(chain[0].der) if chain else None,
            ours=chain[0] if chain else None,
            ends=tuple(ends),
        )

    def __repr__(self) -> str:
        return f"<Gate {self.mode}>"


# OpenSSL's reasons, as far as a sentence can say more than they do.
_SENTENCES = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate, and tls.mode=verify-ca asks for one",
    "HTTP_REQUEST": "it speaks HTTP",
    "HTTPS_PROXY_REQUEST": "it speaks HTTP",
    "NO_SHARED_CIPHER": "it offers no cipher that is accepted here",
    "NO_SUITABLE_KEY_SHARE": "it offers no key exchange that is accepted here",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "it does not accept the kind of key that our certificate has",
}
_NOT_TLS = frozenset(
    ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNEXPECTED_MESSAGE")
)


def explain(error: ssl.SSLError, config: Tls) -> str:
    """Why a client's handshake failed, for the log."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return tls.explain_client(error, config.ca or "")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) or "UNEXPECTED_EOF" in reason:
        return "it closed the connection in the middle of it"
    if reason in _SENTENCES:
        return _SENTENCES[reason]
    if reason in ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW"):
        return f"it does not speak {config.min_version} or newer, which is the least here (tls.min_version)"
    if reason in _NOT_TLS:
        return "it sent something that is not TLS"
    words = tls.words(reason)
    if "_ALERT_" in reason:
        return f"it broke off ({words})"
    return words or "no reason given"
