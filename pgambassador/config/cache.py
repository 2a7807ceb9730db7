"""Which answers are kept: the section `cache` of a cluster's routing."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from pgambassador.config.values import Duration, Names, Size


class CacheRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which reads it is for, and how long their answers are kept; what is left out matches all."""

    tables: Annotated[
        Names, Meta(description="Names of tables and views, or `all`: reads that name no others.")
    ] = ("all",)
    fingerprint: Annotated[
        Names, Meta(description="Fingerprints of statements as `pgambassador explain` prints them, or `all`.")
    ] = ("all",)
    ttl: Annotated[Duration, Meta(description="For how long an answer may be given again.")]


class Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Answers to reads that are kept for a while. Without this section there are none."""

    memory: Annotated[Size, Meta(description="What the answers of a cluster may take together.")] = 64 << 20
    rules: Annotated[
        tuple[CacheRule, ...],
        Meta(description="The first that matches counts; a hint (`cache=5s`) needs none."),
    ] = ()
