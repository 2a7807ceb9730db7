"""What a statement may have set in its session, and the question that finds out what it has.

1. A statement's text says at most which parameters to ask for, never their values: transactions, savepoints,
   triggers and SET LOCAL are the server's business. What is not recognized means all of them.
2. Parameters of extensions and of applications (`app.user`) are not listed by pg_settings before their
   extension is loaded; those are asked for that a session is known to have set.
3. Values travel in the server's own encoding, as hexadecimal digits, whatever client_encoding says; the
   question means the same under any search_path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from types import MappingProxyType
from typing import Final

from pgambassador.protocol.settings import literal
from pgambassador.protocol.ties import INVENTORY, MARK
from pgambassador.wire import build, parse

Names = frozenset[str]
ANY: Final = "*"
ALL: Final = frozenset({ANY})
"""Any parameter may have been set, those that pg_settings lists."""
NOTHING: Final[Names] = frozenset()
RESTORED: Final = frozenset({"="})
"""Nothing but what the start packet has set was set, and some of it may have been reset."""
TIES: Final = frozenset({MARK})
"""Also what ties the session to its connection."""
CHANGED: Final = frozenset({"+"})
"""Nothing to ask for, but tables or functions have changed, which others see from now on."""
REDEFINED: Final = frozenset({"()"})
"""Functions have."""

IDENTITY: Final = frozenset({"role", "session_authorization"})
# Of one transaction, or without a value that could be set again.
_NOT_KEPT: Final = frozenset(
    {"seed", "transaction_deferrable", "transaction_isolation", "transaction_read_only"}
)
SPACE = rb"(?:\s|--[^\r\n]*[\r\n]|/\*(?:[^*]|\*(?!/))*\*/)"
_SET = re.compile(rb"(?i)%b*set%b+(.*)" % (SPACE, SPACE), re.DOTALL)
_PLAIN = re.compile(rb"(?i)(?:session\s+)?([a-z_][\w$]*(?:\.[a-z_][\w$]*)*)\s*(?:=|\bto\b)\s*(.*)", re.DOTALL)
# Such a SET is a RESET: it leads back to what only we know, the start packet.
_DEFAULT = re.compile(rb"(?i)default\b")
_LOCAL_OR_DEFAULT = re.compile(rb"(?i)\b(?:local|default)\b")
# A parameter's value may contain anything but another statement.
_MORE = re.compile(rb";\s*[^\s;]")
_WORDS: Final[tuple[tuple[bytes, frozenset[str]], ...]] = (
    (rb"(?:session\s+)?time\s+zone\b", frozenset({"timezone"})),
    (rb"(?:session\s+)?names\b", frozenset({"client_encoding"})),
    (rb"(?:session\s+)?schema\b", frozenset({"search_path"})),
    (rb"(?:session\s+)?role\b", frozenset({"role"})),
    (rb"session\s+authorization\b", IDENTITY),
    (
        rb"session\s+characteristics\b",
        frozenset(f"default_transaction_{each}" for each in ("isolation", "read_only", "deferrable")),
    ),
    (rb"(?:session\s+)?xml\s+option\b", frozenset({"xmloption"})),
    (rb"(?:local|transaction|constraints)\s", NOTHING),
)
_FORMS = tuple((re.compile(b"(?i)" + pattern), names) for pattern, names in _WORDS)
# A name of one's own, wherever it stands, perhaps in quotes; most of what is found is a table's column, which
# no parameter is called, and so is not found by the server.
_OWN = re.compile(rb'(?i)(?<![\w$])[a-z_][\w$]*+"?(?:\."?[a-z_][\w$]*+)+')
_OWN_MOST: Final = 100
_READ_MOST: Final = 2048
# Of a longer text only the beginning is searched: all of it would keep everybody waiting.
_SEARCHED_MOST: Final = 64 * 1024
_MENTION = re.compile(rb"(?i)set_config")
_CALL = re.compile(rb"(?i)\bset_config\s*\(\s*('([^'\\]+)'\s*,)?")
_LOCAL_CALL = re.compile(
    rb"(?i)\bset_config\s*\(\s*'[^'\\]+'\s*,\s*(?:'[^'\\]*'|\$\d+)(?:::\w+)?\s*,\s*true\s*\)"
)


_WORD = re.compile(rb"(?i)[a-z_][\w$]*|-?(?:0|[1-9]\d{0,8})")
_LITERAL = re.compile(rb"'([^'\\\0]*)'")
_SCHEMAS = re.compile(rb"(?:[a-z_][a-z0-9_]*|\"[^\"\\]*\")(?:\s*,\s*(?:[a-z_][a-z0-9_]*|\"[^\"\\]*\"))*")
# Who somebody is; lists, which mean something else in quotes; what a value only adds to, or is not all of.
_NOT_PLAIN: Final = (
    IDENTITY
    | _NOT_KEPT
    | {"createrole_self_grant", "datestyle", "idle_session_timeout", "local_preload_libraries"}
    | {"session_preload_libraries", "temp_tablespaces"}
)


def plainly_set(text: bytes) -> tuple[str, str] | None:
    """The parameter and the value of a SET that says no more than these, as set_config() takes them."""
    found = _SET.fullmatch(text) if len(text) <= _READ_MOST and text.isascii() else None
    plain = None if found is None else _PLAIN.fullmatch(found[1])
    if plain is None or _DEFAULT.match(plain[2]):
        return None
    name, value = plain[1].decode().lower(), plain[2].rstrip(b"; \t\r\n")
    if name == "search_path":
        plain = _SCHEMAS.fullmatch(value)
        return (name, value.decode()) if plain is not None and b"pg_temp" not in value else None
    if name in _NOT_PLAIN:
        return None
    if quoted := _LITERAL.fullmatch(value):
        return name, quoted[1].decode()
    return (name, value.decode().lower()) if _WORD.fullmatch(value) else None


def names_set(text: bytes) -> Names:
    """What a SET may have changed for the session; b"" is a text that is not known."""
    return _names_set(text) if len(text) <= _READ_MOST else _anything(text)


@lru_cache(maxsize=1000)
def _names_set(text: bytes) -> Names:
    found = _SET.match(text)
    if found is None or _MORE.search(text):
        return _anything(text)
    rest = found[1]
    for form, names in _FORMS:
        if form.match(rest):
            return ALL if names and _LOCAL_OR_DEFAULT.search(rest) else names
    plain = _PLAIN.match(rest)
    if plain is None or _DEFAULT.match(plain[2]):
        return _anything(text)
    return frozenset({plain[1].decode().lower()})


def _anything(text: bytes) -> Names:
    """All, and whatever looks like a parameter that pg_settings may not list."""
    text = text[:_SEARCHED_MOST]
    return ALL | names_called(text) | names_in(text)


# Of a text without blanks at its ends.
_ALONE = re.compile(
    rb"(?i)(reset\s+all|discard\s+all)\Z|reset\s+(.+)|set\s+(local\s+)?(?:session\s++(?!authorization))?(.+)",
    re.DOTALL,
)
_ONE = re.compile(rb"(?i)[a-z_][\w$]*(?:\.[a-z_][\w$]*)*")
_TWO_WORDS: Final = {
    b"time zone": "timezone",
    b"session authorization": "session_authorization",
    b"names": "client_encoding",
}


# In other words: comments, names in quotes, statements that are empty.
_TOKEN = re.compile(
    rb'(?P<none>--[^\r\n]*|/\*(?:[^*/]|\*(?!/)|/(?!\*))*\*/)|"(?P<name>[A-Za-z_][\w$.]*)"|(?P<end>;)'
    rb'|(?P<other>[^\s;"/-]+|[/-])|(?P<space>\s+)'
)
_OTHER_WORDS = re.compile(rb'["/;]|--|\v')


def _plainly(text: bytes) -> bytes:
    """The same without comments, quotes and empty statements; b"" if it is more than one statement."""
    text = text.rstrip(b"\0")
    if not _OTHER_WORDS.search(text):
        return text
    out, at, ended = b"", 0, False
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            return b""
        at = found.end()
        word = found["name"] or found["other"]
        if found["end"]:
            ended = bool(out.strip())
        elif word is None:
            out += b" "
        elif ended:
            return b""
        else:
            out += word
    return out


def restoration(text: bytes, start: Mapping[str, str]) -> list[bytes]:
    """The statements that lead from where a RESET has led to what the start packet has set.

    `text` is one that is nothing but RESET, DISCARD ALL, or SET … TO DEFAULT, in whatever words; others are
    not understood.
    """
    found = _ALONE.match(_plainly(text).strip()) if len(text) <= _READ_MOST else None
    if found is None or not start:
        return []
    everything, name, local, setting = found.groups()
    if everything and everything[:1] in b"dD":
        # It has ended its own transaction, and what is sent behind it is not in one of ours.
        return [b"BEGIN", _restore(start).encode(), b"COMMIT"]
    if everything:
        kept = {name: value for name, value in start.items() if name not in IDENTITY}
        return [_restore(kept).encode()] if kept else []
    if setting is not None:
        name = _led_to_default(setting)
    words = b" ".join(name.split()).lower()
    known = _TWO_WORDS.get(words) or (words.decode() if _ONE.fullmatch(words) else None)
    # Who it is leads back as whom it acts, too (manual: "SET SESSION AUTHORIZATION").
    names = (known, "role") if known == "session_authorization" else (known,)
    how = "true" if local else "false"
    return [
        f"SELECT pg_catalog.set_config({literal(each)}, {literal(start[each])}, {how})".encode()
        for each in names
        if each is not None and each in start
    ]


def _led_to_default(setting: bytes) -> bytes:
    """Which parameter what follows SET leads back to its default; b"" for none."""
    *words, value = setting.lower().replace(b"=", b" = ").split()
    if not words:
        return b"names" if value == b"names" else b""
    if words[-1] in (b"=", b"to"):
        words.pop()
    name = b" ".join(words)
    return name if value == b"default" or (value == b"local" and b"zone" in name) else b""


def names_in(text: bytes) -> Names:
    """Whatever looks like a parameter of one's own, which pg_settings does not list."""
    found = (name.group() for name in islice(_OWN.finditer(text), _OWN_MOST))
    return frozenset(name.replace(b'"', b"").decode("ascii", "replace").lower() for name in found)


