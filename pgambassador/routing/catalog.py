"""What a database's own functions, operators, types and relations are to a statement that names them.

1. All is by name alone: a name counts as harmless only if all that have it are, in whatever schema.
2. What a statement uses without naming it (casts, types, operator classes) counts for every statement.
3. A view or policy is what the functions and relations are that it uses, and so is what uses it.
4. The answer is bounded. What it leaves out is not known, and what is not known needs the primary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from pgambassador.routing import builtin
from pgambassador.routing.question import BETWEEN, MOST, QUERY
from pgambassador.wire import parse

__all__ = ["NOTHING_KNOWN", "NOT_YET", "QUERY", "Catalog", "Effect", "read"]


class Effect(Enum):
    """What calling a function does."""

    READ = "reads"
    LOOSE = "reads, but is volatile"
    HERE = "reads of the server that it runs on"
    TEXT = "executes a text, or reads relations that a text names"
    SEEDED = "reads what depends on its session"
    SESSION = "changes its session"
    PINNING = "leaves something in its session"
    ASSIGNS = "needs a transaction id"
    VOLATILE = "may write"
    LISTED = "is listed as needing the primary"
    UNKNOWN = "may do anything"


class Catalog:
    """`effects` are of functions by name; `calls`, `uses`, `operators` say which functions come with a
    function, a relation, an operator; `hidden` those that may come with any statement; `fields` those that
    can be written like a column; `barred` are relations that are not for replicas, with why; `serializable`
    are transactions that do not say otherwise."""

    __slots__ = (
        "_effects", "_own", "barred", "calls", "fields", "hidden", "known", "operators",
        "plain_to_read", "plain_to_write", "relations", "serializable", "uses",
    )  # fmt: skip

    def __init__(
        self,
        effects: Mapping[str, Effect],
        relations: frozenset[str],
        *,
        known: bool = True,
        own: frozenset[str] = frozenset(),
        barred: Mapping[str, str] | None = None,
        calls: Mapping[str, frozenset[str]] | None = None,
        uses: Mapping[str, frozenset[str]] | None = None,
        operators: Mapping[str, frozenset[str]] | None = None,
        hidden: frozenset[str] = frozenset(),
        fields: frozenset[str] = frozenset(),
        plain_to_read: frozenset[str] = frozenset(),
        plain_to_write: frozenset[str] = frozenset(),
        serializable: bool = False,
    ) -> None:
        self._effects = effects
        self._own = own
        self.relations = relations
        self.known = known
        self.barred = barred or {}
        self.calls = calls or {}
        self.uses = uses or {}
        self.operators = operators or {}
        self.hidden = hidden
        self.fields = fields
        self.plain_to_read = plain_to_read
        self.plain_to_write = plain_to_write
        self.serializable = serializable

    def effect(self, function: str) -> Effect:
        return self._effects.get(function, Effect.UNKNOWN)

    def may_read_tables(self, function: str) -> bool:
        """Which it does not name: functions of the database itself may."""
        return function in self._own or function not in self._effects

    def opaque(self, operators: Iterable[str]) -> bool:
        """Whether functions that no name shows may read tables."""
        used = self.hidden.union(*(self.operators.get(sign, ()) for sign in ("=", *operators)))
        return not self._own.isdisjoint(used)

    def __repr__(self) -> str:
        return f"<Catalog {len(self._effects)} functions, {len(self.relations)} relations>"


NOTHING_KNOWN: Final = Catalog({}, frozenset(), known=False)
NOT_YET: Final = "is not known yet"
"""How the reason begins for which a statement is no read, where only the catalog is missing."""

_LABELS: Final = {
    "own": Effect.VOLATILE,
    "volatile": Effect.VOLATILE,
    "stable": Effect.HERE,
    "fixed": Effect.READ,
}
_LISTED: Final = {
    **dict.fromkeys(builtin.SESSION, Effect.SESSION),
    **dict.fromkeys(builtin.PINNING, Effect.PINNING),
    **dict.fromkeys(builtin.ASSIGNS, Effect.ASSIGNS),
    **dict.fromkeys(builtin.TEXT, Effect.TEXT),
}
_EXCUSED: Final = {
    **dict.fromkeys(builtin.LOOSE, Effect.LOOSE),
    **dict.fromkeys(builtin.SEEDED, Effect.SEEDED),
    **dict.fromkeys(builtin.STABLE, Effect.READ),
}


def read(rows: Iterable[bytes]) -> Catalog:
    """From the DataRows that answer QUERY."""
    effects: dict[str, Effect] = {}
    names: dict[str, set[str]] = {}
    barred: dict[str, str] = {}
    comes: dict[str, dict[str, frozenset[str]]] = {"calls": {}, "uses": {}, "operator": {}, "hidden": {}}
    for row in rows:
        kind, first, second = (parse.decode(value or b"") for value in parse.columns(row))
        if kind in comes:
            comes[kind][first] = frozenset(second.split(BETWEEN))
            continue
        found = first.split(BETWEEN)
        if kind == "barred":
            barred.update(dict.fromkeys(found, second))
            continue
        if kind in _LABELS:
            effects.update((name, _effect(kind, name)) for name in found)
            names.setdefault(second, set()).update(found)
            continue
        for part in (kind, *(f"{kind} {flag}" for flag in second)):
            names.setdefault(part, set()).update(found)
    if sum(map(len, comes.values())) > MOST:
        return NOTHING_KNOWN

    def of(part: str) -> frozenset[str]:
        return frozenset(names.get(part, ()))

    return Catalog(
        effects,
        of("relation"),
        own=of("own"),
        barred=barred,
        calls=comes["calls"],
        uses=comes["uses"],
        operators=comes["operator"],
        hidden=frozenset().union(*comes["hidden"].values()),
        fields=of("field"),
        plain_to_read=of("relation r"),
        plain_to_write=of("relation w"),
        serializable="serializable" in of("isolation"),
    )


def _effect(kind: str, name: str) -> Effect:
    """PostgreSQL's own functions are known better than by their label; not so those of the database."""
    if name in _LISTED:
        return _LISTED[name]
    if kind in ("volatile", "stable"):
        return _EXCUSED.get(name, Effect.HERE if kind == "stable" or name in builtin.HERE else _LABELS[kind])
    return Effect.HERE if kind == "fixed" and name in builtin.HERE else _LABELS[kind]
