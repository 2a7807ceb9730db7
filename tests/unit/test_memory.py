"""What is kept for clients is counted, and what happens when it is too much."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pgambassador.errors import Refused
from pgambassador.net import tally
from pgambassador.net.memory import Memory
from pgambassador.pool.pressure import PATIENCE
from pgambassador.wire import parse as parsed
from tests.messages import IDLE, PARSE_COMPLETE, SYNC, complete, parse, query
from tests.playbook import Client, Playbook

MOST = 1 << 20
LONG = parse(b"", b"select '" + b"x" * 300_000 + b"'")
BULKY = parse(b"", b"select '" + b"x" * (1 << 20) + b"'")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    gc.collect()  # what other tests have left must not become less meanwhile
    yield
    tally.limit(1 << 60, None)


def half(client: Client, size: int = 250_000) -> None:
    """A part of a message, which has to be kept until the rest of it comes."""
    says(client, LONG[:size])


def says(client: Client, data: bytes) -> None:
    """More than a socket takes at once."""
    for at in range(0, len(data), 50_000):
        client.writes(data[at : at + 50_000])


def test_what_is_kept_is_counted_and_given_back() -> None:
    play, before = Playbook(), tally.held_now()
    client = play.client()
    half(client)
    assert tally.held_now() - before == 250_000
    assert client.session.holds() == 250_000
    client.leaves()
    assert tally.held_now() == before
    play.end()


def test_a_statement_without_a_name_is_counted_as_long_as_it_is_kept() -> None:
    play, before = Playbook(), tally.held_now()
    client, server = play.client(), play.server()
    says(client, LONG + SYNC)
    server.answers((LONG, SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    assert client.session.holds() == len(LONG)
    client.sends(query("x"))
    server.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    assert tally.held_now() == before
    play.end()


def test_statements_with_a_name_are_counted() -> None:
    play, before = Playbook(), tally.held_now()
    client, server = play.client(), play.server()
    named = parse(b"s", b"select '" + b"x" * 30_000 + b"'")
    client.sends(named, SYNC)
    server.read_all()
    server.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    assert tally.held_now() - before >= 60_000
    assert client.session.holds() >= 60_000
    play.end()


def test_each_name_of_a_statement_is_counted() -> None:
    """They may all mean the same statement."""
    play, before = Playbook(), tally.held_now()
    client, server = play.client(), play.server()
    client.sends(*(parse(b"%d" % number, b"select 1") for number in range(1000)), SYNC)
    server.read_all()
    half(client)
    assert tally.held_now() - before >= 200 * 1000 + 250_000
    client.leaves()
    assert tally.held_now() - before < 1000
    server.read_all()
    play.end()


def test_what_a_reader_does_not_take_is_counted() -> None:
    play, before = Playbook(), tally.held_now()
    client, server = play.client(buffer=4096), play.server()
    client.sends(query("x"))
    server.gets(query("x"))
    server.sends(b"D" + (200_000).to_bytes(4, "big") + b"x" * 199_996)
    assert tally.held_now() - before == client.channel.pending > 10_000
    client.read_all()
    assert tally.held_now() == before
    server.sends(complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    play.end()


def test_of_long_statements_one_at_a_time_is_under_way() -> None:
    """What is kept of them until they are answered would have no bound."""
    play = Playbook()
    client, server = play.client(), play.server()
    says(client, BULKY)
    heard = server.read_all()
    assert heard == BULKY + b"H\0\0\0\4"
    says(client, BULKY)
    assert server.read_all() == b""
    server.sends(PARSE_COMPLETE)
    assert server.read_all() == BULKY + b"H\0\0\0\4"
    client.sends(SYNC)
    server.answers(SYNC, PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, PARSE_COMPLETE, IDLE)
    play.end()


class Bounded(Playbook):
    """With a memory over all sessions; the loop has no clock, so that a test says when it looks."""

    def __init__(self) -> None:
        super().__init__()
        gc.collect()  # what other tests have left must not become less meanwhile
        self.base = tally.held_now()
        self.alarms = 0
        self.sessions: list[Client] = []
        self.memory = Memory(self.base + MOST, lambda: [each.session for each in self.sessions])
        tally.limit(self.base + MOST * 3 // 4, self.alarm)

    def alarm(self) -> None:
        self.alarms += 1
        self.memory._at_work = True

    def comes(self) -> Client:
        self.sessions.append(self.client())
        return self.sessions[-1]


def test_who_holds_much_is_not_read_when_it_gets_tight_and_ended_if_that_does_not_help() -> None:
    play = Bounded()
    play.memory._pressure.soft = play.base + MOST * 3 // 4
    many = [play.comes() for _ in range(4)]
    server, small = play.server(), play.comes()
    for each in many[:3]:
        half(each)
    play.memory.tick(0.0)
    assert all(each.is_read() for each in many)
    half(many[3], 150_000)
    assert play.alarms == 1
    play.memory.tick(1.0)
    assert not any(each.is_read() for each in many)
    assert small.is_read()
    with pytest.raises(Refused) as caught:
        play.memory.check_room()
    assert caught.value.sqlstate == "53200"
    small.sends(query("x"))
    server.answers(query("x"), complete("X"), IDLE)
    small.gets(complete("X"), IDLE)
    play.memory.tick(1.0 + PATIENCE)
    ended = [each for each in many if each.session.closed]
    assert play.memory.ended == len(ended) >= 1
    for each in ended:
        message = each.read_all()
        assert parsed.fields(message[5:])["M"].startswith("terminating connection because too much is held")
    play.memory.tick(2.0 + PATIENCE)
    assert all(each.is_read() for each in many if each not in ended)
    play.memory.check_room()
    play.end()


def test_above_the_bound_somebody_goes_at_once() -> None:
    play = Bounded()
    tally.limit(1 << 60, None)
    many = [play.comes() for _ in range(6)]
    for number, each in enumerate(many):
        each.session.facts.connected_at = float(number)
        half(each)
    many[5].session.priority = 1
    play.memory.tick(0.0)
    # The newest, but not the one of a higher priority, until there is room.
    assert [each.session.closed for each in many] == [False, False, False, True, True, False]
    for each in many:
        each.read_all()
    play.end()
