"""What is made of files, made anew when one of them has changed.

1. A file is looked at (one fstat) whenever what is made of it is asked for, so that renewed certificates need
   neither a restart nor a signal.
2. New files that are of no use keep what was made of the old ones; that is told once for each change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from pgambassador.config.plain import opened
from pgambassador.errors import ConfigError

log = logging.getLogger(__name__)

T = TypeVar("T")
_Stamp = tuple[int, int, int] | str


class Reread(Generic[T]):
    """`make` raises ConfigError if the files are of no use."""

    def __init__(self, paths: Iterable[str | None], make: Callable[[], T]) -> None:
        self._paths = tuple(path for path in paths if path is not None)
        self._make = make
        self._made: T | None = None
        self._stamps: tuple[_Stamp, ...] = ()

    def get(self) -> T:
        """ConfigError only if the files were never good."""
        return self._look(anew=False)

    def again(self) -> None:
        """Read them now, whether they seem to have changed or not, if they have been of use before."""
        if self._made is not None:
            self._look(anew=True)

    def _look(self, *, anew: bool) -> T:
        stamps = tuple(map(_stamp, self._paths))
        changed, self._stamps = stamps != self._stamps, stamps
        if self._made is not None and not changed and not anew:
            return self._made
        again = self._made is not None
        try:
            self._made = self._make()
        except ConfigError as error:
            if self._made is None:
                raise
            log.warning("%s What was read before stays in use.", error.sentence())
        else:
            if again and changed:
                log.info("read again after a change: %s", ", ".join(self._paths))
        return self._made

    def __repr__(self) -> str:
        return f"<Reread {', '.join(self._paths)}{'' if self._made is not None else ', not made yet'}>"


def _stamp(path: str) -> _Stamp:
    """What tells one version of a file from the next; why it cannot be read is a version too."""
    try:
        with opened(path) as file:
            found = os.fstat(file.fileno())
    except OSError as error:
        return error.strerror or "unknown error"
    return found.st_ino, found.st_mtime_ns, found.st_size
