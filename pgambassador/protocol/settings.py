"""What a client's session has set, and the SQL that brings a server connection into that state.

1. A `Settings` is immutable and interned: two sessions with the same settings hold the same object, so that
   the hot path compares identities.
2. Names are compared in lower case, as PostgreSQL does; values are kept as the server spells them.
3. Values go through set_config(), which takes them as a start packet would (`SET search_path = 'a, b'` would
   mean one schema). They are written as E'' strings, which read the same whatever
   standard_conforming_strings says.
4. A state that differs is reached as a whole or not at all. `switch` is one simple query; `fence` is a
   transaction in the extended protocol without a Sync: if it fails, nothing behind it is executed (manual:
   "Pipelining").
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar, Final
from weakref import WeakValueDictionary

from pgambassador.protocol.options import truth
from pgambassador.wire import build

# Reported by servers, but not to be set: they describe the server, or follow from something else.
FIXED: Final = frozenset(
    {
        "server_version",
        "server_encoding",
        "integer_datetimes",
        "in_hot_standby",
        "is_superuser",
        "session_authorization",
    }
)
# A server takes these from a start packet alone (manual: "Parameter Interaction via Client", PGC_BACKEND).
AT_START: Final = frozenset(
    {
        "ignore_system_indexes",
        "jit_debugging_support",
        "jit_profiling_support",
        "log_connections",
        "log_disconnections",
        "post_auth_delay",
    }
)
_NUMBERS: Final = frozenset({"post_auth_delay"})
# What set_config() refuses or what depends on all the rest comes last, in this order.
_LAST: Final = ("session_authorization", "role")
_RESET: Final = {"session_authorization": "RESET SESSION AUTHORIZATION", "role": "RESET ROLE"}
# Text may be in another encoding than the one before.
_FIRST: Final = ("client_encoding",)
_AT_ONCE: Final = 1000
# Whatever the client before has made the default: a deferrable transaction would wait for others.
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED, NOT DEFERRABLE"
# How a statement is understood does not depend on these.
_MEANINGLESS: Final = ("application_name", "statement_timeout", "lock_timeout")
# What a constant means, and what an operator, is decided by these when a statement is parsed.
_READ: Final = (
    *("datestyle", "intervalstyle", "timezone", "lc_monetary", "xmloption", "array_nulls"),
    *("standard_conforming_strings", "transform_null_equals", "default_text_search_config"),
)
# Larger ones, which a client may make at will, are not remembered.
_KEEP: Final = 2048
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte not in b"\\'")
_WRITTEN: Final = [chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in range(256)]
LARGE: Final = 1024 * 1024
"""Bytes of what a session may set and still be moved from one server connection to another."""
MANY: Final = 2000
"""Parameters of that."""


class Settings:
    """An immutable set of parameters; make one with `Settings.of`."""

    __slots__ = ("__weakref__", "_essence", "size", "values")
    values: dict[str, str]
    size: int
    _essence: tuple[tuple[str, str], ...] | None
    _known: ClassVar[WeakValueDictionary[tuple[tuple[str, str], ...], Settings]] = WeakValueDictionary()

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Settings:
        """The one object for these parameters."""
        key = tuple(sorted((name.lower(), value) for name, value in values.items()))
        known = cls._known.get(key)
        if known is None:
            known = cls()
            known.values = dict(key)
            known._essence = None
            known.size = sum(len(name) + len(value) for name, value in key)
            cls._known[key] = known
        return known

    def with_value(self, name: str, value: str | None) -> Settings:
        """With one parameter changed, or None: left to the server."""
        values = dict(self.values)
        if value is None:
            values.pop(name.lower(), None)
        else:
            values[name.lower()] = value
        return Settings.of(values)

    def without(self, name: str) -> Settings:
        return self.with_value(name, None)

    @property
    def essence(self) -> Settings:
        """What may change the meaning of a statement."""
        if self._essence is None:
            kept = {name: value for name, value in self.values.items() if name not in _MEANINGLESS}
            self._essence = tuple(kept.items())
        return self if len(self._essence) == len(self.values) else Settings.of(dict(self._essence))

    def divided(self) -> tuple[Settings, tuple[tuple[str, str], ...]]:
        """What can be set at any time, and what a server connection must begin with, in one spelling."""
        if AT_START.isdisjoint(self.values):
            return self, ()
        fixed = tuple((name, _plain(name, value)) for name, value in self.values.items() if name in AT_START)
        return Settings.of({k: v for k, v in self.values.items() if k not in AT_START}), fixed

    @property
    def large(self) -> bool:
        """Whether bringing a server connection into this state would keep everybody waiting."""
        return self.size > LARGE or len(self.values) > MANY

    def __repr__(self) -> str:
        return f"<Settings {' '.join(self.values) or 'none'}>"


def _plain(name: str, value: str) -> str:
    """The usual spelling of a parameter from AT_START; what is no value for it stays as it is."""
    if name in _NUMBERS:
        number = value.strip(" ")
        return (
            number
            if number.isdecimal() and number.isascii() and (number[0] != "0" or number == "0")
            else value
        )
    meaning = truth(value)
    return value if meaning is None else "on" if meaning else "off"


def literal(text: str) -> str:
    """A string constant that means the same under any standard_conforming_strings and client_encoding.

    Every byte that is not plain ASCII is escaped: an escape is a byte in the server's encoding, as each
    byte of a start packet is.
    """
    data = build.encode(text)
    if data.translate(None, _PLAIN):
        return f"E'{''.join(map(_WRITTEN.__getitem__, data))}'"
    return f"E'{data.decode('ascii')}'"


def effective(settings: Settings, defaults: Settings) -> Settings:
    """The settings without those that a server connection has by itself, as its login said."""
    return (_effective_remembered if settings.size <= _KEEP else _effective)(settings, defaults)


def _effective(settings: Settings, defaults: Settings) -> Settings:
    own = defaults.values
    same = [name for name, value in settings.values.items() if own.get(name) == value]
    return Settings.of({k: v for k, v in settings.values.items() if k not in same}) if same else settings


_effective_remembered = lru_cache(maxsize=1024)(_effective)


def switch(before: Settings | None, after: Settings) -> bytes:
    """The simple query that leads from one state to another, b"" if there is nothing to do.

    `before` is None when the server connection's state is not known: everything is reset first.
    """
    statements = _statements(before, after)
    return build.query(";".join(statements)) if statements else b""


def fence(before: Settings | None, after: Settings) -> tuple[bytes, int]:
    """Extended messages that lead from one state to another, and how many statements they execute."""
    if after.size > _KEEP or (before is not None and before.size > _KEEP):
        return _fence(before, after)
    return _remembered(before, after)


def _fence(before: Settings | None, after: Settings) -> tuple[bytes, int]:
    statements = _statements(before, after)
    if not statements:
        return b"", 0
    return _transaction(statements)


def _transaction(statements: list[str]) -> tuple[bytes, int]:
    """Extended messages for a transaction of its own, and how many statements they execute."""
    statements = [_BEGIN, *statements, "COMMIT"]
    return b"".join(map(build.execution, statements)), len(statements)


_remembered = lru_cache(maxsize=1024)(_fence)

FORGET_WITHIN: Final = (build.execution("DISCARD SEQUENCES"), 1)
"""Behind it currval() is an error; for the midst of a part of a pipeline."""
FORGET_SEQUENCES: Final = _transaction(["DISCARD SEQUENCES"])
"""The same as from `fence`. Without its own end a simple query behind it would stay in a transaction."""


def _statements(before: Settings | None, after: Settings) -> list[str]:
    statements: list[str] = []
    if before is None:
        statements += ["RESET SESSION AUTHORIZATION", "RESET ROLE", "RESET ALL"]
        old: Mapping[str, str] = {}
    else:
        if before is after:
            return []
        old = before.values
        # Who it is now might not be allowed to set the rest, and resetting the one also resets the other.
        statements += [_RESET[name] for name in reversed(_LAST) if name in old]
        # A null value means what the server connection began with.
        gone = sorted((name for name in old if name not in after.values), key=_order, reverse=True)
        statements += _set([(name, "NULL") for name in gone if name not in _RESET])
    changed = [name for name, value in after.values.items() if name in _LAST or old.get(name) != value]
    statements += _set([(name, literal(after.values[name])) for name in sorted(changed, key=_order)])
    return statements


def _set(values: list[tuple[str, str]]) -> list[str]:
    """SELECTs whose columns are computed from left to right; a server takes up to 1664 of them."""
    calls = [f"pg_catalog.set_config({literal(name)}, {value}, false)" for name, value in values]
    return [f"SELECT {', '.join(calls[i : i + _AT_ONCE])}" for i in range(0, len(calls), _AT_ONCE)]


def read_as(then: Settings, now: Settings) -> tuple[bytes, bytes] | None:
    """Statements that have what is parsed between them read as under other settings, for the rest of the
    transaction at most; None where it means the same."""
    names = [name for name in _READ if then.values.get(name) != now.values.get(name)]
    if not names:
        return None
    before, after = (
        ", ".join(
            f"pg_catalog.set_config({literal(name)},"
            f" {'NULL' if name not in of.values else literal(of.values[name])}, true)"
            for name in names
        )
        for of in (then, now)
    )
    return f"SELECT {before}".encode(), f"SELECT {after}".encode()


def _order(name: str) -> tuple[int, str]:
    if name in _FIRST:
        return (0, name)
    return (2 + _LAST.index(name), name) if name in _LAST else (1, name)
