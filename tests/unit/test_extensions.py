"""What is known of extensions, and how it is said to a server."""

from __future__ import annotations

import re

import pytest
from pglast import parse_sql

from pgambassador.protocol.extensions import ANYTHING, HARMLESS, KNOWN, LASTS, STATEFUL, Leaves, known, leaves
from pgambassador.protocol.survey import ALL
from pgambassador.protocol.suspects import query, settings_in


def test_nobody_is_both_harmless_and_not() -> None:
    assert not HARMLESS & {each.extension for each in STATEFUL}


@pytest.mark.parametrize("entry", STATEFUL, ids=lambda entry: f"{entry.extension} {entry.functions}")
def test_entries_make_sense(entry: Leaves) -> None:
    re.compile(entry.functions)
    assert entry.extension in KNOWN
    assert "'" not in "".join(entry)
    if entry.body == ANYTHING:
        assert settings_in(entry.body.encode()) == ALL
    elif entry.body != LASTS:
        assert settings_in(entry.body.encode())
    assert entry.schema.isidentifier() or not entry.schema


@pytest.mark.parametrize("harmless", [(), ("ours", "it's"), tuple(KNOWN)])
def test_the_query_is_sql(harmless: tuple[str, ...]) -> None:
    assert len(parse_sql(query(harmless)[5:-1].decode())) == 4


def test_a_vouched_for_extension_is_believed() -> None:
    assert "dblink_connect" in leaves(()) and "dblink_connect" not in leaves(("dblink",))
    assert "E'ours'" in known(("ours",)) and "E'ours'" not in known(())