# Names in disguise, another way to set parameters (manual: "pg_settings"), and functions that execute a text.
_ANOTHER_WAY = re.compile(rb'(?i)\bu&"|(?:query|cursor|table|schema|database)_to_xml|\bts_(?:stat|rewrite)\b')
_UPDATE = re.compile(rb"(?i)\bupdate\b")
_PG_SETTINGS = re.compile(rb"(?i)\bpg_settings\b")


def _another_way(text: bytes) -> bool:
    if _ANOTHER_WAY.search(text):
        return True
    update = _UPDATE.search(text)
    return update is not None and _PG_SETTINGS.search(text, update.end()) is not None


def names_called(text: bytes) -> Names:
    """What calls of set_config() in a statement may change for the session; b"" is an unknown statement."""
    if _another_way(text):
        return ALL | names_in(text)
    mentions = len(_MENTION.findall(text))
    if text and mentions == len(_LOCAL_CALL.findall(text)):
        return NOTHING
    calls = _CALL.findall(text)
    names = {name.decode("ascii", "replace").lower() if name else ANY for _, name in calls}
    return (
        frozenset(names) if 0 < len(calls) == mentions and ANY not in names else ALL | names | names_in(text)
    )


def question(names: Names, known: Iterable[str], start: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A simple query for these parameters and ties; for ALL: what the session has set, the `known` among it.

    Those of the start packet that may have been reset are set again before. b"" if there is nothing to do.
    """
    parts = [INVENTORY] if MARK in names else []
    if ANY in names:
        others = {name for name in (*names, *known) if "." in name} | IDENTITY
        parts += [_LISTED, _ask(others)]
    elif asked := names - TIES - RESTORED:
        parts += [_ask(asked)]
    statements = [" UNION ALL ".join(parts)] if parts else []
    if start and ANY in names:
        statements.insert(0, _restore(start))
    elif start and names & RESTORED and names - RESTORED - TIES:
        statements.insert(0, _restore(start))  # but not what was set since
    elif start and names & RESTORED:
        statements.insert(0, f"SELECT {_SET_AGAIN} FROM ({_values(start)}) AS start (name, value)")
    return build.query("; ".join(statements)) if statements else b""


_SET_AGAIN: Final = "pg_catalog.set_config(start.name, value, false)"


def _restore(start: Mapping[str, str]) -> str:
    """What pg_settings does not list is empty (of a role: none) when it has been reset."""
    return (
        f"SELECT {_SET_AGAIN} FROM ({_values(start)}) AS start (name, value)"
        " LEFT JOIN pg_catalog.pg_settings AS p"
        " ON pg_catalog.lower(p.name) OPERATOR(pg_catalog.=) start.name"
        " WHERE CASE WHEN p.name IS NULL"
        " THEN coalesce(pg_catalog.current_setting(start.name, true), '') OPERATOR(pg_catalog.=)"
        " ANY (ARRAY['', 'none'])"
        " ELSE source OPERATOR(pg_catalog.<>) 'session' END"
    )


def _values(start: Mapping[str, str]) -> str:
    rows = ", ".join(f"({literal(name)}, {literal(value)})" for name, value in sorted(start.items()))
    return f"VALUES {rows}"


def _hex(value: str) -> str:
    server = "pg_catalog.getdatabaseencoding()"
    return f"pg_catalog.encode(pg_catalog.convert_to({value}, {server}), 'hex')"


_LISTED: Final = (
    f"SELECT name, {_hex('setting')} FROM pg_catalog.pg_settings"
    " WHERE source OPERATOR(pg_catalog.=) 'session'"
)


def _ask(names: Iterable[str]) -> str:
    rows = ", ".join(f"({literal(name)})" for name in sorted(names))
    value = _hex("pg_catalog.current_setting(name, true)")
    return f"SELECT name, {value} FROM (VALUES {rows}) AS asked (name)"


def answer(rows: Iterable[bytes]) -> tuple[dict[str, str | None], frozenset[str]]:
    """Parameters with their values (None: there is none of that name), and ties; or ValueError."""
    found: dict[str, str | None] = {}
    there: set[str] = set()
    for row in rows:
        columns = parse.columns(row)
        if len(columns) == 1:
            continue  # of a parameter that was set again
        name, value = columns
        if name is None:
            raise ValueError("a parameter without a name")
        key = name.decode()
        if key.startswith(MARK):
            there.add(key.removeprefix(MARK))
            continue
        key = key.lower()
        found[key] = None if value is None else parse.decode(bytes.fromhex(value.decode()))
    return found, frozenset(there)


def merged(values: Mapping[str, str], found: Mapping[str, str | None], *, names: Names) -> dict[str, str]:
    """What a session has set after an answer, of what it had set before."""
    kept = {} if ANY in names else dict(values)
    for name, value in found.items():
        if value is None or name in _NOT_KEPT or (name == "role" and value == "none"):
            kept.pop(name, None)
        else:
            kept[name] = value
    return kept
