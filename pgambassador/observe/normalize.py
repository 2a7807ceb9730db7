"""A statement without its literals, for a log that may be read by others than the data.

1. No constant of the statement and no comment ever appears in the result: not a string in any of
   PostgreSQL's spellings, not a number. (Identifiers, parameters and TRUE, FALSE, NULL do.)
2. Where the text cannot be cut into tokens with certainty, the rest is replaced by "…". This covers strings
   that never end, and those that end elsewhere under standard_conforming_strings = off or in another
   client_encoding.
3. It agrees with PostgreSQL's own scanner (manual: "SQL Syntax", "Lexical Structure") where that succeeds.
"""

from __future__ import annotations

import itertools
import re

_LETTER = "A-Za-z_\x80-\U0010ffff"
# After a byte above 127 it may be the second half of a character: SJIS, BIG5, GBK and others have such.
_BACKSLASH = r"(?<![\x80-\U0010ffff])\\"
# No repeated group here is possessive: before Python 3.11.5 those match wrongly. Where giving back would end
# a string at the first half of a doubled quote, a look ahead forbids it.
_TOKEN = re.compile(
    rf"""
      (?P<space>     (?: [ \t\r\n\f\v]+ | --[^\r\n]* )+ )
    | (?P<comment>   /\* )
    | (?P<escaped>   [eE]'(?: [^'\\] | '' | {_BACKSLASH}. )*'(?!') )
      # Whether a backslash before a quote escapes it is a setting of the server: no match.
    | (?P<string>    (?: [bBxXnN] | [uU]& )? '(?: [^'\\] | '' | {_BACKSLASH}[^'] )*'(?!') )
    | (?P<name>      [{_LETTER}][{_LETTER}0-9$]* | "(?: [^"] | "" )+"(?!") )
    | (?P<param>     \$[0-9]{{1,9}}(?![{_LETTER}0-9$]) )
    | (?P<dollar>    \$(?P<tag>(?:[{_LETTER}][{_LETTER}0-9]*)?)\$ .*? \$(?P=tag)\$ )
    | (?P<number>    \.?[0-9](?: [eE][-+][0-9] | [{_LETTER}0-9.] )* )
    | (?P<sign>      [-+*/<>=~!@#%^&|`?()\[\],;:.] )
    """,
    re.VERBOSE | re.DOTALL,
)
_NESTING = re.compile(r"/\*|\*/")
CUT = "…"


def normalize(text: str, limit: int = 4096) -> str:
    """Literals become $n, numbered after the statement's own parameters; cut after `limit` characters."""
    out: list[str | None] = []  # None stands for a literal, which gets its number at the end
    position, end, length, highest = 0, len(text), 0, 0
    apart = True  # whether the last token and the next one keep apart by themselves
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or length > limit:
            out.append(CUT)
            break
        position = match.end()
        kind, token = match.lastgroup, match[0]
        if kind == "comment":
            after = _comment_end(text, position)
            if after is None:
                out.append(CUT)
                break
            position, kind = after, "space"
        if kind == "space":
            if out and out[-1] != " ":
                out.append(" ")
            apart = True
            continue
        if kind == "sign":
            out.append(token)
            apart = True
        else:
            if not apart:
                out.append(" ")
            if kind == "param":
                highest = max(highest, int(token[1:]))
            out.append(token if kind in ("name", "param") else None)
            apart = False
        length += len(token) if out[-1] is not None else 3
    return _numbered(out, highest)


def _numbered(tokens: list[str | None], highest: int) -> str:
    numbers = itertools.count(highest + 1)
    return "".join(f"${next(numbers)}" if token is None else token for token in tokens).rstrip(" ")


def _comment_end(text: str, position: int) -> int | None:
    """Comments nest."""
    depth = 1
    while depth:
        match = _NESTING.search(text, position)
        if match is None:
            return None
        depth += 1 if match[0] == "/*" else -1
        position = match.end()
    return position
