"""A client of the console over a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pgambassador.admin.exchange import Exchange, Table
from pgambassador.errors import Refused
from pgambassador.net.channel import Channel
from pgambassador.net.console import UNREAD_MOST, Console
from pgambassador.pool.census import Stay
from pgambassador.wire import build, parse
from pgambassador.wire.frames import take_frame
from tests.loop import Loop

HELLO = build.ready_for_query(b"I")
VERSION = build.query("show version")


class Subject:
    """`far` is the client's end."""

    def __init__(self, *, early: bytes = b"") -> None:
        self.loop = Loop()
        self.ended: list[Console] = []
        self.value = "1"
        self.waits: Callable[[], bool] = lambda: False
        self.begins: Callable[[], bool] | None = None
        ours, self.far = socket.socketpair()
        self.socks = [ours, self.far]
        for sock in self.socks:
            sock.setblocking(False)
        sockets = cast(Any, self.loop)
        exchange = Exchange(self.answer, {"version": ("version",)}, {})
        self.console = Console(
            sockets,
            Channel(sockets, ours),
            exchange,
            stay=Stay(),
            ended=self.ended.append,
            waits=lambda: self.waits(),
        )
        self.console.start(HELLO, early)
        self.loop.run()

    def answer(self, verb: str, texts: tuple[str, ...]) -> Table:
        if not self.value:
            raise RuntimeError("a mistake of ours")
        if self.begins is not None:
            self.waits = self.begins
        return Table(("version",), [(self.value,)])

    def says(self, data: bytes) -> None:
        self.far.send(data)
        self.loop.run()

    def hears(self) -> list[tuple[str, bytes]]:
        data = bytearray()
        try:
            while piece := self.far.recv(1 << 20):
                data += piece
                self.loop.run()
        except BlockingIOError:
            pass
        frames = []
        while (frame := take_frame(data, 1 << 24)) is not None:
            frames.append((chr(frame[0]), frame[1]))
        return frames


@pytest.fixture
def subject() -> Iterator[Subject]:
    made = Subject()
    yield made
    for sock in made.socks:
        sock.close()


def kinds(frames: list[tuple[str, bytes]]) -> str:
    return "".join(kind for kind, _ in frames)


def test_questions_are_answered_in_pieces_too(subject: Subject) -> None:
    for byte in VERSION:
        subject.says(bytes([byte]))
    assert kinds(subject.hears()) == "ZTDCZ"
    assert not subject.ended


def test_what_came_with_the_login_is_answered() -> None:
    subject = Subject(early=VERSION)
    assert kinds(subject.hears()) == "ZTDCZ"
    subject.says(build.TERMINATE)
    assert subject.ended == [subject.console]
    for sock in subject.socks:
        sock.close()


def test_it_ends_with_its_client_once(subject: Subject) -> None:
    subject.far.close()
    subject.loop.run()
    subject.console.close()
    assert subject.ended == [subject.console]
    assert repr(subject.console) == "<Console closed>"


def test_it_is_told_when_the_process_ends(subject: Subject) -> None:
    subject.console.close()
    subject.loop.run()
    (_, (kind, payload)) = subject.hears()
    assert (kind, parse.fields(payload)["C"]) == ("E", "57P01")
    assert subject.ended == [subject.console]


@pytest.mark.parametrize("data", [b"Q\x7f\xff\xff\xff", build.frame(ord("F"))])
def test_nonsense_ends_it(subject: Subject, data: bytes) -> None:
    subject.says(data)
    (_, (kind, payload)) = subject.hears()
    assert (kind, parse.fields(payload)["C"]) == ("E", "08P01")
    assert subject.ended == [subject.console]


def test_a_mistake_of_ours_ends_it_with_an_error(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    subject.value = ""
    subject.says(VERSION)
    assert parse.fields(subject.hears()[-1][1])["C"] == "XX000"
    assert "internal error on the console" in caplog.text
    assert subject.ended == [subject.console]


EXTENDED = (
    build.frame(ord("P"), b"\0show version\0\0\0")
    + build.frame(ord("B"), b"\0\0\0\0\0\0\0\0")
    + build.frame(ord("E"), b"\0\0\0\0\0")
    + build.frame(ord("S"))
)


@pytest.mark.parametrize(
    ("asked", "heard"), [(VERSION, "ZEZ"), (EXTENDED, "Z12EZ")], ids=["simple", "extended"]
)
def test_what_fails_late_is_answered_by_its_error(asked: bytes, heard: str, subject: Subject) -> None:
    """Who asks waits meanwhile, and goes on afterwards."""
    subject.begins = lambda: True
    subject.says(asked)
    before = subject.hears()
    assert kinds(before) == heard.partition("E")[0]

    def fails() -> bool:
        subject.waits = lambda: False
        raise Refused("it could not be read", sqlstate="F0000")

    subject.begins, subject.waits = None, fails
    subject.loop.pass_time(1.0)
    frames = before + subject.hears()
    assert kinds(frames) == heard
    assert parse.fields(frames[-2][1])["C"] == "F0000"
    subject.says(VERSION)
    assert kinds(subject.hears()) == "TDCZ"


def test_who_does_not_read_is_not_read(subject: Subject) -> None:
    subject.value = "x" * 100_000
    sent = 0
    try:
        for _ in range(1000):
            subject.far.send(VERSION)
            sent += 1
            subject.loop.run()
            if not subject.console._client.reading:
                break
    except BlockingIOError:
        pass
    assert not subject.console._client.reading
    assert subject.console._client.pending < UNREAD_MOST + 200_000
    assert kinds(subject.hears()) == "Z" + "TDCZ" * sent
