"""What the console may do beyond looking."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class ConsoleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the console may do."""

    faults: Annotated[
        bool,
        Meta(description="FAULT ADD makes things go wrong on purpose: for staging, never in production."),
    ] = False
