import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth import scram
from pgambassador.auth.verifier import make_verifier
from pgambassador.errors import AmbassadorError, ProtocolViolation, ServerRefused
from pgambassador.protocol import startup
from pgambassador.protocol.startup import Channel, Login, upstream_login
from pgambassador.wire import build, parse
from pgambassador.wire.frames import Dialogue, take_frame

HELLO = build.startup_message({"user": "app", "database": "shop"})
OK = build.authentication_ok()
READY = build.ready_for_query(b"I")
NOTICE = build.notice_response("WARNING", "01000", "collation version mismatch")


def begin(secret: bytes | None = b"secret") -> Dialogue[Login]:
    dialogue = upstream_login({"database": "shop"}, secret, user="app", channel=Channel())
    assert next(dialogue) == HELLO
    return dialogue


def tell(dialogue: Dialogue[Login], *messages: bytes) -> list[bytes] | Login:
    """Give the server's messages, one frame at a time: what was answered, or the login."""
    buffer = bytearray(b"".join(messages))
    answers: list[bytes] = []
    try:
        while (frame := take_frame(buffer, startup.MAX_LOGIN_FRAME)) is not None:
            answers.append(dialogue.send(frame))
    except StopIteration as stop:
        assert not buffer
        return stop.value
    return [each for each in answers if each]


def test_a_login_without_a_password() -> None:
    login = tell(
        begin(),
        OK,
        build.parameter_status("server_version", "15.3"),
        build.parameter_status("TimeZone", "UTC"),
        build.parameter_status("TimeZone", "Etc/UTC"),
        build.backend_key_data(4711, b"key!"),
        READY,
    )
    parameters = {"server_version": "15.3", "TimeZone": "Etc/UTC"}
    assert login == Login(4711, b"key!", parameters, ord("I"), 3 << 16, asked=False)
    assert "key!" not in repr(login)


def test_a_login_with_md5() -> None:
    dialogue = begin()
    answers = tell(dialogue, build.authentication_md5(b"salt"))
    assert isinstance(answers, list) and answers[0].startswith(b"p\0\0\0\x28md5")
    assert isinstance(tell(dialogue, OK, READY), Login)


def test_a_login_with_scram_and_notices_everywhere() -> None:
    dialogue = begin()
    answers = tell(dialogue, NOTICE, build.authentication_sasl(["SCRAM-SHA-256"]))
    assert isinstance(answers, list)
    _, first = parse.sasl_initial_response(answers[0][5:])
    server = scram.server(first or b"", make_verifier(b"secret", b"salt", 1))
    answers = tell(dialogue, NOTICE, build.authentication_sasl_continue(next(server)), NOTICE)
    assert isinstance(answers, list)
    final = scram.finish(server, answers[0][5:])
    assert final is not None
    assert tell(dialogue, NOTICE, build.authentication_sasl_final(final), NOTICE) == []
    assert isinstance(tell(dialogue, OK, NOTICE, READY), Login)


def test_a_server_without_cancel_keys() -> None:
    login = tell(begin(), OK, READY)
    assert isinstance(login, Login)
    assert (login.pid, login.key) == (0, b"")


def test_a_long_cancel_key_is_kept_whole() -> None:
    login = tell(begin(), OK, build.backend_key_data(1, b"k" * 32), READY)
    assert isinstance(login, Login)
    assert login.key == b"k" * 32


def test_startup_parameters_travel() -> None:
    params = {"database": "shop", "application_name": "", "options": "-c a=b"}
    hello = next(upstream_login(params, None, user="app", channel=Channel()))
    assert parse.startup(hello[4:]).params == {"user": "app"} | params
    assert parse.startup(hello[4:]).version == 3 << 16


# --- errors


@pytest.mark.parametrize("before", [b"", NOTICE, OK, OK + build.parameter_status("a", "b")])
def test_an_error_of_the_server_is_raised_as_it_came(before: bytes) -> None:
    fields = {
        "S": "FATAL",
        "V": "FATAL",
        "C": "3D000",
        "M": 'database "shop" does not exist',
        "R": "InitPostgres",
    }
    with pytest.raises(ServerRefused) as caught:
        tell(begin(), before, build.error_response_from(fields))
    assert caught.value.fields == fields
    assert caught.value.sqlstate == "3D000"


@pytest.mark.parametrize("payload", [b"", b"\0", b"SFATAL\0\0", b"M", b"\xff\xff", b"M\0\0\0\0"])
def test_a_malformed_error_hurts_nobody(payload: bytes) -> None:
    with pytest.raises(ServerRefused) as caught:
        tell(begin(), build.frame(ord("E"), payload))
    assert caught.value.sqlstate == "08004"


