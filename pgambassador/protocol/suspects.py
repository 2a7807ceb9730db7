"""Which statements may change their session although their text does not say so: by what a function does.

1. What a function may leave behind is read from its source, once for a database and not for each statement:
   calls of set_config(), SET and RESET, temporary objects, session advisory locks, LISTEN and LOAD.
2. Suspect are the names of such functions, of functions that mention them, and of relations that use any of
   these: by triggers, views, defaults, policies and constraints, through partitions and foreign keys too.
3. A function that is used where no name shows it (an operator, a cast, an event trigger) makes every
   statement suspect.
4. A body is read with its comments and once more without them.
5. A function that executes statements it puts together may do anything. Not read: functions in C.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from pgambassador.protocol import survey
from pgambassador.wire import build, parse

# In PostgreSQL's regular expressions, where \m and \M are the bounds of a word. A SET within UPDATE is none.
_BEGINNING: Final = r"(^|[;''$(]|\m(begin|then|else|loop)\M)(\s|\\[nrt])*"
# What is put together from pieces may be anything.
_DYNAMIC: Final = r"\m(execute|spi_exec|spi_query|spi_exec_query)\M"
_SETS: Final = (
    _DYNAMIC
    + r"|set_config|pg_settings|u&|"
    + _BEGINNING
    + r"(set\s+(?!local\M|transaction\M|constraints\M)|(reset|discard)\s)"
)
_TIES: Final = _DYNAMIC + r"|\m(temp|temporary)\M|pg_temp|advisory_lock|" + _BEGINNING + r"(listen|load)\s"
_BLOCK: Final = r"'/\*([^*/]|\*(?!/)|/(?!\*))*\*/', ' ', 'g'"


def _without_blocks(text: str) -> str:
    """Comments may be nested: the innermost go first."""
    for _ in range(4):
        text = f"regexp_replace({text}, {_BLOCK})"
    return text


def _without_lines(text: str) -> str:
    return rf"regexp_replace({text}, '--[^\n]*', ' ', 'g')"


# What looks like a comment may stand in a string, or within one of the other kind.
_WITHOUT_BLOCKS: Final = _without_blocks("text")
_WITHOUT_LINES: Final = _without_lines("text")
_WITHOUT_BOTH: Final = f"{_without_lines(_WITHOUT_BLOCKS)}, {_without_blocks(_WITHOUT_LINES)}"
_BETWEEN: Final = "[^[:alnum:]_$]+"
"""What separates words. Of a name that is not one word its longest part counts."""
_LOCAL_CALL: Final = r"set_config\s*\([^()]*,\s*true\s*\)"

QUERY: Final = build.query(
    rf"""
    WITH RECURSIVE source AS (
        SELECT oid, proname AS name, CASE WHEN prosrc <> '' THEN prosrc
            ELSE pg_catalog.pg_get_functiondef(oid) END AS text FROM pg_catalog.pg_proc
        WHERE oid >= 16384 AND prokind IN ('f', 'p') AND prolang NOT IN
            (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'internal')) OFFSET 0
    ), own AS (
        SELECT oid, name, regexp_replace(text, '{_LOCAL_CALL}', '', 'gi') AS body, regexp_replace(
            concat_ws(' ; ', text, {_WITHOUT_BLOCKS}, {_WITHOUT_LINES}, {_WITHOUT_BOTH}),
            '{_LOCAL_CALL}', '', 'gi') AS read
        FROM source
    ), guilty AS (
        SELECT * FROM (
            SELECT *, read ~* '{_SETS}' AS sets, read ~* '{_TIES}' AS ties FROM own OFFSET 0
        ) AS judged WHERE sets OR ties
    ), named AS (
        SELECT class, id, (SELECT word FROM regexp_split_to_table(lower(name), '{_BETWEEN}') AS word
            ORDER BY length(word) DESC LIMIT 1) AS word
        FROM (
            SELECT 'pg_proc'::regclass::oid AS class, oid AS id, name FROM own
            UNION ALL
            SELECT 'pg_class'::regclass::oid, oid, relname FROM pg_catalog.pg_class WHERE oid >= 16384
        ) AS named
    ), mentions AS MATERIALIZED (
        SELECT named.class, named.id, array_agg(DISTINCT own.oid) AS users
        FROM own, regexp_split_to_table(lower(body), '{_BETWEEN}') AS word JOIN named USING (word)
        WHERE EXISTS (SELECT FROM guilty) GROUP BY named.class, named.id
    ), reached (class, id) AS (
        SELECT 'pg_proc'::regclass::oid, oid FROM guilty
        UNION
        SELECT found.class, found.id FROM reached, LATERAL (
            SELECT 'pg_proc'::regclass::oid, unnest(users) FROM mentions
            WHERE mentions.class = reached.class AND mentions.id = reached.id
            UNION ALL
            SELECT CASE WHEN user_of.relation IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END,
                coalesce(user_of.relation, d.objid)
            FROM pg_catalog.pg_depend AS d LEFT JOIN (
                SELECT 'pg_rewrite'::regclass::oid, oid, ev_class FROM pg_catalog.pg_rewrite
                UNION ALL SELECT 'pg_trigger'::regclass::oid, oid, tgrelid FROM pg_catalog.pg_trigger
                UNION ALL SELECT 'pg_attrdef'::regclass::oid, oid, adrelid FROM pg_catalog.pg_attrdef
                UNION ALL SELECT 'pg_policy'::regclass::oid, oid, polrelid FROM pg_catalog.pg_policy
                UNION ALL SELECT 'pg_class'::regclass::oid, indexrelid, indrelid FROM pg_catalog.pg_index
                UNION ALL SELECT 'pg_constraint'::regclass::oid, oid, conrelid FROM pg_catalog.pg_constraint
                    WHERE conrelid <> 0
            ) AS user_of (class, id, relation) ON d.classid = user_of.class AND d.objid = user_of.id
            WHERE d.refclassid = reached.class AND d.refobjid = reached.id
                AND (d.refclassid = 'pg_proc'::regclass OR d.classid = 'pg_rewrite'::regclass)
            UNION ALL
            SELECT 'pg_class'::regclass::oid, inhparent FROM pg_catalog.pg_inherits
            WHERE class = 'pg_class'::regclass AND inhrelid = reached.id
            UNION ALL
            SELECT 'pg_class'::regclass::oid, confrelid FROM pg_catalog.pg_constraint
            WHERE class = 'pg_class'::regclass AND contype = 'f' AND conrelid = reached.id
        ) AS found (class, id)
    )
    SELECT 'body', CASE WHEN sets THEN read ELSE '' END, CASE WHEN ties THEN 'ties' ELSE '' END FROM guilty
    UNION ALL
    SELECT CASE WHEN proname IS NULL AND relname IS NULL THEN 'everywhere' ELSE 'name' END,
        coalesce(proname, relname, ''), ''
    FROM reached LEFT JOIN pg_catalog.pg_proc AS p ON class = 'pg_proc'::regclass AND p.oid = id
        LEFT JOIN pg_catalog.pg_class AS c ON class = 'pg_class'::regclass AND c.oid = id
    """
)

_WORD: Final = re.compile(rb"[\w$]+")
_SHORT: Final = 2048
_NAME_MOST: Final = 63
_PIECES: Final = re.compile(rb"(?i)\b(?:execute|spi_exec|spi_query|spi_exec_query)\b")
_CALL: Final = re.compile(rb"(?i)set_config|pg_settings|u&")
_OTHER: Final = re.compile(
    rb"(?i)(?:^|[;'$(]|\b(?:begin|then|else|loop)\b)(?:\s|\\[nrt])*"
    rb"(?:set\s+(?!local\b|transaction\b|constraints\b)(?:session\s+)?(?:([a-z_][\w$.]*)\s*(?:=|to\b))?|(?:reset|discard)\s)"
)


class Suspects:
    """`settings` are the parameters that suspect statements may set; `ties` whether they may tie."""

    def __init__(
        self, names: Iterable[str], settings: survey.Names, *, ties: bool = False, everywhere: bool = False
    ) -> None:
        names = tuple(names)
        self.settings = settings
        self.ties = ties
        self._words = frozenset(max(_words(name.lower().encode()), key=len, default=b"") for name in names)
        self._everywhere = everywhere or b"" in self._words or not all(name.isascii() for name in names)
        self._short = lru_cache(maxsize=1000)(self._search)
        self._long = lru_cache(maxsize=50)(self._search)

    def __bool__(self) -> bool:
        return self._everywhere or bool(self._words)

    def among(self, text: bytes) -> bool:
        """Whether a statement is suspect; b"" is one that is not known."""
        if self._everywhere or not text:
            return bool(self)
        return bool(self._words) and (self._short if len(text) <= _SHORT else self._long)(text)

    def _search(self, text: bytes) -> bool:
        text = text.lower()
        return b'u&"' in text or not self._words.isdisjoint(_words(text))

    def __repr__(self) -> str:
        words = b" ".join(sorted(self._words)).decode()
        return f"<Suspects {'everybody' if self._everywhere else words or '-'} {sorted(self.settings)}>"


def _words(text: bytes) -> set[bytes]:
    """The words of a text; of those with dollar signs, which quote in SQL, what is between them as well."""
    whole = set(_WORD.findall(text))
    whole |= {word[:_NAME_MOST] for word in whole if len(word) > _NAME_MOST}
    return whole.union(*(word.split(b"$") for word in whole if b"$" in word)) - {b""}


EVERYBODY: Final = Suspects((), survey.ALL, ties=True, everywhere=True)
NOBODY: Final = Suspects((), survey.NOTHING)


def read(rows: Iterable[bytes]) -> Suspects:
    """From the DataRows that answer QUERY."""
    names: list[str] = []
    settings: survey.Names = survey.NOTHING
    ties = everywhere = False
    for row in rows:
        kind, value, tie = parse.columns(row)
        if kind == b"body":
            settings |= settings_in(value or b"")
            ties = ties or bool(tie)
        elif kind == b"name":
            names.append(parse.decode(value or b""))
        else:
            everywhere = True
    return Suspects(names, settings, ties=ties, everywhere=everywhere)


def settings_in(body: bytes) -> survey.Names:
    """Which parameters a function's body sets; all, where it does not say."""
    if _PIECES.search(body):
        return survey.ALL | survey.names_in(body)
    found = survey.names_called(body) if _CALL.search(body) else survey.NOTHING
    for name in _OTHER.findall(body):
        found |= frozenset({name.decode().lower()}) if name else survey.ALL
    return found
