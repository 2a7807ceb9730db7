"""Whatever a client sends, it is its own affair: a clean end for it, right answers for its neighbours."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.fuzz.mutations import bounded, streams
from tests.harness import USERS, Ambassador, Answer, Wire
from tests.messages import (
    COPY_DONE,
    FLUSH,
    FUNCTION_CALL,
    SYNC,
    TERMINATE,
    bind,
    close_portal,
    close_statement,
    copy_data,
    copy_fail,
    describe,
    describe_portal,
    execute,
    parse,
    query,
    show,
)

LOGIN = build.startup_message({"user": "app", "database": "app"})
MESSAGES = (
    query("select 1"),
    query("begin"),
    query("rollback"),
    query("select 1; select 1/0; select 2"),
    query("set timezone = 'Asia/Tokyo'"),
    query("select set_config('app.x', 'y', false)"),
    query("create temp table fuzz (a int)"),
    query("copy (select 1) to stdout"),
    query("copy fuzz from stdin"),
    query("discard all"),
    query("listen news"),
    parse(b"", b"select $1"),
    parse(b"s", b"select $1::int"),
    parse(b"", b"selec"),
    parse(b"s", b"set datestyle = 'German'"),
    bind(b"", b"1"),
    bind(b"s", b"1"),
    bind(b"s", portal=b"p"),
    describe(b""),
    describe(b"s"),
    describe_portal(),
    execute(),
    execute(b"p", 1),
    close_statement(b"s"),
    close_portal(b"p"),
    FLUSH,
    SYNC,
    SYNC,
    SYNC,
    TERMINATE,
    FUNCTION_CALL,
    copy_data(b"1\n"),
    COPY_DONE,
    copy_fail(),
)
FIRST = (
    LOGIN,
    build.SSL_REQUEST,
    build.GSSENC_REQUEST,
    build.cancel_request(1, b"0123"),
    build.startup_message({"user": "app"}, 2 << 16),
    build.startup_message({"user": "app", "_pq_.x": "1"}, 3 << 16 | 9),
    build.startup_message({"user": "app", "database": "app", "options": "-c a=b -- \\", "timezone": "?"}),
    build.startup_message({"database": "app"}),
    query("select 1"),
)
SERVERS_KINDS = set("RSKZ123CDEINTVAGHcdnstv")


DEADLINE = 5.0


class Neighbour:
    """Asks, before and after, and has what it has set."""

    def __init__(self, proxy: Ambassador) -> None:
        self.proxy = proxy
        self._wire = Wire.session(proxy.port)
        self._wire.socket.settimeout(DEADLINE)
        self._wire.ask("set application_name = 'the neighbour'")
        self._count = 0
        self._read = 0

    def close(self) -> None:
        self._wire.leave()

    def is_well(self) -> None:
        self._count += 1
        what = (
            "current_setting('application_name'), current_setting('timezone'), current_setting('app.x', true)"
        )
        answer = self._wire.ask(f"select {self._count}, {what}")
        assert answer.kinds == "TDCZ", answer
        ((count, name, timezone, other),) = answer.rows
        assert (count, name, timezone) == (str(self._count), "the neighbour", "UTC")
        assert not other
        with self.proxy.stderr.open() as log:
            log.seek(self._read)
            said = log.read()
            self._read = log.tell()
        assert "Traceback" not in said and "internal error" not in said, said


@pytest.fixture(scope="module", params=["transaction 1", "transaction 2", "session 2"])
def neighbour(
    request: pytest.FixtureRequest, primary: Postgres, ambassadors: Callable[..., Ambassador]
) -> Iterator[Neighbour]:
    mode, size = request.param.split()
    proxy = ambassadors(
        primary.url("app", USERS["app"].password, "app"),
        pool={"mode": mode, "size": int(size), "statements": 3, "wait_notice": "off"},
    )
    neighbour = Neighbour(proxy)
    yield neighbour
    neighbour.close()


def what_comes(wire: Wire) -> Answer:
    """To the end; whole messages of types that there are."""
    wire.socket.shutdown(socket.SHUT_WR)
    answer = wire.rest()
    assert set(answer.kinds) <= SERVERS_KINDS, answer
    for message in answer:
        if message.kind == "E":
            assert {"S", "C", "M"} <= set(message.fields), message
    return answer


@bounded(45)
@given(stream=streams(MESSAGES), piece=st.sampled_from((0, 0, 0, 1, 7)))
def test_garbage_behind_a_login(stream: bytes, piece: int, neighbour: Neighbour) -> None:
    with Wire.session(neighbour.proxy.port) as wire:
        wire.socket.settimeout(DEADLINE)
        try:
            step = piece or len(stream) or 1
            for start in range(0, len(stream), step):
                wire.send(stream[start : start + step])
        except OSError:
            pass  # it was shown the door before it had said everything
        try:
            what_comes(wire)
        except OSError as error:
            assert not isinstance(error, TimeoutError), show(stream, of_server=False)
    neighbour.is_well()


@bounded(45)
@given(stream=streams(FIRST))
def test_garbage_instead_of_a_login(stream: bytes, neighbour: Neighbour) -> None:
    with Wire(neighbour.proxy.port, timeout=DEADLINE) as wire:
        try:
            wire.send(stream)
            wire.socket.shutdown(socket.SHUT_WR)
            while wire.socket.recv(65536):  # the answer to a request for encryption is no message
                pass
        except OSError as error:
            assert not isinstance(error, TimeoutError), stream
    neighbour.is_well()


@pytest.mark.parametrize("last", [b"", TERMINATE, b"\x1b\0\0\0\x04"], ids=["nothing", "goodbye", "garbage"])
def test_a_goodbye_behind_copy_from_stdin(
    last: bytes, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Sent before the server has said that it takes data: the connection is soon there for others."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    with Wire.session(proxy.port) as client:
        client.ask("create temp table t (a int)")
        client.send(query("copy t from stdin"), last)
    with Wire.session(proxy.port) as other:
        other.socket.settimeout(2.0)
        assert other.ask("select 1").value == "1"
