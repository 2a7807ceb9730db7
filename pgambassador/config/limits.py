"""Limits of what clients ask: how often, and who comes first where they have to wait."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from pgambassador.config.values import Names

Priority = Literal["low", "normal", "high"]
RANKS: Final = {"low": -1, "normal": 0, "high": 1}


class Whom(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which clients are meant; what is left out matches all."""

    user: Annotated[Names, Meta(description="Names of users, or `all`.")] = ("all",)
    database: Annotated[Names, Meta(description="Names of databases, or `all`.")] = ("all",)
    application_name: Annotated[Names, Meta(description="Names of applications, or `all`.")] = ("all",)

    def concerns(self, user: str, database: str, application_name: str) -> bool:
        return (
            _among(user, self.user)
            and _among(database, self.database)
            and _among(application_name, self.application_name)
        )


class What(Whom, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which clients, and which of their statements."""

    fingerprint: Annotated[
        Names, Meta(description="Fingerprints of statements as `pgambassador explain` prints them, or `all`.")
    ] = ("all",)

    @property
    def picks(self) -> bool:
        """Whether it depends on the statement."""
        return "all" not in self.fingerprint

    def means(self, mark: str) -> bool:
        """Whether a statement with this fingerprint is among them."""
        return not self.picks or mark.lower() in map(str.lower, self.fingerprint)


class RateRule(What, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many statements those clients may ask together."""

    rate: Annotated[float, Meta(ge=0.001, le=1_000_000, description="Statements a second.")]
    burst: Annotated[
        Annotated[int, Meta(ge=1, le=10_000_000)] | None,
        Meta(description="So many at once after a pause; left out: those of a second."),
    ] = None


class PriorityRule(Whom, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who comes first where clients wait for a server connection."""

    priority: Annotated[Priority, Meta(description="low, normal or high.")]


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of what clients ask."""

    rates: Annotated[tuple[RateRule, ...], Meta(description="Each that matches is kept.")] = ()
    priorities: Annotated[tuple[PriorityRule, ...], Meta(description="The first that matches counts.")] = ()

    def rank(self, user: str, database: str, application_name: str) -> int:
        """-1 is low, 0 normal, 1 high."""
        for rule in self.priorities:
            if rule.concerns(user, database, application_name):
                return RANKS[rule.priority]
        return 0


def _among(name: str, names: tuple[str, ...]) -> bool:
    return "all" in names or name in names
