"""How many clients there are of each kind that a limit is set for: of a database, of a user, from an address.

1. What is taken is given back, once, however the client ends.
2. Only what somebody holds is remembered: names come from clients.
"""

from __future__ import annotations

from collections import Counter

Kind = tuple[str, str]
"""What is counted, and the name of the one: ("database", "shop")."""


class Census:
    """The counts of one process."""

    def __init__(self) -> None:
        self.counts: Counter[Kind] = Counter()

    def stay(self) -> Stay:
        return Stay(self.counts)

    def __repr__(self) -> str:
        return f"<Census of {len(self.counts)}>"


class Stay:
    """What one client takes."""

    def __init__(self, counts: Counter[Kind] | None = None) -> None:
        self._counts: Counter[Kind] = Counter() if counts is None else counts
        self._taken: list[Kind] = []

    def take(self, kind: Kind, most: int | None) -> bool:
        """One of `most`; False if there is none left."""
        if most is None:
            return True
        if self._counts[kind] >= most:
            return False
        self._counts[kind] += 1
        self._taken.append(kind)
        return True

    def leave(self) -> None:
        for kind in self._taken:
            self._counts[kind] -= 1
            if not self._counts[kind]:
                del self._counts[kind]
        self._taken.clear()

    def __repr__(self) -> str:
        return f"<Stay {self._taken}>"
