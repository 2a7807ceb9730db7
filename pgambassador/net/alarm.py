"""What a server says of its data that somebody has to know: it is in the log at level `error`.

Each server is spoken of once in `EVERY` seconds.
"""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

CORRUPTED: Final = ("XX001", "XX002")
"""data_corrupted, index_corrupted."""
EVERY: Final = 60.0
_MOST: Final = 1000
_told: dict[str, float] = {}


def heed(sqlstate: str, server: str) -> None:
    """A statement has failed there."""
    if sqlstate not in CORRUPTED:
        return
    now = time.monotonic()
    if now - _told.get(server, -EVERY) < EVERY:
        return
    if len(_told) >= _MOST:
        _told.clear()
    _told[server] = now
    what = "data" if sqlstate == "XX001" else "indexes"
    log.error("%s says that some of its %s are damaged (%s); its log says more", server, what, sqlstate)
