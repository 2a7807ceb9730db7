"""Clients that all wait for the one connection of a play, and what they ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pgambassador.wire import build
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TRANSACTION,
    bind,
    columns,
    complete,
    execute,
    parse,
    query,
    row,
)
from tests.playbook import Client, Playbook

READ = query("select mark")
NOTHING = build.close_statement(b"pga_nothing")
"""In place of a Parse that a neighbour in the same transaction has sent."""


def answer(mark: bytes = b"1") -> bytes:
    return columns(b"mark") + row(mark) + complete("SELECT 1") + IDLE


def extended(sql: bytes) -> bytes:
    return parse(b"", sql) + bind(b"") + execute() + SYNC


def extended_answer(mark: bytes) -> bytes:
    return PARSE_COMPLETE + BIND_COMPLETE + row(mark) + complete("SELECT 1") + IDLE


# Those who share a transaction.


def one(*asked: bytes) -> bytes:
    """Simple queries as one."""
    return query(b"\n;\n".join(each[5:-1] for each in asked).decode())


def part(mark: bytes) -> bytes:
    """The answer to one of several statements."""
    return answer(mark).removesuffix(IDLE)


def early(mark: bytes) -> bytes:
    """What the server says before the Sync to the first one, and clients get."""
    return extended_answer(mark).removesuffix(IDLE)


def later(mark: bytes) -> bytes:
    """What it says behind that: what all of them parse has been parsed."""
    return CLOSE_COMPLETE + early(mark).removeprefix(PARSE_COMPLETE)


def answers(*marks: bytes) -> bytes:
    """Of those who share a Sync, before it."""
    return b"".join(later(mark) if number % 5 else early(mark) for number, mark in enumerate(marks))


def heard(many: int) -> bytes:
    """What the server hears if so many ask the same, before the Sync."""
    first = extended(b"select mark").removesuffix(SYNC)
    again = NOTHING + first.removeprefix(parse(b"", b"select mark"))
    return b"".join(again if number % 5 else first for number in range(many))


def each_gets_its_own(
    queue: Queue, clients: Sequence[Client], said: bytes, asked: bytes, whole: Callable[[bytes], bytes]
) -> None:
    """`said` answers all of them; each has had a transaction, and is as free as before: it asks again."""
    before = queue.play.lane.transactions
    queue.server.sends(said)
    for number, client in enumerate(clients):
        client.gets(whole(b"%d" % number))
    assert queue.server.is_idle
    assert queue.play.lane.transactions == before + len(clients)
    for number, client in enumerate(clients):
        client.sends(asked)
        queue.server.answers(asked, whole(b"%d" % number))
        client.gets(whole(b"%d" % number))


class Queue:
    """A client has the only connection, and all who come wait; `moves`: it lets go of it."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.server = play.server()
        self.holder = play.client()
        self.settles()

    def settles(self) -> None:
        """What they ask is known to be brief when it has been so, on this machine: who waits is looked at."""
        verdict = self.play.policy.routes.verdicts.of(b"select mark")
        probe = self.play.client()
        for _ in range(1000):
            self.begins()
            if 0 <= verdict.seconds < 0.001 and verdict.steady():
                return
            probe.writes(READ)
            self.moves()
            self.server.gets(READ)
            self.server.writes(answer(b"0"))
            probe.gets(answer(b"0"))
        raise AssertionError(f"never brief: {verdict}")

    def begins(self) -> None:
        self.holder.sends(query("begin"))
        self.server.answers(query("begin"), complete("BEGIN"), TRANSACTION)
        self.holder.gets(complete("BEGIN"), TRANSACTION)

    def waits(self, *asked: bytes, buffer: int = 0) -> Client:
        client = self.play.client(buffer=buffer)
        client.writes(b"".join(asked))  # what comes in pieces is not known to be brief when it begins to wait
        assert client.session.waiting
        return client

    def moves(self) -> None:
        self.holder.sends(query("commit"))
        self.server.answers(query("commit"), complete("COMMIT"), IDLE)
        self.holder.gets(complete("COMMIT"), IDLE)
