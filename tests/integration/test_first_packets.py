"""What a client sends before it is logged in, and what it cannot send afterwards: byte by byte."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from struct import pack

import pytest
from psycopg import Connection

from pgambassador.auth.doorway import FEW as DOOR
from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, Message, Wire, wait_until

START = build.startup_message({"user": "app", "database": "app"})
PROTOCOL_3_2 = 3 << 16 | 2
GREASE = 3 << 16 | 9999
TLS_HELLO = bytes.fromhex("16030100f4010000f00303") + bytes(233)


@pytest.fixture(scope="module")
def proxy(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"size": 2})


def negotiated(message: Message) -> tuple[int, int, list[bytes]]:
    """Protocol version, number of options, options."""
    assert message.kind == "v"
    names = message.payload[8:].split(b"\0")[:-1]
    return int.from_bytes(message.payload[:4], "big"), int.from_bytes(message.payload[4:8], "big"), names


def refused(answer: Answer, sqlstate: str, message: str = "") -> None:
    assert answer.kinds == "E", answer
    fields = answer.error.fields
    assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", sqlstate), fields
    assert re.search(message, fields["M"]), fields


# Requests for encryption.


def test_tls_is_declined_and_a_plain_start_follows(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        wire.send(build.SSL_REQUEST)
        assert wire.take(1) == b"N"
        answer = wire.login(user="app", database="app")
        assert re.fullmatch("RS+KZ", answer.kinds)
        assert wire.ask("select 41 + 1").value == "42"


@pytest.mark.parametrize(
    "requests",
    [(build.GSSENC_REQUEST, build.SSL_REQUEST), (build.SSL_REQUEST, build.GSSENC_REQUEST)],
    ids=["gssapi first", "tls first"],
)
def test_gssapi_and_tls_are_declined_in_either_order(proxy: Ambassador, requests: tuple[bytes, ...]) -> None:
    with Wire(proxy.port) as wire:
        for request in requests:
            wire.send(request)
            assert wire.take(1) == b"N"
        wire.login(user="app", database="app")
        assert wire.ask("select 1").value == "1"


@pytest.mark.parametrize("request_", [build.SSL_REQUEST, build.GSSENC_REQUEST], ids=["tls", "gssapi"])
def test_asking_twice_for_the_same_encryption_is_refused(proxy: Ambassador, request_: bytes) -> None:
    with Wire(proxy.port) as wire:
        wire.send(request_)
        assert wire.take(1) == b"N"
        wire.send(request_)
        refused(wire.rest(), "0A000", "unsupported frontend protocol 1234")


@pytest.mark.parametrize("request_", [build.SSL_REQUEST, build.GSSENC_REQUEST], ids=["tls", "gssapi"])
def test_clear_bytes_glued_to_a_request_are_refused_and_nothing_runs(
    proxy: Ambassador, observer: Connection, request_: bytes
) -> None:
    logins = proxy.metrics().total("pgambassador_logins_total")
    with Wire(proxy.port) as wire:
        wire.send(request_, START, build.query("create table glued()"))
        refused(wire.rest(), "08P01", "received unencrypted data after")
    assert proxy.metrics().total("pgambassador_logins_total") == logins
    with Wire.session(proxy.port) as wire:
        assert wire.ask("select to_regclass('glued') is null").value == "t"


def test_a_tls_handshake_without_a_request_is_refused(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        wire.send(TLS_HELLO)
        refused(wire.rest(), "08P01", "TLS")


# Versions.


@pytest.mark.parametrize(
    ("version", "options", "spoken"),
    [
        (PROTOCOL_3_2, {"_pq_.x": "1"}, PROTOCOL_3_2),
        (GREASE, {"_pq_.x": "1"}, PROTOCOL_3_2),
        (GREASE, {"_pq_.x": "1", "_pq_.test_protocol_negotiation": ""}, PROTOCOL_3_2),
        (GREASE, {}, PROTOCOL_3_2),
        (build.PROTOCOL_3_0, {"_pq_.x": "1"}, build.PROTOCOL_3_0),
    ],
)
def test_a_newer_protocol_is_negotiated_down_once_and_unknown_options_are_named(
    proxy: Ambassador, version: int, options: dict[str, str], spoken: int
) -> None:
    with Wire(proxy.port) as wire:
        wire.send(build.startup_message({"user": "app", "database": "app", **options}, version))
        answer = wire.until("Z")
        assert re.fullmatch("vRS+KZ", answer.kinds)
        names = [name.encode() for name in options]
        assert negotiated(answer[0]) == (spoken, len(names), names)
        (key,) = (message for message in answer if message.kind == "K")
        assert len(key.payload) == (36 if spoken == PROTOCOL_3_2 else 8)
        assert wire.ask("select 1").value == "1"


def test_protocol_3_2_is_spoken(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        wire.send(build.startup_message({"user": "app", "database": "app"}, PROTOCOL_3_2))
        assert re.fullmatch("RS+KZ", wire.until("Z").kinds)


@pytest.mark.parametrize("version", [1 << 16, 2 << 16, 4 << 16, 0xFFFFFFFF])
def test_another_major_protocol_is_refused(proxy: Ambassador, version: int) -> None:
    """As the old client sent it: version 2 had a start packet of 296 bytes."""
    with Wire(proxy.port) as wire:
        wire.send(pack("!iI", 296, version) + b"app".ljust(288, b"\0"))
        refused(wire.rest(), "0A000", "unsupported frontend protocol")


# In pieces, and in large ones.


def test_a_start_in_single_bytes(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        for data in (build.GSSENC_REQUEST, build.SSL_REQUEST):
            wire.send_bytewise(data)
            assert wire.take(1) == b"N"
        wire.send_bytewise(START)
        assert wire.until("Z").kinds.endswith("KZ")
        wire.send_bytewise(build.query("select 'in single bytes'"))
        assert wire.until("Z").value == "in single bytes"


@pytest.mark.parametrize("size", [16_384, 40_000])
def test_a_start_packet_larger_than_any_buffer(proxy: Ambassador, size: int) -> None:
    value = "x" * size
    with Wire(proxy.port) as wire:
        wire.login(user="app", database="app", options=f"-c large.value={value}")
        assert wire.ask("show large.value").value == value


def test_a_query_behind_the_start_packet_is_answered(proxy: Ambassador) -> None:
    """Nobody has to wait for the login's end before sending the first query."""
    with Wire(proxy.port) as wire:
        wire.send(START, build.query("select 1"), build.query("select 2"))
        wire.until("Z")
        assert wire.until("Z").value == "1"
        assert wire.until("Z").value == "2"


