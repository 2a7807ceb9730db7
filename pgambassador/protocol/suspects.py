"""Which statements may change their session although their text does not say so: by what a function does.

1. What a function may leave behind is read from its source, once for a database and not for each statement:
   calls of set_config(), SET and RESET, temporary objects, session advisory locks, LISTEN and LOAD.
2. Suspect are the names of such functions, of functions that mention them, and of relations that use any of
   these: by triggers, views, defaults, policies and constraints, through partitions and foreign keys too.
3. A function that is used where no name shows it (an operator, a cast, an event trigger) makes every
   statement suspect.
4. A body is read with its comments and once more without them.
5. A function that executes statements it puts together may do anything, and so may one in a language that is
   not known here, and one in C unless its extension is (`protocol.extensions`).
6. The server's work on it is bounded in time, and its answer in size; what is beyond may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from pgambassador.protocol import extensions, survey
from pgambassador.wire import build, parse

# In PostgreSQL's regular expressions, where \m and \M are the bounds of a word. A SET within UPDATE is none.
_BEGINNING: Final = r"(^|[;''$(]|\m(begin|then|else|loop)\M)(\s|\\[nrt])*"
# What is put together from pieces may be anything.
_DYNAMIC: Final = (
    r"\m(execute|spi_exec|spi_execp|spi_query|spi_exec_query|spi_exec_prepared|spi_query_prepared)\M|\.cursor\s*\("
    r"|\m\w+_to_xml|\mts_(stat|rewrite)\M"
)
_SETS: Final = (
    _DYNAMIC
    + r"|set_config|pg_settings|u&|"
    + _BEGINNING
    + r"(set\s+(?!local\M|transaction\M|constraints\M)|(reset|discard)\s)"
)
_TIES: Final = _DYNAMIC + r"|\m(temp|temporary)\M|pg_temp|advisory_lock|" + _BEGINNING + r"(listen|load)\s"
# Whose bodies can be read, and those in which a session may keep something of its own.
_READ: Final = (
    "'sql', 'plpgsql', 'plperl', 'plperlu', 'plpythonu', 'plpython2u', 'plpython3u', 'pltcl', 'pltclu'"
    ", 'plproxy', 'plv8'"
)
_WITH_GLOBALS: Final = "^pl(perl|python|tcl)"
_GLOBALS: Final = r"_SHARED|\mGD\M|\mglobal\M"
TIMEOUT: Final = 5
"""Seconds that a server may take for the answer."""
_LASTS: Final = extensions.LASTS + "|" + _BEGINNING + r"load\s"
_BLOCK: Final = r"'/\*([^*/]|\*(?!/)|/(?!\*))*\*/', ' ', 'g'"


def _without_blocks(text: str) -> str:
    """Comments may be nested: the innermost go first."""
    for _ in range(4):
        text = f"regexp_replace({text}, {_BLOCK})"
    return text


def _without_lines(text: str) -> str:
    return rf"regexp_replace({text}, '--[^\r\n]*', ' ', 'g')"


# What looks like a comment may stand in a string, or within one of the other kind.
_WITHOUT_BLOCKS: Final = _without_blocks("text")
_WITHOUT_LINES: Final = _without_lines("text")
_WITHOUT_BOTH: Final = f"{_without_lines(_WITHOUT_BLOCKS)}, {_without_blocks(_WITHOUT_LINES)}"
_BETWEEN: Final = "[^[:alnum:]_$]+"
"""What separates words. Of a name that is not one word its longest part counts."""
_LOCAL_CALL: Final = r"set_config\s*\([^()]*,\s*true\s*\)"

# What a view, a default or a policy may call by itself, without a function of anybody's own.
_BUILT_IN: Final = (
    "proname ~ '^(set_config|pg_(try_)?advisory_lock|ts_stat|ts_rewrite)|_to_xml'"
    " AND proname !~ '_xact_' AND oid < 16384"
)
_READ_MOST: Final = 4_000_000
"""Characters of bodies that a server hands out; of more than that anything is believed."""
_BODY_MOST: Final = 200_000
"""Characters of one, which is one row of the answer."""
NAMES_MOST: Final = 20_000


_BOUNDED: Final = f"SET LOCAL statement_timeout = '{TIMEOUT}s'; SET LOCAL jit = off; "
_ROWS: Final = "count(*) || ':' || coalesce(sum({0}.xmin::text::numeric), 0)"
# Whatever the answer depends on, in numbers that no change leaves as they were: a new xmin, or fewer rows.
# Temporary relations come and go, and nobody else can use them.
_PRINT: Final = f"""
    WITH lasting AS MATERIALIZED (
        SELECT oid, relname FROM pg_catalog.pg_class
        WHERE oid >= 16384 AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f')
    )
    SELECT 'print', concat_ws(' ',
        (SELECT {_ROWS.format("p")} FROM pg_catalog.pg_proc AS p WHERE oid >= 16384),
        (SELECT {_ROWS.format("d")} FROM pg_catalog.pg_depend AS d
            WHERE refclassid = 'pg_proc'::regclass AND refobjid >= 16384),
        (SELECT count(*) || ':' || coalesce(sum(hashtext(relname::text)), 0) FROM lasting),
        (SELECT {_ROWS.format("r")} FROM pg_catalog.pg_rewrite AS r JOIN lasting ON lasting.oid = ev_class),
        (SELECT {_ROWS.format("d")} FROM pg_catalog.pg_attrdef AS d JOIN lasting ON lasting.oid = adrelid),
        (SELECT {_ROWS.format("c")} FROM pg_catalog.pg_constraint AS c
            LEFT JOIN lasting ON lasting.oid = conrelid WHERE conrelid = 0 OR lasting.oid IS NOT NULL),
        (SELECT {_ROWS.format("t")} FROM pg_catalog.pg_trigger AS t JOIN lasting ON lasting.oid = tgrelid),
        (SELECT {_ROWS.format("p")} FROM pg_catalog.pg_policy AS p),
        (SELECT {_ROWS.format("i")} FROM pg_catalog.pg_inherits AS i
            JOIN lasting ON lasting.oid = inhrelid)), ''
    UNION ALL
    SELECT 'tables', {_ROWS.format("a")}, ''
    FROM pg_catalog.pg_attribute AS a JOIN lasting ON lasting.oid = attrelid
