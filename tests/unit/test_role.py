import pytest

from pgambassador.cluster.role import mismatch
from pgambassador.errors import ProtocolViolation, ServerRefused
from pgambassador.wire import build
from pgambassador.wire.frames import Dialogue, take_frame

PRIMARY = {"in_hot_standby": "off", "default_transaction_read_only": "off"}
READ_ONLY = {"in_hot_standby": "off", "default_transaction_read_only": "on"}
STANDBY = {"in_hot_standby": "on", "default_transaction_read_only": "off"}

OLD = {"server_version": "13.1"}
DESCRIPTION = build.frame(ord("T"), b"\0\1")
READY = build.ready_for_query(b"I")


def row(value: str) -> bytes:
    return build.frame(ord("D"), b"\0\1" + len(value).to_bytes(4, "big") + value.encode())


def finish(dialogue: Dialogue[str | None], *messages: bytes) -> str | None:
    """The end of a dialogue that asks at most one question."""
    buffer = bytearray(b"".join(messages))
    try:
        next(dialogue)
        while (frame := take_frame(buffer, 1000)) is not None:
            assert dialogue.send(frame) == b""
    except StopIteration as stop:
        assert not buffer
        return stop.value
    raise AssertionError("the dialogue wants more")


@pytest.mark.parametrize(
    ("wanted", "primary", "read_only", "standby"),
    [
        ("any", None, None, None),
        ("read-write", None, "the session is read-only", "the session is read-only"),
        ("read-only", "the session is not read-only", None, None),
        ("primary", None, None, "the server is a standby"),
        ("standby", "the server is not a standby", "the server is not a standby", None),
        ("prefer-standby", "the server is not a standby", "the server is not a standby", None),
    ],
)
def test_what_servers_report(
    wanted: str, primary: str | None, read_only: str | None, standby: str | None
) -> None:
    assert finish(mismatch(wanted, PRIMARY)) == primary
    assert finish(mismatch(wanted, READ_ONLY)) == read_only
    assert finish(mismatch(wanted, STANDBY)) == standby


@pytest.mark.parametrize(
    ("wanted", "answer", "objection"),
    [
        ("read-write", "off", None),
        ("read-write", "on", "the session is read-only"),
        ("read-only", "on", None),
        ("read-only", "off", "the session is not read-only"),
        ("primary", "off", None),
        ("primary", "on", "the server is a standby"),
        ("standby", "on", None),
        ("standby", "off", "the server is not a standby"),
    ],
)
def test_a_server_that_reports_nothing_is_asked(wanted: str, answer: str, objection: str | None) -> None:
    told = (DESCRIPTION, row(answer), build.command_complete("SELECT 1"), READY)
    assert finish(mismatch(wanted, OLD), *told) == objection
    notice = build.notice_response("WARNING", "01000", "x")
    assert finish(mismatch(wanted, OLD), notice, *told) == objection


def test_the_questions() -> None:
    assert next(mismatch("read-write", OLD)) == build.query("SHOW transaction_read_only")
    assert b"pg_catalog.pg_is_in_recovery()" in next(mismatch("primary", OLD))


def test_half_a_report_is_not_enough() -> None:
    assert next(mismatch("read-write", {"in_hot_standby": "off"})) == build.query(
        "SHOW transaction_read_only"
    )


def test_an_error_is_the_servers_own() -> None:
    with pytest.raises(ServerRefused) as raised:
        finish(mismatch("primary", OLD), build.error_response("ERROR", "42501", "no"))
    assert raised.value.sqlstate == "42501"


def test_an_endless_answer_ends() -> None:
    with pytest.raises(ProtocolViolation):
        finish(mismatch("primary", OLD), *[row("on")] * 200)
