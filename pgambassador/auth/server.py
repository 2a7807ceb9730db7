"""Answering a server's challenge.

1. A password leaves in clear text only through verified TLS or a Unix socket.
2. A server that was asked to prove itself (SCRAM) is not believed before it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from pgambassador.auth import scram
from pgambassador.auth.credential import md5_digest, md5_response
from pgambassador.auth.verifier import Borrowed, Derive, derive
from pgambassador.errors import ConfigError, ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Authentication, Dialogue

_UNSUPPORTED: Final = {2: "Kerberos V5", 6: "SCM credential", 7: "GSSAPI", 9: "SSPI"}


@dataclass(frozen=True, slots=True)
class Channel:
    """What carries the conversation. `binding` is the hash of "tls-server-end-point" (RFC 5929), if known."""

    encrypted: bool = False
    verified: bool = False
    binding: bytes | None = field(default=None, repr=False)
    local: bool = False

    @property
    def confidential(self) -> bool:
        """Nobody but the right server reads what we send."""
        return self.local or (self.encrypted and self.verified)


# A password, or what stands for it.
Secret: TypeAlias = bytes | Borrowed

# Sends bytes and returns the payload of the next AuthenticationXXX.
Ask: TypeAlias = Callable[[bytes], Dialogue[bytes]]


def answer(
    challenge: bytes,
    secret: Secret | None,
    *,
    user: str,
    channel: Channel,
    ask: Ask,
    derive: Derive = derive,
) -> Dialogue[bool]:
    """From the first AuthenticationXXX to AuthenticationOk; whether the server asked for anything."""
    kind, data = parse.authentication(challenge)
    if kind == Authentication.OK:
        return False
    if isinstance(secret, Borrowed):
        if kind != Authentication.SASL:
            raise Refused(
                f'the server does not ask user "{user[:64]}" for scram-sha-256, and nothing else is possible'
                " with what the login of a client has shown",
                hint="Let the server's pg_hba.conf ask for scram-sha-256 here, or configure credentials.",
            )
        derive, secret = secret, b""
    elif not secret:
        raise ConfigError(
            f'the server asks for the password of user "{user[:64]}", and none is configured',
            hint="Put it into the URL, that of another user than the URL's into auth.users, or configure"
            " credentials for the cluster.",
            sqlstate="28P01",
        )
    elif b"\0" in secret:
        raise ConfigError(
            f'the password of user "{user[:64]}" contains a NUL byte, which PostgreSQL does not allow',
            hint="Look at where the credentials of the cluster come from.",
            sqlstate="28P01",
        )
    match kind:
        case Authentication.CLEARTEXT_PASSWORD:
            _require_confidential(channel, user)
            outcome = yield from ask(build.password_message(secret))
        case Authentication.MD5_PASSWORD:
            if len(data) != 4:
                raise ProtocolViolation("malformed AuthenticationMD5Password message")
            response = md5_response(md5_digest(secret, user), data)
            outcome = yield from ask(build.password_message(response))
        case Authentication.SASL:
            outcome = yield from _sasl(data, secret, channel, ask, derive)
        case _:
            method = _UNSUPPORTED.get(kind, f"an unknown method ({kind})")
            raise Refused(
                f'the server asks user "{user[:64]}" to authenticate by {method}, which is not supported',
                hint="Let the server's pg_hba.conf ask for scram-sha-256 here.",
            )
    if parse.authentication(outcome)[0] != Authentication.OK:
        raise ProtocolViolation("the server did not end the authentication when it was over")
    return True


def _require_confidential(channel: Channel, user: str) -> None:
    if not channel.confidential:
        raise Refused(
            f'the server asks for the password of user "{user[:64]}" in clear text, and the connection is not'
            " verified TLS; it was not sent",
            hint="Use sslmode=verify-full, or let the server's pg_hba.conf ask for scram-sha-256.",
        )


def _sasl(mechanisms: bytes, secret: bytes, channel: Channel, ask: Ask, derive: Derive) -> Dialogue[bytes]:
    offered = parse.sasl_mechanisms(mechanisms)
    chosen = _choose(offered, channel)
    exchange = scram.client(
        secret,
        binding=channel.binding if chosen == scram.SCRAM_SHA_256_PLUS else None,
        could_bind=channel.binding is not None and scram.SCRAM_SHA_256_PLUS not in offered,
        derive=derive,
    )
    first = build.sasl_initial_response(chosen, next(exchange))
    challenge = _expect((yield from ask(first)), Authentication.SASL_CONTINUE)
    final = build.sasl_response(exchange.send(challenge))
    scram.finish(exchange, _expect((yield from ask(final)), Authentication.SASL_FINAL))
    return (yield from ask(b""))


def _choose(offered: list[str], channel: Channel) -> str:
    if scram.SCRAM_SHA_256_PLUS in offered:
        if not channel.encrypted:
            # Only an attacker's server, or one behind an attacker, offers to bind a channel without TLS.
            raise ProtocolViolation("the server offers SCRAM-SHA-256-PLUS over a connection without TLS")
        if channel.binding is not None:
            return scram.SCRAM_SHA_256_PLUS
    if scram.SCRAM_SHA_256 in offered:
        return scram.SCRAM_SHA_256
    names = ", ".join(ascii(name[:32]) for name in offered[:4])
    raise Refused(
        f"the server offers only SASL mechanisms that are not supported: {names or 'none'}",
        hint="Let the server's pg_hba.conf ask for scram-sha-256 here.",
    )


def _expect(payload: bytes, kind: int) -> bytes:
    found, data = parse.authentication(payload)
    if found != kind:
        raise ProtocolViolation(
            f"the server broke off the SCRAM exchange: Authentication {found}, not {kind}"
        )
    return data
