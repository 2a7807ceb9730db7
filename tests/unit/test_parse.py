from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.errors import ProtocolViolation
from pgambassador.wire import build, parse
from pgambassador.wire.parse import CancelRequest, StartupPacket

text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
names = text.filter(bool)

READERS = [
    parse.startup,
    parse.cancel_request,
    parse.password,
    parse.sasl_initial_response,
    parse.authentication,
    parse.sasl_mechanisms,
    parse.parameter_status,
    parse.backend_key_data,
    parse.negotiate_protocol_version,
    parse.ready_for_query,
]


def payload(message: bytes) -> bytes:
    return message[5:]


# --- first packets


@given(st.dictionaries(names, text), st.sampled_from([0, 2, 9999]))
def test_startup_round_trip(params: dict[str, str], minor: int) -> None:
    packet = parse.startup(build.startup_message(params, 3 << 16 | minor)[4:])
    assert packet.params | packet.extensions == params
    assert packet.minor == minor
    assert all(name.startswith("_pq_.") for name in packet.extensions)


def test_startup_tells_extensions_from_parameters() -> None:
    packet = parse.startup(build.startup_message({"user": "u", "_pq_.x": "1", "_pq_": "2"})[4:])
    assert packet == StartupPacket(3 << 16, {"user": "u", "_pq_": "2"}, {"_pq_.x": "1"})


@pytest.mark.parametrize(
    "params, user, database",
    [
        ({}, "", ""),
        ({"user": "u"}, "u", "u"),
        ({"user": "u", "database": ""}, "u", "u"),
        ({"user": "u", "database": "d"}, "u", "d"),
    ],
)
def test_the_database_defaults_to_the_user(params: dict[str, str], user: str, database: str) -> None:
    packet = StartupPacket(3 << 16, params)
    assert (packet.user, packet.database) == (user, database)


def test_packets_are_told_apart_by_all_that_is_in_them() -> None:
    """A client chooses what it says: by names alone any number would have to be compared with each other."""
    packets = [StartupPacket(3 << 16, {"user": "u", "application_name": str(n)}) for n in range(1000)]
    assert len({hash(each) for each in packets}) > 990
    one, other = {"user": "u", "application_name": "x"}, {"application_name": "x", "user": "u"}
    assert StartupPacket(3 << 16, one) == StartupPacket(3 << 16, other)
    assert hash(StartupPacket(3 << 16, one)) == hash(StartupPacket(3 << 16, other))


