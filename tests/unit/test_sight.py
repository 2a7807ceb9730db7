"""What a client is about to ask: one part of its pipeline, read before it goes anywhere."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from pgambassador.net.choice import Choice
from pgambassador.net.lane import Lane
from tests.messages import (
    BIND_COMPLETE,
    FLUSH,
    FUNCTION_CALL,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    bind,
    close_statement,
    complete,
    copy_data,
    describe,
    describe_portal,
    execute,
    parse,
    query,
)
from tests.playbook import Client, MakePlay, Playbook, Server
from tests.policies import Routed

SELECT, WRITE = b"select mark", b"write"


class Split:
    def __init__(self, play: Playbook) -> None:
        self.play, self.lane = play, Lane(play.policy, (1.0,), 1, False, 100)
        lane = self.lane
        lane.standby = True
        lane.fresh_until = math.inf
        choice = play.lane.choice = Choice(cast(Any, play.policy), max_lag=math.inf)
        choice.lanes = (lane,)
        self.primary, self.standby = play.server(), play.server(lane=lane)
        self.client = play.client()

    def asks(self, *messages: bytes) -> Server:
        """Who hears something of these."""
        data = b"".join(messages)
        (self.client.sends if len(data) < 1000 else self.client.writes)(data)
        heard = [server for server in (self.primary, self.standby) if server.read_all()]
        assert len(heard) == 1
        return heard[0]


@pytest.fixture
def split(plays: MakePlay) -> Split:
    return Split(plays(policy=Routed()))


def unnamed(text: bytes = SELECT) -> bytes:
    return parse(b"", text) + bind(b"") + execute()


@pytest.mark.parametrize(
    "messages",
    [
        query(SELECT),
        unnamed() + SYNC,
        unnamed() + unnamed() + SYNC,
        parse(b"s", SELECT) + describe(b"s") + SYNC,
        parse(b"s", SELECT) + bind(b"s") + describe_portal() + execute() + SYNC,
        parse(b"s", SELECT) + bind(b"s") + execute(b"", 10) + SYNC,
        query(b"begin read only"),
        unnamed(b"begin read only") + SYNC,
        unnamed() + unnamed(b"begin read only") + SYNC,
        unnamed(b"begin read only") + unnamed() + SYNC,
        unnamed(b"begin read only") + unnamed() + unnamed() + SYNC,
    ],
)  # fmt: skip
def test_what_a_standby_may_answer(split: Split, messages: bytes) -> None:
    assert split.asks(messages) is split.standby


@pytest.mark.parametrize(
    "messages",
    [
        query(WRITE),
        unnamed(WRITE) + SYNC,
        unnamed() + unnamed(WRITE) + SYNC,
        unnamed(WRITE) + unnamed() + SYNC,
        unnamed(b"begin read only") + unnamed(b"commit") + unnamed(WRITE) + SYNC,
        unnamed(b"begin read only") + unnamed() + unnamed(WRITE) + SYNC,
        unnamed(b"begin read only") + unnamed(b"begin") + SYNC,
        unnamed(b"begin") + unnamed() + SYNC,
        unnamed(b"set transaction read only") + unnamed() + SYNC,
        unnamed() + FLUSH,
        unnamed() + close_statement(b"x") + SYNC,
        bind(b"unknown") + execute() + SYNC,
        bind(b"") + execute() + SYNC,
        describe(b"unknown") + SYNC,
        execute() + SYNC,
        FUNCTION_CALL,
        unnamed() + query(SELECT) + SYNC,
        unnamed() + copy_data(b"x") + SYNC,
        query(SELECT + b" " * 70_000),
        parse(b"", SELECT) + bind(b"", b"x" * 70_000) + execute() + SYNC,
    ],
)  # fmt: skip
def test_what_is_the_primarys(split: Split, messages: bytes) -> None:
    assert split.asks(messages) is split.primary


def test_a_part_goes_when_all_of_it_is_here(split: Split) -> None:
    split.client.sends(unnamed())
    split.standby.gets_nothing()
    split.primary.gets_nothing()
    assert split.asks(SYNC) is split.standby


def test_what_is_long_is_not_waited_for(split: Split) -> None:
    start = parse(b"", SELECT) + bind(b"", b"x" * 100_000)
    assert split.asks(start[:200]) is split.primary
    split.client.writes(start[200:])
    split.primary.read_all()


def answered(client: Client, server: Server) -> None:
    server.read_all()
    server.sends(PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)


@pytest.mark.parametrize("text", [SELECT, WRITE])
@pytest.mark.parametrize("name", [b"", b"s"])
def test_a_statement_is_known_in_the_next_part(split: Split, name: bytes, text: bytes) -> None:
    reads = text == SELECT
    there = split.standby if reads else split.primary
    split.client.sends(parse(name, text), SYNC)
    answered(split.client, there)
    if not reads:
        split.lane.fresh_until = math.inf
    assert split.asks(bind(name), execute(), SYNC) is there


def test_what_is_known_of_a_statement_is_forgotten_with_all_else(split: Split) -> None:
    split.client.sends(parse(b"s", SELECT), SYNC)
    answered(split.client, split.standby)
    split.client.sends(bind(b"s"), execute(), SYNC)
    split.standby.read_all()
    split.standby.sends(BIND_COMPLETE, complete("SELECT 0"), IDLE)
    split.client.gets(BIND_COMPLETE, complete("SELECT 0"), IDLE)
    split.play.policy.routes.judge_as_writes = True
    split.play.policy.routes.verdicts.clear()
    assert split.asks(bind(b"s"), execute(), SYNC) is split.primary


def test_a_session_may_stay_at_the_primary(split: Split) -> None:
    split.play.policy.routes.route = "primary"
    assert split.asks(query(SELECT)) is split.primary


def test_the_last_statement_does_not_hide_one_that_may_write(split: Split) -> None:
    """Sent to a replica by a rule, and to the primary for want of one: it may have written."""
    split.lane.fresh_until = -2.0
    messages = (unnamed(b"ruled"), unnamed(), SYNC)
    assert split.asks(*messages) is split.primary
    done = (PARSE_COMPLETE, BIND_COMPLETE, complete("X"))
    split.primary.sends(*done, *done, IDLE)
    split.client.gets(*done, *done, IDLE)
    assert split.client.session.written_at > 0
