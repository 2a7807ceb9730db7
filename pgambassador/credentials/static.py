"""A password that was written down: in `credentials`, in the URL, or for the client among `auth.users`."""

from __future__ import annotations

from collections.abc import Callable

from pgambassador.auth.verifier import Borrowed
from pgambassador.config.providers import StaticCredentials
from pgambassador.credentials.provider import Login, Secret


class Static:
    """`provider: static`."""

    per_host = False
    window = 0.0

    def __init__(self, options: StaticCredentials) -> None:
        self._password = options.password

    async def fetch(self, login: Login) -> Secret:
        return Secret(None, self._password.reveal().encode())


class Written:
    """What holds without `credentials`: `password_of` finds the one for a user, None if there is none.
    `refused` is told, with the user, which one a server took for wrong."""

    per_host = False
    window = 0.0

    def __init__(
        self,
        password_of: Callable[[str], bytes | Borrowed | None],
        refused: Callable[[str, bytes | Borrowed], None] | None = None,
    ) -> None:
        self._password_of = password_of
        self._refused = refused

    async def fetch(self, login: Login) -> Secret:
        return Secret(None, self._password_of(login.user))

    def refused(self, login: Login, secret: Secret) -> None:
        if self._refused is not None and secret.password is not None:
            self._refused(login.user, secret.password)