@pytest.mark.parametrize(
    "body",
    [b"", b"user\0u\0", b"user\0u", b"user\0", b"user", b"user\0u\0\0tail", b"\0\0"],
)
def test_startup_with_a_bad_layout(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parse.startup(b"\0\3\0\0" + body)


@pytest.mark.parametrize("size", [4, 32, 256])
def test_cancel_request(size: int) -> None:
    message = build.cancel_request(0x80000001, b"k" * size)
    assert parse.cancel_request(message[4:]) == CancelRequest(0x80000001, b"k" * size)


@pytest.mark.parametrize("size", [0, 3, 257])
def test_cancel_request_with_a_bad_key(size: int) -> None:
    with pytest.raises(ProtocolViolation, match="CancelRequest"):
        parse.cancel_request(build.cancel_request(1, b"k" * size)[4:])


def test_a_cancel_key_is_not_shown() -> None:
    assert "secret" not in repr(CancelRequest(1, b"secret"))


# --- from a client


@pytest.mark.parametrize("secret", [b"", b"pw", b"\xff" * 10_000])
def test_password(secret: bytes) -> None:
    assert parse.password(payload(build.password_message(secret))) == secret


@pytest.mark.parametrize("bad", [b"", b"pw", b"p\0w\0"])
def test_malformed_password(bad: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="PasswordMessage"):
        parse.password(bad)


def test_sasl_initial_response() -> None:
    message = build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=x")
    assert parse.sasl_initial_response(payload(message)) == ("SCRAM-SHA-256", b"n,,n=,r=x")
    assert parse.sasl_initial_response(b"M\0\xff\xff\xff\xff") == ("M", None)
    assert parse.sasl_initial_response(b"M\0\0\0\0\0") == ("M", b"")


@pytest.mark.parametrize(
    "bad", [b"", b"M", b"M\0", b"M\0\0\0\0", b"M\0\0\0\0\5abc", b"M\0\0\0\0\1abc", b"M\0\xff\xff\xff\xffx"]
)
def test_malformed_sasl_initial_response(bad: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="SASLInitialResponse"):
        parse.sasl_initial_response(bad)


# --- from a server


def test_authentication() -> None:
    assert parse.authentication(payload(build.authentication_ok())) == (0, b"")
    assert parse.authentication(payload(build.authentication_md5(b"salt"))) == (5, b"salt")
    kind, data = parse.authentication(payload(build.authentication_sasl(["A", "B"])))
    assert (kind, parse.sasl_mechanisms(data)) == (10, ["A", "B"])
    assert parse.sasl_mechanisms(b"\0") == []


def test_login_messages() -> None:
    assert parse.parameter_status(payload(build.parameter_status("a", ""))) == ("a", "")
    assert parse.backend_key_data(payload(build.backend_key_data(9, b"0123"))) == (9, b"0123")
    assert parse.ready_for_query(b"E") == ord("E")
    message = build.negotiate_protocol_version(2, ["_pq_.a", "_pq_.b"])
    assert parse.negotiate_protocol_version(payload(message)) == (3 << 16 | 2, ["_pq_.a", "_pq_.b"])


@pytest.mark.parametrize(
    "reader, bad",
    [
        (parse.authentication, b"\0\0\0"),
        (parse.sasl_mechanisms, b"A\0"),
        (parse.parameter_status, b"\0v\0"),
        (parse.parameter_status, b"n\0"),
        (parse.parameter_status, b"n\0v\0x"),
        (parse.backend_key_data, b"\0\0\0\1"),
        (parse.backend_key_data, b"\0\0\0\1" + b"k" * 257),
        (parse.ready_for_query, b""),
        (parse.ready_for_query, b"X"),
        (parse.ready_for_query, b"II"),
        (parse.negotiate_protocol_version, b"\0\3\0\0\0\0\0\2_pq_.a\0"),
        (parse.negotiate_protocol_version, pack("!II", 3 << 16, 2 << 30)),
    ],
)
def test_malformed_login_messages(reader, bad: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="malformed"):
        reader(bad)


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"SFATAL\0C28000\0Mno\0\0", {"S": "FATAL", "C": "28000", "M": "no"}),
        (b"Mno SQLSTATE\0\0", {"M": "no SQLSTATE"}),
        (b"", {}),
        (b"\0", {}),
        (b"M", {"M": ""}),
        (b"Mcut off", {"M": "cut off"}),
        (b"Mfirst\0Msecond\0\0", {"M": "first"}),
        (b"Ma\0\0Cbehind the end\0\0", {"M": "a"}),
        (b"\xffnoise\0\x07bell\0Ma\0\0", {"M": "a"}),
        (b"M\xff\0\0", {"M": "\udcff"}),
    ],
)
def test_error_fields(data: bytes, expected: dict[str, str]) -> None:
    assert parse.fields(data) == expected


@given(st.dictionaries(st.sampled_from("SVCMDHPpqWstcdnFLR"), text))
def test_error_fields_pass_on_unchanged(fields: dict[str, str]) -> None:
    assert parse.fields(payload(build.error_response_from(fields))) == fields


@given(st.binary())
def test_no_error_of_a_server_hurts(data: bytes) -> None:
    parse.fields(data)


# --- anything


@given(st.sampled_from(READERS), st.binary())
def test_garbage_is_read_or_refused(reader, data: bytes) -> None:
    try:
        reader(data)
    except ProtocolViolation as error:
        assert error.sqlstate == "08P01"


@pytest.mark.parametrize(
    ("given", "cut"),
    [
        ("x" * 63, "x" * 63),
        ("x" * 64, "x" * 63),
        ("x" * 62 + "ü", "x" * 62),
        ("ü" * 32, "ü" * 31),
        ("x" * 60 + "\U0001f418", "x" * 60),
        ("x" * 59 + "\U0001f418", "x" * 59 + "\U0001f418"),
        ("\udcbf" * 70, "\udcbf" * 60),
    ],
)
def test_names_are_cut_off_as_a_server_does_it(given: str, cut: str) -> None:
    packet = StartupPacket(3 << 16, {"user": given, "database": given})
    assert (packet.user, packet.database) == (cut, cut)
    assert StartupPacket(3 << 16, {"user": given}).database == cut
