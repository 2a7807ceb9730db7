"""What the watch shows of a server at this moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgambassador.routing.freshness import NEVER

if TYPE_CHECKING:
    from pgambassador.cluster.topology import Server
    from pgambassador.net.watch import Watch


class Standby:
    """A standby as it is now. `lag`: the seconds for which it has shown nothing newer, None if unknown."""

    def __init__(self, watch: Watch, server: Server) -> None:
        self._watch = watch
        self.server = server

    @property
    def well(self) -> bool:
        return self.server.well

    @property
    def weight(self) -> float:
        return self.server.weight

    @property
    def fresh_until(self) -> float:
        return self._watch.freshness.fresh_until(self.server.endpoint)

    def lag(self, now: float) -> float | None:
        fresh = self.fresh_until
        return now - fresh if fresh != NEVER else None

    def __repr__(self) -> str:
        return f"<Standby {self.server.endpoint} well={self.well} fresh_until={self.fresh_until:.3f}>"


class Seen(NamedTuple):
    """A server with what the watch counts. `lag`: seconds for which it has shown nothing newer."""

    server: Server
    lag: float | None
    probes: int
    failures: int
