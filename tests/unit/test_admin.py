"""The console's statements and its protocol, without a socket."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.admin.command import Command, Token, read
from pgambassador.admin.exchange import MOST, Exchange, Table
from pgambassador.errors import AmbassadorError, ProtocolViolation, Refused
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Frame, Frontend, take_frame

COLUMNS = {"version": ("version",), "route": ("name", "value")}
SETTINGS = {"server_version": "18.0", "TimeZone": "UTC"}


def text(value: str) -> Token:
    return Token("text", value)


@pytest.mark.parametrize(
    ("said", "commands"),
    [
        ("", []),
        (" ; ;-- nothing\n", []),
        ("show VERSION;", [Command("version")]),
        ("SHOW version; show /* all */ version", [Command("version")] * 2),
        ("SHOW ROUTE 'select ''a'';'", [Command("route", texts=(text("select 'a';"),))]),
        ("show route $$select 'a'$$", [Command("route", texts=(text("select 'a'"),))]),
        ("show route $a$select $$b$$$a$", [Command("route", texts=(text("select $$b$$"),))]),
        (r"show route E'a\\b\'c'", [Command("route", texts=(text(r"a\b'c"),))]),
        ("show route ('a')", [Command("route", texts=(text("a"),))]),
        ("show route $1", [Command("route", texts=(Token("parameter", "1"),))]),
        (
            """show route for app "Big ""Shop\""" 'x'""",
            [Command("route", texts=(Token("word", "app"), Token("name", 'Big "Shop"'), Token("text", "x")))],
        ),
        (
            """show route for app $1 "nightly job" $2""",
            [
                Command(
                    "route",
                    texts=(
                        *(Token("word", "app"), Token("parameter", "1")),
                        *(Token("name", "nightly job"), Token("parameter", "2")),
                    ),
                )
            ],
        ),
        ("set extra_float_digits = 3", [Command("ignore", "SET")]),
        ("RESET ALL", [Command("ignore", "RESET")]),
        ("begin", [Command("begin", "BEGIN")]),
        ("START TRANSACTION READ ONLY", [Command("begin", "START TRANSACTION")]),
        ("commit", [Command("end", "COMMIT")]),
        (
            "SHOW TRANSACTION ISOLATION LEVEL",
            [Command("setting", texts=(text("transaction isolation level"),))],
        ),
        ("set weight 'a:1' 0.25", [Command("weigh", "SET", (text("a:1"), Token("number", "0.25")))]),
        ("Reload", [Command("reread", "RELOAD")]),
        ("show /* ; */ version; -- show it\rshow version", [Command("version")] * 2),
        ("set weight 'a:1' to 2", [Command("weigh", "SET", (text("a:1"), Token("number", "2")))]),
    ],
)
def test_what_is_understood(said: str, commands: list[Command]) -> None:
    assert read(said, tuple(COLUMNS)) == commands


@pytest.mark.parametrize(
    ("said", "sqlstate"),
    [
        ("select 1", "42601"),
        ("show", "42601"),
        ("show 'version'", "42601"),
        ("show route", "42601"),
        ("show route select 1", "42601"),
        ("show route for app 'x'", "42601"),
        ("show route for app shop x y 'x'", "42601"),
        ("show route app shop 'x'", "42601"),
        ("show version /* ", "42601"),
        ("show route $a$ $$ $", "42601"),
        ("show route 'a", "42601"),
        ("show route e'a\\'", "42601"),
        ("show route for \"a 'x'", "42601"),
        ("show route '" + "x" * 10_240 + "'", "54000"),
        ("show route $2", "42P02"),
        ("show route $0", "42P02"),
        ("reload app", "42601"),
        ("set weight", "42601"),
        ("set weight a 1", "42601"),
        ("set weight 'a' -1", "42601"),
        ("'", "42601"),
    ],
)
def test_what_is_not(said: str, sqlstate: str) -> None:
    with pytest.raises(Refused) as caught:
        read(said, tuple(COLUMNS))
    assert caught.value.sqlstate == sqlstate
    assert caught.value.hint


@given(st.text())
def test_any_text_in_quotes_arrives(said: str) -> None:
    (command,) = read("show route '" + said.replace("'", "''") + "'", ())
    assert command.texts == (text(said),)


@given(st.text(alphabet=" 'ES$a1\";-*/\\\n"))
def test_nothing_else_is_raised(said: str) -> None:
    try:
        read("show route " + said, tuple(COLUMNS))
    except Refused:
        pass


