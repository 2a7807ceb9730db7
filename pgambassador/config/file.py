"""The configuration file: YAML, read strictly.

PyYAML follows YAML 1.1, in which `off`, `no`, `0777` and `12:30` are not what they look like. Here only true
and false are truth values and only decimal digits are numbers, and a name may not be given twice.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

import yaml

from pgambassador.config.plain import without_waiting
from pgambassador.errors import ConfigError

FILE_LIMIT = 4 << 20


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a name must be text", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem="a name stands here twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})$"), list(first))


_resolve("bool", "true|false|True|False|TRUE|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN")
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile("$")))
_resolve("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789")
_resolve("float", r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def read_file(path: str) -> dict[str, Any]:
    """The mapping in the file; an empty file is an empty mapping."""
    try:
        with open(path, "rb", opener=without_waiting) as stream:
            # A pipe that has a writer, as a shell's <(…) has, is read until that closes it.
            os.set_blocking(stream.fileno(), True)
            text = stream.read(FILE_LIMIT + 1)
            piped = stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except OSError as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error.strerror}.") from None
    if len(text) > FILE_LIMIT:
        raise ConfigError(f"The configuration file {path} is larger than 4 MiB.")
    if piped and not text:
        raise ConfigError(
            f"The configuration file {path} is a pipe out of which nothing comes.",
            hint="Name a plain file, or a pipe into which something writes already.",
        )
    return read_text(text, path)


def read_text(text: bytes | str, path: str) -> dict[str, Any]:
    try:
        found = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        # A problem may quote the file (an alias, a tag), which may be a password written without quotes.
        problem = re.sub(r"\s*'.*'", "", str(error.problem or error.context or "a mistake"), flags=re.DOTALL)
        raise ConfigError(f"The configuration file {path} is not valid YAML{where}: {problem}.") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(
            f"The configuration file {path} is not valid YAML: it must be UTF-8 text."
        ) from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"The configuration file {path} must hold names and values, such as 'clusters:'.")
    return found
