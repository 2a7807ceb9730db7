"""Which parameters a statement may have set, and the question what they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pglast import parse_sql

from pgambassador.protocol.survey import (
    ALL,
    ANY,
    NOTHING,
    RESTORED,
    TIES,
    answer,
    merged,
    names_called,
    names_set,
    plainly_set,
    question,
    restoration,
)
from pgambassador.protocol.ties import INVENTORY
from tests.messages import row

TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("set work_mem = '5MB'", {"work_mem"}),
        ("SET WORK_MEM TO '5MB';", {"work_mem"}),
        ("set session work_mem=5", {"work_mem"}),
        ("  /* app */ -- x\n set\n\tmy.var\nto 'x'", {"my.var"}),
        ("-- x\rset search_path = a, b", {"search_path"}),
        ("set search_path = a, b", {"search_path"}),
        ("set search_path = \"$user\", public", {"search_path"}),
        ("set search_path to default", ALL),
        ("set work_mem = default", ALL),
        ("set local work_mem = '5MB'", NOTHING),
        ("set transaction isolation level serializable", NOTHING),
        ("set constraints all deferred", NOTHING),
        ("set session characteristics as transaction read only",
         {"default_transaction_isolation", "default_transaction_read_only",
          "default_transaction_deferrable"}),
        ("set time zone 'UTC'", {"timezone"}),
        ("set time zone default", ALL),
        ("set session time zone local", ALL),
        ("set names 'latin1'", {"client_encoding"}),
        ("set schema 'a'", {"search_path"}),
        ("set role none", {"role"}),
        ("set session authorization bob", {"role", "session_authorization"}),
        ("set session authorization default", ALL),
        ("set xml option document", {"xmloption"}),
        ('set "Weird" = 1', ALL),
        ("set local.x = 1", {"local.x"}),
        ("set transaction.x = 1", {"transaction.x"}),
        ("set transaction_timeout = '7s'", {"transaction_timeout"}),
        ("set a = 1; set b = 2", ALL),
        ("select 1; set a = 1", ALL),
        ("", ALL),
        ("settle", ALL),
        ("set x = '" + 3000 * "x" + "'", ALL),
    ],
)  # fmt: skip
def test_what_a_set_may_have_set(text: str, names: set[str]) -> None:
    assert names_set(text.encode()) == names


def test_parameters_that_are_not_listed_are_asked_for_by_name() -> None:
    assert names_set(b"set My.var = 'a; b'") == ALL | {"my.var"}
    assert names_set(b"begin; set a.b to 1; select set_config('c.d', 'x', false)") == ALL | {"a.b", "c.d"}
    assert names_set(b"do $$ begin set a.b = 1; end $$") == ALL | {"a.b"}
    assert names_set(b"set a.b = '" + b"x" * 100_000 + b"'") == ALL | {"a.b"}
    assert b"x.y" in question(ALL, ["x.y", "z"]) and b"'z'" not in question(ALL, ["x.y", "z"])
    assert b"a.b" in question(ALL | {"a.b", "c"}, ())


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("select set_config('a.b', 'x', false)", {"a.b"}),
        ("SELECT pg_catalog.SET_CONFIG( 'Work_Mem' , $1, $2)", {"work_mem"}),
        ("select set_config('a', '1', true)", NOTHING),
        ("select set_config('a', $1, true), set_config('b', $2, false)", {"a", "b"}),
        ("select set_config('a', f(1, 2), true)", {"a"}),
        ("select set_config(n, '1', false) from t", ALL),
        ("select set_config('a', '1', true), set_config(n, '1', true)", ALL | {"a"}),
        ("select set_config(E'\\x61', '1', false)", ALL),
        ("select set_config($1, $2, $3)", ALL),
        ("select 'set_config'", ALL),
        ("select \"set_config\"('work_mem', '5MB', false)", ALL),
        ("select set_config('work_mem', '5MB' /*, true) */, false)", {"work_mem"}),
        ("select set_config('work' || '_mem', '5MB', false)", ALL),
        ("select set_config('app.t', $1::text, true)", NOTHING),
        ("update pg_settings set setting = 1", ALL),
        ("select 1 from pg_settings, set_config('a', '1', true) -- update", NOTHING),
        ("", ALL),
    ],
)
def test_what_a_call_may_set(text: str, names: set[str]) -> None:
    assert names_called(text.encode()) == names


@given(
    st.just(ALL) | st.frozensets(TEXT.filter(lambda name: name not in "=+!"), min_size=1),
    st.frozensets(TEXT),
    st.dictionaries(TEXT, TEXT, max_size=3),
)
def test_the_questions_are_sql(names: frozenset[str], known: frozenset[str], start: dict[str, str]) -> None:
    for asked, count in (
        (question(names, known, start), 1 + (ANY in names and bool(start))),
        (question(RESTORED, known, start), int(bool(start))),
        (question(RESTORED | TIES, known, start), 1 + bool(start)),
    ):
        statements = parse_sql(asked[5:-1].decode()) if asked else ()
        assert [type(each.stmt).__name__ for each in statements] == ["SelectStmt"] * count


@given(st.dictionaries(TEXT.filter(lambda name: name == name.lower() and name[:1] != "!"), st.none() | TEXT))
def test_the_answer(found: dict[str, str | None]) -> None:
    rows = [
        row(name.encode(), None if value is None else value.encode().hex().encode())
        for name, value in found.items()
    ]
    assert answer(rows) == (found, frozenset())


def test_ties_are_asked_for_and_answered_beside_parameters() -> None:
    asked = question(TIES | {"a"}, ())
    assert INVENTORY.encode() in asked and b"current_setting" in asked
    assert b"current_setting" not in question(TIES, ())
    rows = [row(b"!LISTEN", b""), row(b"a", b"31")]
    assert answer(rows) == ({"a": "1"}, frozenset({"LISTEN"}))


@pytest.mark.parametrize("values", [(b"a", b"xyz"), (None, b"00"), (), (b"\xff", b"00"), (b"a", b"\xff")])
def test_an_answer_that_cannot_be_one(values: tuple[bytes | None, ...]) -> None:
    with pytest.raises(ValueError):
        answer([row(*values)])


def test_an_answer_for_some_leaves_the_others() -> None:
    before = {"a": "1", "b": "2", "role": "clerk"}
    found = {"b": "3", "c": None, "role": "none", "transaction_isolation": "serializable", "seed": "1"}
    assert merged(before, found, names=frozenset(found)) == {"a": "1", "b": "3"}
    assert merged(before, found, names=ALL) == {"b": "3"}


START = {"timezone": "CET", "a.b": "it's", "work_mem": "5MB"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reset timezone", "SELECT pg_catalog.set_config(E'timezone', E'CET', false)"),
        (" Reset\tTimeZone ;\n", "SELECT pg_catalog.set_config(E'timezone', E'CET', false)"),
        ("reset time  zone", "SELECT pg_catalog.set_config(E'timezone', E'CET', false)"),
        ("set time zone default", "SELECT pg_catalog.set_config(E'timezone', E'CET', false)"),
        ("SET SESSION TIME ZONE LOCAL", "SELECT pg_catalog.set_config(E'timezone', E'CET', false)"),
        ("set local work_mem to default", "SELECT pg_catalog.set_config(E'work_mem', E'5MB', true)"),
        ("set work_mem=DEFAULT;", "SELECT pg_catalog.set_config(E'work_mem', E'5MB', false)"),
        ("-- x\rset work_mem\tto\n default", "SELECT pg_catalog.set_config(E'work_mem', E'5MB', false)"),
        ("reset a.b", "SELECT pg_catalog.set_config(E'a.b', E'it\\x27s', false)"),
        ("reset datestyle", ""),
        ("reset role", ""),
        ("set work_mem = '1MB'", ""),
        ("set work_mem = local", ""),
        ("set work_mem to 'default'", ""),
        ("set work_mem = 'x default'", ""),
        ("set a.b = 1; set work_mem to default", ""),
        ("reset work_mem; select 1", ""),
        ("select 1; reset work_mem", ""),
        ("reset", ""),
        ("set", ""),
        ("", ""),
        ("reset " + "a" * 3000, ""),
    ],
)
def test_what_leads_back_to_the_start_packet(text: str, expected: str) -> None:
    statements = [expected.encode()] if expected else []
    assert restoration(text.encode(), START) == statements
    assert restoration(text.encode() + b"\0", START) == statements
    assert restoration(text.encode(), {}) == []


@pytest.mark.parametrize("text", ["reset all", "RESET  ALL ;"])
def test_after_a_reset_of_all_those_are_set_again_that_were_reset(text: str) -> None:
    (back,) = restoration(text.encode(), {**START, "role": "clerk"})
    parse_sql(back.decode())
    assert all(name.encode() in back for name in START) and b"source" in back
    assert b"role" not in back  # which RESET ALL does not touch
    assert restoration(text.encode(), {"role": "clerk"}) == []


def test_behind_discard_all_it_is_done_in_a_transaction_of_its_own() -> None:
    """DISCARD ALL has ended the one that it ran in."""
    begin, back, commit = restoration(b"discard all", {**START, "role": "clerk"})
    assert (begin, commit) == (b"BEGIN", b"COMMIT")
    assert all(name.encode() in back for name in (*START, "role"))


def test_who_it_is_leads_back_as_whom_it_acts() -> None:
    for text in (b"reset session authorization", b"set session  authorization default"):
        (back,) = restoration(text, {"role": "clerk"})
        assert back == b"SELECT pg_catalog.set_config(E'role', E'clerk', false)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"set a.b = 'c d'", ("a.b", "c d")),
        (b"/* x */ SET SESSION TimeZone TO UTC ;", ("timezone", "utc")),
        (b"set statement_timeout = -1", ("statement_timeout", "-1")),
        (b"set work_mem='64MB'", ("work_mem", "64MB")),
        (b"set x.y = ''", ("x.y", "")),
        (b'set search_path = a, "B", "$user"', ("search_path", 'a, "B", "$user"')),
        (b"set search_path = 'a, b'", None),
        (b"set search_path = A", None),
        (b"set search_path = pg_temp, a", None),
        (b"set x.y = 'it''s'", None),
        (b"set x.y = 'a\\b'", None),
        (b"set x.y = E'a'", None),
        (b"set x.y = 'a' 'b'", None),
        (b"set x.y = a, b", None),
        (b"set x.y = 1.50", None),
        (b"set x.y = 010", None),
        (b"set x.y = 12345678901", None),
        (b"set x.y = default", None),
        (b"set x.y to DEFAULT;", None),
        (b"set x.y = 'a'; select 1", None),
        (b"set x.y = 'a' -- b", None),
        ("set x.y = 'ä'".encode(), None),
        (b"set local x.y = 'a'", None),
        (b"set role a", None),
        (b"set role = 'a'", None),
        (b"set session authorization a", None),
        (b"set time zone 'UTC'", None),
        (b"set names 'utf8'", None),
        (b"set idle_session_timeout = 5", None),
        (b"set transaction_isolation = 'serializable'", None),
        (b"set temp_tablespaces = a", None),
        (b"set DateStyle = 'SQL'", None),
        (b"reset x.y", None),
        (b"select set_config('x.y', 'a', false)", None),
        (b"", None),
    ],
)
def test_what_a_set_plainly_says(text: bytes, said: tuple[str, str] | None) -> None:
    assert plainly_set(text) == said
    if said is not None:
        assert names_set(text) == {said[0]}
