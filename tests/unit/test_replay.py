"""What may be asked again: the whole table, and nothing that is not in it."""

from __future__ import annotations

import itertools

import pytest

from pgambassador.routing.catalog import NOTHING_KNOWN, Catalog
from pgambassador.routing.decision import Decision, Overrides, decide
from pgambassador.routing.replay import (
    CONFLICTS_MOST,
    DEATHS_MOST,
    LOST,
    SUDDEN_MOST,
    Kind,
    Outcome,
    Phase,
    ending,
    kind_of,
    kind_together,
    outcome,
)

SAID_ONLY = (
    "57P03", "53300", "53400", "25P03", "25P04", "57014", "55P03", "57P04", "26000", "42P05",
    "0A000", "22012", "23505", "42601", "44000", "P0001", "XX000", "XX001", "XX002", "58000", "58030",
    "53100", "53200", "28000", "28P01", "3D000", "08P01", "08006", "08007", "40002", "40003", "25P02",
    "25000", "57000", "junk",
)  # fmt: skip
EVENTS = (LOST, "57P01", "57P02", "57P05", "25006", "40001", "40P01", *SAID_ONLY)
TRIES = range(6)
AGAIN = Outcome.REPLAY
ALL = list(itertools.product(EVENTS, Phase, Kind, (False, True), TRIES))

FAREWELLS = ("57P01", "57P02", "57P05")
HARMLESS = (Kind.READ, Kind.SESSION, Kind.MARKED)
# All that is ever asked again: event, phase, kind, and how often.
TABLE: dict[tuple[str, Phase, Kind], int] = {
    **{(event, Phase.UNSENT, kind): DEATHS_MOST for event in (LOST, *FAREWELLS) for kind in Kind},
    **{(event, Phase.SENT, kind): DEATHS_MOST for event in FAREWELLS for kind in HARMLESS},
    **{(LOST, Phase.SENT, kind): SUDDEN_MOST for kind in HARMLESS},
    **{("25006", Phase.SENT, kind): 1 for kind in Kind if kind is not Kind.COMMIT},
    **{(event, Phase.SENT, Kind.MARKED): CONFLICTS_MOST for event in ("40001", "40P01")},
}


@pytest.mark.parametrize("event", EVENTS)
def test_nothing_else_is_asked_again(event: str) -> None:
    for each, phase, kind, within, tries in ALL:
        if each == event:
            found = outcome(event, phase, kind, within=within, tries=tries)
            allowed = not within and tries < TABLE.get((event, phase, kind), 0)
            assert (found is AGAIN) == allowed, (event, phase, kind, within, tries)


def test_what_may_have_been_done_is_never_said_not_to_have_been() -> None:
    """08006 may be done again: it read, was rolled back with its transaction, or was never sent."""
    for event, phase, kind, within, tries in ALL:
        found = outcome(event, phase, kind, within=within, tries=tries)
        if found is Outcome.BROKEN:
            assert (
                phase is Phase.UNSENT
                or kind in (Kind.READ, Kind.SESSION, Kind.ROLLBACK)
                or (within and kind is not Kind.COMMIT)
            ), (event, phase, kind, within)


def test_a_commit_without_an_answer_is_never_known() -> None:
    for event, phase, within in itertools.product(
        (LOST, "57P02"), (Phase.SENT, Phase.ANSWERED), (False, True)
    ):
        assert outcome(event, phase, Kind.COMMIT, within=within, tries=9) is Outcome.UNKNOWN
    for phase in (Phase.SENT, Phase.ANSWERED):
        assert outcome("57P01", phase, Kind.COMMIT, within=True, tries=9) is Outcome.UNKNOWN


def test_a_lost_write_is_never_known() -> None:
    for event, phase, kind in itertools.product(
        (LOST, "57P02"), (Phase.SENT, Phase.ANSWERED), (Kind.WRITE, Kind.MARKED)
    ):
        assert outcome(event, phase, kind, within=False, tries=9) is Outcome.UNKNOWN


@pytest.mark.parametrize("sqlstate", SAID_ONLY)
def test_the_rest_is_passed_on(sqlstate: str) -> None:
    for phase, kind, within, tries in itertools.product(Phase, Kind, (False, True), TRIES):
        assert outcome(sqlstate, phase, kind, within=within, tries=tries) is Outcome.SAID


