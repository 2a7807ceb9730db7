"""The SQL that brings a server connection into a client's state, read by PostgreSQL's own grammar."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pglast import parse_sql

from pgambassador.protocol.settings import (
    Settings,
    _effective_remembered,
    effective,
    fence,
    literal,
    switch,
)
from pgambassador.wire.frames import take_frame

EMPTY = Settings.of({})
ALL = "*"
TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
NAMES = st.sampled_from(
    ["application_name", "client_encoding", "datestyle", "search_path", "timezone", "myext.level", "role"]
)
STATES = st.dictionaries(NAMES, TEXT).map(Settings.of)


def sql(query: bytes) -> str:
    """The text of one simple query, "" for none."""
    if not query:
        return ""
    assert query[:1] == b"Q"
    assert int.from_bytes(query[1:5], "big") == len(query) - 1
    assert query[-1:] == b"\0"
    return query[5:-1].decode()


def steps(query: bytes) -> Iterator[tuple[str, str | None]]:
    """What the query does, in order: (name, value), and None for a value means back to the beginning."""
    for raw in parse_sql(sql(query)):
        statement: Any = raw.stmt
        match type(statement).__name__, getattr(statement, "name", None):
            case "VariableSetStmt", None:
                assert statement.kind.name == "VAR_RESET_ALL"
                yield ALL, None
            case "VariableSetStmt", str(name):
                assert statement.kind.name == "VAR_RESET"
                yield name, None
            case "SelectStmt", _:
                for target in statement.targetList:
                    call = target.val
                    assert [part.sval for part in call.funcname] == ["pg_catalog", "set_config"]
                    name, value, local = (argument.val for argument in call.args)
                    assert local.boolval is False
                    yield name.sval, None if value is None else value.sval
            case other:
                raise AssertionError(other)


def run(query: bytes, state: Mapping[str, str]) -> dict[str, str]:
    """What a server's session holds after the query, of what was set in it."""
    now = dict(state)
    for name, value in steps(query):
        if name == ALL:
            now = {name: value for name, value in now.items() if name in ("role", "session_authorization")}
        elif value is None:
            now.pop(name, None)
        else:
            now[name] = value
    return now


@given(STATES, STATES)
def test_it_leads_from_any_state_to_any_other(before, after):
    assert run(switch(before, after), before.values) == after.values


@given(STATES, STATES)
def test_it_leads_from_a_state_that_nobody_knows(unknown, after):
    assert run(switch(None, after), unknown.values) == after.values


@given(STATES)
def test_nothing_to_do(state):
    assert switch(state, state) == b""
    assert fence(state, state) == (b"", 0)


@given(st.none() | STATES, STATES)
def test_behind_the_fence_is_the_same_in_a_transaction(before, after):
    """Each statement has its Parse, Bind and Execute, and no Sync lets the server go on after an error."""
    messages, count = fence(before, after)
    scanned = list(frames(messages))
    assert "".join(chr(kind) for kind, _ in scanned) == "PBE" * count
    texts = [body[1:].split(b"\0")[0].decode() for kind, body in scanned if kind == ord("P")]
    if texts:
        assert texts.pop(0).startswith("BEGIN ISOLATION LEVEL READ COMMITTED")
        assert texts.pop() == "COMMIT"
    assert ";".join(texts) == sql(switch(before, after))


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    buffer = bytearray(data)
    while (frame := take_frame(buffer, 1 << 20)) is not None:
        yield frame
    assert not buffer


def test_only_what_differs():
    before = Settings.of({"timezone": "UTC", "datestyle": "ISO", "search_path": "a"})
    after = Settings.of({"timezone": "UTC", "datestyle": "German", "application_name": "x"})
    assert list(steps(switch(before, after))) == [
        ("search_path", None),
        ("application_name", "x"),
        ("datestyle", "German"),
    ]


def test_the_order():
    """Encoding before any text, the role after everything that it might not be allowed to set."""
    state = Settings.of({"role": "r", "client_encoding": "LATIN1", "work_mem": "1MB", "a.b": "c"})
    there = [name for name, _ in steps(switch(EMPTY, state))]
    assert there == ["client_encoding", "a.b", "work_mem", "role"]
    back = list(steps(switch(state, EMPTY)))
    assert (back[0], back[-1]) == (("role", None), ("client_encoding", None))
    assert len(back) == len(there)


def test_who_it_is_is_reset_first_and_set_last_whatever_differs():
    """Setting the one also resets the other, and a role might not be allowed to set the rest."""
    before = Settings.of({"role": "clerk", "log_min_messages": "error"})
    after = Settings.of({"role": "clerk", "session_authorization": "other"})
    assert list(steps(switch(before, after))) == [
        ("role", None),
        ("log_min_messages", None),
        ("session_authorization", "other"),
        ("role", "clerk"),
    ]


