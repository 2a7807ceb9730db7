"""What a statement's text says, by PostgreSQL's own grammar: what it is, and all that it names at any depth.

1. Nothing is raised: what cannot be read says why in `refused`, and nothing else of it counts.
2. Every key of the tree is known here, or the text is refused: a newer grammar may mean anything by it.
3. Time is bounded by the lengths of the text and of its tree, and by the comments in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from pglast import Error, parser

from pgambassador.routing.grammar import KINDS, KNOWN, Kind
from pgambassador.routing.shape import shape_of

TEXT_MOST: Final = 10 * 1024
"""Characters. The grammar takes 5 ms for the worst that fits."""
_TREE_MOST: Final = 128 * 1024
# The scanner takes quadratic time where comments nest, and where an operator could end in + or -.
_COMMENTS_MOST: Final = 100
_LONG_OPERATOR: Final = re.compile(r"[-+*/<>=~!@#%^&|`?]{100}")


@dataclass(slots=True)
class Reading:
    """What was found. Names are as the server reads them; ("", name) is one without a schema.

    `first` is what the first statement is that is no plain read, with why; None if all are reads.
    """

    refused: str = ""
    statements: int = 0
    tag: str = ""
    first: tuple[Kind, str] | None = None
    plain: bool = True  # SELECT, VALUES or TABLE and nothing about it but rows
    relations: set[tuple[str, str]] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    functions: set[tuple[str, str]] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    ctes: set[str] = field(default_factory=set)
    settings: set[str] = field(default_factory=set)
    asks: bool = False  # by current_setting() of `settings`
    literal: bool = False
    begins: str = ""
    starts: bool = False  # by START TRANSACTION, which has a tag of its own
    serializable: bool = False
    makes_read_only: bool = False
    ends: bool = False
    temporary: bool = False  # what it creates is its session's own
    anywhere: bool = False  # it belongs to the transaction that is open, wherever that is


def read(text: str) -> Reading:
    reading = Reading()
    reading.literal = True  # what is refused here may be read with other literals
    if len(text) > TEXT_MOST:
        reading.refused = f"is longer than {TEXT_MOST // 1024} KiB, which is not looked at"
    elif "\ufffd" in text or "\0" in text:
        reading.refused = "has characters that cannot be decoded"
    elif _doubtful(text):
        reading.refused = "has a backslash before a quote, which means what the session's settings say"
    elif text.count("/*") > _COMMENTS_MOST:
        reading.refused = f"has more than {_COMMENTS_MOST} comments"
    elif _LONG_OPERATOR.search(text):
        reading.refused = "has a very long operator, or a line of such signs"
    else:
        try:
            tree = parser.parse_sql_json(text)
            reading.literal = False
            if len(tree) > _TREE_MOST:
                reading.refused, reading.literal = "is too long to be looked at", True
            else:
                _read(msgspec.json.decode(tree)["stmts"], reading)
        except Error:
            reading.refused, reading.literal = "cannot be parsed", False
        except (UnicodeError, RecursionError, msgspec.DecodeError, LookupError, TypeError, AttributeError):
            reading.refused = "cannot be read"
    return reading


def _doubtful(text: str) -> bool:
    """Whether a string may end elsewhere under standard_conforming_strings = off."""
    return "\\'" in text and shape_of(text.encode("utf-8", "surrogatepass")) is None


def _tiring(text: str) -> bool:
    """Whether it is refused for the time that it would take."""
    return (
        len(text) > TEXT_MOST or text.count("/*") > _COMMENTS_MOST or _LONG_OPERATOR.search(text) is not None
    )


def comments(text: str) -> list[str]:
    """What stands in its comments, or nothing if it cannot be scanned."""
    if _tiring(text) or _doubtful(text):
        return []
    try:
        tokens = parser.scan(text)
    except (Error, UnicodeError):
        return []
    found = []
    for token in tokens:
        if token.name == "C_COMMENT":
            found.append(text[token.start + 2 : token.end - 1])
        elif token.name == "SQL_COMMENT":
            found.append(text[token.start + 2 : token.end + 1])
    return found


def fingerprint(text: str) -> str:
    """PostgreSQL's, which literals do not change; "" if the statement does not parse."""
    if _tiring(text):
        return ""
    try:
        return str(parser.fingerprint(text))
    except (Error, UnicodeError):
        return ""


