"""Cancel keys: which session a CancelRequest means.

1. A client never sees a server's own key. Ours are random in both halves, so that 63 bits have to be guessed,
   and 287 of whoever speaks protocol 3.2.
2. No two living sessions have the same pid, and a pid is a positive 31-bit number, as clients expect of one.
3. Keys are compared in constant time. A wrong key and an unknown pid are the same: None.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from typing import Generic, TypeVar

MAX_PID = 0x7FFFFFFF
KEY_SIZE = 4  # protocol 3.0 has no other
LONG_KEY_SIZE = 32  # 3.2: what a server of that version gives

S = TypeVar("S")


def random_pid() -> int:
    while True:
        pid = int.from_bytes(os.urandom(4), "big") & MAX_PID
        if pid:
            return pid


class CancelKeys(Generic[S]):
    """The sessions that can be cancelled. Whoever issues a key releases it when the session ends."""

    def __init__(self, draw_pid: Callable[[], int] = random_pid) -> None:
        self._draw_pid = draw_pid
        self._living: dict[int, tuple[bytes, S]] = {}

    def draw(self, *, long: bool = False) -> tuple[int, bytes]:
        """A pid and key for somebody's BackendKeyData; `long` for who speaks protocol 3.2."""
        pid = self._draw_pid()
        while pid in self._living:
            pid = self._draw_pid()
        return pid, os.urandom(LONG_KEY_SIZE if long else KEY_SIZE)

    def give(self, session: S, pid: int, key: bytes) -> bool:
        """What was drawn is this session's; False if somebody has got that pid meanwhile."""
        return self._living.setdefault(pid, (key, session))[1] is session

    def issue(self, session: S, *, long: bool = False) -> tuple[int, bytes]:
        """Both at once."""
        pid, key = self.draw(long=long)
        self._living[pid] = key, session
        return pid, key

    def find(self, pid: int, key: bytes) -> S | None:
        entry = self._living.get(pid)
        if entry is None or not hmac.compare_digest(entry[0], key):
            return None
        return entry[1]

    def release(self, pid: int) -> None:
        """Forget the session; releasing twice does no harm."""
        self._living.pop(pid, None)

    def __len__(self) -> int:
        return len(self._living)

    def __repr__(self) -> str:
        return f"<CancelKeys {len(self)} sessions>"
