"""Where statements go: the section `routing` of a cluster."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pgambassador.config.cache import Cache
from pgambassador.config.discovery import Discovery, HostsDiscovery
from pgambassador.config.limits import What
from pgambassador.config.values import Duration

Route = Literal["primary", "replica", "any"]
Consistency = Literal["session", "global", "bounded", "eventual"]
Balance = Literal["least-outstanding", "round-robin", "weighted", "response-time"]


class RouteRule(What, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which clients or statements it is for, and where those go; what is left out matches all."""

    route: Annotated[
        Route | None, Meta(description="primary, replica, or any: as the statement itself wants.")
    ] = None
    idempotent: Annotated[
        bool,
        Meta(description="They may be executed twice, if their server connection is lost or they conflict."),
    ] = False


class Functions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What functions do, where the database's catalog does not say."""

    read: Annotated[
        tuple[str, ...], Meta(description="Functions that only read, whatever the catalog says.")
    ] = ()
    write: Annotated[
        tuple[str, ...], Meta(description="Functions that need the primary, whatever the catalog says.")
    ] = ()


class Probe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How servers are watched: each over one connection of its own."""

    interval: Annotated[
        Duration,
        Meta(
            description="How often a server is asked for its role and position; more often while reads wait."
        ),
    ] = 1.0
    timeout: Annotated[Duration, Meta(description="A server that has not answered by then is unwell.")] = 2.0
    assumed_lag: Annotated[
        Duration | None,
        Meta(
            description="How far a replica may be behind whose position cannot be told; left out: reads that"
            " have to be fresh do not go there."
        ),
    ] = None


class Routing(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which statements go to replicas, and when."""

    reads: Annotated[
        Literal["replicas", "primary"],
        Meta(
            description="Where reads go. It matters where the URL has several hosts, or discovery finds them."
        ),
    ] = "replicas"
    consistency: Annotated[
        Consistency,
        Meta(
            description="What a read sees for certain. session: what its session has written; global: what"
            " any client here has written; bounded: what is older than max_lag; eventual: whatever is there."
        ),
    ] = "session"
    max_lag: Annotated[Duration, Meta(description="A replica that lags more is left out.")] = 10.0
    without_replica: Annotated[
        Literal["primary", "error"], Meta(description="Where reads go while no replica will do.")
    ] = "primary"
    balance: Annotated[Balance, Meta(description="How one of several replicas is chosen.")] = (
        "least-outstanding"
    )
    weights: Annotated[
        dict[str, Annotated[float, Meta(ge=0, le=1000)]],
        Meta(description="HOST:PORT and its share, 1 if left out; 0: no new statements."),
    ] = {}
    zone: Annotated[
        str | None, Meta(description="Where pgambassador itself is: replicas there come first.")
    ] = None
    zones: Annotated[dict[str, str], Meta(description="HOST:PORT and where it is.")] = {}
    discovery: Annotated[Discovery, Meta(description="How the cluster's servers are found.")] = (
        HostsDiscovery()
    )
    probe: Annotated[Probe, Meta(description="How servers are watched.")] = Probe()
    functions: Annotated[
        Functions, Meta(description="What functions do, where the catalog does not say.")
    ] = Functions()
    rules: Annotated[tuple[RouteRule, ...], Meta(description="The first that matches counts.")] = ()
    cache: Annotated[
        Cache | None, Meta(description="Answers that are kept for a while; left out: none are.")
    ] = None
    batching: Annotated[
        bool,
        Meta(description="Short reads of several waiting clients share one write to one server connection."),
    ] = True

    def rules_for(self, user: str, database: str, application_name: str) -> tuple[RouteRule, ...]:
        """Those for sessions of this kind."""
        return tuple(rule for rule in self.rules if rule.concerns(user, database, application_name))
