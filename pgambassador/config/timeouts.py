"""How long a client's work may take: the section `timeouts`, for everybody, a database or a user.

1. What a session has set for itself wins over what is said of its user, that over what is said of its
   database, and that over what is said of everybody.
2. They are those of clients: databases and users are the names that clients give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pgambassador.config.values import Duration, seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "pgambassador."
_SUFFIX: Final = "_timeout"
_WAIT: Final = "wait_timeout"


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds; None: as long as it takes."""

    statement: Annotated[
        Duration | None, Meta(description="A statement that a server has for longer is cancelled.")
    ] = None
    transaction: Annotated[
        Duration | None, Meta(description="A client whose transaction takes longer is disconnected.")
    ] = None
    idle_in_transaction: Annotated[
        Duration | None,
        Meta(description="A client that says nothing for longer in a transaction is disconnected."),
    ] = None
    idle_client: Annotated[
        Duration | None,
        Meta(description="A client that says nothing for longer outside of a transaction is disconnected."),
    ] = None


class TimeoutOverrides(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The same keys as `timeouts`; what is left out is inherited."""

    statement: Duration | UnsetType | None = UNSET
    transaction: Duration | UnsetType | None = UNSET
    idle_in_transaction: Duration | UnsetType | None = UNSET
    idle_client: Duration | UnsetType | None = UNSET

    def over(self, base: Timeouts) -> Timeouts:
        if self == _INHERITED:
            return base
        written = {name: getattr(self, name) for name in self.__struct_fields__}
        return msgspec.structs.replace(base, **{k: v for k, v in written.items() if v is not UNSET})


_INHERITED = TimeoutOverrides()


class UserPool(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of the keys of `pool` those that may differ for a user."""

    wait_timeout: Duration | UnsetType | None = UNSET


class Allowance(msgspec.Struct, frozen=True):
    """What one client may take; `wait` for a server connection, None: as long as it takes. `wait_option` is
    where that is written."""

    timeouts: Timeouts = Timeouts()
    wait: float | None = None
    wait_option: str = "pool.wait_timeout"

    def asked(self, settings: Mapping[str, str]) -> Allowance:
        """With what a session has set for itself. Zero is `off`, as for the server's own timeouts; what is no
        duration counts for nothing: a server takes any value for such a parameter."""
        found: dict[str, float | None] = {}
        for name in _ASKED:
            text = settings.get(f"{PREFIX}{name}", "")
            if (length := seconds(text)) is not None or text.lower() == "off":
                found[name.removesuffix(_SUFFIX)] = length or None
        if not found:
            return self
        waits = {"wait": found.pop("wait"), "wait_option": f"{PREFIX}{_WAIT}"} if "wait" in found else {}
        return msgspec.structs.replace(
            self, timeouts=msgspec.structs.replace(self.timeouts, **found), **waits
        )


_ASKED: Final = (*(name + _SUFFIX for name in Timeouts.__struct_fields__), _WAIT)
