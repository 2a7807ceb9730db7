"""What happens while a server is away: the sections `failover` and `breaker`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from pgambassador.config.secret import Secret
from pgambassador.config.values import Duration

Attempts = Annotated[int, Meta(ge=1, le=1000)]


class Failover(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How connections are opened again, and how long clients are held meanwhile."""

    hold: Annotated[
        Duration | None,
        Meta(
            description="How long after a server was lost clients wait for it, or another one, to come back;"
            " off: they are told at once."
        ),
    ] = 10.0
    max_held: Annotated[
        int, Meta(ge=1, le=1_000_000, description="Clients of one pool that wait so at most.")
    ] = 1000
    attempts: Annotated[
        Attempts | None, Meta(description="Failed attempts after which nobody is held any longer.")
    ] = None
    first_pause: Annotated[
        Duration, Meta(description="The longest pause before the second attempt; it doubles each time.")
    ] = 0.05
    longest_pause: Annotated[Duration, Meta(description="The longest pause between attempts.")] = 2.0
    retry_share: Annotated[
        float,
        Meta(ge=0, le=1, description="Attempts after a failure, for each connection that was opened."),
    ] = 0.2
    retry_floor: Annotated[
        float,
        Meta(gt=0, le=10_000, description="Attempts after a failure that one server gets a second anyway."),
    ] = 10.0
    max_opening: Annotated[
        int,
        Meta(ge=1, le=10_000, description="Connections being opened to one server at the same time."),
    ] = 50
    opening_rate: Annotated[
        float, Meta(gt=0, le=100_000, description="Connections opened to one server a second at most.")
    ] = 500.0
    quiet: Annotated[
        Duration | None,
        Meta(
            description="After so long without a byte from a server that works for somebody it is asked"
            " whether it lives; off: never."
        ),
    ] = 15.0
    offline_logins: Annotated[
        bool,
        Meta(
            description="While a server is away that was not reached since the start, logins are answered"
            " with what it has said of itself last; needs state."
        ),
    ] = False


class Breaker(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a server counts as sick, and gets one attempt at a time."""

    failures: Annotated[
        int, Meta(ge=1, le=1000, description="Failures in a row that open the breaker of a server.")
    ] = 5
    share: Annotated[
        float, Meta(gt=0, le=1, description="So does this share of failures within the window.")
    ] = 0.5
    volume: Annotated[int, Meta(ge=1, le=10_000, description="If there were so many attempts within it.")] = (
        10
    )
    window: Annotated[Duration, Meta(description="The window.")] = 10.0
    slow: Annotated[
        Duration | None, Meta(description="An attempt that takes longer counts as a failure; off: never.")
    ] = None
    first_pause: Annotated[Duration, Meta(description="How long it stays open, longer each time.")] = 1.0
    longest_pause: Annotated[Duration, Meta(description="And at most.")] = 30.0
    trials: Annotated[
        int,
        Meta(ge=1, le=100, description="Connections that are tried at once before it closes again."),
    ] = 3
    store: Annotated[
        Secret | None,
        Meta(
            description="redis://USER:PASSWORD@HOST:PORT/DATABASE, also rediss:// (TLS) or unix://: what the"
            " ambassadors of a fleet tell one another of sick servers; needs pip install"
            " 'pgambassador[redis]'."
        ),
    ] = None
    dry_run: Annotated[bool, Meta(description="Only count and log; nobody is turned away.")] = False
