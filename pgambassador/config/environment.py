"""Options from environment variables: `PGAMBASSADOR_` and the path in capitals, `__` between its levels; and
the short names that people use in container manifests, which give way to the long ones."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

import msgspec.inspect as mi

from pgambassador.config.build import Given, leaves, paths
from pgambassador.config.secret import Secret
from pgambassador.config.structs import Config
from pgambassador.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "PGAMBASSADOR_"
SHORT = {
    "RETRY_MAX": ["failover", "attempts"],
    "CIRCUIT_BREAKER_THRESHOLD": ["breaker", "failures"],
}
"""Beside those that are not one option each: UPSTREAM_HOST, UPSTREAM_PORT, TLS_ENABLED (`config/load.py`)."""
_NOT_OPTIONS = {"PGAMBASSADOR_CONFIG", "PGAMBASSADOR_DEBUG", "PGAMBASSADOR_PG_BIN", "PGAMBASSADOR_RDS_BUNDLE"}
# What Kubernetes sets in every container beside a Service named "pgambassador".
_SERVICE = re.compile(r"PGAMBASSADOR_(?:SERVICE_(?:HOST|PORT)\w*|PORT(?:_\d+_(?:TCP|UDP)\w*)?)")


def overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The tree with the variables written over it."""
    for variable, levels in SHORT.items():
        if environ.get(variable):
            tree = _put(tree, levels, Given(environ[variable], variable))
    known = [tuple(path.split(".")) for path in paths(mi.type_info(Config))]
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in _NOT_OPTIONS or _SERVICE.fullmatch(variable):
            continue
        levels = variable.removeprefix(PREFIX).lower().split("__")
        if not any(_fits(levels, path) for path in known):
            raise ConfigError(
                f"The environment variable {variable} is not an option.", hint=_suggestion(variable, known)
            )
        tree = _put(tree, levels, Given(environ[variable], variable))
    return tree


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """What another program may be given: all but the variables that stand for options that are secret."""
    secret = [
        tuple(path.split("."))
        for path, kind in leaves(mi.type_info(Config))
        if isinstance(kind, mi.CustomType) and kind.cls is Secret
    ]
    return {
        variable: value
        for variable, value in environ.items()
        if not (
            variable.startswith(PREFIX)
            and any(_fits(variable.removeprefix(PREFIX).lower().split("__"), path) for path in secret)
        )
    }


def _fits(levels: list[str], path: tuple[str, ...]) -> bool:
    return (
        len(levels) == len(path)
        and all(p in ("*", level) for level, p in zip(levels, path, strict=True))
        and all(levels)
    )


def _put(tree: object, levels: list[str], value: Given) -> dict[str, Any]:
    if tree is not None and not isinstance(tree, dict):
        return tree  # type: ignore[return-value]  # a wrong type in the file, which `build` will report
    copy = dict(tree or {})
    # A name the user chose keeps its spelling: CLUSTERS__DB_1 is the cluster written "DB-1", if there is one.
    name = next((k for k in copy if isinstance(k, str) and _variable(k) == levels[0]), levels[0])
    copy[name] = value if len(levels) == 1 else _put(copy.get(name), levels[1:], value)
    return copy


def _variable(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "_", name.lower())


def _suggestion(variable: str, known: list[tuple[str, ...]]) -> str | None:
    names = [PREFIX + "__".join(path).upper() for path in known]
    close = difflib.get_close_matches(variable, names, n=1, cutoff=0.7)
    return f"Did you mean {close[0].replace('*', 'NAME')}?" if close else None
