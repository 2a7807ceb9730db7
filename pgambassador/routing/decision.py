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

from pgambassador.config.cache import Cache
from pgambassador.config.routing import Functions, RouteRule
from pgambassador.routing import hints
from pgambassador.routing.builtin import SETTINGS
from pgambassador.routing.catalog import NOT_YET, NOTHING_KNOWN, Catalog, Effect
from pgambassador.routing.grammar import Kind
from pgambassador.routing.hints import Hints, Target
from pgambassador.routing.reading import TEXT_MOST, Reading, comments, fingerprint, read

EVERYTHING: Final = frozenset({"*"})
NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """`target` is where it should go: `any` where it has no preference of its own, as COMMIT.

    `reason` continues "It goes there because it …"; `rule` names what overrode the statement itself, or was
    not obeyed. `movable`: a hint, a session or a rule that asks for a replica is to be obeyed. `starts`: it
    is START TRANSACTION. `tables` are what it reads or writes, as far as writes to these are seen; "*" among
    them: it may be any. `writes` are those whose rows may be others afterwards. `cache`: seconds for which
    its answer may be given again. `literal`: other literals might be decided otherwise. `single`: it is one
    statement. `idempotent`: executed twice it does as if once, by what it is or by what is said of it.
    """

    kind: Kind
    target: Target
    reason: str
    rule: str = ""
    begins: str = ""
    starts: bool = False
    makes_read_only: bool = False
    ends: bool = False
    batchable: bool = False
    idempotent: bool = False
    max_lag: float | None = None
    cache: float | None = None
    tables: frozenset[str] = EVERYTHING
    writes: frozenset[str] = EVERYTHING
    literal: bool = False
    movable: bool = False
    wait_timeout: float | None = None
    single: bool = False

    @property
    def seems_to_read(self) -> bool:
        """It does, or would for all that is known before the catalog is."""
        return self.kind == "read" or self.reason.startswith(NOT_YET)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the configuration says, for the sessions whose user, database and application `rules` are of.

    A rule is the fingerprints that it is for, None for all statements, and where they go. `marks` are those
    of statements that may be executed twice. One of `kept` is tables, fingerprints, and for how many seconds
    answers are kept; None: they never are.
    """

    read_functions: frozenset[str] = frozenset()
    write_functions: frozenset[str] = frozenset()
    rules: Sequence[tuple[frozenset[str] | None, Target]] = ()
    marks: Sequence[frozenset[str] | None] = ()
    kept: Sequence[tuple[frozenset[str] | None, frozenset[str] | None, float]] | None = ()

    @classmethod
    def of(cls, functions: Functions, rules: Iterable[RouteRule], cache: Cache | None = None) -> Overrides:
        found = [(_lower(rule.fingerprint), rule) for rule in rules]
        return cls(
            frozenset(functions.read),
            frozenset(name.rpartition(".")[2] for name in functions.write),
            tuple((marks, rule.route) for marks, rule in found if rule.route is not None),
            tuple(marks for marks, rule in found if rule.idempotent),
            None
            if cache is None
            else tuple((_only(each.tables), _lower(each.fingerprint), each.ttl) for each in cache.rules),
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

    def marked(self, text: str) -> bool:
        """Whether a rule says that it may be executed twice."""
        return any(marks is None or fingerprint(text) in marks for marks in self.marks)

    def kept_for(self, text: str, relations: frozenset[str]) -> float | None:
        """How long the first rule has answers kept that read these relations and no others."""
        for tables, marks, seconds in self.kept or ():
            if (tables is None or (relations and relations <= tables)) and (
                marks is None or fingerprint(text) in marks
            ):
                return seconds
        return None


def _only(names: tuple[str, ...]) -> frozenset[str] | None:
    return None if "all" in names else frozenset(names)


def _lower(names: tuple[str, ...]) -> frozenset[str] | None:
    return _only(tuple(name.lower() for name in names))


NO_OVERRIDES: Final = Overrides()


def decide(text: str, catalog: Catalog, overrides: Overrides = NO_OVERRIDES) -> Decision:
    reading, hinted = read(text), said(text)
    decision = _overridden(text, _itself(reading, catalog, overrides), hinted, overrides)
    # What is said of a transaction, a session, a COPY or several statements at once is not obeyed.
    may = decision.single and decision.kind in _REPEATABLE and reading.tag != "CopyStmt"
    if may and (hinted.idempotent or overrides.marked(text)):
        decision = replace(decision, idempotent=True)
    return _kept(text, reading, decision, hinted, overrides)


def said(text: str) -> Hints:
    """What its comments ask for."""
    looks = len(text) <= TEXT_MOST and hints.may_hint(text)
    return hints.among(comments(text)) if looks else hints.NONE


_REPEATABLE: Final = frozenset({"write", "unknown", "ddl"})


@dataclass(frozen=True, slots=True)
class _Finding:
    """Why a statement that looks like a read is not for a replica. `alone`: nor may it travel with others."""

    kind: Kind
    reason: str
    movable: bool
    alone: bool = True


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

_CATALOG: Final = "is a system catalog"
_BARS: Final[dict[str, tuple[Kind, bool]]] = {
    "locks rows": ("write", True),
    # A replica has other rows there; that is all there is about them.
    "is unlogged": ("read", False),
    _CATALOG: ("read", False),
}
"""What reading a relation is that is not for a replica, and whether it goes alone, by the reason."""


def _itself(reading: Reading, catalog: Catalog, overrides: Overrides) -> Decision:
    if reading.refused:
        return Decision("unknown", "primary", reading.refused, literal=reading.literal)
    if not reading.statements:
        return Decision("read", "any", "is empty", tables=NOTHING, writes=NOTHING, idempotent=True)
    if reading.first is not None:
        kind, reason = reading.first
        target: Target = "any" if reading.anywhere and not reading.begins else "primary"
        tables = _touched(reading, catalog) if kind == "write" else EVERYTHING
        return Decision(
            kind,
            "replica" if reading.begins == "read only" else target,
            reason,
            begins=reading.begins,
            starts=reading.starts,
            makes_read_only=reading.makes_read_only,
            ends=reading.ends,
            tables=tables,
            writes=_changed(reading, tables, catalog, overrides),
            literal=reading.literal,
            single=reading.statements == 1,
        )
    tables = _touched(reading, catalog)
    loose = any(overrides.effect(catalog, *each) is Effect.LOOSE for each in reading.functions)
    batchable = reading.plain and reading.statements == 1 and not loose
    harmless = Decision(
        "read",
        "replica",
        "only reads",
        batchable=batchable,
        idempotent=True,
        tables=tables,
        writes=NOTHING,
        literal=reading.literal,
        movable=True,
        single=reading.statements == 1,
    )
    findings = list(_findings(reading, catalog, overrides))
    if not findings:
        return harmless
    found = min(findings, key=lambda each: _RANKS.index(each.kind))
    return replace(
        harmless,
        kind=found.kind,
        target="primary",
        reason=found.reason,
        batchable=batchable and not any(each.alone for each in findings),
        idempotent=found.kind == "read",
        writes=_effects(findings, tables),
        movable=found.movable,
    )


def _findings(reading: Reading, catalog: Catalog, overrides: Overrides) -> Iterator[_Finding]:
    if not catalog.known:
        yield _Finding("unknown", f"{NOT_YET} to use no function that writes", True)
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
    kind, alone = _BARS.get(why, ("read", True))
    yield _Finding(kind, f"reads {name}, which {why}", movable=False, alone=alone)


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
_CHANGES_NO_ROWS: Final = frozenset(
    {
        "VariableSetStmt", "DiscardStmt", "ListenStmt", "UnlistenStmt", "NotifyStmt", "DeallocateStmt",
        "PrepareStmt", "ClosePortalStmt", "FetchStmt", "LockStmt", "CheckPointStmt",
    }
)  # fmt: skip


def _changed(
    reading: Reading, tables: frozenset[str], catalog: Catalog, overrides: Overrides
) -> frozenset[str]:
    """Of what certainly is no read: the relations whose rows may be others afterwards."""
    if reading.statements != 1:
        return EVERYTHING
    if reading.first is not None and reading.first[0] == "read":
        return NOTHING  # it explains what would
    if reading.tag in _CHANGES_NO_ROWS or reading.begins or reading.anywhere or reading.temporary:
        return NOTHING
    if reading.tag == "DeclareCursorStmt":
        # What it does is done when it is fetched from.
        return _effects(_findings(reading, catalog, overrides), EVERYTHING)
    return frozenset(reading.written) if "*" not in tables else EVERYTHING


def _effects(findings: Iterable[_Finding], tables: frozenset[str]) -> frozenset[str]:
    """The same of what looks like a read. PostgreSQL's own functions write no tables, but by a text."""
    kinds = {each.kind for each in findings} - {"read"}
    return NOTHING if not kinds or ("unknown" not in kinds and "*" not in tables) else EVERYTHING