class Client:
    """`asked` is what the console had to answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.exchange = Exchange(self.answer, COLUMNS, SETTINGS)

    def answer(self, verb: str, texts: tuple[str, ...]) -> Table:
        self.asked.append((verb, texts))
        if texts == ("fail",):
            raise AmbassadorError("it cannot be told", sqlstate="55000", hint="Ask again.")
        return Table(COLUMNS.get(verb, ()), [(verb,)] if verb == "version" else [("said", *texts[-1:])])

    def says(self, *messages: bytes) -> list[Frame]:
        data = bytearray(b"".join(messages))
        answer = bytearray()
        while (frame := take_frame(data, 1 << 20)) is not None:
            answer += self.exchange.take(*frame)
        frames = []
        while (frame := take_frame(answer, 1 << 20)) is not None:
            frames.append(frame)
        assert not data and not answer
        return frames

    def kinds(self, *messages: bytes) -> str:
        return "".join(chr(kind) for kind, _ in self.says(*messages))


def bind(*values: bytes, name: bytes = b"", portal: bytes = b"") -> bytes:
    body = portal + b"\0" + name + b"\0" + pack("!HH", 0, len(values))
    body += b"".join(pack("!i", len(value)) + value for value in values)
    return build.frame(Frontend.BIND, body + pack("!H", 0))


EXECUTE = build.frame(Frontend.EXECUTE, b"\0" + pack("!I", 0))
DESCRIBE = build.frame(Frontend.DESCRIBE, b"P\0")


def test_the_simple_protocol() -> None:
    client = Client()
    frames = client.says(build.query("show version"))
    assert [chr(kind) for kind, _ in frames] == ["T", "D", "C", "Z"]
    assert parse.columns(build.frame(*frames[1])) == [b"version"]
    assert frames[3][1] == b"I"
    assert client.kinds(build.query(";")) == "IZ"
    assert client.kinds(build.query("set a = 1; show version")) == "CTDCZ"


def test_a_setting_by_the_name_that_drivers_use() -> None:
    frames = Client().says(build.query("SHOW TIME ZONE"))
    assert frames[0][1][2:11] == b"TimeZone\0"
    assert parse.columns(build.frame(*frames[1])) == [b"UTC"]


def test_an_error_ends_a_simple_query_and_not_the_session() -> None:
    client = Client()
    assert client.kinds(build.query("show version; show route 'fail'; show version")) == "TDCTEZ"[:3] + "EZ"
    assert client.kinds(build.query("show version")) == "TDCZ"


def test_the_extended_protocol() -> None:
    client = Client()
    frames = client.says(
        build.parse(b"", b"show route for $1 shop $2"),
        bind(b"app", b"select 1"),
        DESCRIBE,
        EXECUTE,
        build.SYNC,
    )
    assert "".join(chr(kind) for kind, _ in frames) == "12TDCZ"
    assert client.asked == [("route", ("app", "shop", "select 1"))]


def test_a_statement_is_described_before_it_runs() -> None:
    client = Client()
    frames = client.says(build.parse(b"s", b"show route $1"), build.describe_statement(b"s"), build.SYNC)
    assert "".join(chr(kind) for kind, _ in frames) == "1tTZ"
    assert frames[1][1] == pack("!HI", 1, 25)
    assert client.kinds(build.parse(b"n", b"set a = 1"), build.describe_statement(b"n"), build.SYNC) == "1tnZ"
    assert client.kinds(build.close_statement(b"s"), build.describe_statement(b"s"), build.SYNC) == "3EZ"


def test_an_empty_statement() -> None:
    assert Client().kinds(build.parse(b"", b""), bind(), DESCRIBE, EXECUTE, build.SYNC) == "12nIZ"


@pytest.mark.parametrize(
    "messages",
    [
        (build.parse(b"", b"select 1"),),
        (build.parse(b"", b"show version; show version"),),
        (bind(name=b"unknown"),),
        (build.frame(Frontend.BIND, b"\0\0"),),
        (build.frame(Frontend.DESCRIBE, b"Pnone\0"),),
        (build.frame(Frontend.DESCRIBE, b""),),
    ],
)
def test_after_an_error_all_is_skipped_to_the_sync(messages: tuple[bytes, ...]) -> None:
    client = Client()
    assert client.kinds(*messages, EXECUTE, EXECUTE) == "E"
    assert client.kinds(build.SYNC) == "Z"
    assert client.kinds(build.query("show version")) == "TDCZ"


@pytest.mark.parametrize("values", [(), (b"a", b"b")])
def test_the_wrong_number_of_parameters(values: tuple[bytes, ...]) -> None:
    client = Client()
    assert client.kinds(build.parse(b"", b"show route $1"), bind(*values), build.SYNC) == "1EZ"
    assert client.kinds(build.query("show route $1")) == "EZ"


def test_transactions_mean_nothing_but_are_kept_track_of() -> None:
    client = Client()
    assert client.says(build.query("begin"))[-1][1] == b"T"
    assert client.says(build.query("show route 'fail'"))[-1][1] == b"E"
    fields = parse.fields(client.says(build.query("show version"))[0][1])
    assert fields["C"] == "25P02"
    frames = client.says(build.query("commit"))
    assert (frames[0][1], frames[1][1]) == (b"ROLLBACK\0", b"I")


def test_what_is_prepared_is_bounded() -> None:
    client = Client()
    for number in range(MOST):
        assert client.kinds(build.parse(b"s%d" % number, b"show version")) == "1"
    assert client.kinds(build.parse(b"more", b"show version"), build.SYNC) == "EZ"


def test_a_goodbye_and_messages_of_no_meaning() -> None:
    client = Client()
    client.says(build.TERMINATE)
    assert client.exchange.ended
    with pytest.raises(ProtocolViolation):
        client.says(build.frame(ord("F")))
