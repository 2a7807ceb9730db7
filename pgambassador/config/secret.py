"""A value that must never be printed, and the removal of such values from text that came from outside."""

from __future__ import annotations

import re

_URL_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):\S*@")
_QUERY_SECRET = re.compile(r"(?i)\b((?:ssl)?password)(\s*[=:]\s*)[^&\s]+")


class Secret:
    """A password, or a URL that may hold one. Only `reveal` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not pickled")


def redact(text: str) -> str:
    """The text without the passwords of the URLs and `password=` settings in it."""
    return _QUERY_SECRET.sub(r"\1\2***", _URL_PASSWORD.sub(r"\1:***@", text))
