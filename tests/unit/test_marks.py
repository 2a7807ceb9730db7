"""Fingerprints that are remembered are those that would be found out."""

from __future__ import annotations

from pgambassador.routing.marks import REMEMBERED, Marks
from pgambassador.routing.reading import fingerprint


def test_literals_change_nothing() -> None:
    marks = Marks()
    one = marks.of(b"select * from t where id = 1")
    assert one == fingerprint("select * from t where id = 2") != ""
    assert marks.of(b"select * from t where id = 'two'") == one
    assert marks.of(b"select * from t where id = 33") == one
    assert len(marks) == 2  # one for each kind of literal
    assert marks.of(b"select * from u where id = 1") != one


def test_what_has_none() -> None:
    marks = Marks()
    assert marks.of(None) == marks.of(b"selekt") == marks.of(b"select " + b"1," * 20_000 + b"1") == ""


def test_it_is_bounded() -> None:
    marks = Marks()
    for number in range(REMEMBERED + 10):
        assert marks.of(b"select c%d" % number)
    assert 0 < len(marks) <= REMEMBERED
