"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], what: str = "", *, deadline: float = 10.0, poll: float = 0.01
) -> T:
    """The first true value of the condition; AssertionError if there is none within `deadline` seconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(
                f"{what or repr(condition)} did not happen within {deadline:g} s (last: {value!r})"
            )
        time.sleep(poll)
