"""One server's breaker: whether connections to it may be opened, by how the last ones went.

1. Closed, everything may. It opens after `failures` in a row, or when of at least `volume` attempts within
   `window` seconds a `share` failed. A connection that broke at work counts, but only a failed attempt opens
   it: what can be opened anew at once is not sick.
2. Open, nothing may but one attempt at a time, and that only for those who are held, or when the pause is
   over. Pauses grow from `first` to `most`, each between half and all of that by chance.
3. The first attempt that succeeds makes it half-open: `trials` at a time. As many successes close it, and so
   does a `window` without a failure; a failure opens it again, for longer.
4. Open, it may be asked in the background as well, so that nobody waits for the end of a pause: at once, but
   after relapses (half-open and open again) not before a rest, which grows with each of them as pauses do.
5. While somebody else's word that the server is away is fresh, one failed attempt opens a closed one; a
   success ends that. Only what would have opened it without (`proven`) is worth telling others.
6. Forced open or closed it stays so until it is let go; in a dry run it decides as ever and stops nobody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

State = Literal["closed", "open", "half-open"]
Mode = Literal["auto", "open", "closed", "dry"]

STATES: Final[tuple[State, ...]] = ("closed", "open", "half-open")
REMEMBERED: Final = 10_000
"""Attempts within the window at most; more tell nothing more."""
UNWELL: Final = ("57P01", "57P02", "57P03", "08001", "08006")
"""admin_shutdown, crash_shutdown, cannot_connect_now; of poolers, that their own server is away; and the
whole class 58."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Counts, and seconds."""

    failures: int = 5
    share: float = 0.5
    volume: int = 10
    window: float = 10.0
    slow: float | None = None
    first: float = 1.0
    most: float = 30.0
    trials: int = 3


def unwell(sqlstate: str) -> bool:
    """Whether an error that a server answers with says that the server is unwell, not the one who asks."""
    return sqlstate in UNWELL or sqlstate.startswith("58")


class Breaker:
    """Of one server. `until`: when an open one lets the next attempt pass, or a half-open one closes; `why`:
    the last failure, as a sentence; `since`: when the first failure in a row was; `rests`: until when nobody
    asks in the background; `hinted`: until when somebody else's word is fresh. `opened` and `failures`
    count."""

    def __init__(self, rules: Rules, mode: Mode = "auto") -> None:
        self.rules = rules
        self.mode: Mode = mode
        self.state: State = "closed"
        self.until = 0.0
        self.why = ""
        self.row = 0
        self.since: float | None = None
        self.rests = 0.0
        self.hinted = 0.0
        self.proven = False
        self.opened = 0
        self.failures = 0
        self._pauses = 0
        self._relapses = 0
        self._well = 0
        self._trying = 0
        self._window: deque[tuple[float, bool]] = deque(maxlen=REMEMBERED)

    @property
    def shut(self) -> bool:
        """Whether clients that nobody holds are told at once."""
        if self.mode == "auto":
            return self.state == "open"
        return self.mode == "open"

    def admits(self, now: float, *, held: bool) -> bool:
        """Whether an attempt may begin now; `held`: somebody waits for it who is held."""
        if self.mode == "open":
            return False
        if self.mode != "auto" or self.state == "closed":
            return True
        if self.state == "open":
            return not self._trying and (held or now >= self.until)
        return self._trying < self.rules.trials

    def asks(self, now: float) -> bool:
        """Whether it is asked in the background now."""
        return self.mode == "auto" and self.state == "open" and now >= self.rests

    def begins(self) -> None:
        """An attempt begins; `ends` follows."""
        self._trying += 1

    def ends(self) -> None:
        self._trying -= 1

    def succeeded(self, now: float, seconds: float = 0.0, *, chance: float = 1.0) -> bool:
        """An attempt has, after so many seconds. Whether others may begin now that could not before."""
        if self.rules.slow is not None and seconds > self.rules.slow:
            self.fails(now, f"opening a connection took {seconds:.1f} s", chance=chance)
            return False
        self.row, self.since = 0, None
        self.hinted = 0.0
        self._count(now, False)
        if self.state == "closed":
            return False
        self._well += 1
        if self.state == "open":
            self.state, self._well = "half-open", 1
            self.until = now + self.rules.window
        if self._well >= self.rules.trials or now >= self.until:
            self._close()
        return True

    def settle(self, now: float) -> None:
        """Half-open, and nothing has failed for long: all is well."""
        if self.state == "half-open" and now >= self.until:
            self._close()

    def fails(self, now: float, why: str, *, chance: float, attempt: bool = True) -> bool:
        """The server was unwell: an attempt failed, or (`attempt` is False) a connection broke at work.
        Whether the breaker opens by that. `chance` is in [0, 1]."""
        self.failures += 1
        self.row += 1
        self.since = now if self.since is None else self.since
        self.why = why
        self._count(now, True)
        if not attempt:
            return False
        proven = self._too_many()
        if self.state == "closed" and not proven and now >= self.hinted:
            return False
        self.proven = self.proven or proven
        if self.state == "open" and now < self.until:
            return False  # an attempt for those who are held says nothing new
        if self.state == "half-open":
            self.rests = now + self._pause(self._relapses)
            self._relapses += 1
        self.until = now + self._pause(self._pauses) * (0.5 + 0.5 * chance)
        self._pauses += 1
        opens = self.state != "open"
        self.state = "open"
        self.opened += opens
        return opens

    def refit(self, rules: Rules, now: float) -> None:
        """Other rules from now on; nothing lasts longer than they let it."""
        self.rules = rules
        self.rests = min(self.rests, now + rules.most)
        self.until = min(self.until, now + (rules.window if self.state == "half-open" else rules.most))

    def force(self, mode: Mode) -> None:
        """By hand; what was counted is forgotten when it is let go."""
        self.mode = mode
        if mode == "auto":
            self._close()

    def _pause(self, before: int) -> float:
        """The longest, after so many."""
        return min(self.rules.most, self.rules.first * 2.0 ** min(before, 20))

    def _close(self) -> None:
        self.state, self.until, self.row, self.since = "closed", 0.0, 0, None
        self.rests = self.hinted = 0.0
        self.proven = False
        self._pauses = self._relapses = self._well = 0
        self._window.clear()

    def _count(self, now: float, failed: bool) -> None:
        self._window.append((now, failed))
        while self._window and self._window[0][0] <= now - self.rules.window:
            self._window.popleft()

    def _too_many(self) -> bool:
        if self.row >= self.rules.failures:
            return True
        count = len(self._window)
        return count >= self.rules.volume and sum(f for _, f in self._window) >= self.rules.share * count

    def __repr__(self) -> str:
        mode = "" if self.mode == "auto" else f" ({self.mode})"
        return f"<Breaker {self.state}{mode} row={self.row} until={self.until:.1f}>"
