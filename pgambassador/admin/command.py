"""What somebody types on the console: a few statements, understood without a parser of SQL.

1. Words are read in any case; a text is a string as SQL writes it, or a parameter.
2. What is not known is an error that says what is.
3. It is read once from left to right, and what is long not at all: everybody waits for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pgambassador.admin import fault
from pgambassador.errors import Refused

HINT: Final = "SHOW HELP lists what there is."

_TOKEN: Final = re.compile(
    r"""
    (?P<space>\s+|--[^\r\n]*)
    | (?P<comment>/\*)
    | [eE]'(?P<escaped>(?:[^'\\]|''|\\.)*)'
    | '(?P<string>(?:[^']|'')*)'
    | (?P<dollar>\$[A-Za-z_]*\$)
    | \$(?P<parameter>[0-9]{1,5})
    | "(?P<quoted>(?:[^"]|"")*)"
    | (?P<number>[0-9]+(?:\.[0-9]+)?)
    | (?P<word>[^\W\d][\w$.]*)
    | (?P<open>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
MOST: Final = 10 * 1024
"""Characters of a query."""
# Around texts that drivers put in place of parameters.
_BRACKETS: Final = "()"
_BEGINS: Final = ("begin", "start")
_ENDS: Final = {"commit": "COMMIT", "end": "COMMIT", "rollback": "ROLLBACK", "abort": "ROLLBACK"}
_BY_HAND: Final = ("pause", "resume", "reconnect")
_IGNORED: Final = {"set": "SET", "reset": "RESET", "discard": "DISCARD ALL", "deallocate": "DEALLOCATE"}


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: word, name (a quoted one), text, number, parameter, or other."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class Command:
    """`verb` is what to do: begin, end, ignore, weigh, inject, clear, pause, resume, reconnect, reread
    or breaker, answered by `tag` alone; route, setting or a table's name, which show something. `texts` are
    what it is about; parameters come when it runs."""

    verb: str
    tag: str = "SHOW"
    texts: tuple[Token, ...] = ()

    @property
    def parameters(self) -> int:
        """How many it needs."""
        return max((int(each.value) for each in self.texts if each.kind == "parameter"), default=0)

    def filled(self, values: Sequence[str]) -> tuple[str, ...]:
        """`texts`, with these in place of the parameters."""
        return tuple(
            values[int(each.value) - 1] if each.kind == "parameter" else each.value for each in self.texts
        )


def read(text: str, tables: Sequence[str]) -> list[Command]:
    """The statements of a query; `tables` are what SHOW knows by one word. Refused where one is not known."""
    if len(text) > MOST:
        raise Refused(
            f"a query for the console may have {MOST} characters",
            sqlstate="54000",
            hint=f"Send a shorter one. {HINT}",
        )
    return [_command(tokens, tables) for tokens in _statements(text)]


def _statements(text: str) -> Iterator[list[Token]]:
    tokens: list[Token] = []
    for token in _tokens(text):
        if token == Token("other", ";"):
            if tokens:
                yield tokens
            tokens = []
        else:
            tokens.append(token)
    if tokens:
        yield tokens


def _tokens(text: str) -> Iterator[Token]:
    at = 0
    while match := _TOKEN.match(text, at):
        kind, at = str(match.lastgroup), match.end()
        found = match[kind]
        if kind == "comment":
            at = _behind("*/", text, at, "/* comment")
        elif kind == "dollar":
            end = _behind(found, text, at, "dollar-quoted string")
            yield Token("text", text[at : end - len(found)])
            at = end
        elif kind == "open":
            raise _unterminated("quoted string" if found == "'" else "quoted identifier")
        elif kind == "escaped":
            yield Token("text", re.sub(r"\\(.)", r"\1", found.replace("''", "'"), flags=re.DOTALL))
        elif kind == "string":
            yield Token("text", found.replace("''", "'"))
        elif kind == "quoted":
            yield Token("name", found.replace('""', '"'))
        elif kind != "space" and (kind != "other" or found not in _BRACKETS):
            yield Token(kind, found)


def _behind(end: str, text: str, at: int, what: str) -> int:
    found = text.find(end, at)
    if found < 0:
        raise _unterminated(what)
    return found + len(end)


def _unterminated(what: str) -> Refused:
    return Refused(f"unterminated {what}", sqlstate="42601", hint=f"End it. {HINT}")


def _command(tokens: list[Token], tables: Sequence[str]) -> Command:
    words = [each.value.lower() if each.kind == "word" else "" for each in tokens]
    first = words[0]
    if first == "show":
        return _show(tokens, words, tables)
    if first in _BEGINS:
        return Command("begin", "BEGIN" if first == "begin" else "START TRANSACTION")
    if first in _ENDS:
        return Command("end", _ENDS[first])
    if words[:2] == ["set", "weight"]:
        return _weigh(tokens[2:])
    if first == "fault":
        return _fault(tokens[1:], words[1:])
    if first in _BY_HAND:
        return _by_hand(first, tokens[1:])
    if words == ["reload"]:
        return Command("reread", "RELOAD")
    if first == "breaker":
        return _breaker(tokens[1:])
    if first in _IGNORED:
        return Command("ignore", _IGNORED[first])
    raise unknown(tokens[0].value)


def _show(tokens: list[Token], words: list[str], tables: Sequence[str]) -> Command:
    """SHOW ROUTE [FOR user database [application]] text, SHOW a table, or a setting as drivers ask for it."""
    if words[1:2] == ["route"]:
        rest, wanted = tokens[2:], {1}
        if words[2:3] == ["for"]:
            rest, wanted = tokens[3:], {3, 4}
        texts = ("word", "name", "text", "parameter")
        if len(rest) not in wanted or any(each.kind not in texts for each in rest) or not _is_text(rest[-1]):
            raise Refused(
                "SHOW ROUTE needs a statement in quotes",
                sqlstate="42601",
                hint="SHOW ROUTE 'SELECT 1', or SHOW ROUTE FOR user database [application_name] 'SELECT 1'.",
            )
        return Command("route", texts=_numbered(rest))
    if len(words) == 2 and words[1] in tables:
        return Command(words[1])
    if len(words) > 1 and all(words):
        return Command("setting", texts=(Token("text", " ".join(words[1:])),))
    raise unknown(" ".join(each.value for each in tokens[:3]))


def _weigh(tokens: list[Token]) -> Command:
    """SET WEIGHT 'HOST:PORT' number, with = or TO between."""
    if len(tokens) == 3 and tokens[1].value.lower() in ("=", "to"):
        del tokens[1]
    if len(tokens) != 2 or not _is_text(tokens[0]) or tokens[1].kind not in ("number", "text", "parameter"):
        raise Refused(
            "SET WEIGHT needs a server and a number",
            sqlstate="42601",
            hint="SET WEIGHT '10.0.0.7:5432' 0.1; SHOW REPLICATION lists the servers.",
        )
    return Command("weigh", "SET", _numbered(tokens))


def _fault(tokens: list[Token], words: list[str]) -> Command:
    """FAULT ADD, FAULT CLEAR [number] or FAULT LIST."""
    if words == ["list"]:
        return Command("faults")
    if words[:1] == ["add"]:
        told = fault.order(list(tokens[1:])).told()
        return Command("inject", "FAULT", tuple(Token("text", each) for each in told))
    if words == ["clear"] or (words[:1] == ["clear"] and [each.kind for each in tokens[1:]] == ["number"]):
        return Command("clear", "FAULT", tuple(tokens[1:]))
    raise Refused("FAULT is followed by ADD, CLEAR or LIST", sqlstate="42601", hint=fault.HINT)


def _by_hand(verb: str, tokens: list[Token]) -> Command:
    """PAUSE, RESUME or RECONNECT, of a database or of all."""
    if len(tokens) > 1 or any(each.kind not in ("word", "name", "text", "parameter") for each in tokens):
        raise Refused(
            f"{verb.upper()} needs the name of a database, or nothing",
            sqlstate="42601",
            hint=f'{verb.upper()} shop; names with other characters as in {verb.upper()} "my-shop".',
        )
    return Command(verb, verb.upper(), _numbered(tokens))


def _breaker(tokens: list[Token]) -> Command:
    """BREAKER 'HOST:PORT' OPEN, CLOSE, AUTO or DRY."""
    if len(tokens) != 2 or not _is_text(tokens[0]) or tokens[1].kind not in ("word", "text", "parameter"):
        raise Refused(
            "BREAKER needs a server and what to do with it",
            sqlstate="42601",
            hint="BREAKER '10.0.0.7:5432' OPEN, CLOSE, AUTO or DRY; SHOW BREAKERS lists the servers.",
        )
    return Command("breaker", "BREAKER", _numbered(tokens))


def _numbered(tokens: list[Token]) -> tuple[Token, ...]:
    if any(each.kind == "parameter" and not 0 < int(each.value) <= len(tokens) for each in tokens):
        raise Refused("there is no such parameter", sqlstate="42P02", hint="Number them from $1.")
    return tuple(tokens)


def _is_text(token: Token) -> bool:
    return token.kind in ("text", "parameter")


def unknown(what: str) -> Refused:
    return Refused(f"the console does not know {what[:64]!r}", sqlstate="42601", hint=HINT)
