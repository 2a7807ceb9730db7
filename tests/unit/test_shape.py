"""The shape of a statement, compared with what PostgreSQL's own scanner makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pglast import Error
from pglast.parser import scan

from pgambassador.routing.shape import shape_of

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"SCONST": "a string", "ICONST": "a number", "FCONST": "a number", "BCONST": "bits", "XCONST": "hex"}
# Each placeholder as a literal; the spaces change no token, and no two of these are one string.
FILLED = {b"\x01": b" e's' ", b"\x02": b" 1 ", b"\x03": b" b'0' ", b"\x04": b" x'0' "}


def tokens(text: str) -> list[str] | None:
    """What the scanner finds, without the values of literals and without comments that do not count."""
    try:
        found = scan(text)
    except Error:
        return None
    result = []
    for token in found:
        said = text[token.start : token.end + 1]
        if token.name not in ("C_COMMENT", "SQL_COMMENT"):
            result.append(KINDS.get(token.name, said))
        elif "pgambassador" in said.lower():
            result.append(said)
    return result


def filled(shape: bytes) -> str:
    for placeholder, literal in FILLED.items():
        shape = shape.replace(placeholder, literal)
    return shape.decode()


def check(text: str) -> bool:
    """The tokens are those that can be told from the shape alone, so that equal shapes have equal tokens."""
    shape = shape_of(text.encode())
    if shape is None:
        return False
    expected = tokens(text)
    if expected is not None:
        assert tokens(filled(shape)) == expected, (text, shape)
    return True


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (b"SELECT a FROM t WHERE id = 12345;", b"SELECT a FROM t WHERE id = \x02;"),
        (b"select -1, 1.5e-3, .5, 5.", b"select -\x02, \x02, \x02, \x02"),
        (b"select 'it''s', E'\\'', b'1', X'f'", b"select \x01, \x01, \x03, \x04"),
        (b" select\t\"a b\" -- c\n /* d /* e */ */ from t where a=$1 ", b'select "a b" from t where a=$1'),
        (b"/* pgambassador: replica */ select 1", b"/* pgambassador: replica */ select \x02"),
        (b"select 1--PgAmbassador: any", b"select \x02--PgAmbassador: any\n"),
        (b"select a-- it's\nfrom t", b"select a from t"),
        (b"select '\xc3\xa9', \"\xc3\xa9\"", b"select \x01, \"\xc3\xa9\""),
        (b"select 'a\\b', '\\\\'", b"select \x01, \x01"),
        (b"select t.a.b[1:2]::text", b"select t.a.b[\x02:\x02]::text"),
        (b"", b""),
        (b" /* */ ", b""),
    ],
)  # fmt: skip
def test_shapes(text: bytes, shape: bytes) -> None:
    assert shape_of(text) == shape
    check(text.decode())


@pytest.mark.parametrize(
    "text",
    [
        b"'a", b'"a', b"/* a", b"/* /* */", b"e'\\'", b"'\\'", b"'a' 'b'", b"'a'\n'b'", b"'a' -- c\n'b'",
        b"u&'a'", b'U&"a"', b"n'a'", b"$$a$$", b"$a$b$a$", b"0x1F", b"1_000", b"1e", b"1a", b"1..2", b"$1a",
        b"\xc3\xa9", b"a\xc3\xa9", b"'\xc3\xa9\\\\'", b"'\x95\\'", b"a\x01b", b"a\0b", b"{", b"\\d",
        b"a\x0bb", b"b'1''0'", b"x'\\'",
    ],
)  # fmt: skip
def test_what_has_none(text: bytes) -> None:
    assert shape_of(text) is None


def test_every_statement_of_the_scripts() -> None:
    """Real SQL: the scripts that are run through pgambassador, and what its own corpus holds."""
    paths = [*(ROOT / "same" / "scripts").glob("*.txt"), *(ROOT / "routing").rglob("*.*")]
    paths = [path for path in paths if path.suffix != ".pyc"]
    lines = [line for path in paths for line in path.read_text().splitlines()]
    shaped = sum(map(check, lines))
    assert len(lines) > 500
    assert shaped > len(lines) / 2


SOUP = r"""
select SELECT from a b "x" "A""b" e E x n b u U _a a$1 $1 $2 , ( ) [ ] ; : :: := . = + - * / % <> ~ !
@ # & | ` ? -> ->> -- /* */ /**/ /*x*/ /*pgambassador:primary*/ --pgambassador:x
1 23 4.5 .5 5. 1e9 1E-3 0 007 0x1f 1_0
' '' 'a' 'it''s' e'' e'\n' e'\'x' E'\\\\' b'10' B'1_0' X'ff' n'a' u&'a' U&"b" '\' '\a' $$ $x$ $ \
é 'é' "é" .. ... { }
"""
PIECES = st.sampled_from(SOUP.split())
SPACES = st.sampled_from(
    ["", "", "", " ", "\n", "\t", "\r\n", "\f", " -- c\n", "--\n", "/* c */", "/**/", "\v"]
)


@given(st.lists(st.tuples(PIECES, SPACES), max_size=12))
def test_tokens_can_be_told_from_the_shape(pieces: list[tuple[str, str]]) -> None:
    check("".join(piece + space for piece, space in pieces))


@given(st.text(alphabet="'\"\\/*-$.eExXbBnNuU&019_a \n\r\t;:+<=@é", max_size=24))
def test_of_any_text_tokens_can_be_told_from_the_shape(text: str) -> None:
    check(text)


@given(*[st.lists(st.tuples(PIECES, SPACES), max_size=8)] * 2)
def test_what_has_a_shape_ends_where_it_ends(
    first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    """Whatever comes behind it, in the text of several statements."""
    texts = ["".join(piece + space for piece, space in pieces) for pieces in (first, second)]
    found = [tokens(text) for text in texts]
    assume(all(shape_of(text.encode()) is not None for text in texts) and None not in found)
    assert tokens("\n;\n".join(texts)) == [*(found[0] or ()), ";", *(found[1] or ())]


LITERALS = st.one_of(
    st.integers(0, 10**12).map(str),
    st.sampled_from(["1.5", ".5", "1e5", "2E-7", "3."]),
    st.text(alphabet="ab'\n \"-/*;é", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.text(alphabet="ab\\' \n", max_size=8).map(
        lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    ),
)


@given(st.lists(st.tuples(LITERALS, LITERALS), min_size=1, max_size=4))
def test_literals_of_a_kind_do_not_matter(pairs: list[tuple[str, str]]) -> None:
    def said(side: int) -> bytes:
        return ("select " + ", ".join(pair[side] for pair in pairs) + " from t").encode()

    same_kinds = all((a[0] in "'E") == (b[0] in "'E") for a, b in pairs)
    assert shape_of(said(0)) is not None
    assert (shape_of(said(0)) == shape_of(said(1))) is same_kinds


@given(st.binary(max_size=40))
def test_any_bytes_do_no_harm(text: bytes) -> None:
    shape = shape_of(text)
    assert shape is None or len(shape) <= len(text) + 1


@pytest.mark.parametrize("text", [b"('" * 40000, b"/*" * 40000, b"-" * 80000, b"'''" * 30000, b"1." * 40000])
def test_long_ones(text: bytes) -> None:
    shape_of(text)
