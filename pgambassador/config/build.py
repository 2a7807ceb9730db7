"""Plain data into structs, with a sentence for every mistake.

msgspec would do the conversion too, but its messages hide the names of mapping keys and speak in Python's
types. Here every error names the full path (or the variable or flag), and no message ever shows a secret.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Self

import msgspec.inspect as mi
from msgspec import NODEFAULT

from pgambassador.config.common import Common
from pgambassador.config.providers import INSTALLED, installed
from pgambassador.config.secret import Secret
from pgambassador.config.values import DURATION_WORDS, SIZE_WORDS, octets, seconds
from pgambassador.errors import ConfigError


class Given(str):
    """Text from the environment or a flag: it says where it stood, and numbers may be written in it."""

    source: str

    def __new__(cls, value: str, source: str) -> Self:
        given = super().__new__(cls, value)
        given.source = source
        return given


def build(kind: mi.Type, raw: object, path: str) -> Any:
    """The value of this kind, or a ConfigError."""
    kind, extra, off = unwrap(kind)
    if off and (raw is False or raw == "off"):
        return None
    match kind:
        case mi.StructType():
            return _struct(kind, raw, path)
        case mi.UnionType():
            variant = _variant(kind, raw, path)
            return _struct(variant, _gathered(variant, raw) if variant.tag == INSTALLED else raw, path)
        case mi.DictType():
            return {
                _key(name, path): build(kind.value_type, value, f"{path}.{name}")
                for name, value in _mapping(raw, path).items()
            }
        case mi.VarTupleType():
            if extra == "names" and isinstance(raw, str):
                raw = [raw]  # a name may have blanks in it
            return _tuple(kind, raw, path)
        case mi.AnyType():
            return raw
    value = _leaf(kind, extra, raw)
    if value is NODEFAULT:
        words = _words(kind, extra) + (" or off" if off else "")
        raise ConfigError(f"{_place(raw, path)} must be {words}, not {_shown(kind, raw)}.")
    return value


def unwrap(kind: mi.Type) -> tuple[mi.Type, str, bool]:
    """Without wrappers: the kind, its name among ours, and whether `off` may be written for it."""
    extra, nullable = "", False
    while True:
        if isinstance(kind, mi.Metadata):
            extra = (kind.extra or {}).get("kind", extra)
            kind = kind.type
        elif isinstance(kind, mi.UnionType):
            rest = tuple(t for t in kind.types if not isinstance(t, mi.NoneType) and not _is_unset(t))
            if len(rest) > 1:
                return mi.UnionType(rest), extra, False
            nullable = nullable or any(isinstance(t, mi.NoneType) for t in kind.types)
            kind = rest[0]
        else:
            return kind, extra, nullable and extra.startswith("duration")


def _is_unset(kind: mi.Type) -> bool:
    return isinstance(kind, mi.CustomType) and kind.cls.__name__ == "UnsetType"


def _struct(kind: mi.StructType, raw: object, path: str) -> Any:
    data = dict(_mapping(raw, path))
    if kind.tag_field:
        data.pop(kind.tag_field, None)
    fields = {field.name: field for field in kind.fields}
    for name in data:
        if name not in fields:
            known = [*fields, *([kind.tag_field] if kind.tag_field else [])]
            raise ConfigError(
                f"{_join(path, name)} is not an option.", hint=_suggestion(str(name), known, path)
            )
    values = {
        name: build(fields[name].type, value, _join(path, name))
        for name, value in data.items()
        if value is not None
    }
    for name, field in fields.items():
        if field.required and name not in values:
            raise ConfigError(f"{_join(path, name)} is missing.")
    return kind.cls(**values)


def _variant(kind: mi.UnionType, raw: object, path: str) -> mi.StructType:
    """A union of structs is told apart by its tag; the first is meant where the tag is left out."""
    variants = {str(t.tag): t for t in kind.types if isinstance(t, mi.StructType)}
    first = next(iter(variants.values()))
    tag = _mapping(raw, path).get(first.tag_field or "", first.tag)
    other = variants.pop(INSTALLED, None)
    if isinstance(tag, str) and tag in variants:
        return variants[tag]
    others = installed() if other is not None else {}
    if other is not None and isinstance(tag, str) and tag in others:
        return other
    where = _join(path, first.tag_field or "")
    known = ", ".join((*variants, *sorted(others)))
    raise ConfigError(f"{_place(tag, where)} must be one of {known}, not {_plain(tag)}.")


def _gathered(kind: mi.StructType, raw: object) -> dict[str, object]:
    """What was written for a provider that is not ours: beside what all have in common, its own options."""
    data = dict(_mapping(raw, ""))
    name = data.pop(kind.tag_field, None)
    common = {field: data.pop(field) for field in Common.__struct_fields__ if field in data}
    return {**common, "name": name, "options": data}


def _mapping(raw: object, path: str) -> Mapping[Any, object]:
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise ConfigError(
            f"{_place(raw, path) or 'The file'} must be a mapping (name: value), not {_type(raw)}."
        )
    return raw


def _key(name: object, path: str) -> str:
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{path} has a name that is not text: {name!r}.", hint="Put it into quotes.")
    return name


_WITH_COMMAS = ("listen", "harmless_extensions")


def _tuple(kind: mi.VarTupleType, raw: object, path: str) -> tuple[Any, ...]:
    if isinstance(raw, str):  # a list in one line: as a shell would cut it, commas as well
        try:
            found = shlex.split(raw.replace(",", " ") if path.endswith(_WITH_COMMAS) else raw)
        except ValueError:
            raise ConfigError(f"{_place(raw, path)} has a quotation mark that is not closed.") from None
        raw = [Given(item, raw.source) for item in found] if isinstance(raw, Given) else found
    if not isinstance(raw, list | tuple):
        raise ConfigError(f"{path} must be a list, not {_type(raw)}.")
    if not raw and kind.min_length != 0:
        raise ConfigError(f"{path} must not be empty.")
    return tuple(build(kind.item_type, item, f"{path}[{i}]") for i, item in enumerate(raw))


def _leaf(kind: mi.Type, extra: str, raw: object) -> Any:
    """NODEFAULT where the value is not of this kind."""
    match kind:
        case mi.CustomType():
            return Secret(str(raw)) if isinstance(raw, str) else NODEFAULT
        case mi.StrType():
            return str(raw) if isinstance(raw, str) and raw else NODEFAULT
        case mi.LiteralType():
            return str(raw) if raw in kind.values else NODEFAULT
        case mi.BoolType():
            if isinstance(raw, Given):
                return {"true": True, "false": False, "on": True, "off": False}.get(raw.lower(), NODEFAULT)
            return raw if isinstance(raw, bool) else NODEFAULT
        case mi.FloatType() if extra:
            found = seconds(raw)
            return NODEFAULT if found is None or (found == 0 and extra == "duration") else found
        case mi.IntType() if extra:
            return octets(raw) or NODEFAULT
        case mi.IntType() | mi.FloatType():
            return _number(kind, raw)
    raise AssertionError(f"no reading of {kind!r}")


def _number(kind: mi.IntType | mi.FloatType, raw: object) -> Any:
    number = int if isinstance(kind, mi.IntType) else float
    if isinstance(raw, Given):
        try:
            raw = number(raw)
        except ValueError:
            return NODEFAULT
    if isinstance(raw, bool) or not isinstance(raw, int if number is int else int | float):
        return NODEFAULT
    if (kind.ge is not None and raw < kind.ge) or (kind.gt is not None and raw <= kind.gt) or math.isnan(raw):
        return NODEFAULT
    if kind.le is not None and raw > kind.le:
        return NODEFAULT
    return number(raw)


def _words(kind: mi.Type, extra: str) -> str:
    match kind:
        case mi.LiteralType():
            return "one of " + ", ".join(str(value) for value in kind.values)
        case mi.BoolType():
            return "true or false"
        case mi.FloatType() if extra:
            return DURATION_WORDS + (" above zero" if extra == "duration" else "")
        case mi.IntType() if extra:
            return SIZE_WORDS
        case mi.IntType() | mi.FloatType():
            noun = "a whole number" if isinstance(kind, mi.IntType) else "a number"
            least = f"from {kind.ge} to" if kind.gt is None else f"above {kind.gt} and at most"
            return f"{noun} {least} {kind.le}"
    return "text"


def _shown(kind: mi.Type, raw: object) -> str:
    """The offending value, unless it may be a secret."""
    return _type(raw) if isinstance(kind, mi.CustomType) else _plain(raw)


def _plain(raw: object) -> str:
    if isinstance(raw, str):
        return repr(str(raw) if len(raw) <= 60 else raw[:59] + "…") if raw else "empty"
    return (
        str(raw).lower()
        if isinstance(raw, bool)
        else str(raw)
        if isinstance(raw, int | float)
        else _type(raw)
    )


def _type(raw: object) -> str:
    if isinstance(raw, bool):
        return "true or false (put it into quotes)"
    if isinstance(raw, int | float):
        return "a number (put it into quotes)"
    return "text" if isinstance(raw, str) else "a list" if isinstance(raw, list) else "a mapping"


def _place(raw: object, path: str) -> str:
    return raw.source if isinstance(raw, Given) else path


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def paths(kind: mi.Type, path: str = "") -> Iterator[str]:
    """Every option's path, `*` standing for a name that the user chooses."""
    yield from (each for each, _ in leaves(kind, path))


def leaves(kind: mi.Type, path: str = "") -> Iterator[tuple[str, mi.Type]]:
    """Every option's path and kind."""
    kind, _, _ = unwrap(kind)
    match kind:
        case mi.StructType():
            for field in kind.fields:
                yield from leaves(field.type, _join(path, field.name))
        case mi.UnionType():
            for variant in kind.types:
                assert isinstance(variant, mi.StructType)
                if variant.tag == INSTALLED:
                    continue
                yield _join(path, variant.tag_field), mi.StrType()
                yield from leaves(variant, path)
        case mi.DictType():
            yield from leaves(kind.value_type, f"{path}.*")
        case _:
            yield path, kind


def _suggestion(name: str, siblings: list[str], path: str) -> str:
    close = difflib.get_close_matches(name.lower(), siblings, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {_join(path, close[0])}?"
    from pgambassador.config.structs import Config

    for known in paths(mi.type_info(Config)):
        if known.rpartition(".")[2] == name.lower() and "*" not in known:
            return f"Did you mean {known}?"
    return f"Known here: {', '.join(sorted(siblings))}."
