"""What a process keeps on disk for the next one: small files in a directory of its own.

1. A file is written whole or not at all: beside the old one, flushed to the disk, and then renamed.
2. What is read is what was written: owned by us, for nobody else to read or write, of this format, of the
   kind that is asked for, with its checksum, and from the last `AGE` seconds. All else is `Unusable`.
3. Nothing here is a secret; that is for whoever writes to see to. The modes are strict all the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, NoReturn

from pgambassador.net.names import AGE

AHEAD: Final = 3_600.0
"""Seconds that the clock may have been put back since something was written."""
LIMIT: Final = 1 << 20
_HEAD = re.compile(rb"pgambassador state 1 ([a-z]{1,32}) ([0-9a-f]{64})\n")


class Unusable(Exception):
    """Why there is nothing to be had, or nothing can be kept: a part of a sentence."""


class Busy(Unusable):
    """Another process writes there just now."""


class Kept(NamedTuple):
    """`at`: until when it was true, in Unix time."""

    at: float
    body: Any


class Store:
    """`directory` is made if it is missing (not what it lies in). All methods block."""

    def __init__(self, directory: str, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._clock = clock

    def read(self, kind: str) -> Kept | None:
        """None if nothing has been kept; raises Unusable, and nothing else."""
        try:
            with self._opened() as directory:
                text = _content(kind, directory)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unusable(_reason(error)) from None
        return _understood(text, kind, self._clock())

    def write(self, kind: str, kept: Kept) -> None:
        """Raises Unusable, or Busy."""
        text = _written(kind, kept)
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.directory, 0o700)
            with self._opened() as directory:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _replace(kind, text, directory)
        except BlockingIOError:
            raise Busy("another process writes there just now") from None
        except OSError as error:
            raise Unusable(_reason(error)) from None

    @contextmanager
    def _opened(self) -> Iterator[int]:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check_owner(os.fstat(directory), stat.S_IWGRP | stat.S_IWOTH, "the directory")
            yield directory
        finally:
            os.close(directory)

    def __repr__(self) -> str:
        return f"<Store {self.directory}>"


def _content(kind: str, directory: int) -> bytes:
    # Whoever opens a pipe waits for its other end, unless told not to.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(kind, flags, dir_fd=directory), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise Unusable("it is not a plain file")
        _check_owner(found, stat.S_IRWXG | stat.S_IRWXO, "it")
        return file.read(LIMIT + 1)


def _check_owner(found: os.stat_result, forbidden: int, what: str) -> None:
    if found.st_uid != os.geteuid():
        raise Unusable(f"{what} belongs to another user of this machine")
    if found.st_mode & forbidden:
        raise Unusable(f"{what} is open to other users of this machine")


def _understood(text: bytes, kind: str, now: float) -> Kept:
    if len(text) > LIMIT:
        raise Unusable("it is too long")
    head = _HEAD.match(text)
    if head is None:
        raise Unusable("it is of another format, or damaged")
    content = text[head.end() :]
    if head[1] != kind.encode() or head[2].decode() != hashlib.sha256(content).hexdigest():
        raise Unusable("it is damaged")
    try:
        found = json.loads(content, parse_constant=_refuse)
        at, body = float(found["at"]), found["body"]
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise Unusable("it is damaged") from None
    if not math.isfinite(at) or at > now + AHEAD:
        raise Unusable("it was written at a time that is yet to come")
    if now - at > AGE:
        raise Unusable("it is too old")
    return Kept(min(at, now), body)


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)


def _written(kind: str, kept: Kept) -> bytes:
    content = json.dumps({"at": kept.at, "body": kept.body}, allow_nan=False).encode()
    text = f"pgambassador state 1 {kind} {hashlib.sha256(content).hexdigest()}\n".encode() + content
    if len(text) > LIMIT:
        raise Unusable(f"it would be larger than {LIMIT >> 20} MiB")
    return text


def _replace(kind: str, text: bytes, directory: int) -> None:
    new = f"{kind}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)  # of a process that has died
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, kind, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def _reason(error: OSError) -> str:
    return (error.strerror or "unknown error").lower()
