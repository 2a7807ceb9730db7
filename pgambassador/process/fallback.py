"""The last configuration file that was good, for a start at which there is none that is.

1. It is used only where the directory was named outside of the file, and only for a file of the same path.
   Environment and flags count as ever. If nothing comes of it either, the error is that of the file.
2. Of a file with secrets in it nothing is kept. What may be a secret counts as one.
3. What was used for want of anything better is not kept again: its time goes on running out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec.inspect as mi

from pgambassador.auth.expiry import day
from pgambassador.cluster.uri import split_uri
from pgambassador.config import Config, Secret, redact
from pgambassador.config.build import leaves
from pgambassador.config.file import read_file
from pgambassador.config.providers import OURS
from pgambassador.errors import ConfigError
from pgambassador.process.store import Kept, Store, Unusable

KIND = "configuration"

Read = Callable[[str], dict[str, Any]]
"""What is in the file of that path; raises ConfigError."""


class Fallback:
    """`load` makes the configuration out of all sources, with the file as `Read` tells it; `prove` raises
    ConfigError if no process could start with it. `why` says what is in use, if that is not what the file
    says; `secrets` are the options that keep it from being kept."""

    def __init__(
        self,
        load: Callable[[Read], Config],
        path: str,
        store: Store,
        prove: Callable[[Config], None] = lambda config: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.why = ""
        self.secrets: list[str] = []
        self._load = load
        self._path = os.path.abspath(path)
        self._store = store
        self._prove = prove
        self._clock = clock
        self._text: str | None = None
        self._good: Any = None
        self._accepted = False

    def first(self) -> Config:
        """At the start; raises ConfigError."""
        try:
            config = self.again()
        except ConfigError as error:
            config = self._last(error)
        else:
            self.accepted()
        return config

    def again(self) -> Config:
        """From the file itself; raises ConfigError."""
        self._text = None
        config = self._load(self._read)
        self._prove(config)
        return config

    def accepted(self) -> None:
        """What was read last is in use from now on."""
        self.why, self._accepted = "", True
        # In place of one that may not be kept stands nothing: an older one is not the last good one.
        self._good = None if self._text is None else {"path": self._path, "file": self._text}

    def kept(self) -> Kept | None:
        """What is to be kept for the next start; None while nothing that was read is in use."""
        return Kept(self._clock(), self._good) if self._accepted else None

    def _read(self, path: str) -> dict[str, Any]:
        tree = read_file(path)
        self.secrets = list(secrets(tree))
        try:
            self._text = None if self.secrets else json.dumps(tree, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            self._text = None  # there are things in it that no configuration can have
        return tree

    def _last(self, error: ConfigError) -> Config:
        """The one that was good, or the error with what is wrong with that."""
        try:
            kept = self._store.read(KIND)
            if kept is None or kept.body["path"] != self._path:
                raise error
            tree = json.loads(kept.body["file"])
            if not isinstance(tree, dict):
                raise error
            config = self._load(lambda path: tree)
            self._prove(config)
        except (Unusable, ConfigError, ValueError, TypeError, LookupError):
            raise error from None
        self.why = (
            f"running on the last good configuration, of {day(kept.at)}, because the present one cannot be"
            f" used: {redact(error.sentence())}"
        )
        return config

    def __repr__(self) -> str:
        return f"<Fallback for {self._path}{', in use' if self.why else ''}>"


def secrets(tree: dict[str, Any]) -> Iterator[str]:
    """The options in a file that are secret, or that nobody knows not to be."""
    known = [(path.split("."), kind) for path, kind in leaves(mi.type_info(Config))]
    for levels, value in _written(tree, ()):
        kinds = [kind for path, kind in known if _fits(levels, path)]
        secret = any(map(_holds_secret, kinds))
        if levels[-1] == "url" and secret:
            secret = _has_password(value)
        elif levels[-1] == "provider":
            secret = value not in OURS  # what the options of others are, only they know
        if secret or not kinds:
            yield ".".join(levels)


def _holds_secret(kind: mi.Type) -> bool:
    match kind:
        case mi.CustomType():
            return kind.cls is Secret
        case mi.AnyType():
            return True
        case mi.VarTupleType():
            return any(_holds_secret(inner) for _, inner in leaves(kind.item_type))
    return False


def _written(tree: object, levels: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    if not isinstance(tree, dict):
        if tree is not None:
            yield levels, tree
        return
    for name, value in tree.items():
        yield from _written(value, (*levels, str(name)))


def _fits(levels: Sequence[str], path: Sequence[str]) -> bool:
    return len(levels) == len(path) and all(p in ("*", level) for level, p in zip(levels, path, strict=True))


def _has_password(url: object) -> bool:
    try:
        return not isinstance(url, str) or "password" in split_uri(url)
    except ConfigError:
        return True
