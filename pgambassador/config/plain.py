"""Plain files: the way in which every file that the configuration names is read.

1. Nothing waits for the other end of a pipe, and no device is read: what is not a plain file is refused.
   Symbolic links are followed, since mounted Secrets are full of them.
2. What OpenSSL or a library reads by its path has been read here before.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pgambassador.errors import ConfigError

LIMIT = 16 << 20


def read(path: str, what: str) -> bytes:
    """The whole file; `what` names the option in the ConfigError."""
    try:
        return content(path)
    except OSError as error:
        raise ConfigError(
            f"The {what} file {path} cannot be read: {reason(error)}.",
            hint="Correct the path or its permissions.",
        ) from None


def content(path: str, most: int = LIMIT) -> bytes:
    """The whole file; OSError also if it is longer than `most` bytes, or none that is plain."""
    with opened(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is longer than {most >> 10} KiB")
    return data


@contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """For reading; OSError also if it is not a plain file."""
    with open(path, "rb", opener=without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        yield file


def without_waiting(path: str, flags: int) -> int:
    """Opens it: whoever opens a pipe waits for its other end, unless told not to."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def reason(error: OSError) -> str:
    """The end of a sentence."""
    why = error.strerror or "unknown error"
    return why[:1].lower() + why[1:]
