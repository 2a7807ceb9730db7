from collections.abc import Callable
from typing import Protocol

from pgambassador.net.lane import Lane

class _Policy(Protocol):
    def fresher_wanted(self, now: float, /) -> None: ...

class Writes:
    at: float
    def __init__(self) -> None: ...

class Choice:
    lanes: tuple[Lane, ...]
    writes: Writes
    max_lag: float
    everybody: bool
    eventual: bool
    strict: bool
    policy: _Policy
    choose: Callable[[list[Lane]], Lane] | None
    def __init__(
        self,
        policy: _Policy,
        *,
        max_lag: float,
        writes: Writes | None = None,
        everybody: bool = False,
        eventual: bool = False,
        strict: bool = False,
        choose: Callable[[list[Lane]], Lane] | None = None,
    ) -> None: ...
    @property
    def stale(self) -> int: ...
    @property
    def none(self) -> int: ...
    def which(self, written_at: float, now: float, max_lag: float = -1.0) -> Lane | None: ...
