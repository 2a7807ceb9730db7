"""Whose time may be up: each member stands at the moment when it is to be looked at.

1. A member stands at one moment at most. It comes out then or up to `width` later, never before.
2. Entering, leaving and looking cost the same however many there are. Who should be looked at later than it
   stands need not be moved: it is looked at in vain, and enters again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Wheel(Generic[T]):
    """`width`: seconds that share a slot."""

    def __init__(self, width: float) -> None:
        self._width = width
        self._slots: dict[int, set[T]] = {}
        self._slot_of: dict[T, int] = {}
        self._next = 0

    def put(self, who: T, at: float) -> None:
        """Look at it then, and not when it was to be looked at until now."""
        self.discard(who)
        slot = max(math.ceil(at / self._width), self._next)
        self._slots.setdefault(slot, set()).add(who)
        self._slot_of[who] = slot

    def discard(self, who: T) -> None:
        slot = self._slot_of.pop(who, None)
        if slot is not None:
            members = self._slots[slot]
            members.discard(who)
            if not members:
                del self._slots[slot]

    def due(self, now: float) -> list[T]:
        """Those whose moment has come, taken out."""
        last = math.floor(now / self._width)
        slots: Iterable[int] = range(self._next, last + 1)
        if last - self._next > len(self._slots):
            slots = [slot for slot in self._slots if slot <= last]
        self._next = max(self._next, last + 1)
        found = [who for slot in slots for who in self._slots.pop(slot, ())]
        for who in found:
            del self._slot_of[who]
        return found

    def __len__(self) -> int:
        return len(self._slot_of)

    def __repr__(self) -> str:
        return f"<Wheel {len(self._slot_of)} in {len(self._slots)} slots>"
