from __future__ import annotations

import gc

from pgambassador.net.statements import Statements
from pgambassador.protocol.settings import Settings
from pgambassador.wire.build import parse

PLAIN = Settings.of({})


def body(sql: bytes, *oids: int) -> bytes:
    """A Parse behind its name."""
    return parse(b"", sql, oids)[6:]


def test_the_same_text_is_one_statement() -> None:
    statements = Statements()
    first = statements.statement(body(b"select 1"), PLAIN)
    assert statements.statement(body(b"select 1"), PLAIN) is first
    assert first.text == b"select 1"
    assert first.frame == parse(first.name, b"select 1")


def test_other_types_are_another_statement() -> None:
    statements = Statements()
    first, second = (statements.statement(body(b"select $1", oid), PLAIN) for oid in (23, 25))
    assert first is not second
    assert first.name != second.name
    assert first.frame == parse(first.name, b"select $1", (23,))


def test_under_other_settings_it_is_another_statement() -> None:
    """A constant means what DateStyle or TimeZone said when it was parsed."""
    statements = Statements()
    text = body(b"select '1/2/2020'::date")
    settings = [
        PLAIN,
        Settings.of({"datestyle": "DMY"}),
        Settings.of({"datestyle": "DMY", "search_path": "a"}),
    ]
    made = [statements.statement(text, each) for each in settings]
    assert len({each.name for each in made}) == 3
    named = Settings.of({"datestyle": "DMY", "application_name": "x", "statement_timeout": "5s"})
    assert statements.statement(text, named) is made[1]


def test_while_nobody_knows_the_settings_it_is_shared_with_nobody() -> None:
    statements = Statements()
    text = body(b"select 1")
    made = [statements.statement(text, each) for each in (None, None, PLAIN)]
    assert len({each.name for each in made}) == 3


def test_under_very_large_settings_it_is_shared_with_nobody() -> None:
    """They would be kept for as long as it is."""
    statements = Statements()
    body, large = b"select 1\0\0\0", Settings.of({"a": "x" * 20_000})
    assert statements.statement(body, large) is not statements.statement(body, large)


def test_behind_a_comment_begins_a_reset() -> None:
    """A line ends as the server's scanner has it."""
    for text in (b"-- a\nreset all", b"-- a\rreset all", b"/* /* */ - */ reset all"):
        assert Statements().statement(text + b"\0\0\0", None).resets
    for text in (b"-- a reset all", b"/* /* */ reset all"):
        assert not Statements().statement(text + b"\0\0\0", None).resets


def test_names_cannot_be_guessed() -> None:
    names = {Statements().statement(body(b"select 1"), PLAIN).name for _ in range(20)}
    assert len(names) == 20
    assert all(len(name) < 64 for name in names)


def test_what_nobody_has_is_forgotten() -> None:
    statements = Statements()
    first = statements.statement(body(b"select 1"), PLAIN)
    name = first.name
    assert len(statements) == 1
    del first
    gc.collect()
    assert len(statements) == 0
    # A server may still know the old one: a name is never used again.
    assert statements.statement(body(b"select 2"), PLAIN).name != name
