"""The configuration as a list for those who run it: each option that holds, its default, and whether a reload
changes it.

1. No secret is in it, and of `credentials` only which provider it is: its options may be secret.
2. What a cluster, database or user leaves out is not in it, since it inherits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect as mi
from msgspec import NODEFAULT, UNSET

from pgambassador.config.build import unwrap
from pgambassador.config.reload import is_live
from pgambassador.config.secret import Secret
from pgambassador.config.structs import Config

_HIDDEN = "***"


class Setting(NamedTuple):
    """As it is written in the file; `default` is None where there is none."""

    path: str
    value: str
    default: str | None
    live: bool


def listing(config: Config) -> Iterator[Setting]:
    yield from _walk(mi.type_info(Config), config, NODEFAULT, "")


def _walk(kind: mi.Type, value: Any, default: Any, path: str) -> Iterator[Setting]:
    kind, extra, off = unwrap(kind)
    if isinstance(value, msgspec.Struct):
        found = mi.type_info(type(value))
        assert isinstance(found, mi.StructType)
        if found.tag_field and path.endswith(".credentials"):
            yield Setting(f"{path}.{found.tag_field}", str(getattr(value, "name", found.tag)), None, False)
            return
        for field in found.fields:
            own = field.default if field.default_factory is NODEFAULT else field.default_factory()
            yield from _walk(
                field.type, getattr(value, field.name), own, f"{path}.{field.name}" if path else field.name
            )
    elif isinstance(value, dict):
        inner = kind.value_type if isinstance(kind, mi.DictType) else mi.AnyType()
        for name, each in value.items():
            yield from _walk(inner, each, NODEFAULT, f"{path}.{name}")
    elif value is not UNSET and not (value is None and not off):
        none = default is NODEFAULT or default is UNSET or (default is None and not off)
        yield Setting(path, _shown(value, extra), None if none else _shown(default, extra), is_live(path))


def _shown(value: Any, extra: str) -> str:
    match value:
        case None:
            return "off"
        case Secret():
            return _HIDDEN
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(_shown(each, extra) for each in value)
        case msgspec.Struct():
            written = {name: getattr(value, name) for name in value.__struct_fields__}
            return " ".join(f"{name}={_shown(each, '')}" for name, each in written.items())
        case float() if extra.startswith("duration"):
            return f"{value:g}s" if value >= 1 or not value else f"{value * 1e3:g}ms"
    return str(value)
