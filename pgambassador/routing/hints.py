"""What comments ask for: `/* pgambassador: primary */`, `-- pgambassador: replica, max_lag=2s, timeout=1min`.

1. A hint is a comment of its own that begins with the word; several are separated by commas.
2. Comments are those that PostgreSQL's own scanner finds: nothing in a string, a quoted name or between
   dollar signs is a hint.
3. Words that are not known are ignored, and named to whoever asks why.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from pgambassador.config.values import seconds

Target = Literal["primary", "replica", "any"]
_HINT: Final = re.compile(r"(?ai)\s*pgambassador\s*:(.*)", re.DOTALL)
_SHOWN_MOST: Final = 40
_WORDS_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Hints:
    """`route` is None where no comment names one; seconds, of timeouts also infinity: `off`."""

    route: Target | None = None
    max_lag: float | None = None
    idempotent: bool = False
    cache: float | None = None
    timeout: float | None = None
    wait_timeout: float | None = None
    unknown: tuple[str, ...] = ()


NONE: Final = Hints()


def may_hint(text: str) -> bool:
    return "pgambassador" in text.lower()


def among(comments: Iterable[str]) -> Hints:
    """Of several routes the most careful one counts; of several durations the shortest."""
    routes: set[str] = set()
    lags: list[float] = []
    caches: list[float] = []
    timeouts: dict[str, float] = {}
    unknown: list[str] = []
    idempotent = False
    for comment in islice(comments, _WORDS_MOST):
        match = _HINT.fullmatch(comment)
        for word in match[1].split(",", _WORDS_MOST)[:_WORDS_MOST] if match else ():
            name, _, value = (part.strip() for part in word.partition("="))
            length = seconds(value)
            if name.lower() in ("primary", "replica", "any") and not value:
                routes.add(name.lower())
            elif name.lower() == "idempotent" and not value:
                idempotent = True
            elif name.lower() == "max_lag" and length:
                lags.append(length)
            elif name.lower() == "cache" and length:
                caches.append(length)
            elif name.lower() in ("timeout", "wait_timeout") and (length or value.lower() == "off"):
                timeouts[name.lower()] = min(length or math.inf, timeouts.get(name.lower(), math.inf))
            else:
                unknown.append(word.strip()[:_SHOWN_MOST])
    route: Target | None = None
    if routes:
        route = "primary" if "primary" in routes else "any" if "any" in routes else "replica"
    return Hints(
        route,
        min(lags, default=None),
        idempotent,
        min(caches, default=None),
        timeouts.get("timeout"),
        timeouts.get("wait_timeout"),
        tuple(unknown[:3]),
    )
