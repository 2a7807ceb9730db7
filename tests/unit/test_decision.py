"""Where statements go: the corpus, and what else a decision says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.config.routing import Functions, RouteRule
from pgambassador.routing.catalog import NOTHING_KNOWN
from pgambassador.routing.decision import EVERYTHING, NO_OVERRIDES, Decision, Overrides, decide
from pgambassador.routing.hints import Target
from pgambassador.routing.reading import TEXT_MOST, fingerprint
from pgambassador.routing.shape import shape_of
from tests.routing import corpus


def of(text: str, overrides: Overrides = NO_OVERRIDES) -> Decision:
    return decide(text, corpus.recorded(), overrides)


@pytest.mark.parametrize("each", corpus.STATEMENTS, ids=str)
def test_the_corpus(each: corpus.Statement) -> None:
    decision = of(each.text)
    assert (decision.kind, decision.target) == (each.kind, each.target), decision
    assert decision.reason


@pytest.mark.parametrize("each", corpus.STATEMENTS, ids=str)
def test_before_anything_is_known_nothing_is_for_a_replica(each: corpus.Statement) -> None:
    decision = decide(each.text, NOTHING_KNOWN)
    asked_for = "hint replica" in decision.rule or decision.begins == "read only"
    assert decision.target != "replica" or asked_for


def test_the_corpus_is_large_enough() -> None:
    assert len({each.text for each in corpus.STATEMENTS}) > 600


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("BEGIN", "unsaid"),
        ("START TRANSACTION ISOLATION LEVEL REPEATABLE READ", "unsaid"),
        ("BEGIN READ ONLY", "read only"),
        ("BEGIN READ ONLY, READ ONLY", "read only"),
        ("BEGIN READ WRITE", "read write"),
        ("BEGIN READ ONLY, READ WRITE", "read write"),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "read write"),
        ("BEGIN; SELECT 1", ""),
        ("SELECT 1; BEGIN", ""),
        ("COMMIT AND CHAIN", ""),
        ("SELECT 1", ""),
    ],
)
def test_how_a_transaction_begins(text: str, begins: str) -> None:
    assert of(text).begins == begins
    assert of(text).starts == text.lower().startswith("start")


def test_which_statement_makes_its_transaction_read_only() -> None:
    assert of("SET TRANSACTION READ ONLY").makes_read_only
    assert of("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").makes_read_only
    for text in (
        "SET TRANSACTION READ WRITE",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY",
        "SET TRANSACTION READ ONLY; SELECT 1",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "BEGIN READ ONLY",
    ):
        assert not of(text).makes_read_only, text


def test_which_statement_ends_a_transaction() -> None:
    assert all(of(text).ends for text in ("COMMIT", "end;", "ROLLBACK", "ABORT WORK", "COMMIT AND NO CHAIN"))
    for text in ("COMMIT AND CHAIN", "ROLLBACK TO a", "COMMIT; BEGIN", "COMMIT PREPARED 'a'", "RELEASE a"):
        assert not of(text).ends, text


def test_what_may_travel_with_others() -> None:
    for text in (
        "SELECT 1",
        "TABLE accounts",
        "VALUES (1)",
        "WITH a AS (SELECT now()) SELECT * FROM a",
        "SELECT * FROM scratch",
        "SELECT * FROM pg_catalog.pg_class",
        "SELECT * FROM pg_type JOIN part_lost ON true",
    ):
        assert of(text).batchable, text
    for text in (
        "SELECT 1; SELECT 2",
        "COPY accounts TO STDOUT",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "SHOW timezone",
        "SELECT pg_sleep(1)",
        "SELECT pg_is_in_recovery()",
        "SELECT writes(1)",
        "SELECT * FROM counter",
        "SELECT * FROM afar",
        "SELECT * FROM scratch, locking",
        "SELECT * FROM scratch, nothing",
        "SELECT random() FROM scratch",
        "SELECT pg_backend_pid() FROM scratch",
        "",
    ):
        assert not of(text).batchable, text


def test_what_may_be_repeated() -> None:
    for text in ("SELECT 1", "SELECT * FROM pg_class", "SELECT pg_is_in_recovery()", "SHOW port", ""):
        assert of(text).idempotent, text
    for text in ("SELECT writes(1)", "SELECT * FROM nothing", "DELETE FROM accounts", "BEGIN", "COMMIT"):
        assert not of(text).idempotent, text
    assert of("/* pgambassador: idempotent */ DELETE FROM accounts").idempotent


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("SELECT 1", ()),
        ("SELECT * FROM accounts", ("accounts",)),
        ("SELECT * FROM public.Accounts JOIN shop.items USING (id)", ("accounts", "items")),
        ('SELECT * FROM "Mixed"', ("Mixed",)),
        ("WITH a AS (SELECT * FROM accounts) SELECT * FROM a", ("accounts",)),
        ("SELECT lower(name), now() FROM accounts", ("accounts",)),
        ("SELECT pure(id) FROM accounts", ("accounts",)),
        ("INSERT INTO journal (line) SELECT name FROM accounts", ("journal", "accounts")),
        ("UPDATE shop.items SET price = 1", ("items",)),
        ("DELETE FROM orders", ("orders",)),
        ("WITH d AS (DELETE FROM orders RETURNING id) SELECT * FROM d", ("orders",)),
    ],
)
def test_which_tables_it_touches(text: str, tables: tuple[str, ...]) -> None:
    assert of(text).tables == frozenset(tables)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM named",  # a view
        "SELECT * FROM parent",  # has children
        "SELECT * FROM measured",  # has partitions
        "SELECT * FROM guarded",  # its policy may read others
        "SELECT looks(1)",  # a function of the database may read any
        "SELECT 1 <%%> 2",
        "SELECT a.of_row_fine FROM accounts a",
        "WITH accounts AS (SELECT * FROM accounts) SELECT * FROM accounts",
        "SELECT * FROM no_such_table",
        "SELECT 1; SELECT 2",
        "DELETE FROM accounts",  # takes orders along
        "INSERT INTO audited VALUES (1)",  # has a trigger
        "INSERT INTO journal (line) SELECT name FROM named",
        "UPDATE parent SET id = 1",
        "INSERT INTO measured VALUES ('2020-01-01', 1)",
        "INSERT INTO journal (line) VALUES (writes(1))",
        "TRUNCATE orders",
        "DROP TABLE orders",
        "CALL proceed()",
        "hello",
    ],
)
def test_where_it_may_touch_any(text: str) -> None:
    assert of(text).tables == EVERYTHING


def test_what_depends_on_literals() -> None:
    assert of("SELECT current_setting('timezone')").literal
    assert of("SELECT set_config('a.b', 'c', false)").literal
    assert of("EXECUTE p(1)").literal
    assert of("SELECT '\\'").literal
    assert of(f"SELECT '{'x' * TEXT_MOST}'").literal
    for text in (
        "SELECT 1",
        "SELECT * FROM accounts WHERE name = 'a'",
        "DELETE FROM accounts WHERE id = 1",
        "x 1",
    ):
        assert not of(text).literal, text


@pytest.mark.parametrize("each", corpus.STATEMENTS, ids=str)
def test_other_literals_are_decided_alike(each: corpus.Statement) -> None:
    """What was decided of a shape holds for all that have it."""
    shape = shape_of(each.text.encode())
    decision = of(each.text)
    if shape is None or decision.literal:
        return
    for string, number in ((b"'pg_notify'", b"0"), (b"E'\\n'", b"1e10"), (b"''", b".5")):
        other = shape.replace(b"\x01", string).replace(b"\x02", number)
        other = other.replace(b"\x03", b"b'1'").replace(b"\x04", b"x'1'")
        said = of(other.decode())
        if said.reason != "cannot be parsed":  # where the grammar wants a number or a string
            assert said == decision


def test_functions_that_the_configuration_lists() -> None:
    listed = Overrides.of(Functions(read=("forgot", "shop.either", "nextval"), write=("shop.looks",)), ())
    assert of("SELECT forgot(1)", listed).target == "replica"
    assert of("SELECT public.forgot(1)", listed).target == "replica"
    assert of("SELECT * FROM calling_forgot", listed).target == "replica"
    assert of("SELECT shop.either('a')", listed).target == "replica"
    assert of("SELECT either('a')", listed).target == "primary"
    # It has a sequence as well.
    assert of("SELECT * FROM numbered", listed).target == "primary"
    looks = of("/* pgambassador: replica */ SELECT looks(1)", listed)
    assert (looks.kind, looks.target) == ("write", "primary")
    assert "listed" in looks.reason


def test_rules_of_the_configuration() -> None:
    mark = fingerprint("SELECT * FROM accounts WHERE id = 1")

    def rule(route: Target, *fingerprints: str) -> Overrides:
        return Overrides.of(Functions(), [RouteRule(fingerprint=fingerprints or ("all",), route=route)])

    held = of("SELECT * FROM accounts WHERE id = 7", rule("primary", "0", mark.upper()))
    assert (held.target, held.kind) == ("primary", "read")
    assert mark in held.rule
    assert of("SELECT * FROM accounts", rule("primary", mark)).target == "replica"
    assert of("SELECT 1", rule("primary")).target == "primary"
    assert of("SELECT forgot(1)", rule("replica")).target == "replica"
    assert of("SELECT forgot(1)", rule("any")).target == "primary"
    refused = of("DELETE FROM accounts", rule("replica"))
    assert refused.target == "primary"
    assert "not obeyed" in refused.rule
    assert of("/* pgambassador: any */ SELECT 1", rule("primary")).target == "replica"


def test_what_stands_beside_an_explain_counts() -> None:
    assert of("EXPLAIN DELETE FROM accounts").kind == "read"
    assert of("EXPLAIN DELETE FROM accounts; DELETE FROM accounts").kind == "unknown"


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("BEGIN", "unsaid"),
        ("BEGIN /* pgambassador: primary */", "read write"),
        ("BEGIN -- pgambassador: any", "unsaid"),
    ],
)
def test_a_hint_that_keeps_a_transaction_on_the_primary(text: str, begins: str) -> None:
    decision = of(text)
    assert (decision.begins, decision.target) == (begins, "primary")


def test_hints_are_reported() -> None:
    decision = of("/* pgambassador: replica, max_lag=2s, cache=5s, colour=red */ SELECT * FROM accounts")
    assert (decision.max_lag, decision.cache) == (2.0, 5.0)
    assert "hint replica" in decision.rule
    assert "colour=red" in decision.rule
    assert of("/* pgambassador: cache=5s */ SELECT gen_random_uuid()").cache is None
    assert of("/* pgambassador: cache=5s */ DELETE FROM accounts").cache is None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'é\udcff'",
        "SELECT '\ufffd'",
        "\0",
        "SELECT 1" + " " * TEXT_MOST,
        "SELECT 1 " + "+-" * 4000,
        "/*" * 2000 + "*/" * 2000,
        "SELECT " + "(SELECT " * 400 + "1" + ")" * 400,
        "SELECT 1" + "+1" * 5000,
        "SELECT a" + ",a" * 5000,
        "SELECT " + "f(" * 2000 + ")" * 2000,
        "VALUES (1)" + " UNION VALUES (1)" * 700,
    ],
    ids=range(11),
)
def test_what_would_take_too_long_is_not_looked_at(text: str) -> None:
    decision = of(text)
    assert (decision.kind, decision.target) == ("unknown", "primary")


@given(st.text(alphabet="SELECT select from()*,;'\"\\$/-\n1aé=." + "\udc80\x00", max_size=40))
def test_nothing_is_raised(text: str) -> None:
    of(text)
    of("SELECT " + text)
