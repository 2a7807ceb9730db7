"""Every error we raise: whose fault it is, and how a client is told.

A server's own error is never translated: `ServerRefused` carries its fields as they came.
"""

from __future__ import annotations

from collections.abc import Mapping


class AmbassadorError(Exception):
    """The root. `message` is one sentence that names the cause; `hint` names the remedy."""

    sqlstate = "XX000"
    severity = "FATAL"
    delay = 0.0
    """So many seconds a client waits before it is told."""
    counted = False
    """Whether it has been taken note of as a failed login."""
    passing = False
    """Whether it says that a server is away, which may be over soon."""
    strange = False
    """Whether what came is nothing that a PostgreSQL server says: a wrong port, or the network."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        detail: str | None = None,
        sqlstate: str | None = None,
        severity: str | None = None,
        passing: bool | None = None,
        strange: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail
        if sqlstate is not None:
            self.sqlstate = sqlstate
        if severity is not None:
            self.severity = severity
        if passing is not None:
            self.passing = passing
        if strange is not None:
            self.strange = strange

    def sentence(self) -> str:
        """The message with its detail and hint, for a terminal or a log."""
        parts = [part for part in (self.message, self.detail, self.hint) if part]
        return " ".join(part if part.endswith((".", "?", "!")) else f"{part}." for part in parts)


class ProtocolViolation(AmbassadorError):
    """A peer broke the protocol."""

    sqlstate = "08P01"
    strange = True


class Refused(AmbassadorError):
    """We turn a client away: authentication, limits, shutting down."""

    sqlstate = "28000"


class Unreachable(AmbassadorError):
    """No usable connection to a server: network, TLS, timeouts."""

    sqlstate = "08001"


class ConfigError(AmbassadorError):
    """What the user wrote cannot be used. Fatal at start, harmless at reload."""

    sqlstate = "F0000"


_REMEDIES = {
    "28P01": "Correct user or password, in the URL or where it says that they are kept.",
    "28000": "Correct the user, or let it in with a line in the server's pg_hba.conf.",
    "3D000": "Correct the database's name, or create it.",
    "53300": "Make the pools smaller (pool.size), or raise max_connections of the server.",
    "57P03": "Wait until the server has started.",
}

_PASSING = frozenset(("57P01", "57P02", "57P03", "53300", "53400", "08001", "08006"))
"""admin_shutdown, crash_shutdown, cannot_connect_now, too_many_connections, configuration_limit_exceeded; and
what poolers say whose own server is away: sqlclient_unable_to_establish_sqlconnection, connection_failure."""


class ServerRefused(AmbassadorError):
    """The server answered a login with its own ErrorResponse; its fields pass on unchanged."""

    sqlstate = "08004"

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__(
            fields.get("M", "the server refused the connection without saying why"),
            hint=fields.get("H"),
            detail=fields.get("D"),
            sqlstate=fields.get("C"),
            severity="FATAL",
            passing=fields.get("C") in _PASSING,
        )
        self.fields = dict(fields)
        self.remedy = _REMEDIES.get(self.sqlstate)

    def sentence(self) -> str:
        """In the server's words; to a refused login they tell no remedy, for those who only guess."""
        return super().sentence() if self.hint or not self.remedy else f"{super().sentence()} {self.remedy}"
