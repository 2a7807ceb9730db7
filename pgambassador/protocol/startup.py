"""Logging in to a server: from StartupMessage to the first ReadyForQuery, as one dialogue.

1. Upstream we ask for a version of the protocol and no extension; a server may go below it, not beyond.
2. A server's ErrorResponse is raised as it came; its notices are read and dropped.
3. Until the server is logged in it is a stranger: frames, their size and their sum are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pgambassador.auth.server import Channel, Secret, answer
from pgambassador.auth.verifier import Derive, derive
from pgambassador.errors import ProtocolViolation, ServerRefused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Dialogue, Frame, letter

__all__ = ["MAX_LOGIN_BYTES", "MAX_LOGIN_FRAME", "MAX_LOGIN_FRAMES", "Channel", "Login", "upstream_login"]

MAX_LOGIN_FRAMES: Final = 1000
MAX_LOGIN_FRAME: Final = 256 * 1024
MAX_LOGIN_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """What a server said about itself. A server without cancel keys has pid 0 and an empty key."""

    pid: int
    key: bytes = field(repr=False)
    parameters: dict[str, str]
    status: int
    version: int = build.PROTOCOL_3_0
    asked: bool = True
    """Whether the server wanted to be shown anything, or trusts whoever comes."""


def upstream_login(
    params: Mapping[str, str],
    secret: Secret | None,
    *,
    user: str,
    channel: Channel,
    version: int = build.PROTOCOL_3_0,
    derive: Derive = derive,
) -> Dialogue[Login]:
    """`params` are those of the startup message: database, application_name, options and so on. Who logs in
    is `user`, whatever they say."""
    server = _Stranger(version)
    others = {name: value for name, value in params.items() if name != "user"}
    hello = build.startup_message({"user": user, **others}, version)
    challenge = yield from server.challenge(hello)
    asked = yield from answer(
        challenge, secret, user=user, channel=channel, ask=server.challenge, derive=derive
    )

    pid, key = 0, b""
    parameters: dict[str, str] = {}
    while True:
        kind, payload = yield from server.next(b"")
        match kind:
            case Backend.PARAMETER_STATUS:
                name, value = parse.parameter_status(payload)
                parameters[name] = value
            case Backend.BACKEND_KEY_DATA:
                pid, key = parse.backend_key_data(payload)
            case Backend.READY_FOR_QUERY:
                return Login(pid, key, parameters, parse.ready_for_query(payload), server.version, asked)
            case _:
                raise _unexpected(kind)


class _Stranger:
    """The frames of one login."""

    def __init__(self, version: int) -> None:
        self.version = version
        self._frames = 0
        self._bytes = 0

    def next(self, data: bytes) -> Dialogue[Frame]:
        """Send, and return the next frame that moves the login on."""
        while True:
            kind, payload = yield data
            data = b""
            self._count(payload)
            match kind:
                case Backend.ERROR_RESPONSE:
                    raise ServerRefused(parse.fields(payload))
                case Backend.NOTICE_RESPONSE:
                    continue
                case Backend.NEGOTIATE_PROTOCOL_VERSION:
                    self.version = _negotiated(payload, self.version)
                case _:
                    return kind, payload

    def challenge(self, data: bytes) -> Dialogue[bytes]:
        """Send, and return the payload of the next AuthenticationXXX."""
        kind, payload = yield from self.next(data)
        if kind != Backend.AUTHENTICATION:
            raise _unexpected(kind)
        return payload

    def _count(self, payload: bytes) -> None:
        self._frames += 1
        self._bytes += len(payload)
        if len(payload) > MAX_LOGIN_FRAME or self._bytes > MAX_LOGIN_BYTES:
            raise ProtocolViolation("the server sends more data during login than any PostgreSQL would")
        if self._frames > MAX_LOGIN_FRAMES:
            raise ProtocolViolation(f"the server has sent {MAX_LOGIN_FRAMES} messages and is still not ready")


def _negotiated(payload: bytes, asked: int) -> int:
    """The version to go on with. Some servers confirm 3.0 unasked, and write it as 0."""
    version, options = parse.negotiate_protocol_version(payload)
    version = version or build.PROTOCOL_3_0
    if options or not build.PROTOCOL_3_0 <= version <= asked:
        raise ProtocolViolation(
            "the server negotiates a version of the protocol, or options, that were not asked for"
        )
    return version


def _unexpected(kind: int) -> ProtocolViolation:
    return ProtocolViolation(
        f"the server sent a message of type {letter(kind)} in the middle of the login",
        hint="Make sure that host and port are those of a PostgreSQL server.",
    )
