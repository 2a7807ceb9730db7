"""How long to wait before what has failed is tried again: exponential, with full jitter.

1. The longest pause after n failures is `first * 2**n`, at most `most`; the pause is a chance's share of
   that, so that those who failed together do not come again together.
"""

from __future__ import annotations

_DOUBLINGS_MOST = 30


def pause(failures: int, *, first: float, most: float, chance: float) -> float:
    """Seconds, after so many failures before this one; `chance` is in [0, 1], 1 for the whole pause."""
    return chance * min(most, first * 2.0 ** min(failures, _DOUBLINGS_MOST))
