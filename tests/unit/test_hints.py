"""What comments ask for."""

from __future__ import annotations

import pytest

from pgambassador.routing.hints import NONE, Hints, among
from pgambassador.routing.reading import comments


@pytest.mark.parametrize(
    ("text", "hints"),
    [
        ("/* pgambassador: primary */ SELECT 1", Hints("primary")),
        ("SELECT 1 -- pgambassador:replica", Hints("replica")),
        ("SELECT /*PGAMBASSADOR :Any*/ 1", Hints("any")),
        ("/* pgambassador:\n replica,\n max_lag = 250ms */", Hints("replica", max_lag=0.25)),
        ("/* pgambassador: idempotent, cache=1min */", Hints(idempotent=True, cache=60.0)),
        ("/* pgambassador: replica */ /* pgambassador: primary */", Hints("primary")),
        ("/* pgambassador: replica, any */", Hints("any")),
        ("/* pgambassador: max_lag=1s */ -- pgambassador: max_lag=3s", Hints(max_lag=1.0)),
        ("/* pgambassador: secondary, max_lag=x, */", Hints(unknown=("secondary", "max_lag=x", ""))),
        ("/* pgambassador: primary=1 */", Hints(unknown=("primary=1",))),
        ("/* pgambassador: timeout=2s, wait_timeout=500ms */", Hints(timeout=2.0, wait_timeout=0.5)),
        ("/* pgambassador: timeout=off */ -- pgambassador: Timeout=1min", Hints(timeout=60.0)),
        ("/* pgambassador: wait_timeout=OFF */", Hints(wait_timeout=float("inf"))),
        ("/* pgambassador: timeout=0, timeout */", Hints(unknown=("timeout=0", "timeout"))),
        ("/* pgambassador: max_lag=0 */", Hints(unknown=("max_lag=0",))),
        ("/* user: pgambassador: primary */", NONE),
        ("/* /* pgambassador: primary */ */", NONE),
        ("/* pgambassador primary */", NONE),
        ("SELECT '/* pgambassador: primary */'", NONE),
        ("SELECT $a$ /* pgambassador: primary */ $a$", NONE),
        ("SELECT \"-- pgambassador: primary\n\"", NONE),
        ("SELECT E'\\'/* pgambassador: primary */'", NONE),
        ("SELECT U&'/* pgambassador: primary */'", NONE),
        # Whether it is a comment depends on a setting: then it is none.
        ("SELECT '\\' /* pgambassador: replica */ --'", NONE),
    ],
)  # fmt: skip
def test_what_is_asked_for(text: str, hints: Hints) -> None:
    assert among(comments(text)) == hints


def test_no_more_is_read_than_anybody_writes() -> None:
    assert len(among(["pgambassador:" + "x," * 10000] * 10000).unknown) == 3
