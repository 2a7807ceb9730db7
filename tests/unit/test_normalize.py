"""Statements without their literals: what comes out, what never does, PostgreSQL's scanner as judge."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pglast import Error
from pglast.parser import scan

from pgambassador.observe.normalize import CUT, normalize

CONSTANTS = {"ICONST", "FCONST", "SCONST", "BCONST", "XCONST", "USCONST"}
COMMENTS = {"C_COMMENT", "SQL_COMMENT"}
MARK = "SECRET"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("SELECT 1", "SELECT $1"),
        ("  select\n\t'a',  1.5e-3 ;", "select $1, $2 ;"),
        ("select 'it''s' || E'it\\'s' || U&'\\0041' || N'x'", "select $1 || $2 || $3 || $4"),
        ("select B'01', x'ff', -3, .5, 1., 0x1F, 1_000", "select $1, $2, -$3, $4, $5, $6, $7"),
        ("select $$a'b$$, $t$ $$ $t$, $é$x$é$", "select $1, $2, $3"),
        ("insert into t1 values ($1, 'x', $2)", "insert into t1 values ($1, $3, $2)"),
        ("select '$99', $1", "select $2, $1"),
        ('select "a""1", "T 2" from x.t3', 'select "a""1", "T 2" from x.t3'),
        ("select a /* 1 /* '2' */ */ from t -- 'x' 3\nwhere b", "select a from t where b"),
        ("select 5*/*c*/3", "select $1* $2"),
        ("select date'2020-01-01'as x", "select date $1 as x"),
        ("select \"a\"'b'", 'select "a" $1'),
        ("a$b$c$d", "a$b$c$d"),
        ("1$a$x$a$", "$1 $2"),
        ("select a[1:2]::numeric(10,2)", "select a[$1:$2]::numeric($3,$4)"),
        ("select true, null", "select true, null"),
        ("select 'c:\\dir', 'c:\\\\'", "select $1, $2"),
        ("select 'open", "select …"),
        ("select E'open\\' x", "select E…"),
        ("select $t$open$x$", "select …"),
        ("select /* open /* */", "select …"),
        ('select "open', "select …"),
        ("select $1abc 'x'", "select …"),
        ("select {d 'x'}", "select …"),
        ("select \x00 1", "select …"),
        # It ends at another quote if standard_conforming_strings is off.
        ("select 'a\\' x'", "select …"),
        ("select 'a\\'' x'", "select …"),
        # A continued string takes its kind from the first piece.
        ("select E'a'\n'b\\'x'", "select $1 …"),
    ],
)
def test_what_comes_out(text, result):
    assert normalize(text) == result


def test_it_stops_at_the_limit():
    result = normalize("select " + ",".join("'x'" for _ in range(100_000)), limit=100)
    assert result.endswith(CUT)
    assert len(result) < 300


STRINGS = [
    f"'{MARK}'",
    f"'a''{MARK}'",
    f"E'\\'{MARK}\\\\'",
    f"'x\\{MARK}'",
    f"'{MARK}\\'",
    f"'\\'{MARK}'",
    f"$${MARK}$$",
    f"$a${MARK}$$$a$",
    f"U&'{MARK}'",
    f"n'{MARK}'",
    f"b'{MARK}'",
    f"/* {MARK} */",
    f"/* /* */ {MARK} */",
    f"-- {MARK}\n",
    f"'表{MARK}'",
    f"E'表\\'{MARK}'",
    f"9{MARK}",
    f".5e+{MARK}",
]
GLUE = [
    "",
    " ",
    ",",
    "\n",
    "x",
    "select ",
    "$1",
    "-",
    "E",
    "'",
    '"',
    "$a$",
    "$$",
    "\\",
    "/*",
    "*/",
    "--",
    "(",
    "é",
    "1",
]


@settings(max_examples=1000)
@given(st.lists(st.sampled_from(STRINGS) | st.sampled_from(GLUE[:12]), max_size=8), st.sampled_from(STRINGS))
def test_no_literal_is_ever_shown(parts, last):
    """Where PostgreSQL's scanner sees a constant or a comment, nothing of it is in the result."""
    text = " ".join([*parts, last])
    try:
        tokens = scan(text)
    except Error:
        tokens = []
    outside = "".join(text[t.start : t.end + 1] for t in tokens if t.name not in CONSTANTS | COMMENTS)
    if MARK not in outside and tokens:
        assert MARK not in normalize(text)


@settings(max_examples=1000)
@given(st.lists(st.sampled_from([*GLUE, *STRINGS, "a", "T", "2.5", " "]), max_size=14))
def test_it_agrees_with_the_scanner(parts):
    """The same tokens, with constants as parameters and without comments, up to where it cuts."""
    text = "".join(parts)
    try:
        theirs = _names(text)
    except Error:
        return
    result = normalize(text)
    ours = _names(result.removesuffix(CUT))
    assert not [t for t in scan(result.removesuffix(CUT)) if t.name in CONSTANTS | COMMENTS]
    if result.endswith(CUT):
        ours = ours[:-2]  # these may be the E or U& of a string that was cut off
        theirs = theirs[: len(ours)]
    # Numbers swallow what follows without a space, also where PostgreSQL would begin a new token.
    if not re.search(r"[0-9]\.\.|[0-9]{10}", text):
        assert ours == theirs


def _names(text: str) -> list[str]:
    """The tokens' names, constants as PARAM, several in a row (a continued string) as one."""
    names = ("PARAM" if token.name in CONSTANTS else token.name for token in scan(text))
    grouped = itertools.groupby(name for name in names if name not in COMMENTS | {"NCHAR"})  # N of N'…'
    return [name for name, run in grouped for _ in ([0] if name == "PARAM" else run)]


@given(st.text(max_size=60))
def test_any_text_shows_no_quote_and_no_number(text):
    result = normalize(text)
    assert "'" not in re.sub(r'"(?:[^"]|"")*"', "", result)
    bare = re.sub(
        r'"(?:[^"]|"")*"|[A-Za-z_\x80-\U0010ffff][A-Za-z_0-9$\x80-\U0010ffff]*|\$[0-9]+', " ", result
    )
    assert not re.search(r"[0-9]", bare)


@pytest.mark.parametrize("encoding", ["sjis", "gbk", "big5", "euc_jp", "latin-1", "cp1252"])
def test_other_client_encodings_show_nothing(encoding):
    """In some the second byte of a character may be a backslash, which escapes nothing."""
    for char in "表ソé功許":
        try:
            text = f"select E'{char}', '{MARK}', '{char}' , '{MARK}'".encode(encoding)
        except UnicodeEncodeError:
            continue
        assert MARK not in normalize(text.decode("utf-8", "replace"))


def test_time_is_linear():
    """Hostile texts: none may backtrack. (A quadratic scan of these would take minutes.)"""
    for text in (
        "'" * 200_001,
        "''" * 100_000 + "\\'",
        "E'" + "\\'" * 100_000,
        "/*" * 100_000,
        '"' * 200_001,
    ):
        normalize(text)
    for text in (
        "$a$" * 65_001,
        "1." * 100_000,
        "$" * 200_000,
        "u&" * 100_000,
        "--" * 100_000,
        " " * 200_000,
    ):
        normalize(text)
