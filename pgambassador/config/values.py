"""Durations and sizes as people write them."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

Duration = Annotated[
    float,
    Meta(
        extra_json_schema={"type": ["number", "string"], "examples": ["250ms", "5s", "10min"]},
        extra={"kind": "duration"},
    ),
]
"""Seconds, above zero."""

DurationOrZero = Annotated[
    float,
    Meta(
        extra_json_schema={"type": ["number", "string"], "examples": [0, "250ms", "5s"]},
        extra={"kind": "duration or zero"},
    ),
]
"""Seconds; zero has a meaning of its own."""

Size = Annotated[
    int,
    Meta(
        extra_json_schema={"type": ["integer", "string"], "examples": ["64KiB", "1MiB"]},
        extra={"kind": "size"},
    ),
]
"""Bytes, above zero."""

Names = Annotated[
    tuple[str, ...],
    Meta(min_length=1, extra_json_schema={"type": ["array", "string"]}, extra={"kind": "names"}),
]
"""One name, or a list of them."""

_NUMBER = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-zµ]*)")
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "sec": 1.0}
_SECONDS |= {"min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_BYTES |= {"kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}  # PostgreSQL's own reading of kB and MB

DURATION_WORDS = "a duration such as 250ms, 5s, 10min or 1h"
SIZE_WORDS = "a size such as 64KiB or 1MiB"


def seconds(value: object) -> float | None:
    """None where the value is no duration."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if 0 <= value < 1e10 else None
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2] not in _SECONDS:
        return None
    found = float(match[1]) * _SECONDS[match[2]]
    return found if found < 1e10 else None


def octets(value: object) -> int | None:
    """None where the value is no size."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if value >= 0 else None
    match = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _BYTES:
        return None
    return int(float(match[1]) * _BYTES[match[2].lower()])
