"""What objects say about themselves: plain attributes, which the metrics read at every scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pgambassador.auth.expiry import Ending


class PoolStats(Protocol):
    """What a pool says about itself. Histograms are counts for each bucket, not cumulated."""

    @property
    def cluster(self) -> str: ...
    @property
    def database(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def size(self) -> int:
        """Server connections at most."""
        ...

    @property
    def idle(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def opening(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def sessions(self) -> int: ...
    @property
    def queries(self) -> int: ...
    @property
    def transactions(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def bytes_received(self) -> int:
        """From clients, for the server."""
        ...

    @property
    def bytes_sent(self) -> int:
        """To clients, from the server."""
        ...

    @property
    def connects(self) -> int: ...
    @property
    def connect_failures(self) -> int: ...
    @property
    def wait_timeouts(self) -> int: ...
    @property
    def shed(self) -> int: ...
    @property
    def cancels(self) -> int: ...
    @property
    def query_seconds(self) -> float: ...
    @property
    def wait_seconds(self) -> float: ...
    @property
    def replica_queries(self) -> int:
        """Of `queries` those that a replica has answered."""
        ...

    @property
    def stale(self) -> int:
        """Reads for which no replica was fresh enough."""
        ...

    @property
    def without_replica(self) -> int:
        """Reads for which no replica could be used at all."""
        ...

    @property
    def batches(self) -> int: ...
    @property
    def batched(self) -> int: ...
    @property
    def repeated(self) -> int: ...
    @property
    def recalled(self) -> int:
        """Of `queries` those that were answered from the cache."""
        ...

    @property
    def verdicts(self) -> int: ...
    @property
    def judged(self) -> int: ...
    @property
    def held(self) -> int:
        """Clients that wait for a server that is away."""
        ...

    @property
    def paused(self) -> int: ...
    @property
    def dismissed(self) -> int:
        """Clients that were told that there is no server connection for them."""
        ...

    @property
    def query_histogram(self) -> Sequence[int]: ...
    @property
    def wait_histogram(self) -> Sequence[int]: ...
    @property
    def closed(self) -> Mapping[str, int]:
        """Server connections that ended, by reason."""
        ...

    @property
    def pins(self) -> Mapping[str, int]:
        """Sessions that had to keep their server connection, by reason."""
        ...

    @property
    def timeouts(self) -> Mapping[str, int]:
        """What has taken too long, by the timeout's name; `unanswered`: cancel requests without effect."""
        ...

    @property
    def sessions_kept(self) -> int:
        """Sessions that went on after their server connection was lost."""
        ...

    @property
    def sessions_lost(self) -> int: ...
    @property
    def aftermath(self) -> Mapping[str, int]:
        """Statements whose server connection was lost, or refused through no fault of theirs, by outcome."""
        ...


class ServerStats(Protocol):
    """A server that is watched."""

    @property
    def endpoint(self) -> object: ...
    @property
    def role(self) -> str: ...
    @property
    def well(self) -> bool: ...
    @property
    def weight(self) -> float: ...


class SeenStats(Protocol):
    """`lag` in seconds, None if it is not known, or the server is no standby."""

    @property
    def server(self) -> ServerStats: ...
    @property
    def lag(self) -> float | None: ...
    @property
    def probes(self) -> int: ...
    @property
    def failures(self) -> int: ...


class WatchStats(Protocol):
    """What the watch over a cluster's servers says about itself and them."""

    @property
    def name(self) -> str: ...
    @property
    def discoveries(self) -> int: ...
    @property
    def discovery_failures(self) -> int: ...
    def servers(self) -> Iterable[SeenStats]: ...


class BreakerStats(Protocol):
    """`until` is when an open one lets the next attempt pass, by the monotonic clock."""

    @property
    def state(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def failures(self) -> int: ...
    @property
    def opened(self) -> int: ...


class BudgetStats(Protocol):
    @property
    def granted(self) -> int: ...
    @property
    def denied(self) -> int: ...


class ApproachStats(Protocol):
    """How connections to one server are opened."""

    @property
    def server(self) -> object: ...
    @property
    def breaker(self) -> BreakerStats: ...
    @property
    def retries(self) -> BudgetStats: ...
    @property
    def opening(self) -> int: ...


class ApproachesStats(Protocol):
    """Those to the servers of a cluster."""

    @property
    def cluster(self) -> str: ...
    def __iter__(self) -> Iterator[ApproachStats]: ...


class HearsayStats(Protocol):
    """What is shared with others of servers; counts of words, and of what went wrong with their store."""

    @property
    def up(self) -> bool: ...
    @property
    def told(self) -> int: ...
    @property
    def heard(self) -> int: ...
    @property
    def failures(self) -> int: ...


class CredentialStats(Protocol):
    """What a cluster's keyring says about itself; None where there is nothing yet, or no end."""

    @property
    def cluster(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def refreshes(self) -> int: ...
    @property
    def refresh_failures(self) -> int: ...
    @property
    def failing(self) -> int: ...
    @property
    def age(self) -> float | None: ...
    @property
    def expires(self) -> float | None: ...


class CacheStats(Protocol):
    """What the answers that a cluster keeps say about themselves."""

    @property
    def hits(self) -> int: ...
    @property
    def misses(self) -> int: ...
    @property
    def stored(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def invalidated(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def memory(self) -> int: ...
    def __len__(self) -> int: ...


class ProxyStats(Protocol):
    """What the process says about its clients, and its pools."""

    @property
    def clients(self) -> int: ...
    @property
    def logins(self) -> int: ...
    @property
    def login_failures(self) -> int: ...
    @property
    def rejected(self) -> Mapping[str, int]: ...
    @property
    def draining(self) -> bool: ...
    @property
    def caches(self) -> Mapping[str, CacheStats]:
        """Of the clusters that keep answers."""
        ...

    def endings(self) -> Iterable[Ending]:
        """When certificates end; the files are looked at."""
        ...

    def pools(self) -> Iterable[PoolStats]:
        """Those of this moment; asked anew at every scrape."""
        ...

    def credentials(self) -> Iterable[CredentialStats]:
        """One for each cluster."""
        ...

    @property
    def tolls(self) -> TollStats: ...
    @property
    def memory(self) -> MemoryStats: ...
    def approaches(self) -> Iterable[ApproachesStats]:
        """One for each cluster."""
        ...

    def watches(self) -> Iterable[WatchStats]:
        """One for each cluster whose servers are watched."""
        ...


class KeepsakeStats(Protocol):
    """What is kept on disk for the next start says about itself."""

    @property
    def in_use(self) -> Mapping[str, int]:
        """How much is gone by that was known last, by what it is."""
        ...

    @property
    def writes(self) -> int: ...
    @property
    def failures(self) -> int: ...


class TollStats(Protocol):
    """What is said of limits of what clients ask, and of faults on purpose."""

    @property
    def refused(self) -> Mapping[str, int]:
        """Statements that came too often, by rule."""
        ...

    @property
    def injected(self) -> Mapping[str, int]:
        """What has gone wrong on purpose, by kind."""
        ...

    @property
    def active(self) -> int:
        """Faults that are on."""
        ...


class MemoryStats(Protocol):
    """What is held for all clients together, and how many were ended because it was too much."""

    @property
    def held(self) -> int: ...
    @property
    def ended(self) -> int: ...


class LogStats(Protocol):
    """What the query log says about itself."""

    @property
    def written(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def failed(self) -> int: ...
