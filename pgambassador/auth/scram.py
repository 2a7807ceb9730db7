"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides, as bytes in and bytes out (RFC 5802, 5929, 7677).

1. An exchange is a generator: it yields our next message and is resumed with the peer's.
2. Everything a peer sends is bounded and checked before it is used; what is wrong is a ProtocolViolation.
3. Secrets are compared in constant time only.
"""

from __future__ import annotations

import binascii
import hmac
import os
import re
from collections.abc import Callable, Generator
from functools import partial
from typing import Final, NamedTuple, TypeAlias, TypeVar

from pgambassador.auth.digest import hmac_sha256, shown_by
from pgambassador.auth.verifier import KEY_SIZE, Derive, Keys, Verifier, derive
from pgambassador.errors import ProtocolViolation

SCRAM_SHA_256: Final = "SCRAM-SHA-256"
SCRAM_SHA_256_PLUS: Final = "SCRAM-SHA-256-PLUS"

MAX_ITERATIONS: Final = 1_000_000
MAX_NONCE: Final = 1024
MAX_SALT: Final = 1024
MAX_MESSAGE: Final = 8192

_ATTRIBUTES: Final = re.compile(rb"[A-Za-z]=[^\0,]*(?:,[A-Za-z]=[^\0,]*)*+", re.DOTALL)
_NONCE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_BINDING_TYPE: Final = b"tls-server-end-point"
_USUAL_FIRST: Final = re.compile(
    rb"((n|y|p=tls-server-end-point),,)(n=[^\0,]{0,1024},r=([\x21-\x2b\x2d-\x7e]{1,1024}))"
)
"""A client-first-message without extensions: header, binding flag, what is behind the header, nonce."""
NONCE_SIZE: Final = 24
"""Of a nonce that we make."""
_PROOF_SIZE: Final = 44
"""Of a proof in base64."""

_encoded: Callable[[bytes], bytes] = partial(binascii.b2a_base64, newline=False)


class Expected(NamedTuple):
    """How a client-final-message begins; what tells whether the proof behind that is right (see `shown_by`);
    and the server-final-message if it is."""

    beginning: bytes
    signature: bytes
    stored_key: bytes
    final: bytes

    def __repr__(self) -> str:
        return "<Expected>"


T = TypeVar("T")
Expect: TypeAlias = Callable[[Expected], object]
Exchange: TypeAlias = Generator[bytes, bytes, T]


def make_nonce() -> bytes:
    return _encoded(os.urandom(18))


def finish(exchange: Exchange[T], message: bytes) -> T:
    """Give an exchange its last message, and return its result."""
    try:
        exchange.send(message)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("the exchange goes on after its last message")


# --- the side that has the password -------------------------------------------------------------------------


def client(
    password: bytes,
    *,
    binding: bytes | None = None,
    could_bind: bool = False,
    user: bytes = b"",
    nonce: bytes | None = None,
    derive: Derive = derive,
) -> Exchange[None]:
    """client-first, then client-final; returns when the server has proved that it knows the verifier.

    With `binding` the exchange is SCRAM-SHA-256-PLUS. `could_bind` tells the server that we would have bound
    the channel had it offered to, so that a man in the middle cannot remove the offer unnoticed.
    PostgreSQL ignores `user`; it takes the name of the startup message.
    """
    header = b"p=" + _BINDING_TYPE + b",," if binding is not None else b"y,," if could_bind else b"n,,"
    nonce = nonce or make_nonce()
    client_first = b"n=" + user + b",r=" + nonce
    server_first = yield header + client_first

    full_nonce, salt, iterations = challenge(server_first)
    if len(full_nonce) <= len(nonce) or not full_nonce.startswith(nonce):
        raise _malformed("the server's nonce does not extend ours")

    keys = derive(password, salt, iterations)
    without_proof = b"c=" + _encoded(header + (binding or b"")) + b",r=" + full_nonce
    auth_message = b",".join((client_first, server_first, without_proof))
    proof = _xor(keys.client_key, hmac_sha256(keys.stored_key, auth_message))
    server_final = yield without_proof + b",p=" + _encoded(proof)

    attributes = _attributes(server_final, "server-final-message")
    if attributes[0].startswith(b"e"):
        raise ProtocolViolation(f"the server ended the SCRAM exchange: {_shown(attributes[0][2:])}")
    signature = _base64(_value(attributes, 0, b"v"), "server signature")
    if not hmac.compare_digest(signature, hmac_sha256(keys.server_key, auth_message)):
        raise ProtocolViolation(
            "the server's SCRAM signature is wrong",
            detail="It does not know the password's verifier: it may not be the server that it claims to be.",
        )


def challenge(server_first: bytes) -> tuple[bytes, bytes, int]:
    """Nonce, salt and iterations: what keys are to be derived with."""
    attributes = _attributes(server_first, "server-first-message")
    nonce = _nonce(_value(attributes, 0, b"r"))
    salt = _base64(_value(attributes, 1, b"s"), "salt")
    if not 1 <= len(salt) <= MAX_SALT:
        raise _malformed(f"a salt of {len(salt)} bytes; 1 to {MAX_SALT} are allowed")
    iterations = _iterations(_value(attributes, 2, b"i"))
    if len(attributes) > 3:
        raise _malformed("the server-first-message has more attributes than r, s and i")
    return nonce, salt, iterations


# --- the side that checks -----------------------------------------------------------------------------------


def server(
    client_first: bytes,
    verifier: Verifier,
    *,
    mechanism: str = SCRAM_SHA_256,
    binding: bytes | None = None,
    nonce: bytes | None = None,
    learn: Callable[[Keys], object] | None = None,
    expect: Expect | None = None,
) -> Exchange[bytes | None]:
    """Yields server-first; returns server-final, or None if the proof is wrong.

    `binding` is the channel's, if there is one: then SCRAM-SHA-256-PLUS was offered to the client. A right
    proof gives away the client's key, which `learn` is told. `expect` is told with server-first what a right
    answer most probably is.
    """
    usual = _USUAL_FIRST.fullmatch(client_first)
    header, flag, bare, theirs = usual.groups() if usual else _client_first(client_first)
    _check_binding_flag(flag, mechanism, offered=binding is not None)
    full_nonce = theirs + (nonce or make_nonce())
    server_first = b"r=" + full_nonce + verifier.shown
    # What its answer will most probably be signed for is known by now, and it needs a while for that.
    expected = header + (binding or b"" if flag.startswith(b"p") else b"")
    without_proof = b"c=" + _encoded(expected) + b",r=" + full_nonce
    before = bare + b"," + server_first + b","
    signature, ours = _signatures(verifier, before + without_proof)
    if expect is not None:
        expect(Expected(without_proof + b",p=", signature, verifier.stored_key, ours))
    client_final = yield server_first

    proof = client_final[-_PROOF_SIZE:]
    if client_final[:-_PROOF_SIZE] != without_proof + b",p=":
        proof = _proof(client_final, expected, full_nonce)
        signature, ours = _signatures(verifier, before + client_final[: client_final.rindex(b",p=")])
    try:
        client_key = shown_by(proof, verifier.stored_key, signature)
    except ValueError:
        size = len(_base64(proof, "proof"))
        raise _malformed(f"a proof of {size} bytes; it must be {KEY_SIZE}") from None
    if client_key is None:
        return None
    if learn is not None:
        learn(Keys(client_key, verifier.server_key))
    return ours


def _signatures(verifier: Verifier, auth_message: bytes) -> tuple[bytes, bytes]:
    """What a proof is masked with, and the server-final-message."""
    ours = b"v=" + _encoded(hmac_sha256(verifier.server_key, auth_message))
    return hmac_sha256(verifier.stored_key, auth_message), ours


def _client_first(message: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """As in `_USUAL_FIRST`, of one that has extensions, or is wrong."""
    flag, header, bare = _gs2_header(message)
    # Extensions after the nonce are ours to ignore, except "m", which comes first and is mandatory.
    attributes = _attributes(bare, "client-first-message")
    _value(attributes, 0, b"n")
    return header, flag, bare, _nonce(_value(attributes, 1, b"r"))


def _proof(client_final: bytes, expected: bytes, nonce: bytes) -> bytes:
    """Of a client-final-message that has extensions, or is wrong."""
    attributes = _attributes(client_final, "client-final-message")
    bound = _base64(_value(attributes, 0, b"c"), "channel binding")
    if not hmac.compare_digest(bound, expected):
        raise ProtocolViolation("the SCRAM channel binding check failed", sqlstate="28000")
    if not hmac.compare_digest(_value(attributes, 1, b"r"), nonce):
        raise _malformed("the nonce of the client-final-message is not that of the exchange")
    return _value(attributes, len(attributes) - 1, b"p")


def _gs2_header(client_first: bytes) -> tuple[bytes, bytes, bytes]:
    """The binding flag, the whole header, and the message behind it."""
    parts = client_first[:MAX_MESSAGE].split(b",", 2)
    if len(parts) < 3:
        raise _malformed("the client-first-message is incomplete")
    flag, identity, _ = parts
    if identity:
        raise ProtocolViolation(
            "the client asks for a SCRAM authorization identity, which is not supported", sqlstate="0A000"
        )
    size = len(flag) + 2
    return flag, client_first[:size], client_first[size:]


def _check_binding_flag(flag: bytes, mechanism: str, *, offered: bool) -> None:
    plus = mechanism == SCRAM_SHA_256_PLUS
    if flag.startswith(b"p="):
        if not plus:
            raise _malformed("channel binding under a mechanism without it")
        if flag[2:] != _BINDING_TYPE:
            raise ProtocolViolation(f"unsupported SCRAM channel-binding type {_shown(flag[2:])}")
    elif flag not in (b"n", b"y"):
        raise _malformed(f"unknown channel-binding flag {_shown(flag)}")
    elif plus:
        raise _malformed("SCRAM-SHA-256-PLUS without channel binding data")
    elif flag == b"y" and offered:
        raise ProtocolViolation(
            "SCRAM channel binding negotiation error",
            detail="The client supports channel binding and thinks that the server does not, but it does.",
            sqlstate="28000",
        )


# --- attributes ---------------------------------------------------------------------------------------------


def _attributes(message: bytes, what: str) -> list[bytes]:
    """Each a letter, "=" and a value; there is at least one."""
    if len(message) > MAX_MESSAGE:
        raise _malformed(f"a {what} of {len(message)} bytes; at most {MAX_MESSAGE} are allowed")
    if not _ATTRIBUTES.fullmatch(message):
        raise _malformed(f"the {what} is not a list of attributes")
    return message.split(b",")


def _value(attributes: list[bytes], index: int, name: bytes) -> bytes:
    found = attributes[index] if index < len(attributes) else b""
    if found[:1] == name:
        return found[2:]
    if not found:
        raise _malformed(f"attribute {name.decode()} is missing")
    raise _malformed(f"attribute {name.decode()} expected, {found[:1].decode()} found")


def _nonce(value: bytes) -> bytes:
    if len(value) > MAX_NONCE:
        raise _malformed(f"a nonce of {len(value)} bytes; at most {MAX_NONCE} are allowed")
    if not _NONCE.fullmatch(value):
        raise _malformed("the nonce is empty or has characters that are not printable")
    return value


def _iterations(value: bytes) -> int:
    if not value.isdigit() or len(value) > 10 or not 1 <= int(value) <= MAX_ITERATIONS:
        raise ProtocolViolation(
            f"the server asks for {_shown(value)} SCRAM iterations; 1 to {MAX_ITERATIONS} are allowed"
        )
    return int(value)


def _base64(value: bytes, what: str) -> bytes:
    try:
        decoded = binascii.a2b_base64(value, strict_mode=True)
    except binascii.Error:
        decoded = b""
    # Another way to write the same bytes (RFC 4648, section 3.5) is nobody's.
    if _encoded(decoded) != value:
        raise _malformed(f"the {what} is not valid base64")
    return decoded


def _malformed(why: str) -> ProtocolViolation:
    return ProtocolViolation(f"malformed SCRAM message: {why}")


def _shown(value: bytes) -> str:
    """A peer's text as a sentence may carry it."""
    return ascii(value[:64].decode("ascii", "replace"))


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(KEY_SIZE, "big")
