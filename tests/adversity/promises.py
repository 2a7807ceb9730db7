"""Which errors clients may get while servers are away: for each phase the SQLSTATEs, and whether the session
may end with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.harness.ledger import Phase

Promises = Mapping[Phase, Mapping[str, bool]]

_LOST = ("57P01", "57P02", "08006", "08007", "")
_AWAY = ("08001", "57P03", "53300")

BARE: Promises = {
    **{phase: dict.fromkeys((*_LOST, *_AWAY), True) for phase in Phase},
    Phase.HALFWAY: dict.fromkeys(_LOST, True),
    Phase.COMMITTING: dict.fromkeys(_LOST, True),
}
"""Nothing is hidden, but every error is one of these."""

_ENDED = dict.fromkeys(("57P01", "57P02", "08006"), False)
_UNKNOWN = dict.fromkeys(("57P01", "57P02", "08007"), False)

FULL: Promises = {
    Phase.LOGIN: {},
    Phase.READING: {},
    Phase.HALFWAY: {**_ENDED, "08006": True, "": True},
    Phase.BEGINNING: {},
    Phase.WRITING: {**_UNKNOWN, "08006": False},  # 08006: of a read that came in one go with writes
    Phase.INSIDE: {**_ENDED, "08007": False},
    Phase.COMMITTING: _UNKNOWN,
}
"""Nobody outside a transaction notices anything but time, except for a write that was under way; everybody
keeps the session, unless half a message cannot be taken back."""

KEPT: Promises = {
    **FULL,
    Phase.READING: {"57P01": False, "57P02": False, "08006": False},
    Phase.BEGINNING: _UNKNOWN,
    Phase.WRITING: {**_UNKNOWN, "08006": True},
}
"""The same, but a read that came in pieces, or before the catalog was known, is not asked again, nor is a
BEGIN that is on its way; and a session ends if what it has set was just being asked for."""

IN_FORCE = KEPT
"""What holds now; KEPT or FULL when transactions wait for a primary, and sessions outlive connections."""


WITHOUT_STANDBY: Promises = {
    Phase.HALFWAY: BARE[Phase.HALFWAY],
    **({Phase.WRITING: BARE[Phase.WRITING]} if IN_FORCE is BARE else {}),
}
"""When nothing but a standby dies. While nothing is hidden: a write that came in one go behind a read."""


def broken(troubles: Counter[str]) -> str:
    """One in a line, to be shown."""
    return "\n".join(f"{count} times {what}" for what, count in troubles.most_common(20))