def test_many_parameters_are_set_in_parts():
    many = Settings.of({f"a.b{n}": "1" for n in range(2500)})
    text = sql(switch(EMPTY, many))
    assert [part.count("set_config") for part in text.split(";")] == [1000, 1000, 500]


def test_an_unknown_state_is_reset_first():
    found = list(steps(switch(None, Settings.of({"timezone": "UTC"}))))
    assert found == [("session_authorization", None), ("role", None), (ALL, None), ("timezone", "UTC")]


def test_session_authorization_has_a_spelling_of_its_own():
    text = sql(switch(Settings.of({"session_authorization": "x"}), EMPTY))
    assert text == "RESET SESSION AUTHORIZATION"


@pytest.mark.parametrize("name", ['a"; DROP TABLE t; --', "a'; DROP TABLE t; --", "a\\'; DROP TABLE t; --"])
def test_a_name_is_no_sql(name):
    (there,) = steps(switch(EMPTY, Settings.of({name: "x"})))
    assert there == (name.lower(), "x")
    assert len(list(steps(switch(Settings.of({name: "x"}), EMPTY)))) == 1


@given(TEXT)
def test_a_literal_is_one_constant(text):
    (raw,) = parse_sql(f"SELECT {literal(text)}")
    statement: Any = raw.stmt
    assert statement.targetList[0].val.val.sval == text


def test_what_a_connection_must_begin_with_is_divided():
    both = Settings.of({"timezone": "UTC", "Ignore_System_Indexes": "on", "post_auth_delay": "0"})
    assert both.divided() == (
        Settings.of({"timezone": "UTC"}),
        (("ignore_system_indexes", "on"), ("post_auth_delay", "0")),
    )
    assert EMPTY.divided() == (EMPTY, ())
    plain = Settings.of({"timezone": "UTC"})
    assert plain.divided()[0] is plain


@pytest.mark.parametrize(
    ("name", "spellings", "others"),
    [
        ("ignore_system_indexes", ["on", "ON", "true", "t", "1", "yes", "y"], ["off", "o", "", " on"]),
        ("log_connections", ["off", "0", "f", "False", "NO", "of"], ["all", "on"]),
        ("post_auth_delay", ["1", " 1", "1 "], ["1s", "01", "0", "on", "\u0661", "-1", ""]),
    ],
)
def test_one_spelling_of_what_a_connection_begins_with(name, spellings, others):
    plain = {Settings.of({name: each}).divided()[1] for each in spellings}
    assert plain == {((name, spellings[0]),)}
    assert not plain & {Settings.of({name.upper(): each}).divided()[1] for each in others}


def test_equal_settings_are_one_object():
    first = Settings.of({"TimeZone": "UTC", "a": "b"})
    assert Settings.of({"a": "b", "timezone": "UTC"}) is first
    assert Settings.of({"a": "b"}).with_value("TIMEZONE", "UTC") is first
    assert first.with_value("a", "c") is not first
    assert first.without("A") is Settings.of({"timezone": "UTC"})
    assert first.without("nothing") is first


def test_values_differ_by_case_and_names_do_not():
    assert Settings.of({"x": "a"}) is not Settings.of({"x": "A"})
    assert Settings.of({"X": "a"}) is Settings.of({"x": "a"})


def test_settings_that_nobody_has_are_forgotten():
    Settings.of({"only": "here"})
    gc.collect()
    assert (("only", "here"),) not in Settings._known


@pytest.mark.parametrize(("values", "shown"), [({}, "none"), ({"a": "secret", "b": "c"}, "a b")])
def test_a_repr_without_values(values, shown):
    assert repr(Settings.of(values)) == f"<Settings {shown}>"


@pytest.mark.parametrize("text", ["", "plain ~ text", "it's", "a\\b", "é\n", "\x7f\x1f", "\udcff"])
def test_a_constant_escapes_all_that_is_not_plain(text: str) -> None:
    written = "".join(
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b"\\'" else f"\\x{byte:02x}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
    assert literal(text) == f"E'{written}'"


def test_what_is_large_is_not_remembered() -> None:
    """Nor is it brought to another server connection: `net.states` keeps the one that has it."""
    assert not Settings.of({"a": "x" * 1_000_000}).large
    assert Settings.of({"a": "x" * 1_100_000}).large
    assert Settings.of({f"a{number}": "" for number in range(2_001)}).large
    defaults = Settings.of({"b": "1"})
    before = _effective_remembered.cache_info().currsize
    assert effective(Settings.of({"a": "x" * 3_000, "b": "1"}), defaults).values == {"a": "x" * 3_000}
    assert _effective_remembered.cache_info().currsize == before
