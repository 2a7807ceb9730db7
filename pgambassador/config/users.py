"""The users who may log in: those of the configuration and those of a file of `"user" "secret"` lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgambassador.config.plain import content
from pgambassador.config.secret import Secret
from pgambassador.errors import ConfigError
from pgambassador.wire.parse import NAME_MOST

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
        text = content(path, FILE_LIMIT).decode()
    except OSError as error:
        raise ConfigError(
            f"auth.users_file {path} cannot be read: {error.strerror}.",
            hint="Correct the path or its permissions.",
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"auth.users_file {path} is not UTF-8 text.") from None
    users: dict[str, Secret] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith((";", "#")):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(
                f'auth.users_file {path} line {number} is not of the form "user" "secret".',
                hint='Put both in double quotes, and write " inside them twice.',
            )
        name = match[1].replace('""', '"')
        check_name(f"auth.users_file {path} line {number}", name)
        users[name] = Secret(match[2].replace('""', '"'))
    return users


def check_name(where: str, name: str) -> None:
    """ConfigError for a name of a user or database that is longer than names can be."""
    data = name.encode("utf-8", "surrogateescape")
    if len(data) > NAME_MOST:
        raise ConfigError(
            f"{where} has a name of {len(data)} bytes, which would never match: PostgreSQL cuts names off"
            f" after {NAME_MOST}.",
            hint=f"Write what is left of it: {data[:NAME_MOST].decode('utf-8', 'ignore')!r}",
        )
