"""What is made of a database's catalog."""

from __future__ import annotations

import pytest

from pgambassador.routing import builtin
from pgambassador.routing.catalog import NOTHING_KNOWN, QUERY, Effect, read
from pgambassador.routing.decision import decide
from pgambassador.routing.question import MOST
from tests.messages import row
from tests.routing import corpus


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("lower", Effect.READ),
        ("now", Effect.READ),
        ("looks", Effect.READ),
        ("clock_timestamp", Effect.LOOSE),
        ("writes", Effect.VOLATILE),
        ("pg_notify", Effect.VOLATILE),
        ("txid_current", Effect.ASSIGNS),
        ("pg_advisory_lock", Effect.PINNING),
        ("set_config", Effect.SESSION),
        ("random", Effect.SEEDED),
        ("pg_is_in_recovery", Effect.HERE),
        ("pg_walfile_name", Effect.HERE),
        ("version", Effect.HERE),
        ("proceed", Effect.UNKNOWN),
        ("nobody_knows", Effect.UNKNOWN),
    ],
)
def test_what_functions_do(name: str, effect: Effect) -> None:
    assert corpus.recorded().effect(name) is effect


def test_postgresqls_own_functions_are_excused_by_name_only_if_nobody_else_has_the_name() -> None:
    catalog = read(
        [
            row(b"own", b"uuidv7\nrandom\npg_sleep", b"own"),
            row(b"volatile", b"clock_timestamp\npg_of_tomorrow", b""),
            row(b"stable", b"now\npg_of_tomorrow_too", b""),
            row(b"fixed", b"lower\npg_walfile_name", b""),
            row(b"fixed", b"version", b"own"),
        ]
    )
    effects = {name: catalog.effect(name) for name in ("uuidv7", "random", "pg_sleep")}
    assert set(effects.values()) == {Effect.VOLATILE}
    assert catalog.effect("clock_timestamp") is Effect.LOOSE
    assert catalog.effect("pg_of_tomorrow") is Effect.VOLATILE
    assert catalog.effect("pg_of_tomorrow_too") is Effect.HERE
    assert catalog.effect("now") is catalog.effect("lower") is Effect.READ
    assert catalog.effect("pg_walfile_name") is Effect.HERE


def test_somebody_elses_current_setting() -> None:
    text = "select current_setting('a.b')"
    for kind, target in (("stable", "replica"), ("own", "primary")):
        rows = [row(kind.encode(), b"current_setting", b"")]
        assert decide(text, read(rows)).target == target
        assert decide(f"explain {text}", read(rows)).target == target
        assert decide("select shop.current_setting('a.b')", read(rows)).target == "primary"


def test_relations_and_what_comes_with_them() -> None:
    catalog = read(
        [
            row(b"relation", b"a\nb", b"rw"),
            row(b"relation", b"v", b""),
            row(b"barred", b"u\nx", b"is unlogged"),
            row(b"uses", b"v", b"f\ng"),
            row(b"operator", b"<%>", b"f"),
            row(b"hidden", b"", b"g"),
            row(b"calls", b"h", b"f"),
            row(b"field", b"f", b""),
        ]
    )
    assert catalog.relations == {"a", "b", "v"}
    assert catalog.plain_to_read == catalog.plain_to_write == {"a", "b"}
    assert catalog.barred == {"u": "is unlogged", "x": "is unlogged"}
    assert catalog.uses == {"v": {"f", "g"}}
    assert catalog.operators == {"<%>": {"f"}}
    assert catalog.hidden == {"g"}
    assert catalog.fields == {"f"}
    assert catalog.calls == {"h": {"f"}}
    assert catalog.known
    assert repr(catalog) == "<Catalog 0 functions, 3 relations>"


def test_where_too_much_comes_with_things_nothing_is_known() -> None:
    rows = [row(b"uses", b"v%d" % n, b"f") for n in range(MOST + 1)]
    assert read(rows) is NOTHING_KNOWN
    assert read(rows[1:]) is not NOTHING_KNOWN
    assert not NOTHING_KNOWN.known


def test_no_function_is_listed_twice() -> None:
    lists = (
        *(builtin.STABLE, builtin.LOOSE, builtin.HERE, builtin.ASSIGNS),
        *(builtin.TEXT, builtin.SEEDED, builtin.SESSION, builtin.PINNING),
    )
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


def test_the_question_is_short_enough_to_be_asked_often() -> None:
    assert QUERY.startswith(b"Q")
    assert len(QUERY) < 32 * 1024