def _read(statements: list[dict[str, Any]], reading: Reading) -> None:
    reading.statements = len(statements)
    for each in statements:
        ((tag, node),) = each["stmt"].items()
        reading.tag = reading.tag or tag
        _statement(tag, node, reading)
    if reading.statements != 1:
        reading.plain = reading.makes_read_only = reading.ends = reading.anywhere = False
        reading.begins = ""
        if reading.first is not None and reading.first[0] == "read":
            reading.first = "unknown", "explains one of several statements"


def _statement(tag: str, node: dict[str, Any], reading: Reading) -> None:
    kind: Kind | None = None
    reason = ""
    if tag == "SelectStmt":
        pass
    elif tag == "CopyStmt":
        kind, reason = _copy(node)
        reading.plain = False
        reading.literal = True  # the tree has no file's name that is empty
    elif tag == "ExplainStmt":
        reading.plain = False
        _explain(node, reading)
        return
    elif tag == "VariableShowStmt":
        reading.plain = False
        reading.settings.add(str(node["name"]).lower())
    elif tag == "DeclareCursorStmt":
        reading.plain = False
        hold = int(node.get("options", 0)) & 0x20
        kind, reason = ("pinning", "keeps a cursor") if hold else ("session", "declares a cursor")
    elif tag == "TransactionStmt":
        kind, reason = "transaction", _transaction(node, reading)
    elif tag == "VariableSetStmt":
        kind, reason = _set(node, reading)
    else:
        kind = KINDS.get(tag, "unknown")
        reason = f"is a statement of the kind {_words(tag)}"
        reading.literal = reading.literal or tag == "ExecuteStmt"
        reading.temporary = tag == "CreateStmt" and node["relation"].get("relpersistence") == "t"
        if kind == "unknown" and tag not in KINDS:
            reading.refused = f"is a statement that is not known here, {_words(tag)}"
    if kind is not None and reading.first is None:
        reading.first = kind, reason
    _walk(tag, node, reading)


def _words(tag: str) -> str:
    name = tag.removesuffix("Stmt")
    return "".join(f" {c}" if c.isupper() and i else c for i, c in enumerate(name)).upper()


def _copy(node: dict[str, Any]) -> tuple[Kind | None, str]:
    if node.get("is_from"):
        return "write", "is a COPY FROM"
    if node.get("filename") or node.get("is_program"):
        return "write", "is a COPY to the server's files or programs"
    return None, ""


def _explain(node: dict[str, Any], reading: Reading) -> None:
    ((tag, query),) = node["query"].items()
    # Whatever the option's value: it may be a literal.
    runs = any(each["DefElem"]["defname"] == "analyze" for each in node.get("options", ()))
    inner = Reading()
    _statement(tag, query, inner)
    reading.refused = reading.refused or inner.refused
    for name in ("relations", "functions", "fields", "operators", "ctes", "settings"):
        getattr(reading, name).update(getattr(inner, name))
    reading.literal = reading.literal or inner.literal
    reading.asks = reading.asks or inner.asks
    if inner.first is not None and reading.first is None:
        reading.first = inner.first if runs else ("read", f"explains what {inner.first[1]}")


def _option(each: dict[str, Any]) -> tuple[str, object]:
    element = each["DefElem"]
    value = element.get("arg", {}).get("A_Const", {})
    if "sval" in value:
        return element["defname"], value["sval"].get("sval", "")
    return element["defname"], value.get("ival", {}).get("ival", 0)


def _modes(options: list[dict[str, Any]]) -> tuple[str, bool]:
    """What is said of writing, and whether it is to be serializable."""
    said = [_option(each) for each in options]
    access = {value for name, value in said if name == "transaction_read_only"}
    serializable = ("transaction_isolation", "serializable") in said
    if not access:
        return "unsaid", serializable
    return ("read only" if access == {1} else "read write"), serializable


