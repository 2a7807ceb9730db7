"""What the compiled modules should do, in the plainest Python."""

from __future__ import annotations

from typing import Any

from pgambassador.errors import ProtocolViolation
from pgambassador.protocol import ledger
from pgambassador.wire import framing


class Framing:
    """`framing.Scanner`: the chunks that each read completes."""

    def __init__(self, needs: dict[int, int], limit: int, whole_limit: int) -> None:
        self.needs, self.limit, self.whole_limit = needs, limit, whole_limit
        self.kept = b""
        self.size = self.left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes, int]]:
        out = []
        rest = self.kept + data
        while rest:
            if self.left:
                kind = framing.CONTINUED
            elif len(rest) < framing.HEADER or len(rest) < self._head(rest):
                break
            else:
                kind = rest[0]
                self.size = self.left = 1 + int.from_bytes(rest[1:5], "big")
            chunk, rest = rest[: self.left], rest[self.left :]
            self.left -= len(chunk)
            out.append((kind, chunk, self.size))
        self.kept = rest
        return out

    def _head(self, rest: bytes) -> int:
        need, length = self.needs.get(rest[0], 0), int.from_bytes(rest[1:5], "big")
        whole = need == framing.WHOLE
        if need == 0 or not 4 <= length <= self.limit or (whole and length + 1 > self.whole_limit):
            raise ProtocolViolation("refused")
        return length + 1 if whole else min(need, length + 1)


# Which messages answer which, and which of those are the last; everything else may stand anywhere.
ANSWERS = {
    "P": ("1", "1"),
    "B": ("2", "2"),
    "D": ("Tn", "Tn"),
    "C": ("3", "3"),
    "E": ("CIs", "CIs"),
    "S": ("Z", "Z"),
    "Q": ("CIZ", "Z"),
    "q": ("C", "C"),
    "p": ("3", "3"),
    "F": ("Z", "Z"),
}
PARTICULAR = "Z123CIs"


class Ledger:
    """`ledger.Ledger`: a list of [kind, action, owner, note, name]."""

    def __init__(self) -> None:
        self.owed: list[tuple[int, int, Any, Any, Any]] = []
        self.skipping = False

    def push(self, kind: int, action: int, owner: Any, note: Any = None, name: Any = None) -> None:
        if kind == ord("S"):
            self.skipping = False
        if not self.skipping and (kind != ord("c") or self.owed):
            self.owed.append((kind, action, owner, note, name))

    def _pop(self) -> tuple[int, int, Any, Any, Any]:
        entry = self.owed.pop(0)
        while self.owed and self.owed[0][0] == ord("c"):
            del self.owed[0]  # no COPY has taken it
        return entry

    def due(self) -> tuple[int, Any] | None:
        if self.owed and self.owed[0][1] == ledger.fake:
            kind, _, owner, _, _ = self._pop()
            return kind, owner
        return None

    def receive(self, kind: int) -> int:
        if not self.owed:
            return ledger.unowed
        of, action = chr(self.owed[0][0]), self.owed[0][1]
        allowed, last = ANSWERS[of]
        if chr(kind) in PARTICULAR and chr(kind) not in allowed:
            return ledger.broken
        if chr(kind) in last and action != ledger.fake:
            self._pop()
        return action

    def fail(self) -> list[tuple[int, int, Any, Any, Any]]:
        if not self.owed or chr(self.owed[0][0]) in "QFS":
            return []
        kinds = [chr(entry[0]) for entry in self.owed]
        self.skipping = "S" not in kinds
        end = len(kinds) if self.skipping else kinds.index("S")
        dropped, self.owed = self.owed[:end], self.owed[end:]
        return [entry for entry in dropped if entry[0] != ord("c")]

    def copy_in(self) -> bool:
        while len(self.owed) > 1 and chr(self.owed[1][0]) in "Sc":
            if self.owed.pop(1)[0] == ord("c"):
                return True
        return False

    def entries(self) -> list[tuple[int, int, Any]]:
        return [entry[:3] for entry in self.owed]
