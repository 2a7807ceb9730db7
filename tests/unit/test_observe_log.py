"""Our own log: one JSON object a line, whatever the message was made of."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any

import pytest

from pgambassador.observe.log import JsonFormatter, set_up


def record(message: str, *args: object, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("pgambassador.net", logging.WARNING, __file__, 1, message, args, None)
    made.created = 0.5
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    loaded = json.loads(text)
    assert isinstance(loaded, dict)
    return loaded


def test_a_line():
    assert line(record("%s has %d rows", "t", 3)) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "warning",
        "logger": "pgambassador.net",
        "message": "t has 3 rows",
    }


def test_the_time_can_be_read():
    assert datetime.fromisoformat(line(record("x"))["time"]).timestamp() == 0.5


def test_what_the_call_adds():
    made = line(record("x", client="127.0.0.1:9", cluster="main", database="shop", user="app", other="no"))
    assert (made["client"], made["cluster"], made["database"], made["user"]) == (
        "127.0.0.1:9",
        "main",
        "shop",
        "app",
    )
    assert "other" not in made


@pytest.mark.parametrize("text", ["\udcff", "half \ud800 of a pair", "é\udc80\n\x00\"'"])
def test_lone_surrogates_do_not_end_it(text: str):
    made = line(record("%s", text, user=text))
    for value in (made["message"], made["user"]):
        assert value == text.encode("utf-8", "backslashreplace").decode()


def test_a_traceback_is_a_field():
    made = record("broken")
    try:
        raise ValueError("\udcff postgresql://app:hunter2@db/shop")
    except ValueError:
        made.exc_info = sys.exc_info()
    trace = line(made)["traceback"]
    assert "ValueError: \\udcff" in trace
    assert "hunter2" not in trace


def test_passwords_of_urls_are_left_out():
    assert line(record("cannot use %s", "postgresql://app:hunter2@db/shop"))["message"] == (
        "cannot use postgresql://app:***@db/shop"
    )


def test_it_writes_to_standard_error(capsys: pytest.CaptureFixture[str]):
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        set_up("warning")
        logging.getLogger("pgambassador").info("unheard")
        logging.getLogger("pgambassador").warning("heard")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    out, error = capsys.readouterr()
    assert out == ""
    assert [json.loads(each)["message"] for each in error.splitlines()] == ["heard"]