@pytest.mark.parametrize(
    "messages, sentence",
    [
        ([READY], "type 'Z' in the middle of the login"),
        ([build.parameter_status("a", "b")], "type 'S'"),
        ([build.backend_key_data(1, b"key!")], "type 'K'"),
        ([OK, OK], "type 'R'"),
        ([OK, build.command_complete("SELECT 1")], "type 'C'"),
        ([b"H\0\0\0\4"], "type 'H'"),
        ([OK, b"K\0\0\0\x05x"], "malformed BackendKeyData"),
        ([OK, b"S\0\0\0\x05x"], "malformed ParameterStatus"),
        ([OK, b"Z\0\0\0\x04"], "malformed ReadyForQuery"),
        ([b"R\0\0\0\x04"], "malformed Authentication"),
        ([b"v\0\0\0\x04"], "malformed NegotiateProtocolVersion"),
        ([build.negotiate_protocol_version(2, [])], "negotiates a version"),
        ([build.negotiate_protocol_version(0, ["_pq_.x"])], "negotiates a version"),
    ],
)
def test_a_server_that_breaks_the_protocol(messages: list[bytes], sentence: str) -> None:
    with pytest.raises(ProtocolViolation, match=sentence):
        tell(begin(), *messages)


def test_a_server_that_confirms_plain_3_0() -> None:
    assert isinstance(tell(begin(), build.negotiate_protocol_version(0, []), OK, READY), Login)


@pytest.mark.parametrize("minor", [0, 1, 2])
def test_a_server_that_goes_below_what_was_asked_for(minor: int) -> None:
    asked = upstream_login({}, None, user="app", channel=Channel(), version=build.PROTOCOL_3_2)
    assert parse.startup(next(asked)[4:]).version == build.PROTOCOL_3_2
    login = tell(asked, build.negotiate_protocol_version(minor, []), OK, READY)
    assert isinstance(login, Login)
    assert login.version == build.PROTOCOL_3_0 | minor


def test_a_server_that_goes_beyond_it() -> None:
    asked = upstream_login({}, None, user="app", channel=Channel(), version=build.PROTOCOL_3_2)
    next(asked)
    with pytest.raises(ProtocolViolation, match="negotiates a version"):
        tell(asked, build.negotiate_protocol_version(3, []))


def test_a_server_that_does_not_negotiate_speaks_what_was_asked_for() -> None:
    asked = upstream_login({}, None, user="app", channel=Channel(), version=build.PROTOCOL_3_2)
    next(asked)
    login = tell(asked, OK, READY)
    assert isinstance(login, Login)
    assert login.version == build.PROTOCOL_3_2


# --- bounds


def test_a_server_that_never_becomes_ready() -> None:
    with pytest.raises(ProtocolViolation, match="still not ready"):
        tell(begin(), NOTICE * (startup.MAX_LOGIN_FRAMES + 1))


def test_a_server_that_sends_too_much() -> None:
    dialogue = begin()
    with pytest.raises(ProtocolViolation, match="more data during login"):
        dialogue.send((ord("N"), b"x" * (startup.MAX_LOGIN_FRAME + 1)))
    dialogue = begin()
    with pytest.raises(ProtocolViolation, match="more data during login"):
        while True:
            dialogue.send((ord("N"), b"x" * startup.MAX_LOGIN_FRAME))


frames = st.tuples(st.sampled_from(b"RSKZNEvACx"), st.binary(max_size=30))
good = st.sampled_from([(ord("R"), OK[5:]), (ord("S"), b"a\0b\0"), (ord("K"), b"0123key!"), (ord("Z"), b"I")])
sasl = st.sampled_from([0, 3, 5, 10, 11, 12]).flatmap(
    lambda kind: st.binary(max_size=30).map(lambda data: (ord("R"), kind.to_bytes(4, "big") + data))
)


@given(st.lists(frames | good | sasl))
def test_any_server_is_logged_in_to_or_refused(stream: list[tuple[int, bytes]]) -> None:
    dialogue = begin()
    try:
        for frame in stream:
            dialogue.send(frame)
    except StopIteration as stop:
        assert isinstance(stop.value, Login)
    except AmbassadorError:
        pass


def test_who_logs_in_is_not_a_parameter() -> None:
    hello = next(upstream_login({"user": "boss", "database": "shop"}, None, user="app", channel=Channel()))
    assert hello == HELLO
