"""Random bytes for what reads them: an answer, or an error that is documented."""

from __future__ import annotations

import contextlib
from struct import pack

from hypothesis import given
from hypothesis import strategies as st

from pgambassador.errors import Refused
from pgambassador.net.statements import statement_text
from pgambassador.protocol import survey, ties
from pgambassador.protocol.options import read_options
from pgambassador.protocol.settings import Settings, fence
from pgambassador.wire.replies import mentions
from tests.fuzz.mutations import bounded, streams
from tests.messages import parse, row

rows = st.lists(st.none() | st.binary(max_size=20), max_size=4).map(lambda each: row(*each))
words = st.sampled_from(
    ("set", "session", "local", "x.y", "=", "to", "default", "'a'", "set_config(", "$$", ";", "/*", "--",
     "\n", "time", "zone", "temp", "create", "table", "hold", "declare", "pg_advisory_lock", ")", "\\",
     "E'", "\0")
)  # fmt: skip
texts = st.lists(words | st.text(max_size=5), max_size=12).map(lambda each: " ".join(each).encode())


@bounded(300)
@given(st.lists(rows | rows.map(lambda each: each[:-2]) | st.binary(max_size=40), max_size=4))
def test_an_answer_about_settings(found: list[bytes]) -> None:
    with contextlib.suppress(ValueError):
        survey.answer(found)


@bounded(300)
@given(streams((row(b"a", b"31"), row(b"!LISTEN", b""), row(b"a", None), row(b"1"))))
def test_a_spoilt_answer_about_settings(found: bytes) -> None:
    with contextlib.suppress(ValueError):
        survey.answer([found])


@bounded(300)
@given(texts | st.binary(max_size=100))
def test_a_text(text: bytes) -> None:
    for names in (survey.names_set(text), survey.names_called(text)):
        assert all(isinstance(name, str) for name in names)
        survey.question(names, ())
    assert isinstance(ties.may_tie(text), bool)
    assert isinstance(mentions(text), bool)


@bounded(300)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(("-c", "--", "a=b", "\\", " ", "-", "=", "\0"))).map("".join)
)
def test_options(options: str) -> None:
    try:
        settings, unparsed = read_options(options)
    except Refused:
        return
    assert all(settings)
    assert all(isinstance(word, str) for word in unparsed)


@bounded(200)
@given(streams((parse(b"s", b"select 1"), parse(b"", b"selec"), b"P" + pack("!i", 4))))
def test_what_is_kept_of_a_statement(note: bytes) -> None:
    assert isinstance(statement_text(note), bytes)


@bounded(200)
@given(
    st.dictionaries(st.text("ab.\"'\\$;- é", min_size=1, max_size=8), st.text("ab.\"'\\$;- é\n", max_size=8))
)
def test_settings_of_any_names(values: dict[str, str]) -> None:
    messages, count = fence(None, Settings.of(values))
    assert messages.count(b"E\0\0\0\x09\0\0\0\0\0") == count
