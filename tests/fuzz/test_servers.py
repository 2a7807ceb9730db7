"""Whatever a server answers, its client gets whole messages and an end, and the next client is served."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.embedded.ports import HOST
from pgambassador.wire import build
from tests.fuzz.mutations import bounded, streams
from tests.harness import Ambassador, Message, Wire
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    EMPTY,
    FAILED,
    FUNCTION_RESULT,
    IDLE,
    NO_DATA,
    PARSE_COMPLETE,
    SUSPENDED,
    SYNC,
    TRANSACTION,
    bind,
    columns,
    complete,
    copy_data,
    describe,
    error,
    execute,
    fatal,
    notice,
    notification,
    parameter_description,
    parameter_status,
    parse,
    query,
    row,
    show,
)

REPLIES = (
    IDLE,
    IDLE,
    TRANSACTION,
    FAILED,
    PARSE_COMPLETE,
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    NO_DATA,
    SUSPENDED,
    EMPTY,
    COPY_IN,
    COPY_OUT,
    COPY_DONE,
    FUNCTION_RESULT,
    columns(b"a", b"b"),
    row(b"1", None),
    row(b"x" * 3000),
    complete("SELECT 1"),
    complete("SET"),
    complete("DISCARD ALL"),
    complete("LISTEN"),
    copy_data(b"1\n"),
    error(),
    error("26000"),
    error("0A000"),
    fatal(),
    notice("so it is"),
    notification(b"news", b"x"),
    parameter_description(23, 25),
    parameter_status("TimeZone", "Asia/Tokyo"),
    parameter_status("", ""),
    build.authentication_ok(),
    build.backend_key_data(1, b"0123"),
)
QUESTIONS = {
    "simple": query("select 1"),
    "set": query("set timezone = 'Asia/Tokyo'"),
    "extended": parse(b"", b"select $1") + bind(b"", b"1") + describe(b"") + execute() + SYNC,
    "named": parse(b"s", b"select $1") + bind(b"s", b"1") + describe(b"s") + execute() + SYNC,
    "copy": query("copy t from stdin") + copy_data(b"1\n") + COPY_DONE,
}
WELL = build.query("are you well?")


class Stranger:
    """A server that logs everybody in, and answers the first thing it is asked with `reply`, and no more."""

    def __init__(self) -> None:
        self.reply = b""
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, contextlib.suppress(OSError):
            end.recv(65536)
            end.sendall(
                b"".join(
                    (
                        build.authentication_ok(),
                        parameter_status("server_version", "18.1"),
                        parameter_status("client_encoding", "UTF8"),
                        parameter_status("TimeZone", "UTC"),
                        build.backend_key_data(7, b"0123"),
                        IDLE,
                    )
                )
            )
            asked = end.recv(65536)
            while WELL in asked:
                end.sendall(columns(b"a") + row(b"well") + complete("SELECT 1") + IDLE)
                asked = end.recv(65536)
            if asked:
                end.sendall(self.reply)
                end.shutdown(socket.SHUT_WR)
                while end.recv(65536):
                    pass


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    with contextlib.closing(Stranger()) as server:
        yield server


@pytest.fixture(scope="module", params=["transaction", "session"])
def proxy(
    request: pytest.FixtureRequest, stranger: Stranger, ambassadors: Callable[..., Ambassador]
) -> Ambassador:
    return ambassadors(
        f"postgresql://app:secret@{HOST}:{stranger.port}/app?sslmode=disable",
        pool={"mode": request.param, "size": 1, "wait_notice": "off"},
    )


def heard(wire: Wire) -> list[Message]:
    """Up to the end. The last message may be cut off, where the server has cut it off."""
    messages = []
    try:
        wire.socket.shutdown(socket.SHUT_WR)
        while True:
            messages.append(wire.receive())
    except OSError as error:
        assert not isinstance(error, TimeoutError), messages
    return messages


@bounded(45)
@given(reply=streams(REPLIES), question=st.sampled_from(sorted(QUESTIONS)))
def test_garbage_for_an_answer(reply: bytes, question: str, stranger: Stranger, proxy: Ambassador) -> None:
    before = proxy.stderr.stat().st_size
    stranger.reply = reply
    with Wire.session(proxy.port) as wire:
        wire.send(QUESTIONS[question])
        messages = heard(wire)
    whole = b"".join(build.frame(ord(each.kind), each.payload) for each in messages)
    assert len(whole) < len(reply) + 2000, show(whole, of_server=True)
    with Wire.session(proxy.port) as other:
        other.send(WELL)
        answer = other.until("Z")
        assert answer.kinds == "TDCZ", answer
        assert answer.value == "well"
    with proxy.stderr.open() as log:
        log.seek(before)
        said = log.read()
    assert "Traceback" not in said and "internal error" not in said, said
