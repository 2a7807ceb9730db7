"""What is known about one client, for logs, errors and the policy of its pool."""

from __future__ import annotations

from dataclasses import dataclass

from pgambassador.protocol.settings import Settings


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
    told_of_waiting: bool = False
    reset: bool = False
    """Whether the last command that concerned the session was a RESET."""