def of(text: str, overrides: Overrides = Overrides()) -> Kind:  # noqa: B008
    catalog = Catalog(known=True, relations=frozenset({"t"}), effects={})
    return kind_of(decide(text, catalog, overrides), text.encode())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("select * from t", Kind.READ),
        ("", Kind.READ),
        ("show timezone", Kind.READ),
        ("select * from t; select 2", Kind.READ),
        ("select * from t for update", Kind.WRITE),
        ("select nextval('s')", Kind.WRITE),
        ("select nobody_knows()", Kind.WRITE),
        ("with x as (delete from t returning 1) select 1", Kind.WRITE),
        ("insert into t values (1)", Kind.WRITE),
        ("call p()", Kind.WRITE),
        ("vacuum", Kind.WRITE),
        ("create index concurrently on t (a)", Kind.WRITE),
        ("set a.b = 1", Kind.SESSION),
        ("set local a.b = 1", Kind.SESSION),
        (" /* mine */ RESET role;", Kind.SESSION),
        ("discard all", Kind.SESSION),
        ("deallocate prepare x", Kind.SESSION),
        ("DEALLOCATE ALL", Kind.SESSION),
        ("/* pgambassador: idempotent */ set a.b = 1", Kind.SESSION),
        ("select set_config('a.b', '1', false)", Kind.WRITE),
        ("set a.b = 1; insert into t values (1)", Kind.COMMIT),
        ("reset all; reset all", Kind.COMMIT),
        ("prepare x as select 1", Kind.WRITE),
        ("settle", Kind.COMMIT),
        ("listen x", Kind.WRITE),
        ("/* pgambassador: idempotent */ update t set a = 1", Kind.MARKED),
        ("update t set a = 1 -- pgambassador: idempotent", Kind.MARKED),
        ("/* pgambassador: idempotent */ select nobody_knows()", Kind.MARKED),
        ("/* pgambassador: idempotent */ copy t from stdin", Kind.WRITE),
        ("/* pgambassador: idempotent */ select 1; update t set a = 1", Kind.COMMIT),
        ("/* pgambassador: idempotent */ commit", Kind.COMMIT),
        ("/* pgambassador: idempotent */ listen x", Kind.WRITE),
        ("select '/* pgambassador: idempotent */' from nextval('s')", Kind.WRITE),
        ("commit", Kind.COMMIT),
        ("END", Kind.COMMIT),
        ("commit and chain", Kind.COMMIT),
        ("prepare transaction 'x'", Kind.COMMIT),
        ("commit prepared 'x'", Kind.COMMIT),
        ("rollback prepared 'x'", Kind.COMMIT),
        ("begin", Kind.SESSION),
        ("start transaction isolation level serializable read only", Kind.SESSION),
        ("begin;", Kind.SESSION),
        ("begin; insert into t values (1)", Kind.COMMIT),
        ("begin; begin", Kind.COMMIT),
        ("begin; rollback", Kind.COMMIT),
        ("select 1; begin", Kind.COMMIT),
        ("/* pgambassador: idempotent */ begin", Kind.SESSION),
        ("rollback and chain", Kind.COMMIT),
        ("rollback", Kind.ROLLBACK),
        ("savepoint a", Kind.WRITE),
        (" /* mine */ RELEASE SAVEPOINT a;", Kind.WRITE),
        ("rollback to a", Kind.WRITE),
        ("rollback work -- not all of it\n to savepoint a", Kind.WRITE),
        ("rollback work", Kind.ROLLBACK),
        ("set transaction read only", Kind.SESSION),
        ("set constraints all immediate", Kind.SESSION),
        ("savepoint a; commit", Kind.COMMIT),
        ("insert into t values (1); commit", Kind.COMMIT),
        ("rollback; insert into t values (1)", Kind.COMMIT),
        ("this is no SQL", Kind.COMMIT),
        ("select " + "1," * 9000 + "1", Kind.COMMIT),
    ],
)
def test_what_statements_may_do(text: str, kind: Kind) -> None:
    assert of(text) is kind


def test_nothing_is_known_without_a_catalog_or_a_text() -> None:
    assert kind_of(decide("select * from t", NOTHING_KNOWN), b"select * from t") is Kind.WRITE
    assert kind_of(None, b"select 1") is Kind.COMMIT
    assert kind_of(Decision("read", "any", "reads", single=True), None) is Kind.COMMIT


def test_of_several_the_most_counts() -> None:
    assert kind_together([]) is Kind.READ
    assert kind_together([Kind.READ, Kind.READ]) is Kind.READ
    assert kind_together([Kind.MARKED]) is Kind.MARKED
    assert kind_together([Kind.MARKED, Kind.MARKED]) is Kind.WRITE
    assert kind_together([Kind.READ, Kind.MARKED]) is Kind.WRITE
    assert kind_together([Kind.ROLLBACK]) is Kind.ROLLBACK
    assert kind_together([Kind.ROLLBACK, Kind.WRITE]) is Kind.COMMIT
    assert kind_together([Kind.READ, Kind.COMMIT, Kind.WRITE]) is Kind.COMMIT
    assert kind_together([Kind.SESSION]) is Kind.SESSION
    assert kind_together([Kind.SESSION, Kind.READ]) is Kind.WRITE  # it goes on in a transaction
    assert kind_together([Kind.SESSION, Kind.COMMIT]) is Kind.COMMIT


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (b"rollback", "rollback"),
        (b" /* a */ ROLLBACK -- b", "rollback"),
        (b"abort work;", "rollback"),
        (b"rollback transaction and no chain ; ", "rollback"),
        (b"commit", "commit"),
        (b";End Work;;", "commit"),
        (b"commit/**/work/* ; */", "commit"),
        (b"rollback; select 1", "rollback;"),
        (b"ROLLBACK;\nselect pg_advisory_unlock_all();", "rollback;"),
        (b"commit; select 1", ""),
        (b"rollback to a", ""),
        (b"rollback and chain", ""),
        (b"commit prepared 'x'", ""),
        (b"rollback prepared 'x'", ""),
        (b"rollback_all()", ""),
        (b"ending", ""),
        (b"select 1", ""),
        (b"-- rollback", ""),
        (b"-- a\rrollback", "rollback"),
        (b"/* rollback */ select 1", ""),
        (b"", ""),
        (b"rollback" + b" " * 5000 + b"to a", ""),
        (b" " * 100_000, ""),
        (b"/*" * 50_000, ""),
    ],
)
def test_ends(text: bytes, how: str) -> None:
    assert ending(text) == how