def _kept(text: str, reading: Reading, decision: Decision, said: Hints, overrides: Overrides) -> Decision:
    """With what is said of keeping its answer: by its hint, else by a rule unless it wants the primary."""
    if overrides.kept is None:
        return replace(decision, cache=None) if decision.cache is not None else decision
    able = decision.batchable and not any(
        schema in _CATALOGS or name.startswith("pg_") for schema, name in reading.relations
    )
    if said.cache is not None:
        note = "" if able else "hint cache is not obeyed"
        rule = "; ".join(part for part in (decision.rule, note) if part)
        return replace(decision, cache=said.cache if able else None, rule=rule)
    if not able or not overrides.kept or said.route == "primary":
        return decision
    relations = frozenset(name for _schema, name in reading.relations if name not in reading.ctes)
    return replace(decision, cache=overrides.kept_for(text, relations))


_CATALOGS: Final = ("pg_catalog", "information_schema")


def _overridden(text: str, itself: Decision, said: Hints, overrides: Overrides) -> Decision:
    rule = overrides.rule_for(text) if overrides.rules and said.route is None else None
    route, name = (said.route, f"hint {said.route}") if said.route is not None else (rule or (None, ""))
    if route == "primary" and itself.begins == "unsaid":
        itself = replace(itself, begins="read write")  # whatever its transaction is made afterwards
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
        max_lag=said.max_lag,
        cache=said.cache,
        wait_timeout=said.wait_timeout,
    )
