"""Which statements are suspect of changing their session."""

from __future__ import annotations

import pytest

from pgambassador.protocol.survey import ALL, NOTHING, Names
from pgambassador.protocol.suspects import NOBODY, Suspects, read, settings_in
from tests.messages import row

TENANT = frozenset({"app.tenant"})


@pytest.mark.parametrize(
    ("body", "settings"),
    [
        (b"select set_config('app.tenant', who, false)", TENANT),
        (b"select set_config('a.b', '', false), SET_CONFIG('geqo', '', false)", frozenset({"a.b", "geqo"})),
        (b"select set_config(name, value, false)", ALL),
        (b"begin set work_mem = '5MB'; end", frozenset({"work_mem"})),
        (b"begin set session app.tenant to 'x'; SET Geqo = off; end", TENANT | {"geqo"}),
        (b"begin if x then set role clerk; end if; end", ALL),
        (b"begin execute 'set ' || name || ' = 1'; end", ALL),
        (b"begin execute 'set app.tenant = 1'; end", ALL | TENANT),
        (b"begin reset all; end", ALL),
        (b"begin discard plans; end", ALL),
        (b"begin set local work_mem = '5MB'; set transaction read only; end", NOTHING),
        (b"update t set work_mem = 1", NOTHING),
        (b"create temp table t (a int)", NOTHING),
        (b"", NOTHING),
    ],
)  # fmt: skip
def test_what_a_body_sets(body: bytes, settings: Names) -> None:
    assert settings_in(body) == settings


@pytest.mark.parametrize(
    ("text", "suspect"),
    [
        (b"select tenant('x')", True),
        (b'SELECT * FROM Public."Tenant"($1)', True),
        (b"insert into a$b values (1)", True),
        (b"call a$b()", True),
        (b"", True),
        (b"select tenants from my_tenant", False),
        (b"select tenant$ from \xff", True),
        (b"select b", False),
    ],
)
def test_who_is_among_them(text: bytes, suspect: bool) -> None:
    suspects = Suspects(["tenant", "a$b"], TENANT)
    assert suspects
    assert suspects.among(text) is suspect


def test_where_there_are_none_nothing_is_suspect() -> None:
    for nobody in (NOBODY, read([])):
        assert not nobody
        assert not nobody.among(b"select tenant()")
        assert not nobody.among(b"")


@pytest.mark.parametrize(
    "suspects", [Suspects([], NOTHING, everywhere=True), Suspects(["f\u00fcr"], NOTHING)]
)
def test_where_no_name_shows_it_all_are(suspects: Suspects) -> None:
    """A name that is not plain may be written in another encoding."""
    assert suspects
    assert suspects.among(b"select 1")


def test_reading_the_servers_answer() -> None:
    suspects = read(
        [
            row(b"body", b"select set_config('app.tenant', who, false)", b""),
            row(b"body", b"", b"ties"),
            row(b"name", b"tenant", b""),
            row(b"name", b"watched", b""),
        ]
    )
    assert (suspects.settings, suspects.ties) == (TENANT, True)
    assert suspects.among(b"insert into watched default values")
    assert not suspects.among(b"select 1")
    assert "tenant watched" in repr(suspects)
    assert read([row(b"everywhere", b"", b"")]).among(b"select 1")
