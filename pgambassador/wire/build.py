"""The messages we author ourselves, towards servers and towards clients.

1. Every function returns one complete message as bytes.
2. str is encoded as UTF-8 with surrogateescape, the inverse of `parse`: text that a peer sent in another
   encoding leaves as it came.
3. A NUL would end a string early and let the rest be taken for something else: it is refused everywhere but
   in errors and notices, where it becomes "?" because an error must always be tellable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from struct import pack
from typing import Final

from pgambassador.wire.frames import Authentication, Backend, Frontend

PROTOCOL_3_0: Final = 3 << 16
PROTOCOL_3_2: Final = 3 << 16 | 2
CANCEL_REQUEST_CODE: Final = 80877102
SSL_REQUEST_CODE: Final = 80877103
GSSENC_REQUEST_CODE: Final = 80877104


def frame(kind: int, payload: bytes = b"") -> bytes:
    return pack("!Bi", kind, 4 + len(payload)) + payload


def encode(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes(text)


def cstring(text: str | bytes) -> bytes:
    data = encode(text)
    if b"\0" in data:
        raise ValueError("a string of the protocol cannot contain a NUL byte")
    return data + b"\0"


# --- first packets: no type byte ----------------------------------------------------------------------------


def _untyped(code: int, rest: bytes = b"") -> bytes:
    return pack("!ii", 8 + len(rest), code) + rest


SSL_REQUEST: Final = _untyped(SSL_REQUEST_CODE)
GSSENC_REQUEST: Final = _untyped(GSSENC_REQUEST_CODE)


def startup_message(params: Mapping[str, str], version: int = PROTOCOL_3_0) -> bytes:
    pairs = b"".join(cstring(name) + cstring(value) for name, value in params.items())
    return _untyped(version, pairs + b"\0")


def cancel_request(pid: int, key: bytes) -> bytes:
    return _untyped(CANCEL_REQUEST_CODE, pack("!I", pid & 0xFFFFFFFF) + key)


# --- to a server --------------------------------------------------------------------------------------------

TERMINATE: Final = frame(Frontend.TERMINATE)
SYNC: Final = frame(Frontend.SYNC)
FLUSH: Final = frame(Frontend.FLUSH)


def query(sql: str | bytes) -> bytes:
    return frame(Frontend.QUERY, cstring(sql))


EXECUTION: Final = frame(Frontend.BIND, b"\0\0" + pack("!HHH", 0, 0, 0)) + frame(
    Frontend.EXECUTE, b"\0" + pack("!I", 0)
)
"""Bind and Execute of the unnamed statement, without parameters."""


def execution(sql: str) -> bytes:
    """Parse, Bind and Execute of a statement without parameters or a name."""
    return parse(b"", sql.encode()) + EXECUTION


OWN: Final = b"pga_own"


def aside(sql: bytes, *, unnamed: bool = True) -> tuple[bytes, bytes]:
    """A statement without parameters, executed beside whatever the session has prepared and opened.

    The messages up to its Execute (one that has failed may have left the name), and those that leave nothing
    behind: four and two, or with `unnamed` four, which end the unnamed portal and statement as a simple query
    does.
    """
    run = (
        close_statement(OWN)
        + parse(OWN, sql)
        + frame(Frontend.BIND, cstring(OWN) * 2 + pack("!HHH", 0, 0, 0))
        + frame(Frontend.EXECUTE, cstring(OWN) + pack("!I", 0))
    )
    close = frame(Frontend.CLOSE, b"P" + cstring(OWN)) + close_statement(OWN)
    if unnamed:
        close += frame(Frontend.CLOSE, b"P\0") + close_statement(b"")
    return run, close


def parse(name: bytes, sql: bytes, oids: Sequence[int] = ()) -> bytes:
    types = pack(f"!H{len(oids)}I", len(oids), *oids)
    return frame(Frontend.PARSE, cstring(name) + cstring(sql) + types)


def describe_statement(name: bytes) -> bytes:
    return frame(Frontend.DESCRIBE, b"S" + cstring(name))


def close_statement(name: bytes) -> bytes:
    return frame(Frontend.CLOSE, b"S" + cstring(name))


def password_message(secret: bytes) -> bytes:
    return frame(Frontend.PASSWORD, cstring(secret))


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    return frame(Frontend.PASSWORD, cstring(mechanism) + pack("!i", len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    return frame(Frontend.PASSWORD, data)


# --- to a client --------------------------------------------------------------------------------------------


def _authentication(kind: int, rest: bytes = b"") -> bytes:
    return pack("!Bii", Backend.AUTHENTICATION, 8 + len(rest), kind) + rest


_OK: Final = _authentication(Authentication.OK)


def authentication_ok() -> bytes:
    return _OK


def authentication_cleartext() -> bytes:
    return _authentication(Authentication.CLEARTEXT_PASSWORD)


def authentication_md5(salt: bytes) -> bytes:
    return _authentication(Authentication.MD5_PASSWORD, salt)


def authentication_sasl(mechanisms: Iterable[str]) -> bytes:
    names = b"".join(cstring(name) for name in mechanisms)
    return _authentication(Authentication.SASL, names + b"\0")


def authentication_sasl_continue(data: bytes) -> bytes:
    return _authentication(Authentication.SASL_CONTINUE, data)


def authentication_sasl_final(data: bytes) -> bytes:
    return _authentication(Authentication.SASL_FINAL, data)


def parameter_status(name: str, value: str) -> bytes:
    return frame(Backend.PARAMETER_STATUS, cstring(name) + cstring(value))


def backend_key_data(pid: int, key: bytes) -> bytes:
    return pack("!BiI", Backend.BACKEND_KEY_DATA, 8 + len(key), pid & 0xFFFFFFFF) + key


def ready_for_query(status: bytes) -> bytes:
    return frame(Backend.READY_FOR_QUERY, status)


def negotiate_protocol_version(minor: int, options: Sequence[str]) -> bytes:
    # The manual speaks of the minor version; servers send, and libpq 18 checks, the whole number 3.minor.
    names = b"".join(cstring(name) for name in options)
    payload = pack("!ii", PROTOCOL_3_0 | minor, len(options)) + names
    return frame(Backend.NEGOTIATE_PROTOCOL_VERSION, payload)


def command_complete(tag: str) -> bytes:
    return frame(Backend.COMMAND_COMPLETE, cstring(tag))


def error_response(
    severity: str, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
) -> bytes:
    return frame(Backend.ERROR_RESPONSE, _report(severity, sqlstate, message, detail, hint))


def notice_response(
    severity: str, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
) -> bytes:
    return frame(Backend.NOTICE_RESPONSE, _report(severity, sqlstate, message, detail, hint))


def error_response_from(fields: Mapping[str, str]) -> bytes:
    """A server's own error again, field for field, as `parse.fields` read it."""
    return frame(Backend.ERROR_RESPONSE, _fields(fields))


def _report(severity: str, sqlstate: str, message: str, detail: str | None, hint: str | None) -> bytes:
    # S may be translated by a server, V (since 9.6) never is: drivers read V if it is there.
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": message}
    if detail is not None:
        fields["D"] = detail
    if hint is not None:
        fields["H"] = hint
    return _fields(fields)


def _fields(fields: Mapping[str, str]) -> bytes:
    parts = (encode(code) + encode(value).replace(b"\0", b"?") + b"\0" for code, value in fields.items())
    return b"".join(parts) + b"\0"
