"""Certificates that end soon, and when to speak of it.

1. One certificate is spoken of once a day at most, from two weeks before its end on, and after it as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, NamedTuple

DAY: Final = 86_400.0
AHEAD: Final = 14 * DAY


class Ending(NamedTuple):
    """`cluster` is "" for what clients are shown; `option` is where the file is named; `at` is in seconds
    since 1970."""

    cluster: str
    option: str
    at: float


class Reminder:
    def __init__(self) -> None:
        self._said: dict[Ending, float] = {}

    def due(self, endings: Iterable[Ending], now: float) -> list[str]:
        """A sentence for each that is to be spoken of now."""
        sentences = []
        said = {}
        for ending in endings:
            last = self._said.get(ending)
            if ending.at - now < AHEAD and (last is None or now - last >= DAY):
                sentences.append(sentence(ending, now))
                last = now
            if last is not None:
                said[ending] = last
        self._said = said
        return sentences

    def __repr__(self) -> str:
        return f"<Reminder of {len(self._said)}>"


def sentence(ending: Ending, now: float) -> str:
    whose = f"cluster {ending.cluster}: the" if ending.cluster else "the"
    days = int(abs(ending.at - now) // DAY)
    if ending.at <= now:
        when = f"ended on {day(ending.at)}"
    else:
        when = f"ends on {day(ending.at)}, in {days} day{'' if days == 1 else 's'}"
    return f"{whose} certificate in the file of {ending.option} {when}; renew it"


def day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
