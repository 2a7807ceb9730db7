"""Two sockets, and what comes from one goes to the other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgambassador.net.channel import Channel
from pgambassador.net.tunnel import Tunnel
from pgambassador.pool.census import Stay
from tests.loop import Loop

BUFFER = 100_000


class Subject:
    """`client` and `server` are the far ends."""

    def __init__(self, *, leftover: bytes = b"", early: bytes = b"") -> None:
        self.loop = Loop()
        self.ended: list[Tunnel] = []
        ours, self.client = socket.socketpair()
        theirs, self.server = socket.socketpair()
        self.socks = [ours, self.client, theirs, self.server]
        for sock in self.socks:
            sock.setblocking(False)
        link: Any = SimpleNamespace(
            sock=theirs, tls=None, incoming=None, outgoing=None, address="db", leftover=leftover
        )
        client = Channel(cast(Any, self.loop), ours)
        self.tunnel = Tunnel(
            cast(Any, self.loop),
            client,
            link,
            cast(Any, None),
            buffer=BUFFER,
            stay=Stay(),
            ended=self.ended.append,
        )
        self.tunnel.start(b"welcome ", early)
        self.loop.run()

    def carries(self, sender: socket.socket, receiver: socket.socket, size: int) -> None:
        """All of it arrives, in its order, however little the kernel takes at a time."""
        data = bytes(i * 7 % 251 for i in range(size))
        sent, received = 0, bytearray()
        while len(received) < size:
            try:
                sent += sender.send(data[sent : sent + 65536]) if sent < size else 0
            except BlockingIOError:
                pass
            self.loop.run()
            received += _read(receiver)
            self.loop.run()
        assert bytes(received) == data

    def close(self) -> None:
        self.tunnel.close()
        for sock in self.socks:
            sock.close()


def _read(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


@pytest.fixture
def subject() -> Iterator[Subject]:
    subject = Subject(leftover=b"and more", early=b"early")
    yield subject
    subject.close()


def test_what_came_before_is_delivered_first(subject: Subject) -> None:
    assert _read(subject.client) == b"welcome and more"
    assert _read(subject.server) == b"early"


def test_both_directions(subject: Subject) -> None:
    _read(subject.client), _read(subject.server)
    subject.carries(subject.client, subject.server, 3_000_000)
    subject.carries(subject.server, subject.client, 3_000_000)


def test_who_reads_late_stops_the_other(subject: Subject) -> None:
    taken = 0
    for _ in range(1000):
        try:
            taken += subject.server.send(bytes(65536))
        except BlockingIOError:
            break
        subject.loop.run()
    # The kernel's buffers on the way, ours, and one read beyond it.
    assert taken < 2_000_000
    received = 0
    while received < taken:
        received += len(_read(subject.client))
        subject.loop.run()
    assert subject.server.send(b"x") == 1


@pytest.mark.parametrize("side", ["client", "server"])
def test_the_end_of_one_is_the_end_of_the_other(subject: Subject, side: str) -> None:
    here, there = (subject.client, subject.server) if side == "client" else (subject.server, subject.client)
    _read(there)
    here.send(b"last words")
    here.close()
    subject.loop.run()
    assert _read(there) == b"last words"
    assert there.recv(1) == b""
    assert subject.ended == [subject.tunnel]
    assert "closed" in repr(subject.tunnel)


def test_it_ends_once(subject: Subject) -> None:
    subject.tunnel.close()
    subject.client.close()
    subject.tunnel.close()
    subject.loop.run()
    assert subject.ended == [subject.tunnel]