"""
PROBE: Final = build.query(_BOUNDED + _PRINT)
"""Asks for the first two rows of the answer alone: the first is another if anything has changed, the second
if columns have."""


def query(harmless: Iterable[str] = ()) -> bytes:
    """The simple query that `read` understands; somebody vouches for extensions that are `harmless`."""
    return build.query(
        rf"""{_BOUNDED}{_PRINT};
    WITH RECURSIVE known (extension, functions, body, schema) AS (
        {extensions.leaves(harmless)}
    ), compiled AS (
        SELECT p.oid, proname, nspname, extname FROM pg_catalog.pg_proc AS p
            JOIN pg_catalog.pg_namespace AS n ON n.oid = pronamespace
            LEFT JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
                AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
            LEFT JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
        WHERE p.oid >= 16384 AND prokind <> 'a' AND prolang IN
            (SELECT oid FROM pg_catalog.pg_language WHERE lanname IN ('c', 'internal'))
    ), strange AS (
        SELECT oid, proname, extname FROM compiled
        WHERE extname IS NULL OR extname NOT IN ({extensions.known(harmless)})
    ), source AS (
        SELECT p.oid, proname AS name, '' AS schema, CASE WHEN prosrc <> '' THEN prosrc
            ELSE pg_catalog.pg_get_functiondef(p.oid) END
            || CASE WHEN lanname IN ({_READ}) THEN '' ELSE ' {extensions.ANYTHING}' END
            || CASE WHEN lanname ~ '{_WITH_GLOBALS}' AND prosrc ~ '{_GLOBALS}' THEN '
{extensions.LASTS}' ELSE '' END
            AS text
        FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_language AS l ON l.oid = prolang
        WHERE p.oid >= 16384 AND prokind IN ('f', 'p') AND lanname NOT IN ('c', 'internal')
        UNION ALL SELECT oid, proname, '', '{extensions.ANYTHING}' FROM strange
        UNION ALL SELECT oid, proname, schema, body FROM compiled JOIN known ON extension = extname
            AND proname ~ functions AND schema IN ('', nspname)
        OFFSET 0
    ), own AS (
        SELECT oid, name, schema, regexp_replace(text, '{_LOCAL_CALL}', '', 'gi') AS body, regexp_replace(
            concat_ws(' ; ', text, {_WITHOUT_BLOCKS}, {_WITHOUT_LINES}, {_WITHOUT_BOTH}),
            '{_LOCAL_CALL}', '', 'gi') AS read
        FROM source
    ), built_in AS (
        SELECT ':funcid (' || string_agg(oid::text, '|') || ') ' AS called
        FROM pg_catalog.pg_proc WHERE {_BUILT_IN}
    ), direct (class, id, text) AS (
        SELECT 'pg_rewrite'::regclass::oid, r.oid, pg_catalog.pg_get_ruledef(r.oid)
        FROM pg_catalog.pg_rewrite AS r, built_in
        WHERE r.oid >= 16384 AND (ev_action::text ~ called OR ev_qual::text ~ called)
        UNION ALL SELECT 'pg_attrdef'::regclass::oid, d.oid, pg_catalog.pg_get_expr(adbin, adrelid)
        FROM pg_catalog.pg_attrdef AS d, built_in WHERE adbin::text ~ called
        UNION ALL SELECT 'pg_policy'::regclass::oid, p.oid, concat_ws(' ; ',
            pg_catalog.pg_get_expr(polqual, polrelid), pg_catalog.pg_get_expr(polwithcheck, polrelid))
        FROM pg_catalog.pg_policy AS p, built_in WHERE concat(polqual::text, polwithcheck::text) ~ called
        UNION ALL SELECT 'pg_constraint'::regclass::oid, c.oid, pg_catalog.pg_get_constraintdef(c.oid)
        FROM pg_catalog.pg_constraint AS c, built_in WHERE c.oid >= 16384 AND conbin::text ~ called
        UNION ALL SELECT 'pg_trigger'::regclass::oid, t.oid, pg_catalog.pg_get_triggerdef(t.oid)
        FROM pg_catalog.pg_trigger AS t, built_in WHERE tgqual::text ~ called
        UNION ALL SELECT 'pg_proc'::regclass::oid, p.oid, pg_catalog.pg_get_expr(proargdefaults, 0)
        FROM pg_catalog.pg_proc AS p, built_in WHERE p.oid >= 16384 AND proargdefaults::text ~ called
    ), guilty AS MATERIALIZED (
        SELECT class, id, schema, read, sets, ties, read ~* '{_LASTS}' AS lasts FROM (
            SELECT *, read ~* '{_SETS}' AS sets, read ~* '{_TIES}' AS ties FROM (
                SELECT 'pg_proc'::regclass::oid AS class, oid AS id, schema, read FROM own
                UNION ALL SELECT class, id, '', regexp_replace(text, '{_LOCAL_CALL}', '', 'gi') FROM direct
            ) AS read OFFSET 0
        ) AS judged WHERE sets OR ties OR read ~* '{_LASTS}'
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
    ), user_of (class, id, relation) AS MATERIALIZED (
        SELECT 'pg_rewrite'::regclass::oid, oid, ev_class FROM pg_catalog.pg_rewrite
        UNION ALL SELECT 'pg_trigger'::regclass::oid, oid, tgrelid FROM pg_catalog.pg_trigger
        UNION ALL SELECT 'pg_attrdef'::regclass::oid, oid, adrelid FROM pg_catalog.pg_attrdef
        UNION ALL SELECT 'pg_policy'::regclass::oid, oid, polrelid FROM pg_catalog.pg_policy
        UNION ALL SELECT 'pg_class'::regclass::oid, indexrelid, indrelid FROM pg_catalog.pg_index
        UNION ALL SELECT 'pg_constraint'::regclass::oid, oid, conrelid FROM pg_catalog.pg_constraint
            WHERE conrelid <> 0
    ), begun (class, id, lasts) AS (
        SELECT CASE WHEN relation IS NULL THEN class ELSE 'pg_class'::regclass::oid END,
            coalesce(relation, id), lasts
        FROM guilty LEFT JOIN user_of USING (class, id)
    ), reached (class, id, lasts) AS (
        SELECT class, id, lasts FROM begun
        UNION
        SELECT found.class, found.id, reached.lasts FROM reached, LATERAL (
            SELECT 'pg_proc'::regclass::oid, unnest(users) FROM mentions
            WHERE mentions.class = reached.class AND mentions.id = reached.id
            UNION ALL
            SELECT CASE WHEN user_of.relation IS NULL THEN d.classid ELSE 'pg_class'::regclass::oid END,
                coalesce(user_of.relation, d.objid)
            FROM pg_catalog.pg_depend AS d
                LEFT JOIN user_of ON d.classid = user_of.class AND d.objid = user_of.id
            WHERE d.refclassid = reached.class AND d.refobjid = reached.id
                AND (d.refclassid = 'pg_proc'::regclass OR d.classid = 'pg_rewrite'::regclass)
            UNION ALL
            SELECT 'pg_class'::regclass::oid, inhparent FROM pg_catalog.pg_inherits
            WHERE class = 'pg_class'::regclass AND inhrelid = reached.id
            UNION ALL
            SELECT 'pg_class'::regclass::oid, confrelid FROM pg_catalog.pg_constraint
            WHERE class = 'pg_class'::regclass AND contype = 'f' AND conrelid = reached.id
        ) AS found (class, id)
    ), called (name, lasts) AS (
        SELECT coalesce(nullif(schema, ''), proname, relname), reached.lasts
        FROM reached LEFT JOIN pg_catalog.pg_proc AS p ON class = 'pg_proc'::regclass AND p.oid = id
            LEFT JOIN pg_catalog.pg_class AS c ON class = 'pg_class'::regclass AND c.oid = id
            LEFT JOIN guilty AS g USING (class, id)
    )
    SELECT 'body', CASE WHEN NOT sets THEN ''
            WHEN length(read) <= {_BODY_MOST}
                AND sum(length(read)) OVER (ORDER BY length(read), id) <= {_READ_MOST} THEN read
            ELSE '{extensions.ANYTHING}' END,
        CASE WHEN ties THEN 'ties' ELSE '' END FROM guilty
    UNION ALL
    (SELECT DISTINCT CASE WHEN name IS NULL THEN 'everywhere' ELSE 'name' END, coalesce(name, ''),
        CASE WHEN lasts THEN 'lasts' ELSE '' END FROM called LIMIT {NAMES_MOST + 1})
    UNION ALL
    (SELECT DISTINCT 'strange', coalesce(extname, proname || '()'), '' FROM strange LIMIT 100)
    """
    )


QUERY: Final = query()

_WORD: Final = re.compile(rb"[\w$]+")
_SHORT: Final = 2048
_NAME_MOST: Final = 63
_PIECES: Final = re.compile(
    rb"(?i)\b(?:execute|spi_exec|spi_execp|spi_query|spi_exec_query|spi_exec_prepared|spi_query_prepared)\b"
    rb"|\.cursor\s*\(|\b\w+_to_xml|\bts_(?:stat|rewrite)\b"
)
_CALL: Final = re.compile(rb"(?i)set_config|pg_settings|u&")
_OTHER: Final = re.compile(
    rb"(?i)(?:^|[;'$(]|\b(?:begin|then|else|loop)\b)(?:\s|\\[nrt])*"
    rb"(?:set\s+(?!local\b|transaction\b|constraints\b)(?:session\s+)?(?:([a-z_][\w$.]*)\s*(?:=|to\b))?|(?:reset|discard)\s)"
)


class Suspects:
    """`settings` are the parameters that suspect statements may set; `ties` whether they may tie.

    Statements that name one of `lasting` leave what cannot be taken away. `strange` are the extensions, and
    functions of none, that may do anything because nothing is known of them. `fingerprint` is that of what
    this was read from, `tables` that of the columns of tables.
    """

    def __init__(
        self,
        names: Iterable[str],
        settings: survey.Names,
        *,
        ties: bool = False,
        everywhere: bool = False,
        lasting: Iterable[str] = (),
        strange: Iterable[str] = (),
        fingerprint: bytes = b"",
        tables: bytes = b"",
    ) -> None:
        lasting = tuple(lasting)
        names = (*names, *lasting)
        self.settings = settings
        self.ties = ties
        self.strange = frozenset(strange)
        self.fingerprint = fingerprint
        self.tables = tables
        self._words = _longest(names)
        self._lasting = _longest(lasting)
        self.everywhere = everywhere or b"" in self._words or not all(name.isascii() for name in names)
        self._short = lru_cache(maxsize=1000)(self._search)
        self._long = lru_cache(maxsize=50)(self._search)

    def __bool__(self) -> bool:
        return self.everywhere or bool(self._words)

    def among(self, text: bytes) -> bool:
        """Whether a statement is suspect; b"" is one that is not known."""
        if self.everywhere or not text:
            return bool(self)
        return bool(self._words) and (self._short if len(text) <= _SHORT else self._long)(text)

    def lasts(self, text: bytes) -> bool:
        """Whether a suspect statement may leave what lasts as long as its server connection."""
        return bool(self._lasting) and (not text or _names(self._lasting, text))

    def _search(self, text: bytes) -> bool:
        return _names(self._words, text)

    def __repr__(self) -> str:
        words = b" ".join(sorted(self._words)).decode()
        return f"<Suspects {'everybody' if self.everywhere else words or '-'} {sorted(self.settings)}>"


def _longest(names: Iterable[str]) -> frozenset[bytes]:
    """Of a name that is not one word its longest part counts."""
    return frozenset(max(_words(name.lower().encode()), key=len, default=b"") for name in names)


def _names(words: frozenset[bytes], text: bytes) -> bool:
    text = text.lower()
    return b'u&"' in text or not words.isdisjoint(_words(text))


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
    lasting: list[str] = []
    strange: list[str] = []
    fingerprint = tables = b""
    settings: survey.Names = survey.NOTHING
    ties = everywhere = False
    for row in rows:
        kind, value, more = parse.columns(row)
        if kind == b"body":
            settings |= settings_in(value or b"")
            ties = ties or bool(more)
        elif kind == b"name":
            (lasting if more else names).append(parse.decode(value or b""))
        elif kind == b"strange":
            strange.append(parse.decode(value or b""))
        elif kind == b"print":
            fingerprint = value or b""
        elif kind == b"tables":
            tables = value or b""
        else:
            everywhere = True
    everywhere = everywhere or len(names) + len(lasting) > NAMES_MOST
    return Suspects(
        names,
        settings,
        ties=ties,
        everywhere=everywhere,
        lasting=lasting,
        strange=strange,
        fingerprint=fingerprint,
        tables=tables,
    )


def settings_in(body: bytes) -> survey.Names:
    """Which parameters a function's body sets; all, where it does not say."""
    if _PIECES.search(body):
        return survey.ALL | survey.names_in(body)
    found = survey.names_called(body) if _CALL.search(body) else survey.NOTHING
    for name in _OTHER.findall(body):
        found |= frozenset({name.decode().lower()}) if name else survey.ALL
    return found
