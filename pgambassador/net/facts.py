"""What is known about one client, for logs, errors and the policy of its pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgambassador.config import Allowance
from pgambassador.pool.census import Stay
from pgambassador.protocol.settings import Settings
from pgambassador.protocol.survey import NOTHING, Names

if TYPE_CHECKING:
    from pgambassador.net.parties import Statement

ORDINARY = Allowance()


@dataclass(slots=True)
class Facts:
    address: str
    user: str
    database: str
    application_name: str
    pid: int
    connected_at: float
    start: Settings
    """What its start packet has set: what RESET leads back to."""
    stay: Stay = field(default_factory=Stay)
    """What it takes of the limits for clients."""
    granted: Allowance = ORDINARY
    """How long its work may take by the configuration,"""
    allowance: Allowance = ORDINARY
    """and by what it has set for itself."""
    told: dict[str, str] = field(default_factory=dict)
    """The parameters as the client knows them. Never changed in place: logins share it."""
    told_of_waiting: bool = False
    doubts: Names = NOTHING
    """Which parameters the session may have set since a server was asked."""
    asked: Names = NOTHING
    """And which the question under way is about."""
    due: Names = NOTHING
    """Those of the doubts that are about what has been done for good."""
    vague: Names = NOTHING
    """Those that something else may have set than a SET,"""
    asked_vaguely: Names = NOTHING
    """and those of these which the question under way is about."""
    parsed: list[Statement] = field(default_factory=list)
    """What it has prepared while a server was asked."""
    saying: dict[str, tuple[int | None, str | None]] | None = None
    """What SETs say that may still be undone: which answer makes each last, and its value if it is plain."""
    said: dict[str, str | None] | None = None
    """And what those have said that are done for good, since a server was asked."""
    failures: int = 0
    """How often that question has failed in a row."""
    ties: frozenset[str] = frozenset()
    """What ties the session to its server connection, as the server has said."""
    ties_told: frozenset[str] = frozenset()
    """What the log has been told of these."""