# Names.


@pytest.mark.parametrize("more", [{}, {"database": ""}], ids=["missing", "empty"])
def test_without_a_database_the_name_of_the_user_is_taken(proxy: Ambassador, more: dict[str, str]) -> None:
    with Wire(proxy.port) as wire:
        wire.login(user="app", **more)
        assert wire.ask("select current_database()").value == "app"


@pytest.mark.parametrize("parameters", [{}, {"user": ""}, {"database": "app"}])
def test_without_a_user_nobody_comes_in(proxy: Ambassador, parameters: dict[str, str]) -> None:
    with Wire(proxy.port) as wire:
        wire.start(**parameters)
        refused(wire.rest(), "28000", "no PostgreSQL user name")


# Wrong from the first byte on.


@pytest.mark.parametrize("length", [0, 3, 4, 7, 64 * 1024 + 1, 10**6, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_start_packet_of_impossible_length_is_refused_at_once(proxy: Ambassador, length: int) -> None:
    with Wire(proxy.port) as wire:
        wire.send(pack("!I", length))
        refused(wire.rest(), "08P01", "invalid length of startup packet")


@pytest.mark.parametrize("size", [70_000, 1_000_000])
def test_a_client_that_has_sent_too_large_a_start_packet_hears_why(proxy: Ambassador, size: int) -> None:
    """It sends all of it before it reads; what is refused is not read, yet the refusal must not be lost."""
    with Wire(proxy.port) as wire:
        try:
            wire.send(build.startup_message({"user": "app", "options": "x" * size}))
        except ConnectionError:
            pass  # then it has been told already
        refused(wire.rest(), "08P01", "invalid length of startup packet")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"user",
        b"user\0app",
        b"user\0app\0",
        b"user\0app\0database\0\0",
        b"user\0app\0\0more",
        b"user\0app\0\0\0",
    ],
)
def test_a_malformed_start_packet_is_refused(proxy: Ambassador, payload: bytes) -> None:
    with Wire(proxy.port) as wire:
        wire.send(pack("!ii", 8 + len(payload), build.PROTOCOL_3_0) + payload)
        refused(wire.rest(), "08P01")


@pytest.mark.parametrize("data", [b"", START[:1], START[:7], START[:-1], build.SSL_REQUEST])
@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_client_that_leaves_before_its_login_leaves_no_trace(
    proxy: Ambassador, data: bytes, reset: bool
) -> None:
    wire = Wire(proxy.port)
    wire.send(data)
    wire.vanish(reset=reset)
    wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 0, "an empty house")
    with Wire.session(proxy.port) as after:
        assert after.ask("select 1").value == "1"


