"""The frames of protocol 3: type bytes by side, and cutting one frame at a time out of a login's few bytes.

1. A frame is `(type byte, payload)`; the payload leaves out the length field.
2. A length is judged at the header, before anything is kept for it.

The stream after login is cut by `framing.Scanner`; this module is for conversations.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

from pgambassador.errors import ProtocolViolation

Frame: TypeAlias = tuple[int, bytes]

T = TypeVar("T")

# A conversation without I/O. `yield data` sends these bytes (b"" for nothing) and is resumed with the next
# frame of the peer; the generator returns its result or raises an AmbassadorError.
Dialogue: TypeAlias = Generator[bytes, Frame, T]

HEADER_SIZE: Final = 5


class Frontend:
    """What a client may send (manual, "Message Formats", marked F)."""

    BIND: Final = ord("B")
    CLOSE: Final = ord("C")
    COPY_DATA: Final = ord("d")
    COPY_DONE: Final = ord("c")
    COPY_FAIL: Final = ord("f")
    DESCRIBE: Final = ord("D")
    EXECUTE: Final = ord("E")
    FLUSH: Final = ord("H")
    FUNCTION_CALL: Final = ord("F")
    PARSE: Final = ord("P")
    PASSWORD: Final = ord("p")  # also SASLInitialResponse, SASLResponse and GSSResponse
    QUERY: Final = ord("Q")
    SYNC: Final = ord("S")
    TERMINATE: Final = ord("X")


class Backend:
    """What a server may send (manual, "Message Formats", marked B)."""

    AUTHENTICATION: Final = ord("R")
    BACKEND_KEY_DATA: Final = ord("K")
    BIND_COMPLETE: Final = ord("2")
    CLOSE_COMPLETE: Final = ord("3")
    COMMAND_COMPLETE: Final = ord("C")
    COPY_BOTH_RESPONSE: Final = ord("W")
    COPY_DATA: Final = ord("d")
    COPY_DONE: Final = ord("c")
    COPY_IN_RESPONSE: Final = ord("G")
    COPY_OUT_RESPONSE: Final = ord("H")
    DATA_ROW: Final = ord("D")
    EMPTY_QUERY_RESPONSE: Final = ord("I")
    ERROR_RESPONSE: Final = ord("E")
    FUNCTION_CALL_RESPONSE: Final = ord("V")
    NEGOTIATE_PROTOCOL_VERSION: Final = ord("v")
    NO_DATA: Final = ord("n")
    NOTICE_RESPONSE: Final = ord("N")
    NOTIFICATION_RESPONSE: Final = ord("A")
    PARAMETER_DESCRIPTION: Final = ord("t")
    PARAMETER_STATUS: Final = ord("S")
    PARSE_COMPLETE: Final = ord("1")
    PORTAL_SUSPENDED: Final = ord("s")
    READY_FOR_QUERY: Final = ord("Z")
    ROW_DESCRIPTION: Final = ord("T")


class Authentication:
    """The kinds of AuthenticationXXX: the first four bytes of the payload of an `R`."""

    OK: Final = 0
    CLEARTEXT_PASSWORD: Final = 3
    MD5_PASSWORD: Final = 5
    SASL: Final = 10
    SASL_CONTINUE: Final = 11
    SASL_FINAL: Final = 12


class TransactionStatus:
    """The byte in ReadyForQuery."""

    IDLE: Final = ord("I")
    IN_TRANSACTION: Final = ord("T")
    FAILED: Final = ord("E")


def take_frame(buffer: bytearray, limit: int) -> Frame | None:
    """Remove the first frame from the buffer and return it, or None while it is incomplete.

    A frame longer than `limit` is refused as soon as its header is there.
    """
    if len(buffer) < HEADER_SIZE:
        return None
    length = int.from_bytes(buffer[1:HEADER_SIZE], "big")
    if not 4 <= length <= limit:
        raise ProtocolViolation(
            f"a message of type {letter(buffer[0])} claims a length of {length}; 4 to {limit} is allowed here"
        )
    if len(buffer) < 1 + length:
        return None
    frame = (buffer[0], bytes(buffer[HEADER_SIZE : 1 + length]))
    del buffer[: 1 + length]
    return frame


def letter(kind: int) -> str:
    """The type byte as a sentence shows it."""
    return repr(chr(kind)) if 0x20 < kind < 0x7F else f"0x{kind:02x}"