def _transaction(node: dict[str, Any], reading: Reading) -> str:
    kind = node["kind"].removeprefix("TRANS_STMT_")
    if kind in ("BEGIN", "START"):
        access, reading.serializable = _modes(node.get("options", []))
        reading.begins = "read write" if reading.serializable else access
        reading.starts = kind == "START"
        reading.anywhere = not reading.serializable and access != "read write"
        return "begins a serializable transaction" if reading.serializable else "begins a transaction"
    chain = bool(node.get("chain"))
    reading.ends = kind in ("COMMIT", "ROLLBACK") and not chain
    reading.anywhere = kind in ("COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "ROLLBACK_TO")
    return "is part of a transaction" if reading.anywhere else "is about a prepared transaction"


def _set(node: dict[str, Any], reading: Reading) -> tuple[Kind, str]:
    if node["kind"] == "VAR_SET_MULTI" and node.get("name") == "TRANSACTION":
        access, serializable = _modes(node.get("args", []))
        reading.makes_read_only = access == "read only" and not serializable
        reading.anywhere = access != "read write" and not serializable
        return "transaction", "is about its transaction"
    if node["kind"] == "VAR_SET_MULTI" and node.get("name") == "TRANSACTION SNAPSHOT":
        return "transaction", "is about its transaction"
    return "session", "changes its session"


_Look = Callable[[str, Any, dict[str, Any], Reading], None]


def _name(parts: list[dict[str, Any]]) -> tuple[str, str]:
    """Of a list of String nodes, the last of which is the name."""
    names = [part["String"].get("sval", "") for part in parts if "String" in part]
    return (names[-2] if len(names) > 1 else ""), names[-1]


def _walk(tag: str, node: dict[str, Any], reading: Reading) -> None:
    stack: list[Any] = [{tag: node}]
    while stack:
        each = stack.pop()
        if type(each) is list:
            stack += each
            continue
        for key, value in each.items():
            look: _Look | None = _LOOKED_AT.get(key, _unfamiliar)
            if look is not None:
                look(key, value, each, reading)
            if type(value) is dict or type(value) is list:
                stack.append(value)


_CHANGES: Final = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")


def _unfamiliar(key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    if key in _CHANGES:
        reading.written.add(value["relation"]["relname"])
    if reading.first is not None:
        return
    kind = KINDS.get(key)
    if kind is None:
        reading.refused = reading.refused or f"has a part that is not known here, {key}"
    else:
        reading.first = kind, f"contains a statement of the kind {_words(key)}"


def _relation(_key: str, value: Any, holder: dict[str, Any], reading: Reading) -> None:
    reading.relations.add((holder.get("schemaname", ""), value))


def _function(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    schema, name = _name(value["funcname"])
    args = value.get("args", [])
    if name == "current_setting":
        said = args[0].get("A_Const", {}).get("sval", {}).get("sval") if args else None
        reading.literal = True
        if said is not None and schema in ("", "pg_catalog"):
            reading.settings.add(said.lower())
            reading.asks = True
            return
    elif name in ("set_config", "nextval", "currval", "setval"):
        reading.literal = True
    reading.functions.add((schema, name))


def _column(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    # What looks like a column may be a function of the row.
    for part in value["fields"][1:]:
        if "String" in part:
            reading.fields.add(part["String"].get("sval", ""))


def _indirection(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    for part in value["indirection"]:
        if "String" in part:
            reading.fields.add(part["String"].get("sval", ""))


def _operator(key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    names = value.get({"A_Expr": "name", "SubLink": "operName", "SortBy": "useOp"}[key])
    if "BETWEEN" in value.get("kind", ""):
        reading.operators.update(("<", "<=", ">=", ">"))  # its name is another
    elif names:
        reading.operators.add(_name(names)[1])
    elif value.get("subLinkType") == "ANY_SUBLINK":
        reading.operators.add("=")  # IN


def _equality(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    """CASE x WHEN y, JOIN … USING, and NATURAL JOIN."""
    if any(value.get(name) for name in ("arg", "usingClause", "isNatural")):
        reading.operators.add("=")


def _sample(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    reading.functions.add(_name(value["method"]))


def _cte(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    reading.ctes.add(value["ctename"])


def _locks(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    if value and reading.first is None:
        reading.first = "write", "locks rows"


def _into(_key: str, value: Any, _holder: dict[str, Any], reading: Reading) -> None:
    if reading.first is None:
        reading.first = "ddl", "is a SELECT INTO"


_LOOKED_AT: Final[dict[str, _Look | None]] = {
    **dict.fromkeys(KNOWN),
    "relname": _relation,
    "FuncCall": _function,
    "ColumnRef": _column,
    "A_Indirection": _indirection,
    "A_Expr": _operator,
    "SubLink": _operator,
    "SortBy": _operator,
    "CaseExpr": _equality,
    "JoinExpr": _equality,
    "RangeTableSample": _sample,
    "CommonTableExpr": _cte,
    "lockingClause": _locks,
    "intoClause": _into,
}
