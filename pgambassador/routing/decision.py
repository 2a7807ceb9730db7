"""Where a statement should go, and why: a function of its text, the database's catalog and the configuration.

1. It fails safe: what is not proven to be a read goes to the primary, and nothing is raised.
2. A read is what changes nothing and means the same on every server with the same data. Its functions and
   relations are judged by their names alone, whatever schema they are found in.
3. A hint, then a rule, then the statement itself. Neither sends to a replica what certainly is no read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pgambassador.config.routing import Functions, RouteRule
from pgambassador.routing import hints
from pgambassador.routing.builtin import SETTINGS
from pgambassador.routing.catalog import NOTHING_KNOWN, Catalog, Effect
from pgambassador.routing.grammar import Kind
from pgambassador.routing.hints import Hints, Target
from pgambassador.routing.reading import TEXT_MOST, Reading, comments, fingerprint, read

EVERYTHING: Final = frozenset({"*"})


@dataclass(frozen=True, slots=True)
class Decision:
    """`target` is where it should go: `any` where it has no preference of its own, as COMMIT.

    `reason` continues "It goes there because it …"; `rule` names what overrode the statement itself, or was
    not obeyed. `hint` is the route that a comment asks for. `movable`: a session or a rule that asks for a
    replica is to be obeyed. `tables` are what it reads or writes, as far as writes to these are seen; "*"
    among them: it may be any. `literal`: other literals might be decided otherwise.
    """

    kind: Kind
    target: Target
    reason: str
    rule: str = ""
    begins: str = ""
    makes_read_only: bool = False
    ends: bool = False
    batchable: bool = False
    idempotent: bool = False
    max_lag: float | None = None
    cache: float | None = None
    tables: frozenset[str] = EVERYTHING
    literal: bool = False
    hint: Target | None = None
    movable: bool = False


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the configuration says, for the sessions whose user, database and application `rules` are of.

    A rule is the fingerprints that it is for, None for all statements, and where they go.
    """

    read_functions: frozenset[str] = frozenset()
    write_functions: frozenset[str] = frozenset()
    rules: Sequence[tuple[frozenset[str] | None, Target]] = ()

    @classmethod
    def of(cls, functions: Functions, rules: Iterable[RouteRule]) -> Overrides:
        return cls(
            frozenset(functions.read),
            frozenset(name.rpartition(".")[2] for name in functions.write),
            tuple(
                (
                    None if "all" in rule.fingerprint else frozenset(f.lower() for f in rule.fingerprint),
                    rule.route,
                )
                for rule in rules
            ),
        )

    def effect(self, catalog: Catalog, schema: str, name: str) -> Effect:
        """What calling a function does."""
        if name in self.write_functions:
            return Effect.LISTED
        if name in self.read_functions or (schema and f"{schema}.{name}" in self.read_functions):
            return Effect.READ
        return catalog.effect(name)

    def trusts(self, schema: str, name: str) -> bool:
        return self.effect(NOTHING_KNOWN, schema, name) is Effect.READ

    def rule_for(self, text: str) -> tuple[Target, str] | None:
        """The first that matches, and its name."""
        mark = None
        for marks, route in self.rules:
            if marks is None:
                return route, f"rule {route}"
            if mark is None:
                mark = fingerprint(text)
            if mark in marks:
                return route, f"rule {route} for fingerprint {mark}"
        return None


NO_OVERRIDES: Final = Overrides()


