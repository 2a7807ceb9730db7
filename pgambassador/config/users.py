"""The users who may log in: those of the configuration and those of a file of `"user" "secret"` lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pgambassador.config.secret import Secret
from pgambassador.errors import ConfigError

if TYPE_CHECKING:
    from pgambassador.config.auth import Auth

FILE_LIMIT = 16 << 20
_LINE = re.compile(r'\s*"((?:[^"]|"")+)"\s+"((?:[^"]|"")*)"(?:\s.*)?')


def read_users(auth: Auth) -> dict[str, Secret]:
    """Names and secrets; `auth.users` wins over the file. Read again at every reload."""
    users = _read(auth.users_file) if auth.users_file else {}
    return users | auth.users


def _read(path: str) -> dict[str, Secret]:
    try:
        with Path(path).open(encoding="utf-8") as stream:
            text = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"auth.users_file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"auth.users_file {path} is not UTF-8 text.") from None
    if len(text) > FILE_LIMIT:
        raise ConfigError(f"auth.users_file {path} is larger than 16 MiB.")
    users: dict[str, Secret] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith((";", "#")):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f'auth.users_file {path} line {number} is not of the form "user" "secret".')
        users[match[1].replace('""', '"')] = Secret(match[2].replace('""', '"'))
    return users
