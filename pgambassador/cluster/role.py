"""What a server is at the moment, and whether that is what `target_session_attrs` asks for.

Servers since 14 report it at the login; older ones, and poolers that pass on less, are asked.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgambassador.errors import ProtocolViolation, ServerRefused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Backend, Dialogue

_IN_RECOVERY = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'on' ELSE 'off' END"
_READ_ONLY = "SHOW transaction_read_only"
_MOST_FRAMES = 100


def mismatch(wanted: str, parameters: Mapping[str, str]) -> Dialogue[str | None]:
    """What speaks against a server that has just reported these parameters, or None; libpq's conditions."""
    match wanted:
        case "read-write" | "read-only":
            read_only = yield from _read_only(parameters)
            if read_only == (wanted == "read-only"):
                return None
            return "the session is read-only" if read_only else "the session is not read-only"
        case "primary" | "standby" | "prefer-standby":
            standby = yield from _standby(parameters)
            if standby == (wanted != "primary"):
                return None
            return "the server is a standby" if standby else "the server is not a standby"
        case _:
            return None


def _read_only(parameters: Mapping[str, str]) -> Dialogue[bool]:
    standby = parameters.get("in_hot_standby")
    by_default = parameters.get("default_transaction_read_only")
    if standby is not None and by_default is not None:
        return "on" in (standby, by_default)
    return (yield from _ask(_READ_ONLY)) == "on"


def _standby(parameters: Mapping[str, str]) -> Dialogue[bool]:
    value = parameters.get("in_hot_standby")
    if value is None:
        value = yield from _ask(_IN_RECOVERY)
    return value == "on"


def _ask(sql: str) -> Dialogue[str]:
    """The only value of a query's only row ("Simple Query")."""
    value = ""
    data = build.query(sql)
    for _ in range(_MOST_FRAMES):
        kind, payload = yield data
        data = b""
        match kind:
            case Backend.DATA_ROW:
                # Number of columns (2 bytes), length of the first (4 bytes), then its text.
                value = payload[6:].decode("ascii", "replace")
            case Backend.ERROR_RESPONSE:
                raise ServerRefused(parse.fields(payload))
            case Backend.READY_FOR_QUERY:
                return value
            case _:
                pass
    raise ProtocolViolation("the server does not come to an end of its answer")
