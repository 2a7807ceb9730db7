"""What ties a session to its server connection: what lives there and cannot be set again elsewhere.

1. A statement's text says only that something may have come to be or to an end; what is there, the server
   says (`INVENTORY`). So transactions, savepoints and unlocking in any order are the server's business.
2. Texts are read by PostgreSQL's own grammar. One that it cannot read may tie.
   One that executes what it is given (query_to_xml) may do so too.
3. What is done inside a function that a statement calls is not seen here: `protocol.suspects` reads those.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from pglast import Error
from pglast.parser import parse_sql_json

LOAD: Final = "LOAD"
MARK: Final = "!"
"""Before a tie's name where it stands among names of parameters."""

# The tree of a statement as JSON. Within strings quotes are escaped, so that none of these can be a literal.
_TIES: Final = re.compile(
    r'"relpersistence":"t"|"schemaname":"pg_temp"|"funcname":\[\{"String":\{"sval":"pg_temp"'
    r'|"DeclareCursorStmt":\{|"PrepareStmt":\{'
    r'|"funcname":\[(?:\{"String":\{"sval":"pg_catalog"\}\},)?'
    r'\{"String":\{"sval":"(?:pg_(?:try_)?advisory_lock|ts_(?:stat|rewrite)"'
    r"|(?:query|cursor|table|schema|database)_to_xml)"
)
_WORDS: Final = re.compile(
    rb'(?i)\btemp(?:orary)?\b|pg_temp|\bhold\b|\bprepare\b|advisory_lock|u&"|_to_xml|ts_stat|ts_rewrite'
)
_LOCKS: Final = (
    "pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
    " AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)
_TEMPORARY: Final = (
    "pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()"
)
_FUNCTIONS: Final = (
    "pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()"
)
_FOUND: Final = {
    "temporary object": _TEMPORARY,
    "advisory lock": _LOCKS,
    "cursor WITH HOLD": "pg_catalog.pg_cursors WHERE is_holdable",
    "LISTEN": "pg_catalog.pg_listening_channels()",
    "temporary function": _FUNCTIONS,
    "PREPARE": "pg_catalog.pg_prepared_statements WHERE from_sql",
}
INVENTORY: Final = " UNION ALL ".join(
    f"SELECT '{MARK}{name}', '' WHERE EXISTS (SELECT FROM {where})" for name, where in _FOUND.items()
)
"""A row (name, empty) for each tie that there is."""

BRINGING: Final = frozenset({"LISTEN", "PREPARE", LOAD})
"""Tags of statements that tie, whatever else they say."""
ENDING: Final = frozenset(
    {
        "UNLISTEN",
        "DEALLOCATE",
        "DEALLOCATE ALL",
        "DISCARD ALL",
        "DISCARD TEMP",
        "CLOSE CURSOR",
        "CLOSE CURSOR ALL",
        "DROP TABLE",
        "DROP VIEW",
        "DROP SEQUENCE",
    }
)
"""Tags of statements that may have ended a tie."""


def may_tie(text: bytes) -> bool:
    """Whether a statement may make something that lives in its session; b"" is one that is not known."""
    if text and not _WORDS.search(text):
        return False
    return _may_tie(text) if 0 < len(text) <= 2048 else True  # reading more would keep everybody waiting


def _read(text: bytes) -> bool:
    try:
        tree: str = parse_sql_json(text.decode("utf-8", "replace"))
    except Error:
        return True
    return _TIES.search(tree) is not None


_may_tie = lru_cache(maxsize=2000)(_read)