def test_a_client_that_does_not_finish_its_login_is_sent_away(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"), clients={"login_timeout": "1s", "max": 1}
    )
    # Who is only at the door takes nobody's place.
    slow = [Wire(proxy.port) for _ in range(3)]
    slow[1].send(START[:-1])
    slow[2].send(build.SSL_REQUEST)
    assert slow[2].take(1) == b"N"
    for wire in slow:
        with wire:
            refused(wire.rest(), "57014", "login")
    with Wire.session(proxy.port) as wire:
        assert wire.ask("select 1").value == "1"


def test_logins_of_a_database_or_a_user_may_have_another_time(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """By the names in the start packet, whoever sends it; or less, if that asks for it."""
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        auth={"method": "scram-sha-256", "users": {"app": "secret"}},
        databases={"app": {}, "quick": {"database": "app", "login_timeout": "300ms"}},
        users={"hasty": {"login_timeout": "200ms"}},
    )
    with ExitStack() as stack:
        own = "pgambassador"
        cases = [
            ("app", "app", {}, ""),
            ("quick", "app", {}, "databases.quick"),
            ("app", "hasty", {}, "users.hasty"),
            ("app", "app", {"options": f"-c {own}.login_timeout=250ms"}, own),
            ("app", "app", {f"{own}.login_timeout": "0.1s"}, own),
            ("app", "hasty", {f"{own}.login_timeout": "1h"}, "users.hasty"),
            ("app", "app", {f"{own}.login_timeout": "0"}, ""),
            ("app", "app", {f"{own}.login_timeout": "soon"}, ""),
            ("app", "app", {"options": f"-c a.b={'x' * 1000} -c {own}.login_timeout=100ms"}, ""),
        ]
        wires = [stack.enter_context(Wire(proxy.port)) for _ in cases]
        for (database, user, more, _), wire in zip(cases, wires, strict=True):
            wire.send(build.startup_message({"user": user, "database": database, **more}))
            assert wire.receive().kind == "R"
        for (*_, option), wire in zip(cases, wires, strict=True):
            if option:
                answer = wire.rest()
                refused(answer, "57014", "login")
                assert answer[-1].fields["H"] == f"The limit is {option}.login_timeout."
        assert all(wire.quiet for (*_, option), wire in zip(cases, wires, strict=True) if not option)


def test_there_is_a_limit_to_how_many_may_be_logging_in(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), clients={"max": 1})
    with ExitStack() as door:
        slow = [door.enter_context(Wire(proxy.port)) for _ in range(DOOR)]
        for wire in slow:
            wire.send(build.SSL_REQUEST)
            assert wire.take(1) == b"N"
        with Wire(proxy.port) as wire:
            wire.login(user="app", database="app")
        refused(slow[0].rest(), "53300", "logging in")
        assert slow[1].quiet


# After the login.


@pytest.mark.parametrize("length", [0, 3, 0x40000001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", [b"Q", b"P", b"B", b"d"])
def test_a_message_of_impossible_length_ends_only_its_session(
    proxy: Ambassador, kind: bytes, length: int
) -> None:
    with Wire.session(proxy.port) as neighbour, Wire.session(proxy.port) as wire:
        neighbour.ask("begin")
        wire.send(kind + pack("!I", length))
        refused(wire.rest(), "08P01")
        assert neighbour.ask("select 1").value == "1"
        assert neighbour.ask("commit").kinds == "CZ"


@pytest.mark.parametrize("kind", [b"\0", b"A", b"R", b"p", b"z", b"\xff", b" "])
def test_an_unknown_message_ends_only_its_session(proxy: Ambassador, kind: bytes) -> None:
    with Wire.session(proxy.port) as neighbour, Wire.session(proxy.port) as wire:
        neighbour.ask("begin")
        wire.send(kind + pack("!I", 4))
        refused(wire.rest(), "08P01")
        assert neighbour.ask("select 1").value == "1"


def test_an_impossible_message_in_a_transaction_rolls_it_back(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    with Wire.session(proxy.port) as wire:
        wire.ask("begin")
        wire.ask("create table of_a_broken_client()")
        wire.send(b"\xff" + pack("!I", 4))
        refused(wire.rest(), "08P01")
    with Wire.session(proxy.port) as wire:
        assert wire.ask("select to_regclass('of_a_broken_client') is null").value == "t"


@pytest.mark.parametrize("message", [b"Q\0\0\0\4", b"Q\0\0\0\5x", b"P\0\0\0\5x", b"B\0\0\0\4", b"E\0\0\0\4"])
def test_a_message_without_its_strings_hurts_nobody_else(proxy: Ambassador, message: bytes) -> None:
    """A server answers it with an error; whether the session goes on is not said anywhere."""
    with Wire.session(proxy.port) as wire:
        wire.send(message, build.SYNC)
        assert wire.receive().sqlstate == "08P01"
    for _ in range(3):
        with Wire.session(proxy.port) as after:
            assert after.ask("select 1").value == "1"
