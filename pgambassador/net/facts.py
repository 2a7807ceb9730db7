"""What is known about one client, for logs, errors and the policy of its pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Facts:
    address: str
    user: str
    database: str
    application_name: str
    pid: int
    connected_at: float
    told_of_waiting: bool = False