def decide(text: str, catalog: Catalog, overrides: Overrides = NO_OVERRIDES) -> Decision:
    reading = read(text)
    said = hints.NONE
    if len(text) <= TEXT_MOST and hints.may_hint(text):
        said = hints.among(comments(text))
    return _overridden(text, _itself(reading, catalog, overrides), said, overrides)


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why a statement that looks like a read is not for a replica. `alone`: nor may it travel with others."""

    kind: Kind
    reason: str
    movable: bool
    alone: bool = True

    @property
    def rank(self) -> int:
        return _RANKS.index(self.kind)


_RANKS: Final[tuple[Kind, ...]] = ("write", "pinning", "session", "unknown", "read")
_CALLS: Final[dict[Effect, tuple[Kind, bool, str]]] = {
    Effect.VOLATILE: ("write", True, "is volatile"),
    Effect.ASSIGNS: ("write", False, "needs a transaction id"),
    Effect.LISTED: ("write", False, "is listed as needing the primary"),
    Effect.PINNING: ("pinning", False, "leaves something in its session"),
    Effect.SESSION: ("session", False, "is about its session"),
    Effect.UNKNOWN: ("unknown", True, "is not known"),
    Effect.TEXT: ("unknown", True, "does what its arguments say"),
    Effect.SEEDED: ("read", True, "depends on its session's setseed()"),
    Effect.HERE: ("read", True, "speaks of the server it runs on"),
}
_BARRED: Final[dict[str, tuple[Kind, bool]]] = {"locks rows": ("write", False)}
_CATALOG: Final = "is a system catalog"
_SOCIABLE: Final = ("is unlogged", _CATALOG)
"""A replica has other rows there; that is all there is about them."""


def _itself(reading: Reading, catalog: Catalog, overrides: Overrides) -> Decision:
    if reading.refused:
        return Decision("unknown", "primary", reading.refused, literal=reading.literal)
    if not reading.statements:
        return Decision("read", "any", "is empty", tables=frozenset(), idempotent=True)
    if reading.first is not None:
        kind, reason = reading.first
        target: Target = "any" if reading.anywhere and not reading.begins else "primary"
        return Decision(
            kind,
            "replica" if reading.begins == "read only" else target,
            reason,
            begins=reading.begins,
            makes_read_only=reading.makes_read_only,
            ends=reading.ends,
            tables=_touched(reading, catalog) if kind == "write" else EVERYTHING,
            literal=reading.literal,
        )
    tables = _touched(reading, catalog)
    loose = any(overrides.effect(catalog, *each) is Effect.LOOSE for each in reading.functions)
    batchable = reading.plain and reading.statements == 1 and not loose
    findings = list(_findings(reading, catalog, overrides))
    if findings:
        found = min(findings, key=lambda each: each.rank)
        return Decision(
            found.kind,
            "primary",
            found.reason,
            batchable=batchable and not any(each.alone for each in findings),
            idempotent=found.kind == "read",
            tables=tables,
            literal=reading.literal,
            movable=found.movable,
        )
    return Decision(
        "read",
        "replica",
        "only reads",
        batchable=batchable,
        idempotent=True,
        tables=tables,
        literal=reading.literal,
        movable=True,
    )


def _findings(reading: Reading, catalog: Catalog, overrides: Overrides) -> Iterator[_Finding]:
    if not catalog.known:
        yield _Finding("unknown", "is not known yet to use no function that writes", True)
        return

    def calls(names: Iterable[str], how: str) -> Iterator[_Finding]:
        for name in names:
            yield from called("", name, how)

    def called(schema: str, name: str, how: str) -> Iterator[_Finding]:
        if not name:
            yield _Finding("unknown", f"{how}uses what cannot be looked at", True)
            return
        effect = overrides.effect(catalog, schema, name)
        if effect in _CALLS:
            kind, movable, what = _CALLS[effect]
            yield _Finding(kind, f"{how}calls {name}(), which {what}", movable)

    for schema, name in reading.functions:
        if schema.startswith("pg_temp"):
            yield _Finding("unknown", f"calls {name}(), which is temporary", False)
        yield from called(schema, name, "")
        if not overrides.trusts(schema, name):
            yield from calls(catalog.calls.get(name, ()), f"calls {name}(), which ")
    if reading.asks and overrides.effect(catalog, "", "current_setting") is not Effect.HERE:
        # Not PostgreSQL's own alone.
        yield from called("", "current_setting", "")
    for name in reading.fields & catalog.fields:
        yield from called("", name, f"may mean a function by .{name} and ")
    for schema, name in reading.relations:
        yield from _relation(schema, name, reading, catalog)
        yield from calls(catalog.uses.get(name, ()), f"reads {name}, which ")
    for sign in reading.operators | {"="}:
        yield from calls(catalog.operators.get(sign, ()), f"may use an operator {sign} that ")
    yield from calls(catalog.hidden, "may use a type that ")
    for name in reading.settings:
        if not (name in SETTINGS or "." in name):
            yield _Finding("read", f"shows {name}, which may differ from server to server", True)


def _relation(schema: str, name: str, reading: Reading, catalog: Catalog) -> Iterator[_Finding]:
    if schema in ("pg_catalog", "information_schema"):
        why = _CATALOG
    elif schema.startswith("pg_temp"):
        why = "is temporary"
    elif name in catalog.relations or (not schema and name in reading.ctes and name not in catalog.barred):
        return
    elif name in catalog.barred:
        why = catalog.barred[name]
    else:
        yield _Finding("unknown", f"reads {name}, which is not known", True)
        return
    kind, movable = _BARRED.get(why, ("read", False))
    yield _Finding(kind, f"reads {name}, which {why}", movable, alone=why not in _SOCIABLE)


def _touched(reading: Reading, catalog: Catalog) -> frozenset[str]:
    """The relations that it reads or writes, {"*"} where that may be others than it names."""
    if reading.statements != 1 or reading.tag not in _NAMES_ITS_TABLES:
        return EVERYTHING
    if catalog.opaque(reading.operators) or any(
        catalog.may_read_tables(name) for _schema, name in reading.functions
    ):
        return EVERYTHING
    names = frozenset(name for _schema, name in reading.relations if name not in reading.ctes)
    if not (
        reading.written <= catalog.plain_to_write
        and names - reading.written <= catalog.plain_to_read
        and reading.fields.isdisjoint(catalog.fields)
        and reading.ctes.isdisjoint(catalog.relations)
    ):
        return EVERYTHING
    return names | reading.written


_NAMES_ITS_TABLES: Final = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def _overridden(text: str, itself: Decision, said: Hints, overrides: Overrides) -> Decision:
    rule = overrides.rule_for(text) if overrides.rules and said.route is None else None
    route, name = (said.route, f"hint {said.route}") if said.route is not None else (rule or (None, ""))
    target = itself.target
    notes = []
    if route == "primary" and target != "primary":
        target = "primary"
        notes.append(name)
    elif route == "replica" and target == "primary" and itself.movable:
        target = "replica"
        notes.append(name)
    elif route == "replica" and target == "primary":
        notes.append(f"{name} is not obeyed")
    elif route is not None:
        notes.append(name)
    if said.unknown:
        notes.append("not understood: " + ", ".join(said.unknown))
    if not notes and said is hints.NONE:
        return itself
    return replace(
        itself,
        target=target,
        rule="; ".join(notes),
        idempotent=itself.idempotent or said.idempotent,
        max_lag=said.max_lag,
        cache=said.cache if itself.batchable else None,
        hint=said.route,
    )
