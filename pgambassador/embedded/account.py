"""Who runs PostgreSQL: we ourselves, or an unprivileged account if we are root, since it refuses root."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pgambassador.errors import ConfigError

CANDIDATES = ("postgres", "_postgres", "nobody")


class Identity(TypedDict, total=False):
    """The arguments of subprocess that change who runs a program."""

    user: int
    group: int
    extra_groups: tuple[int, ...]


@dataclass(frozen=True)
class Account:
    name: str
    uid: int
    gid: int
    foreign: bool
    """Not the account that we run as: programs must be started under it, files handed over to it."""

    @property
    def identity(self) -> Identity:
        return {"user": self.uid, "group": self.gid, "extra_groups": ()} if self.foreign else {}

    def give(self, path: Path) -> None:
        if self.foreign:
            os.chown(path, self.uid, self.gid)

    def reaches(self, folder: Path) -> bool:
        """Every folder on the way may be entered by anyone. Good enough for temporary and cache folders."""
        folder = folder.resolve()
        return not self.foreign or all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def account() -> Account:
    if os.geteuid() != 0:
        return Account(str(os.geteuid()), os.geteuid(), os.getegid(), foreign=False)
    for name in CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, foreign=True)
    raise ConfigError(
        "PostgreSQL refuses to run as root, and neither the account postgres nor nobody exists.",
        hint="Create one of them, or run this as an ordinary user.",
    )
