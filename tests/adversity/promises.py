"""Which errors clients may get while servers are away: for each phase the SQLSTATEs, and whether the session
may end with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tests.harness.ledger import Phase

Promises = Mapping[Phase, Mapping[str, bool]]

_ENDED = dict.fromkeys(("57P01", "57P02", "08006"), False)
_UNKNOWN = dict.fromkeys(("57P01", "57P02", "08007"), False)

FULL: Promises = {
    Phase.LOGIN: {},
    Phase.READING: {},
    Phase.ONCE_MORE: {**_ENDED, "08006": False},
    Phase.HALFWAY: {**_ENDED, "08006": True, "": True},
    Phase.BEGINNING: {},
    Phase.WRITING: {**_UNKNOWN, "08006": False},  # 08006: of a read that came in one go with writes
    Phase.INSIDE: {**_ENDED, "08007": False},
    Phase.COMMITTING: {
        **_UNKNOWN,
        "08006": False,
    },  # 08006: lost before its COMMIT was sent
}
"""Nobody outside a transaction notices anything but time, except for a write that was under way; everybody
keeps the session, unless half a message cannot be taken back. And who loses one server connection after
another with the same question, which may be what makes servers crash, is told of it (`AGAIN_MOST`)."""

AGAIN_MOST = 1 / 2000
"""Of all answers, with a fault or two at any time."""

IN_FORCE = FULL
"""What holds now, but for the second after tables or functions were changed past the ambassador: until it
knows what they do it repeats nothing, and a session that may have set something ends with its connection. And
but for more reads under way at once than may be repeated (`pool/budget.py`)."""


WITHOUT_STANDBY: Promises = {Phase.HALFWAY: FULL[Phase.HALFWAY]}
"""When nothing but a standby dies."""


def broken(troubles: Counter[str]) -> str:
    """One in a line, to be shown."""
    return "\n".join(f"{count} times {what}" for what, count in troubles.most_common(20))
