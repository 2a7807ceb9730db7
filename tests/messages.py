"""The protocol's messages in one line each, and streams of them made readable."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

from pgambassador.wire.build import (
    FLUSH,
    SYNC,
    TERMINATE,
    command_complete,
    cstring,
    error_response,
    frame,
    notice_response,
    parameter_status,
    parse,
    query,
    ready_for_query,
)

__all__ = [
    "BIND_COMPLETE",
    "CLOSE_COMPLETE",
    "COPY_DONE",
    "COPY_IN",
    "COPY_OUT",
    "EMPTY",
    "FAILED",
    "FLUSH",
    "FUNCTION_CALL",
    "FUNCTION_RESULT",
    "IDLE",
    "NO_DATA",
    "PARSE_COMPLETE",
    "SUSPENDED",
    "SYNC",
    "TERMINATE",
    "TRANSACTION",
    "bind",
    "close_portal",
    "close_statement",
    "columns",
    "complete",
    "copy_data",
    "copy_fail",
    "describe",
    "describe_portal",
    "error",
    "execute",
    "extended",
    "fatal",
    "notice",
    "notification",
    "parameter_description",
    "parameter_status",
    "parse",
    "query",
    "row",
    "show",
]


def _typed(kind: str, payload: bytes = b"") -> bytes:
    return frame(ord(kind), payload)


# From a client.

FUNCTION_CALL = _typed("F", pack("!Ihhh", 1598, 0, 0, 0))
COPY_DONE = _typed("c")


def bind(statement: bytes, *values: bytes, portal: bytes = b"") -> bytes:
    parameters = b"".join(pack("!i", len(value)) + value for value in values)
    return _typed(
        "B",
        cstring(portal) + cstring(statement) + pack("!hh", 0, len(values)) + parameters + pack("!h", 0),
    )


def describe(statement: bytes) -> bytes:
    return _typed("D", b"S" + cstring(statement))


def describe_portal(portal: bytes = b"") -> bytes:
    return _typed("D", b"P" + cstring(portal))


def execute(portal: bytes = b"", most: int = 0) -> bytes:
    return _typed("E", cstring(portal) + pack("!i", most))


def close_statement(statement: bytes) -> bytes:
    return _typed("C", b"S" + cstring(statement))


def close_portal(portal: bytes = b"") -> bytes:
    return _typed("C", b"P" + cstring(portal))


def copy_data(data: bytes) -> bytes:
    return _typed("d", data)


def copy_fail(why: bytes = b"no") -> bytes:
    return _typed("f", cstring(why))


def extended(sql: bytes, *values: bytes) -> bytes:
    """Parse, Bind, Describe, Execute of the unnamed statement, without a Sync."""
    return parse(b"", sql) + bind(b"", *values) + describe_portal() + execute()


# From a server.

PARSE_COMPLETE = _typed("1")
BIND_COMPLETE = _typed("2")
CLOSE_COMPLETE = _typed("3")
NO_DATA = _typed("n")
EMPTY = _typed("I")
SUSPENDED = _typed("s")
COPY_IN = _typed("G", b"\0\0\0")
COPY_OUT = _typed("H", b"\0\0\0")
FUNCTION_RESULT = _typed("V", pack("!i", 1) + b"x")
IDLE = ready_for_query(b"I")
TRANSACTION = ready_for_query(b"T")
FAILED = ready_for_query(b"E")


def columns(*names: bytes, table: int = 0) -> bytes:
    body = b"".join(cstring(name) + pack("!IhIhih", table, 0, 25, -1, -1, 0) for name in names)
    return _typed("T", pack("!h", len(names)) + body)


def row(*values: bytes | None) -> bytes:
    columns = [pack("!i", -1) if each is None else pack("!i", len(each)) + each for each in values]
    return _typed("D", pack("!h", len(values)) + b"".join(columns))


def complete(tag: str) -> bytes:
    return command_complete(tag)


def error(sqlstate: str = "42601", message: str = "wrong") -> bytes:
    return error_response("ERROR", sqlstate, message)


def fatal(sqlstate: str = "57P01", message: str = "terminating connection") -> bytes:
    return error_response("FATAL", sqlstate, message)


def notice(message: str) -> bytes:
    return notice_response("NOTICE", "00000", message)


def notification(channel: bytes, payload: bytes = b"") -> bytes:
    return _typed("A", pack("!i", 4711) + cstring(channel) + cstring(payload))


def parameter_description(*oids: int) -> bytes:
    return _typed("t", pack(f"!h{len(oids)}I", len(oids), *oids))


# For readers.

_CLIENT = {
    "B": "Bind", "C": "Close", "D": "Describe", "E": "Execute", "F": "FunctionCall", "H": "Flush",
    "P": "Parse", "Q": "Query", "S": "Sync", "X": "Terminate", "c": "CopyDone", "d": "CopyData",
    "f": "CopyFail",
}  # fmt: skip
_SERVER = {
    "1": "ParseComplete", "2": "BindComplete", "3": "CloseComplete", "A": "NotificationResponse",
    "C": "CommandComplete", "D": "DataRow", "E": "ErrorResponse", "G": "CopyInResponse",
    "H": "CopyOutResponse", "I": "EmptyQueryResponse", "N": "NoticeResponse", "S": "ParameterStatus",
    "T": "RowDescription", "V": "FunctionCallResponse", "Z": "ReadyForQuery", "c": "CopyDone",
    "d": "CopyData", "n": "NoData", "s": "PortalSuspended", "t": "ParameterDescription",
}  # fmt: skip


def show(stream: bytes, *, of_server: bool) -> Sequence[str]:
    """One line for each message; what is no message, or not all of one, is shown as it is."""
    names = _SERVER if of_server else _CLIENT
    lines = []
    while stream:
        size = 1 + int.from_bytes(stream[1:5], "big")
        if len(stream) < 5 or size < 5 or len(stream) < size:
            lines.append(f"incomplete {stream[:200]!r}")
            break
        payload = stream[5:size]
        shown = repr(payload if len(payload) <= 200 else payload[:200] + b"...")
        lines.append(f"{names.get(chr(stream[0]), chr(stream[0]))} {shown[1:] if payload else ''}".rstrip())
        stream = stream[size:]
    return lines
