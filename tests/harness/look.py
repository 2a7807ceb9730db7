"""A look into an ambassador that lets one (tests/inside.py): its tasks, and its event loop's lag."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

VARIABLE = "INSIDE"


@dataclass(frozen=True)
class Look:
    tasks: dict[str, int]
    """How many of each name; what stands behind a name's first words does not count."""
    lag: float
    """Seconds that the event loop was late at worst since the last look."""
    median: float

    @classmethod
    def at(cls, path: Path) -> Self:
        with socket.socket(socket.AF_UNIX) as end:
            end.settimeout(10)
            end.connect(str(path))
            data = bytearray()
            while part := end.recv(65536):
                data += part
        return cls(**json.loads(data))
