"""Verifying a client: one dialogue for each method.

1. A dialogue returns the bytes that tell the client of its success; nothing further is expected from it.
   A failure is `Refused` with PostgreSQL's own sentence and SQLSTATE.
2. An unknown user, one whose credential does not suit the method, and a wrong password look the same: the
   same messages, the same error. Why it failed is in the exception's notes, which stay on our side.
3. `doubt` is why a login must fail although the password may be right: the account has expired. Nobody can
   tell, from the answers or from the salt.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from typing import Final, TypeAlias

from pgambassador.auth import scram as mechanism
from pgambassador.auth.credential import Credential, Md5Hash, Plain, md5_digest, md5_response
from pgambassador.auth.verifier import Keys, Verifier
from pgambassador.errors import ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue, Frame, Frontend, letter

# PostgreSQL's PG_MAX_AUTH_TOKEN_LENGTH: generous for passwords, and a bound for everybody else.
MAX_RESPONSE: Final = 65535

_UNKNOWN: Final = "the user is not known"
_WRONG: Final = "the password is wrong"

_UNBOUND: Final = (mechanism.SCRAM_SHA_256,)
_BOUND: Final = (mechanism.SCRAM_SHA_256_PLUS, mechanism.SCRAM_SHA_256)
_OFFERS: Final = {names: build.authentication_sasl(names) for names in (_UNBOUND, _BOUND)}
OFFER: Final = _OFFERS[_UNBOUND]
"""What a client without TLS is asked by SCRAM."""

Learn: TypeAlias = Callable[[Keys], object]
StandIn: TypeAlias = Callable[[], Verifier]


def md5(
    user: str,
    credential: Credential | None,
    *,
    stand_in: StandIn,
    salt: bytes | None = None,
    doubt: str | None = None,
    binding: bytes | None = None,
    learn: Learn | None = None,
    nonce: bytes | None = None,
    expect: mechanism.Expect | None = None,
    seems_scram: bool = False,
) -> Dialogue[bytes]:
    """AuthenticationMD5Password; like PostgreSQL, SCRAM where the user has a SCRAM verifier, or is unknown
    and `seems_scram`."""
    if isinstance(credential, Verifier) or (credential is None and seems_scram):
        return (
            yield from scram(
                user,
                credential,
                stand_in=stand_in,
                doubt=doubt,
                binding=binding,
                learn=learn,
                nonce=nonce,
                expect=expect,
            )
        )
    salt = salt or secrets.token_bytes(4)
    response = parse.password(_payload((yield build.authentication_md5(salt))))
    match credential:
        case Plain(password):
            digest = md5_digest(password, user)
        case Md5Hash(digest):
            pass
        case None:
            digest = secrets.token_hex(16).encode("ascii")
    matches = hmac.compare_digest(response, md5_response(digest, salt))
    if credential is None or doubt is not None or not matches:
        raise failed(user, doubt or (_UNKNOWN if credential is None else _WRONG))
    return build.authentication_ok()


def scram(
    user: str,
    credential: Verifier | Md5Hash | None,
    *,
    stand_in: StandIn,
    doubt: str | None = None,
    binding: bytes | None = None,
    learn: Learn | None = None,
    nonce: bytes | None = None,
    expect: mechanism.Expect | None = None,
) -> Dialogue[bytes]:
    """SCRAM-SHA-256, and SCRAM-SHA-256-PLUS where `binding` says what the client's channel is bound to.
    `stand_in` makes the verifier that no password fits, for who has none. `nonce` is ours, if it was told.
    `expect` is told what will be a right answer, whatever the `doubt`: nobody can tell by the time."""
    offered = _BOUND if binding is not None else _UNBOUND
    chosen, first = parse.sasl_initial_response(_payload((yield _OFFERS[offered])))
    if chosen not in offered:
        raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
    if first is None:
        # "SASL Authentication": without an initial response the exchange begins with an empty challenge.
        first = _payload((yield build.authentication_sasl_continue(b"")))

    match credential:
        case Verifier():
            verifier = credential
        case Md5Hash():
            verifier, doubt = stand_in(), "only an md5 hash of the user is known"
        case None:
            verifier, doubt = stand_in(), doubt or _UNKNOWN

    exchange = mechanism.server(
        first,
        verifier,
        mechanism=chosen,
        binding=binding,
        nonce=nonce,
        learn=None if doubt is not None else learn,
        expect=expect,
    )
    response = yield build.authentication_sasl_continue(next(exchange))
    final = mechanism.finish(exchange, _payload(response))
    if doubt is not None or final is None:
        raise failed(user, doubt or _WRONG)
    return succeeded(final)


METHODS: Final[dict[str, Callable[..., Dialogue[bytes]]]] = {"scram-sha-256": scram, "md5": md5}


def cleartext(user: str) -> Dialogue[bytes]:
    """AuthenticationCleartextPassword; returns the password, which nobody has found right yet."""
    password = parse.password(_payload((yield build.authentication_cleartext())))
    if not password:
        raise failed(user, "the password is empty")
    return password


def _payload(frame: Frame) -> bytes:
    """Of the PasswordMessage or SASL response."""
    kind, payload = frame
    if kind != Frontend.PASSWORD:
        raise ProtocolViolation(f"expected a password or SASL response, got a message of type {letter(kind)}")
    if len(payload) > MAX_RESPONSE:
        raise ProtocolViolation(
            f"a password or SASL response of {len(payload)} bytes; at most {MAX_RESPONSE} are allowed"
        )
    return payload


def succeeded(final: bytes) -> bytes:
    """What SCRAM ends with, for a server-final-message."""
    return build.authentication_sasl_final(final) + build.authentication_ok()


def failed(user: str, why: str) -> Refused:
    """The one answer to everything that may be wrong with a name and its password."""
    error = Refused(f'password authentication failed for user "{user[:64]}"', sqlstate="28P01")
    error.add_note(why)
    return error
