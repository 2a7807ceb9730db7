"""A password in a file: the file is the password, or a password file of libpq's.

1. The file is read for each question, so that a new password needs no signal.
2. It is read in a thread: what looks like a file may be a network's.
3. A password file that others can read is not used, as with libpq.
"""

from __future__ import annotations

import os
import stat
from functools import partial

from pgambassador.config.plain import opened
from pgambassador.config.providers import FileCredentials
from pgambassador.credentials import blocking
from pgambassador.credentials.passfile import find
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import Unreachable

FILE_LIMIT = 1 << 20


class File:
    """`provider: file`."""

    window = 0.0

    def __init__(self, options: FileCredentials) -> None:
        self._path = options.path
        self._seconds = options.timeout
        # The lines of a password file are for hosts, ports, databases and users.
        self.per_host = self.per_database = options.format == "pgpass"

    async def fetch(self, login: Login) -> Secret:
        read = partial(_line_for, self._path, login) if self.per_host else partial(_whole, self._path)
        whom, hint = (
            f"the file {self._path}",
            "Check the file system that it is on, or raise credentials.timeout.",
        )
        return Secret(None, await blocking.ask(read, seconds=self._seconds, whom=whom, hint=hint))


def _whole(path: str) -> bytes:
    password = _read(path, private=False).rstrip(b"\r\n")
    if not password:
        raise Unreachable(f"the file {path} holds no password", hint="Write the password into it.")
    if b"\n" in password:
        raise Unreachable(
            f"the file {path} has several lines, so that it cannot be the password",
            hint="If it is a password file as libpq's, set credentials.format to pgpass.",
        )
    return password


def _line_for(path: str, login: Login) -> bytes:
    password = find(_read(path, private=True), login)
    if password is None:
        where = f"{login.host}:{login.port}:{login.database[:64]}:{login.user[:64]}"
        raise Unreachable(
            f"the password file {path} has no line for {where}",
            hint="Add one: host:port:database:user:password; * stands for any.",
        )
    return password


def _read(path: str, *, private: bool) -> bytes:
    try:
        with opened(path) as file:
            if private and os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise Unreachable(
                    f"the password file {path} can be used by the group or by others, so it is not used",
                    hint=f"Give it to its owner alone: chmod 600 {path}",
                )
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise Unreachable(
            f"the file {path} with the server's password cannot be read: {error.strerror}",
            hint="Check credentials.path and the file's permissions.",
        ) from None
    if len(content) > FILE_LIMIT:
        raise Unreachable(f"the file {path} is larger than 1 MiB", hint="Correct credentials.path.")
    return content
