"""What reads a client's text takes time that grows with the text, and no faster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from pgambassador.admin import command
from pgambassador.errors import Refused
from pgambassador.net import statements
from pgambassador.observe.normalize import normalize
from pgambassador.protocol import survey, suspects, ties
from pgambassador.protocol.options import read_options
from pgambassador.routing import hints, replay
from pgambassador.routing.shape import shape_of
from pgambassador.wire import parse, replies

SIZE = 64 * 1024
SHORT = 2000
"""Some look at no more than 2 KiB."""
ENOUGH = 1.0
"""Seconds of CPU. What is linear takes some 30 ms; what is quadratic takes minutes, or seconds."""

START = {"search_path": "a", "role": "b", "application_name": "c"}
READERS: dict[str, Callable[[bytes], object]] = {
    "names_set": survey.names_set,
    "names_called": survey.names_called,
    "names_in": survey.names_in,
    "restoration": lambda text: survey.restoration(text, START),
    "settings_in": suspects.settings_in,
    "among": suspects.Suspects(["f"], survey.ALL).among,
    "may_tie": ties.may_tie,
    "may_forget": statements.may_forget,
    "deallocated": parse.deallocated,
    "named_by_sql": parse.named_by_sql,
    "ending": replay.ending,
    "shape_of": shape_of,
    "mentions": replies.mentions,
    "normalize": lambda text: normalize(text.decode()),
    "hints": lambda text: hints.among([text.decode()]),
    "console": lambda text: command.read(text.decode(), ()),
    "options": lambda text: read_options(text.decode()),
}
BEGINNINGS = (
    "",
    "set ",
    "set a.b = ",
    "set a.b to default",
    "reset a",
    "reset session",
    "deallocate ",
    "begin;",
)
PIECES = (
    " ", "\n", "a", "a ", "1", ";", "; ", "'", "''", "e'", "e'\\", '"', '""', '"a', "a.", '."a', "$", "$a$",
    "$1 ", "/*", "/* ", "/**/", "*/", "/*/", "-", "--", "--\n", "--\r", "\\", "(", "u&", 'u&"', "=", "= ",
    "to ", "set ", "set_config", "set_config(", "set_config('a'", "set_config('a','b',true", "update ",
    "pg_settings ",
    "set session ", "set local ", "reset ", "begin ", "deallocate ", 'deallocate "', 'execute ""', "prepare ",
    "commit ", "and no ", "pgambassador:", "pgambassador: a=", ",", "-c ", "-c a=b ", "default ", "x_to_xml",
)  # fmt: skip


class TooMuch(Exception):
    pass


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """So much CPU may be used; regular expressions look for signals meanwhile."""

    def over(*_: object) -> None:
        raise TooMuch

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("size", [SHORT, SIZE])
def test_no_text_takes_long_to_read(reader: str, size: int) -> None:
    read = READERS[reader]
    for beginning in BEGINNINGS if size == SHORT else ("",):
        for piece in PIECES:
            text = (beginning + piece * size)[: size - 1] + "!"
            with bounded(ENOUGH), suppress(Refused):
                try:
                    read(text.encode())
                except TooMuch:
                    pytest.fail(f"{reader} takes too long over {beginning!r} and many of {piece!r}")


def test_the_watch_would_bark() -> None:
    import re

    with pytest.raises(TooMuch), bounded(0.05):
        re.compile(r"(.+?)\s*;?\s*b").fullmatch("a" + " " * 3000)
