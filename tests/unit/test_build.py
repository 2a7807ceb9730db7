import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.wire import build

# Written out by hand from the manual's "Message Formats".
MESSAGES = {
    "SSLRequest": (build.SSL_REQUEST, b"\0\0\0\x08\x04\xd2\x16\x2f"),
    "GSSENCRequest": (build.GSSENC_REQUEST, b"\0\0\0\x08\x04\xd2\x16\x30"),
    "StartupMessage": (
        build.startup_message({"user": "ä", "database": ""}),
        b"\0\0\0\x1b\0\x03\0\0user\0\xc3\xa4\0database\0\0\0",
    ),
    "StartupMessage 3.2": (build.startup_message({}, 3 << 16 | 2), b"\0\0\0\x09\0\x03\0\x02\0"),
    "CancelRequest": (
        build.cancel_request(7, b"\1\2\3\4"),
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\7\1\2\3\4",
    ),
    "CancelRequest, long key, high pid": (
        build.cancel_request(0xFFFFFFFE, b"k" * 32),
        b"\0\0\0\x2c\x04\xd2\x16\x2e\xff\xff\xff\xfe" + b"k" * 32,
    ),
    "Terminate": (build.TERMINATE, b"X\0\0\0\4"),
    "Sync": (build.SYNC, b"S\0\0\0\4"),
    "Flush": (build.FLUSH, b"H\0\0\0\4"),
    "Query": (build.query("select 1"), b"Q\0\0\0\x0dselect 1\0"),
    "Query, bytes": (build.query(b"\xff"), b"Q\0\0\0\6\xff\0"),
    "Parse": (build.parse(b"s", b"q"), b"P\0\0\0\x0as\0q\0\0\0"),
    "Parse, types": (
        build.parse(b"", b"q", (23, 0xFFFFFFFF)),
        b"P\0\0\0\x11\0q\0\0\2\0\0\0\x17\xff\xff\xff\xff",
    ),
    "Close": (build.close_statement(b"s"), b"C\0\0\0\7Ss\0"),
    "PasswordMessage": (build.password_message(b"pw"), b"p\0\0\0\7pw\0"),
    "SASLInitialResponse": (
        build.sasl_initial_response("SCRAM-SHA-256", b"n,,"),
        b"p\0\0\0\x19SCRAM-SHA-256\0\0\0\0\3n,,",
    ),
    "SASLResponse": (build.sasl_response(b"c="), b"p\0\0\0\6c="),
    "AuthenticationOk": (build.authentication_ok(), b"R\0\0\0\x08\0\0\0\0"),
    "AuthenticationCleartextPassword": (build.authentication_cleartext(), b"R\0\0\0\x08\0\0\0\3"),
    "AuthenticationMD5Password": (build.authentication_md5(b"salt"), b"R\0\0\0\x0c\0\0\0\5salt"),
    "AuthenticationSASL": (build.authentication_sasl(["A", "B"]), b"R\0\0\0\x0d\0\0\0\x0aA\0B\0\0"),
    "AuthenticationSASLContinue": (build.authentication_sasl_continue(b"r="), b"R\0\0\0\x0a\0\0\0\x0br="),
    "AuthenticationSASLFinal": (build.authentication_sasl_final(b"v="), b"R\0\0\0\x0a\0\0\0\x0cv="),
    "ParameterStatus": (build.parameter_status("a", "b"), b"S\0\0\0\x08a\0b\0"),
    "BackendKeyData": (build.backend_key_data(1, b"key!"), b"K\0\0\0\x0c\0\0\0\1key!"),
    "ReadyForQuery": (build.ready_for_query(b"T"), b"Z\0\0\0\5T"),
    "NegotiateProtocolVersion": (
        build.negotiate_protocol_version(0, ["_pq_.x"]),
        b"v\0\0\0\x13\0\3\0\0\0\0\0\1_pq_.x\0",
    ),
    "CommandComplete": (build.command_complete("SET"), b"C\0\0\0\x08SET\0"),
    "ErrorResponse": (
        build.error_response("FATAL", "28P01", "no"),
        b"E\0\0\0\x1eSFATAL\0VFATAL\0C28P01\0Mno\0\0",
    ),
    "NoticeResponse": (
        build.notice_response("NOTICE", "00000", "m", "d", hint="h"),
        b"N\0\0\0\x25SNOTICE\0VNOTICE\0C00000\0Mm\0Dd\0Hh\0\0",
    ),
    "ErrorResponse, passed on": (build.error_response_from({"C": "3D000"}), b"E\0\0\0\x0cC3D000\0\0"),
}


@pytest.mark.parametrize("built, expected", MESSAGES.values(), ids=MESSAGES)
def test_message(built: bytes, expected: bytes) -> None:
    assert built == expected


@pytest.mark.parametrize(
    "builder",
    [
        lambda: build.query("select 1\0; drop"),
        lambda: build.startup_message({"user": "a\0b"}),
        lambda: build.password_message(b"a\0"),
        lambda: build.parse(b"a\0", b""),
        lambda: build.parameter_status("a", "\0"),
    ],
)
def test_no_string_smuggles_a_nul(builder) -> None:
    with pytest.raises(ValueError, match="NUL"):
        builder()


def test_an_error_is_told_even_with_a_nul_in_it() -> None:
    assert b"Mwhat?now\0" in build.error_response("ERROR", "XX000", "what\0now")


@given(st.binary())
def test_text_in_a_strange_encoding_leaves_as_it_came(data: bytes) -> None:
    assert build.encode(data.decode("utf-8", "surrogateescape")) == data
