"""Where lines go: a file, or standard error. Used by one thread only."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path


class Sink:
    """Opened at the first write and again when the file was moved away, as logrotate does."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._torn = False  # the last write broke off in the middle of a line

    def __repr__(self) -> str:
        return self._path

    def write(self, data: bytes) -> None:
        """All of it, or an OSError."""
        fd = self._open()
        view = memoryview(b"\n" + data if self._torn else data)
        torn = self._torn
        while view:
            try:
                count = os.write(fd, view)
            except BlockingIOError:  # another holder of this terminal or pipe made it non-blocking
                select.select([], [fd], [], 1.0)
                continue
            except OSError:
                self._torn = torn
                raise
            view = view[count:]
            torn = bool(view)
        self._torn = False

    def close(self) -> None:
        if self._fd > 2:
            os.close(self._fd)
        self._fd = -1

    def _open(self) -> int:
        if self._path == "stderr":
            return 2
        if self._fd >= 0 and self._moved():
            self.close()
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            self._torn = False
        return self._fd

    def _moved(self) -> bool:
        try:
            there, here = Path(self._path).stat(), os.fstat(self._fd)
        except OSError as error:
            return error.errno == errno.ENOENT
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)
