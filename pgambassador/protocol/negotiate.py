"""What a client's first packets mean, before there are frames: encryption requests, cancel, or a startup.

1. Bytes in, actions out. The object never waits; it may be fed single bytes.
2. A length is judged as soon as its four bytes are there; nothing longer than `MAX_START_PACKET` is held.
3. Each kind of encryption is asked for once at most, and nothing may follow the request before its answer:
   such bytes were sent in the clear by somebody who took them for encrypted.
4. After Start or Cancel the conversation belongs to somebody else, and so do the bytes behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final, TypeAlias

from pgambassador.errors import ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.parse import CancelRequest, StartupPacket

# PostgreSQL stops at 10,000 bytes; drivers that put much into `options` must not fail because of us.
MAX_START_PACKET: Final = 64 * 1024

LATEST: Final = build.PROTOCOL_3_2

_MAJOR: Final = b"\0\3"

# The first byte of a TLS record that carries a ClientHello.
_TLS_HANDSHAKE: Final = 0x16


@dataclass(frozen=True, slots=True)
class Send:
    """Send this and go on feeding."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Tls:
    """Be a TLS server from here on, beginning with `data`, and go on feeding what it decrypts.

    `direct` means that no SSLRequest came before; then ALPN has to agree on "postgresql".
    """

    data: bytes = b""
    direct: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """The client wants a session. `tail` is what it sent behind the packet."""

    packet: StartupPacket
    tail: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Cancel:
    """The client wants this query cancelled; it is not answered."""

    request: CancelRequest


Action: TypeAlias = Send | Tls | Start | Cancel


class Opening:
    """The first packets of one connection. `tls` says whether TLS is offered."""

    def __init__(self, *, tls: bool = False) -> None:
        self._tls_offered = tls
        self._encrypted = False
        self._asked: set[int] = set()
        self._buffer = bytearray()
        self._done = False

    def __repr__(self) -> str:
        state = "done" if self._done else f"{len(self._buffer)} bytes held"
        return f"<Opening {'encrypted' if self._encrypted else 'clear'}, {state}>"

    def feed(self, data: bytes) -> list[Action]:
        """What is to be done, in order. After Start or Cancel there is nothing more to feed."""
        assert not self._done
        # Most come whole and alone, and are those of other clients before.
        whole = 8 <= len(data) <= parse.USUAL and int.from_bytes(data[:4], "big") == len(data)
        if whole and data[4:6] == _MAJOR and not self._buffer:
            self._done = True
            return list(_remembered(data[4:]))
        buffer = self._buffer
        buffer += data
        if not self._asked and not self._encrypted and buffer[:1] == bytes([_TLS_HANDSHAKE]):
            return [self._direct_tls()]
        if len(buffer) < 4:
            return []
        length = int.from_bytes(buffer[:4], "big")
        if not 8 <= length <= MAX_START_PACKET:
            raise ProtocolViolation(
                f"invalid length of startup packet: {length}; 8 to {MAX_START_PACKET} is allowed"
            )
        if len(buffer) < 8:
            return []
        code = int.from_bytes(buffer[4:8], "big")
        self._check_code(code, length)
        if len(buffer) < length:
            return []
        payload = bytes(buffer[4:length])
        tail = bytes(buffer[length:])
        buffer.clear()
        if code == build.CANCEL_REQUEST_CODE:
            self._done = True
            return [Cancel(parse.cancel_request(payload))]
        if code in _ENCRYPTION:
            return self._encryption(code, tail)
        self._done = True
        return list(_begun(payload, tail))

    def _check_code(self, code: int, length: int) -> None:
        """Refuse what we do not speak before waiting for the rest of it: its layout may be another."""
        if code in _ENCRYPTION and code not in self._asked and not self._encrypted:
            if length != 8:
                raise ProtocolViolation(f"invalid length of {_ENCRYPTION[code]} request: {length}, not 8")
        elif code >> 16 != 3 and code != build.CANCEL_REQUEST_CODE:
            raise ProtocolViolation(
                f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: only 3.0 to 3.2 is supported",
                hint="Use a client for PostgreSQL 7.4 or later.",
                sqlstate="0A000",
            )

    def _encryption(self, code: int, tail: bytes) -> list[Action]:
        self._asked.add(code)
        if tail:
            raise ProtocolViolation(
                f"received unencrypted data after {_ENCRYPTION[code]} request",
                detail="This could be either a client-software bug or evidence of an attempted "
                "man-in-the-middle attack.",
            )
        if code == build.SSL_REQUEST_CODE and self._tls_offered:
            self._encrypted = True
            return [Send(b"S"), Tls()]
        return [Send(b"N")]

    def _direct_tls(self) -> Action:
        if not self._tls_offered:
            raise ProtocolViolation(
                "the client begins with TLS, which is not offered here",
                hint="Connect with sslmode=disable, or with sslnegotiation=postgres.",
            )
        self._encrypted = True
        data = bytes(self._buffer)
        self._buffer.clear()
        return Tls(data, direct=True)


def _begun(payload: bytes, tail: bytes = b"") -> tuple[Action, ...]:
    """What a start packet asks for."""
    packet = parse.startup(payload)
    if not packet.user:
        raise Refused("no PostgreSQL user name specified in startup packet")
    if packet.version <= LATEST and not packet.extensions:
        return (Start(packet, tail),)
    # "NegotiateProtocolVersion": once, before anything else, and the client goes on with that.
    packet = replace(packet, version=min(packet.version, LATEST))
    return Send(build.negotiate_protocol_version(packet.minor, list(packet.extensions))), Start(packet, tail)


_remembered = lru_cache(maxsize=1000)(_begun)


_ENCRYPTION: Final = {build.SSL_REQUEST_CODE: "SSL", build.GSSENC_REQUEST_CODE: "GSSAPI encryption"}
