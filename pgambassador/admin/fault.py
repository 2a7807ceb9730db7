"""FAULT, as it is typed on the console.

FAULT ADD DELAY 200ms | ERROR [sqlstate] | CUT [BEFORE | AFTER]
    [10%] [FOR user=app, database=shop, application_name=…, fingerprint=…] [FOR 5min]
FAULT CLEAR [number]
FAULT LIST
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from pgambassador.config.limits import What
from pgambassador.config.values import seconds
from pgambassador.errors import Refused
from pgambassador.pool.faults import SQLSTATE, USUAL, Kind

HINT: Final = "FAULT ADD ERROR 40001 10% FOR user=app FOR 5min; SHOW HELP lists what there is."

_KINDS: Final[dict[str, Kind]] = {"delay": "delay", "error": "error", "cut": "cut"}
_NAMES: Final = What.__struct_fields__


class Word(Protocol):
    """A token of the console's."""

    @property
    def kind(self) -> str: ...
    @property
    def value(self) -> str: ...


class Order(NamedTuple):
    """What somebody wants to go wrong: `delay` and `lasts` are seconds."""

    kind: Kind
    delay: float
    sqlstate: str
    after: bool
    percent: float
    lasts: float
    whom: What

    def told(self) -> tuple[str, ...]:
        """As texts, which is what a Command carries."""
        whom = (getattr(self.whom, name)[0] for name in _NAMES)
        after = "after" if self.after else ""
        return (
            self.kind,
            repr(self.delay),
            self.sqlstate,
            after,
            repr(self.percent),
            repr(self.lasts),
            *whom,
        )

    @classmethod
    def heard(cls, texts: tuple[str, ...]) -> Order:
        kind, delay, sqlstate, after, percent, lasts, *whom = texts
        names = {name: (value,) for name, value in zip(_NAMES, whom, strict=True)}
        return cls(
            _KINDS[kind], float(delay), sqlstate, bool(after), float(percent), float(lasts), What(**names)
        )


def order(words: list[Word]) -> Order:
    """What stands behind FAULT ADD; Refused if it cannot be understood."""
    reading = _Reading(words)
    kind = _KINDS.get(reading.word())
    if kind is None:
        raise _misread("a fault is a delay, an error or a cut")
    delay, sqlstate, after = 0.0, SQLSTATE, False
    if kind == "delay":
        delay = reading.duration("a delay needs a duration")
    elif kind == "error":
        sqlstate = reading.sqlstate() or SQLSTATE
    elif reading.peek() in ("before", "after"):
        after = reading.word() == "after"
    percent, lasts, names = 100.0, USUAL, dict[str, tuple[str, ...]]()
    if reading.number() is not None:
        percent = float(reading.take().value)
        if reading.peek() in ("%", "percent"):
            reading.take()
    while reading.left:
        if reading.word() != "for":
            raise _misread("the fault is not understood")
        if reading.number() is not None or reading.is_text:
            lasts = reading.duration("FOR needs a duration, or whom it is for")
        else:
            names |= reading.names()
    return Order(kind, delay, sqlstate, after, percent, lasts, What(**names))


class _Reading:
    def __init__(self, words: list[Word]) -> None:
        self._words = words

    @property
    def left(self) -> bool:
        return bool(self._words)

    @property
    def is_text(self) -> bool:
        return self.left and self._words[0].kind == "text"

    def take(self) -> Word:
        if not self._words:
            raise _misread("the fault is not complete")
        return self._words.pop(0)

    def peek(self) -> str:
        return self._words[0].value.lower() if self._words else ""

    def word(self) -> str:
        return self.take().value.lower()

    def number(self) -> str | None:
        return self._words[0].value if self.left and self._words[0].kind == "number" else None

    def duration(self, what: str) -> float:
        """A number and perhaps a unit, or a text with both."""
        text = self.take().value
        if self.left and self._words[0].kind == "word" and text[-1:].isdigit() and self.peek() != "for":
            text += self.take().value
        found = seconds(text)
        if found is None:
            raise _misread(what)
        return found

    def sqlstate(self) -> str | None:
        """Five letters or digits: a number, a word, a text, or a number with a word behind it."""
        if not self.left or self.peek() == "for":
            return None
        ahead = [each.value for each in self._words[:2]]
        if self._words[0].kind == "number" and len(ahead[0]) < 5:
            together = "".join(ahead)
            if len(together) != 5 or self._words[1].kind != "word" or ahead[1].lower() == "for":
                return None  # a percentage
            self.take()
            ahead = [together]
        elif self._words[0].kind == "number" and len(ahead) > 1 and ahead[1] == "%":
            return None
        self.take()
        found = ahead[0].upper()
        if len(found) != 5 or not (found.isascii() and found.isalnum()):
            raise _misread("an SQLSTATE has five letters or digits")
        if found[:2] in ("00", "01", "02"):
            raise _misread("that SQLSTATE is no error's")
        return found

    def names(self) -> dict[str, tuple[str, ...]]:
        """name=value, several with commas between."""
        found = dict[str, tuple[str, ...]]()
        while True:
            name = self.word()
            if name not in _NAMES or self.peek() != "=":
                raise _misread(f"a fault is for {', '.join(_NAMES)}")
            self.take()
            value = self.take()
            text = value.value
            if (
                value.kind == "number"
                and self.left
                and self._words[0].kind == "word"
                and self.peek() != "for"
            ):
                text += self.take().value  # a fingerprint may begin with digits
            found[name] = (text,)
            if self.peek() != ",":
                return found
            self.take()


def _misread(what: str) -> Refused:
    return Refused(what, sqlstate="42601", hint=HINT)
