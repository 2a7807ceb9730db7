"""One pool's numbers, as the metrics read them: those that grow with each statement are the lane's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgambassador.net.keeper import Keeper


class Numbers:
    """A picture of a keeper at this moment."""

    def __init__(self, keeper: Keeper) -> None:
        lane = keeper.lane
        self.cluster, self.database, self.user = keeper.cluster, keeper.database, keeper.user
        self.size = keeper.config.size
        self.idle = len(lane.idle)
        self.active = lane.active
        self.opening = keeper.opening
        self.waiting = lane.waiting
        self.sessions = len(keeper.clients)
        self.queries = lane.queries
        self.transactions = lane.transactions
        self.errors = lane.errors
        self.bytes_received = lane.bytes_received
        self.bytes_sent = lane.bytes_sent
        self.connects = keeper.connects
        self.connect_failures = keeper.connect_failures
        self.wait_timeouts = keeper.wait_timeouts
        self.cancels = keeper.cancels
        self.query_seconds = lane.query_seconds
        self.wait_seconds = lane.wait_seconds
        self.query_histogram = lane.query_histogram
        self.wait_histogram = lane.wait_histogram
        self.closed: Mapping[str, int] = keeper.closed
        self.pins: Mapping[str, int] = keeper.pins
