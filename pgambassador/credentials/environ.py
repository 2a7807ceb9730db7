"""A password in an environment variable of this process."""

from __future__ import annotations

import os

from pgambassador.config.providers import EnvCredentials
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import ConfigError


class Environ:
    """`provider: env`. The variable is looked up each time."""

    per_host = False
    window = 0.0

    def __init__(self, options: EnvCredentials) -> None:
        self._variable = options.variable

    async def fetch(self, login: Login) -> Secret:
        password = os.environb.get(os.fsencode(self._variable))
        if not password:
            raise ConfigError(
                f"the environment variable {self._variable}, which should hold the server's password, is"
                f" {'not set' if password is None else 'empty'}",
                hint="Set it, or correct credentials.variable.",
            )
        return Secret(None, password)
