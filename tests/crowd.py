"""Clients that all wait for the one connection of a play, and what they ask."""

from __future__ import annotations

from tests.messages import (
    BIND_COMPLETE,
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


def answer(mark: bytes = b"1") -> bytes:
    return columns(b"mark") + row(mark) + complete("SELECT 1") + IDLE


def extended(sql: bytes) -> bytes:
    return parse(b"", sql) + bind(b"") + execute() + SYNC


def extended_answer(mark: bytes) -> bytes:
    return PARSE_COMPLETE + BIND_COMPLETE + row(mark) + complete("SELECT 1") + IDLE


class Queue:
    """A client has the only connection, and all who come wait; `moves`: it lets go of it."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.server = play.server()
        self.holder = play.client()
        verdict = play.policy.routes.verdicts.of(b"select mark")
        probe = play.client()
        # It is known to be brief when it has been so, on this machine: who waits is looked at.
        for _ in range(1000):
            self._begins()
            if 0 <= verdict.seconds < 0.001:
                return
            probe.writes(READ)
            self.moves()
            self.server.gets(READ)
            self.server.writes(answer(b"0"))
            probe.gets(answer(b"0"))
        raise AssertionError(f"never brief: {verdict}")

    def _begins(self) -> None:
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
