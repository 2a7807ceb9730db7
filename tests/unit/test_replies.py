"""Tags and the heads of errors, whole and cut off anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.wire.replies import read_command, read_failure


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        (b"SELECT 5", 5),
        (b"INSERT 0 12", 12),
        (b"COPY 1000000", 1_000_000),
        (b"BEGIN", 0),
        (b"", 0),
        (b"SELECT 18446744073709551616", 8446744073709551616),  # more digits than a count has
    ],
)
def test_rows(tag: bytes, rows: int) -> None:
    assert read_command(tag)[0] == rows


@pytest.mark.parametrize(
    "tag",
    ["SET", "RESET", "DISCARD ALL", "DEALLOCATE", "DEALLOCATE ALL", "PREPARE", "LISTEN", "UNLISTEN", "LOAD"],
)
def test_what_concerns_the_session(tag: str) -> None:
    assert read_command(tag.encode())[1]


@pytest.mark.parametrize(
    "tag", ["SELECT 1", "INSERT 0 1", "DELETE 3", "DECLARE CURSOR", "COMMIT", "SE", "", "REINDEX"]
)
def test_what_does_not(tag: str) -> None:
    assert not read_command(tag.encode())[1]


ERROR = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0"


def test_an_error() -> None:
    assert read_failure(ERROR) == ("57P01", True)
    assert read_failure(b"SFEHLER\0VERROR\0C42P01\0Mno table\0\0") == ("42P01", False)


@pytest.mark.parametrize("fields", [b"", b"\0", b"C", b"C42", b"C42\0", b"Mno state\0\0", b"C123456\0"])
def test_an_error_without_sqlstate(fields: bytes) -> None:
    assert read_failure(fields) == ("XX000", False)


@given(st.integers(0, len(ERROR)))
def test_an_error_cut_off(length: int) -> None:
    sqlstate, fatal = read_failure(ERROR[:length])
    assert sqlstate == ("57P01" if length >= ERROR.index(b"M") else "XX000")
    assert fatal == (length > ERROR.index(b"\0"))


@given(st.binary(max_size=200))
def test_nothing_hurts(garbage: bytes) -> None:
    sqlstate, fatal = read_failure(garbage)
    assert len(sqlstate) == 5
    assert isinstance(fatal, bool)
    assert read_command(garbage)[0] >= 0
