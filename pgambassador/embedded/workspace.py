"""A temporary folder with a certificate authority and servers, gone when it is closed.

1. Closing stops every server, the youngest first, and removes the folder; it happens at the end of a `with`,
   and at the latest when the interpreter ends.
2. Only SIGKILL leaves something behind: a folder, and servers that still run in it.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pgambassador.embedded.account import Account, account
from pgambassador.embedded.authority import Authority
from pgambassador.embedded.installation import Installation, find
from pgambassador.embedded.server import HBA, Postgres
from pgambassador.errors import ConfigError


class Workspace:
    def __init__(self, installation: Installation | None = None) -> None:
        self.installation = installation or find()
        self.account = account()
        self.servers: list[Postgres] = []
        self.folder = _temporary(self.account)
        self._owner = os.getpid()
        atexit.register(self.close)
        try:
            self.authority = Authority(self.folder)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Workspace {self.folder} {self.servers!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def primary(
        self,
        name: str = "primary",
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = HBA,
        installation: Installation | None = None,
    ) -> Postgres:
        """Started, with a superuser `postgres` whose password is its `password`."""
        server = Postgres(
            self.folder / name,
            installation or self.installation,
            self.authority,
            self.account,
            secrets.token_urlsafe(16),
            self.servers.append,
        )
        server.initialise(settings or {}, hba)
        server.start()
        return server

    def close(self) -> None:
        atexit.unregister(self.close)
        if os.getpid() != self._owner:  # a fork: the servers are its parent's
            return
        while self.servers:
            # Nobody will read the data again: no checkpoint.
            self.servers.pop().stop(immediate=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _temporary(user: Account) -> Path:
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))):
        if parent.is_dir() and user.reaches(parent):
            folder = Path(tempfile.mkdtemp(prefix="pgambassador-", dir=parent))
            folder.chmod(0o755)  # the other account must pass; what is private below is closed itself
            return folder
    raise ConfigError(
        f"No temporary folder can be entered by the account {user.name}, which has to run PostgreSQL.",
        hint="Set TMPDIR to a folder that everybody may enter.",
    )
