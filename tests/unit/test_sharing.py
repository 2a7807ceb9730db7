"""Sharing a server connection, where what is asked again is not what was asked first."""

from __future__ import annotations

import pytest

from pgambassador.config.routing import Routing
from pgambassador.net.lane import Lane
from pgambassador.net.routes import Routes
from pgambassador.protocol.settings import Settings
from tests.crowd import Queue, early, extended, extended_answer
from tests.messages import IDLE, PARSE_COMPLETE, SYNC, bind, execute, parse
from tests.playbook import Playbook
from tests.policies import Policy, Routed
from tests.unit.test_together import ASKED, SQL, ready

OTHER = b"select  mark"  # of the same shape


@pytest.fixture
def play():
    made = ready(Playbook(policy=Routed(), limit=2))
    yield made
    made.end()


def test_who_redefines_the_unnamed_statement_behind_its_use_shares_no_connection(play: Playbook) -> None:
    """Asked again, it would bind the later one."""
    queue = Queue(play)
    first = queue.waits(ASKED)
    second = queue.waits(parse(b"", SQL) + SYNC)
    queue.moves()
    queue.server.answers(ASKED, extended_answer(b"0"))
    first.gets(extended_answer(b"0"))
    queue.server.answers(parse(b"", SQL) + SYNC, PARSE_COMPLETE, IDLE)
    second.gets(PARSE_COMPLETE, IDLE)
    queue.begins()
    first.writes(ASKED)
    second.writes(bind(b"") + execute() + parse(b"", OTHER) + SYNC)
    queue.moves()
    queue.server.gets(ASKED)
    assert second.session.waiting


def test_what_proves_to_write_while_it_waits_shares_no_transaction(play: Playbook) -> None:
    """Two wait; before their turn comes what they ask is known to write."""
    play.lane.limit = 1
    queue = Queue(play)
    clients = [queue.waits(extended(SQL)) for _ in range(2)]
    play.policy.routes.judge_as_writes = True
    play.policy.routes.verdicts.clear()
    play.lane.part()
    queue.moves()
    queue.server.gets(ASKED)
    queue.server.sends(early(b"0"), IDLE)
    clients[0].gets(extended_answer(b"0"))
    queue.server.answers(ASKED, extended_answer(b"1"))
    clients[1].gets(extended_answer(b"1"))


@pytest.mark.parametrize("value", ["SERIALIZABLE", "Serializable"])
def test_serializable_in_other_letters(value: str) -> None:
    """PostgreSQL reads the names of an enum's values in any case."""
    routes = Routes(Lane(Policy(), (0.5,), 1, False, 100), Routing())
    assert not routes.joins(Settings.of({"default_transaction_isolation": value}))
