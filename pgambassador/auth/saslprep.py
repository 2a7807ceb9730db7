"""SASLprep: the one spelling of a password that both sides of SCRAM hash (RFC 4013).

As in PostgreSQL, what cannot be prepared is not refused but used as it is: plain ASCII, bytes that are not
UTF-8, and strings with prohibited characters.
"""

from __future__ import annotations

import stringprep
import unicodedata
from collections.abc import Callable
from typing import Final

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_a1,  # unassigned in Unicode 3.2
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def saslprep(password: bytes) -> bytes:
    if password.isascii():
        return password
    try:
        text = password.decode("utf-8")
    except UnicodeDecodeError:
        return password
    # Section 2.1, mapping: other blanks become a space, what is "commonly mapped to nothing" goes.
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if stringprep.in_table_c12(char) or not stringprep.in_table_b1(char)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared or _is_prohibited(prepared):
        return password
    return prepared.encode("utf-8")


def _is_prohibited(text: str) -> bool:
    if any(test(char) for char in text for test in _PROHIBITED):
        return True
    # Section 2.4: right-to-left text starts and ends so, and contains no left-to-right letter.
    right_to_left = [stringprep.in_table_d1(char) for char in text]
    if not any(right_to_left):
        return False
    return any(map(stringprep.in_table_d2, text)) or not (right_to_left[0] and right_to_left[-1])
