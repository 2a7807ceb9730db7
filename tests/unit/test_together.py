"""Several clients in one transaction of a server connection: one Sync for all changes nothing for any."""

from __future__ import annotations

import math
import time
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgambassador.net.backend import Backend
from pgambassador.net.lane import Borrower
from pgambassador.wire import build
from tests.crowd import (
    READ,
    Queue,
    answer,
    answers,
    each_gets_its_own,
    early,
    extended,
    extended_answer,
    heard,
    later,
)
from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    bind,
    columns,
    complete,
    describe,
    error,
    execute,
    fatal,
    parameter_description,
    parse,
    query,
    row,
)
from tests.playbook import Client, MakePlay, Playbook, Server
from tests.policies import Routed

SQL = b"select mark"
ASKED = extended(SQL)
FAILED = PARSE_COMPLETE + BIND_COMPLETE + error("22012")
LATE = math.inf
CANCELED = build.error_response("ERROR", "57014", "canceling statement")


PATIENCE, LOST = 5, 9
"""Times what an answer takes usually, until all but the first ask elsewhere, and until that does."""


def passes(queue: Queue, times: float) -> float:
    """So much, with nothing answered: what time it is then."""
    queue.play.lane.first_answer = 1000.0
    now = time.monotonic() + times * 1000.0
    assert queue.server.backend.relieve(now)
    return now


def awaited(queue: Queue) -> tuple[object, float]:
    """Whose answer comes next, and since when."""
    running = queue.server.backend.running
    assert running is not None
    return running[:2]


def unsynced(asked: bytes) -> bytes:
    return asked.removesuffix(SYNC)


@pytest.fixture
def play(plays: MakePlay) -> Playbook:
    return ready(plays(policy=Routed(), limit=1))


def ready(play: Playbook) -> Playbook:
    play.lane.batching = True
    play.lane.together = 60.0
    return play


def crowd(play: Playbook, many: int = 3) -> tuple[Queue, list[Client]]:
    """So many have asked, in one write."""
    queue = Queue(play)
    clients = [queue.waits(ASKED) for _ in range(many)]
    queue.moves()
    queue.server.gets(heard(many), SYNC)
    return queue, clients


def test_one_sync_does_for_all(play: Playbook) -> None:
    queue, clients = crowd(play)
    each_gets_its_own(queue, clients, answers(b"0", b"1", b"2") + IDLE, ASKED, extended_answer)


def test_what_one_of_them_takes_is_not_known(play: Playbook) -> None:
    """Nor is it taken for what it takes behind another, beside which what it takes alone would not count."""
    queue, clients = crowd(play)
    queue.server.sends(answers(b"0", b"1", b"2"), IDLE)
    for number, client in enumerate(clients):
        client.gets(extended_answer(b"%d" % number))
    verdict = play.policy.routes.verdicts.of(SQL)
    verdict.took(60.0, False, False)
    assert not verdict.brief()


def test_each_is_ready_when_its_statement_is_done(play: Playbook) -> None:
    queue, clients = crowd(play)
    for number, client in enumerate(clients):
        for other in clients[number:]:
            other.gets_nothing()
        queue.server.sends(later(b"%d" % number) if number else early(b"0"))
        if number < 2:
            client.gets(extended_answer(b"%d" % number))
    clients[2].gets(early(b"2"))
    queue.server.sends(IDLE)
    clients[2].gets(IDLE)
    assert queue.server.is_idle


def test_who_is_ready_early_goes_on_at_once(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.sends(early(b"0"))
    clients[0].gets(extended_answer(b"0"))
    clients[0].sends(query("write"))
    queue.server.sends(later(b"1"), later(b"2"), IDLE)
    queue.server.answers(query("write"), complete("WRITE"), IDLE)
    clients[0].gets(complete("WRITE"), IDLE)
    for number in (1, 2):
        clients[number].gets(extended_answer(b"%d" % number))


def test_a_simple_query_has_its_own(play: Playbook) -> None:
    queue = Queue(play)
    asked = (ASKED, ASKED, READ, ASKED, ASKED)
    clients = [queue.waits(each) for each in asked]
    queue.moves()
    queue.server.gets(heard(2), SYNC, READ, heard(2), SYNC)
    queue.server.sends(answers(b"0", b"1"), IDLE, answer(b"2"), answers(b"3", b"4"), IDLE)
    for number, client in enumerate(clients):
        client.gets(answer(b"2") if number == 2 else extended_answer(b"%d" % number))


def test_what_takes_longer_has_its_own(play: Playbook) -> None:
    play.lane.together = 1e-12
    queue = Queue(play)
    clients = [queue.waits(ASKED) for _ in range(2)]
    queue.moves()
    queue.server.answers((ASKED, ASKED), extended_answer(b"0"), extended_answer(b"1"))
    for number, client in enumerate(clients):
        client.gets(extended_answer(b"%d" % number))


def test_what_has_been_long_of_late_has_its_own(play: Playbook) -> None:
    """What is answered before one that is long comes with it, at the transaction's end."""
    queue = Queue(play)
    for _ in range(2):
        play.policy.routes.verdicts.of(SQL).took(0.025, True, False)
    clients = [queue.waits(ASKED) for _ in range(2)]
    queue.moves()
    queue.server.answers((ASKED, ASKED), extended_answer(b"0"), extended_answer(b"1"))
    for number, client in enumerate(clients):
        client.gets(extended_answer(b"%d" % number))


@pytest.mark.parametrize(("size", "together"), [(5000, 1), (3000, 2), (500, 3)])
def test_what_they_have_to_say_fits_into_what_a_server_keeps(
    play: Playbook, size: int, together: int
) -> None:
    """Who has got a part of its answer cannot ask again, and the rest may wait for those behind it."""
    queue = Queue(play)
    alone = queue.waits(ASKED)
    queue.moves()
    queue.server.answers(ASKED, extended_answer(b"0" * size))
    alone.gets(extended_answer(b"0" * size))
    queue.settles()
    clients = [queue.waits(ASKED) for _ in range(3)]
    queue.moves()
    shares = [len(clients[first : first + together]) for first in range(0, 3, together)]
    queue.server.gets(*(heard(share) + SYNC for share in shares))
    queue.server.sends(*(answers(*[b"1"] * share) + IDLE for share in shares))
    for client in clients:
        client.gets(extended_answer(b"1"))


def test_what_is_asked_behind_it_in_one_write_is_another_matter(play: Playbook) -> None:
    queue, long = Queue(play), b"0" * 9000
    verdict = play.policy.routes.verdicts.of(SQL)
    client = queue.waits(ASKED, extended(b"select long"))
    queue.moves()
    queue.server.gets(ASKED, extended(b"select long"))
    queue.server.sends(extended_answer(b"0"), extended_answer(long))
    client.gets(extended_answer(b"0"), extended_answer(long))
    assert 0 < verdict.volume < 500


@pytest.mark.parametrize("never", ["pool", "session"])
def test_what_is_serializable_may_fail_at_its_end_and_has_its_own(plays: MakePlay, never: str) -> None:
    play = ready(plays(policy=Routed(), limit=1))
    state = "serializable" if never == "session" else "base"
    if never == "pool":
        play.lane.together = 0.0
    queue = Queue(play)
    queue.server.backend.state = state
    clients = [play.client(state) for _ in range(2)]
    for client in clients:
        client.writes(ASKED)
    queue.holder.session.state = state
    queue.moves()
    queue.server.answers((ASKED, ASKED), extended_answer(b"0"), extended_answer(b"1"))
    for number, client in enumerate(clients):
        client.gets(extended_answer(b"%d" % number))


def serve(server: Server, clients: list[Client]) -> None:
    """They ask again, each alone, in whatever order."""
    for _ in clients:
        server.answers(ASKED, extended_answer(b"again"))
    for client in clients:
        client.gets(extended_answer(b"again"))


# Errors.


def said(who: int) -> bytes:
    """What the server says if one of them fails."""
    before = [b"%d" % number for number in range(who)]
    return answers(*before) + (CLOSE_COMPLETE if who else PARSE_COMPLETE) + BIND_COMPLETE + error("22012")


@pytest.mark.parametrize("who", [0, 1, 2])
def test_an_error_is_that_of_one_alone_and_who_was_not_heard_asks_again(play: Playbook, who: int) -> None:
    queue, clients = crowd(play)
    queue.server.sends(said(who), IDLE)
    for number in range(who):
        clients[number].gets(extended_answer(b"%d" % number))
    clients[who].gets(FAILED, IDLE)
    serve(queue.server, clients[who + 1 :])
    assert queue.server.is_idle
    assert play.lane.repeated == 2 - who


KNOWN = parse(b"pga_1", SQL)
RUN = bind(b"pga_1") + execute() + SYNC


def run_where_it_is_not_known(play: Playbook, many: int) -> tuple[Queue, Client, list[Client]]:
    """One asks what will fail, and behind it so many run a statement that they have prepared elsewhere."""
    queue = Queue(play)
    described = parameter_description() + columns(b"mark") + IDLE
    clients = [queue.waits(parse(b"s", SQL) + describe(b"s") + SYNC) for _ in range(many)]
    queue.moves()
    for number, client in enumerate(clients):
        asked = describe(b"pga_1") + SYNC
        queue.server.answers(asked if number else KNOWN + asked, b"" if number else PARSE_COMPLETE, described)
        client.gets(PARSE_COMPLETE, described)
    queue.server.leaves()
    queue.server = play.server()
    queue.holder.sends(query("begin"))
    queue.server.answers(query("begin"), complete("BEGIN"), b"Z\0\0\0\5T")
    queue.holder.gets(complete("BEGIN"), b"Z\0\0\0\5T")
    failing = queue.waits(ASKED)
    for client in clients:
        client.writes(bind(b"s") + execute() + SYNC)
    queue.moves()
    return queue, failing, clients


def test_what_was_taught_behind_an_error_is_taught_again(play: Playbook) -> None:
    queue, failing, (client,) = run_where_it_is_not_known(play, 1)
    queue.server.answers((unsynced(ASKED), KNOWN, RUN), FAILED, IDLE)
    failing.gets(FAILED, IDLE)
    queue.server.answers((KNOWN, RUN), PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), IDLE)
    client.gets(BIND_COMPLETE, complete("SELECT 0"), IDLE)


def test_and_for_who_is_in_the_next_transaction(play: Playbook) -> None:
    """What is known to say much shares with one neighbour at most."""
    play.policy.routes.verdicts.of(SQL).said(3000)
    queue, failing, (first, second) = run_where_it_is_not_known(play, 2)
    unknown = error("26000")
    queue.server.answers((unsynced(ASKED), KNOWN, RUN, RUN), FAILED, IDLE, unknown, IDLE)
    failing.gets(FAILED, IDLE)
    done = BIND_COMPLETE + complete("SELECT 0") + IDLE
    queue.server.answers((KNOWN, RUN), PARSE_COMPLETE, done)
    queue.server.answers(RUN, done)
    first.gets(done)
    second.gets(done)


# Leaving, and being lost.


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("fails", [False, True])
def test_the_answer_to_who_has_gone_is_nobodys(play: Playbook, who: int, fails: bool) -> None:
    queue, clients = crowd(play)
    clients[who].leaves()
    if not fails:
        queue.server.sends(answers(b"0", b"1", b"2"), IDLE)
        for number in {0, 1, 2} - {who}:
            clients[number].gets(extended_answer(b"%d" % number))
    else:
        queue.server.sends(said(who), IDLE)
        for number in range(who):
            clients[number].gets(extended_answer(b"%d" % number))
        serve(queue.server, clients[who + 1 :])
    assert queue.server.is_idle


@pytest.mark.parametrize("last_words", [fatal(), b""], ids=["says why", "says nothing"])
def test_if_the_connection_dies_who_has_no_answer_asks_again(play: Playbook, last_words: bytes) -> None:
    queue, clients = crowd(play)
    queue.server.writes(early(b"0") + last_words)
    queue.server.leaves()
    clients[0].gets(extended_answer(b"0"))
    serve(play.server(), clients[1:])


@pytest.mark.parametrize("who", [0, 1, 2])
def test_who_gives_up_is_told_at_once(play: Playbook, who: int) -> None:
    queue, clients = crowd(play)
    leads = clients[who].session.give_up(CANCELED)
    clients[who].gets(CANCELED, IDLE)
    others = [number for number in range(3) if number != who]
    if who == 0:
        # Its statement is cancelled; the others ask again, and nobody waits for what is left here.
        assert leads is queue.server.backend
        queue.server.sends(CANCELED, IDLE)
        serve(queue.server, [clients[number] for number in others])
    else:
        assert leads is None
        queue.server.sends(answers(b"0", b"1", b"2"), IDLE)
        for number in others:
            clients[number].gets(extended_answer(b"%d" % number))
    assert queue.server.is_idle


def test_a_cancel_request_that_hits_somebody_else_is_not_noticed(play: Playbook) -> None:
    queue, clients = crowd(play)
    queue.server.writes(early(b"0") + CLOSE_COMPLETE + BIND_COMPLETE + CANCELED + IDLE)
    clients[0].gets(extended_answer(b"0"))
    serve(queue.server, clients[1:])


def test_those_behind_one_that_takes_long_ask_elsewhere(play: Playbook) -> None:
    play.lane.limit = 2
    queue, clients = crowd(play)
    passes(queue, PATIENCE)
    assert awaited(queue)[0] is clients[0].session
    serve(play.server(), clients[1:])
    queue.server.sends(answers(b"0", b"old", b"older"), IDLE)
    clients[0].gets(extended_answer(b"0"))
    assert queue.server.is_idle and not queue.server.backend.relieve(LATE)


def test_in_the_end_the_first_does_so_too(play: Playbook) -> None:
    """It may be another that takes long. Nobody awaits what is left, which is known from then on."""
    play.lane.limit = 2
    queue, clients = crowd(play)
    now = passes(queue, LOST)
    assert awaited(queue) == (None, now)
    serve(play.server(), clients)
    queue.server.sends(answers(b"lost", b"old", b"older"), IDLE)
    assert queue.server.is_idle and queue.server.backend.running is None


def test_what_has_lasted_twice_shares_none(play: Playbook) -> None:
    """Nothing but a literal may tell when it is long; where it is asked anew it looks brief."""
    queue = Queue(play)
    verdict = play.policy.routes.verdicts.of(SQL)
    for _ in range(2):
        assert verdict.steady()
        clients = [queue.waits(ASKED) for _ in range(2)]
        queue.moves()
        queue.server.gets(heard(2), SYNC)
        passes(queue, LOST)
        queue.server.sends(answers(b"lost", b"old"), IDLE)
        serve(queue.server, clients)
        queue.begins()
    assert verdict.brief() and not verdict.steady()


def test_what_is_asked_there_later_is_somebodys(play: Playbook) -> None:
    """A question of ours has no client either."""
    queue, clients = crowd(play)
    passes(queue, LOST)
    queue.server.sends(answers(b"lost", b"old", b"older"), IDLE)
    serve(queue.server, clients)
    borrowed: list[Backend] = []
    play.lane.borrow(Borrower(lambda backend: borrowed.append(cast(Backend, backend))))
    borrowed[0].ask(query("ours"), 1, lambda error: None)
    queue.server.gets(query("ours"))
    assert queue.server.backend.running is None
    queue.server.sends(complete("OURS"), IDLE)


def test_nobody_awaits_what_a_client_has_left(play: Playbook) -> None:
    """The others ask elsewhere."""
    play.lane.limit = 2
    queue, clients = crowd(play)
    clients[0].leaves()
    assert awaited(queue)[0] is clients[1].session
    now = passes(queue, PATIENCE)
    assert awaited(queue) == (None, now)
    serve(play.server(), clients[1:])
    queue.server.sends(answers(b"gone", b"old", b"older"), IDLE)
    assert queue.server.is_idle


def test_who_has_a_sync_of_its_own_waits_for_its_own(play: Playbook) -> None:
    queue = Queue(play)
    play.lane.together = 0
    clients = [queue.waits(ASKED) for _ in range(2)]
    queue.moves()
    passes(queue, LOST)
    assert awaited(queue)[0] is clients[0].session
    queue.server.answers((ASKED, ASKED), extended_answer(b"0"), extended_answer(b"old"))
    clients[0].gets(extended_answer(b"0"))
    serve(queue.server, clients[1:])


def test_the_last_of_them_is_the_one_that_takes_long(play: Playbook) -> None:
    """The others have been answered: more than fits into the server's buffer has been said."""
    play.lane.limit = 2
    queue, clients = crowd(play)
    queue.server.sends(answers(b"0", b"1"))
    clients[0].gets(extended_answer(b"0"))
    clients[1].gets(extended_answer(b"1"))
    assert queue.server.backend.relieve(LATE)
    queue.server.sends(later(b"2"), IDLE)
    clients[2].gets(extended_answer(b"2"))
    assert queue.server.is_idle


@pytest.mark.parametrize("errs", [False, True])
def test_behind_who_got_a_part_of_its_answer_all_ask_elsewhere(play: Playbook, errs: bool) -> None:
    play.lane.limit = 2
    queue, clients = crowd(play)
    begun, rest = PARSE_COMPLETE + BIND_COMPLETE + row(b"0"), complete("SELECT 1")
    queue.server.sends(begun)
    clients[0].gets(begun)
    assert queue.server.backend.relieve(LATE)
    serve(play.server(), clients[1:])
    if errs:
        queue.server.sends(error("22012"), IDLE)
        clients[0].gets(error("22012"), IDLE)
    else:
        queue.server.sends(rest)
        clients[0].gets(rest, IDLE)
        queue.server.sends(later(b"old"), error("22012"), IDLE)
    assert queue.server.is_idle


# Whatever happens.


class Simulated:
    """As PostgreSQL reads and answers: a Sync ends a transaction, an error skips to it or a query's end."""

    def __init__(self) -> None:
        self.kept = b""
        self.skips = False
        self.mark = b""

    def hears(self, data: bytes) -> bytes:
        found, self.kept = cut(self.kept + data)
        return b"".join(self.answer(kind, payload) for kind, payload in found)

    def query(self, payload: bytes) -> bytes:
        """An error names a place in all that was sent, and what is behind it is not heard."""
        out = b""
        for text in payload.removesuffix(b"\0").split(b"\n;\n"):
            mark = text.removeprefix(SQL + b" -- ")
            if mark.startswith(b"bad"):
                return out + error("22012", f"{mark.decode()} at {payload.index(text)}") + IDLE
            out += answer(mark).removesuffix(IDLE)
        return out + IDLE

    def answer(self, kind: str, payload: bytes) -> bytes:
        if kind == "S":
            self.skips = False
            return IDLE
        if self.skips:
            return b""
        if kind == "Q":
            return self.query(payload)
        if kind == "P":
            return PARSE_COMPLETE
        if kind == "C":
            return CLOSE_COMPLETE
        if kind == "B":
            self.mark = payload[10:-2]
            return BIND_COMPLETE
        assert kind == "E"
        self.skips = self.mark.startswith(b"bad")
        return error("22012", self.mark.decode()) if self.skips else row(self.mark) + complete("SELECT 1")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_everybody_gets_its_own_answer_and_gets_it_once(data: st.DataObject) -> None:
    play = ready(Playbook(policy=Routed(), limit=1))
    try:
        _act(play, data)
        play.end()
    finally:
        for peer in play.peers:
            peer.clean_up()


def _act(play: Playbook, data: st.DataObject) -> None:
    queue = Queue(play)
    kinds = data.draw(
        st.lists(st.sampled_from(["simple good", "simple bad", "good", "bad"]), min_size=2, max_size=7)
    )
    marks = [b"%s%d" % (kind.split()[-1].encode(), number) for number, kind in enumerate(kinds)]
    clients = [queue.waits(_asked(kind, mark)) for kind, mark in zip(kinds, marks, strict=True)]
    queue.moves()
    left: set[int] = set()
    got = [b""] * len(clients)
    server, mind = queue.server, Simulated()
    for _ in range(data.draw(st.integers(0, 4))):
        # It says a part of what it has to say; then somebody leaves, the connection dies, or nothing happens.
        said = mind.hears(server.read_all())
        if server.ended:
            server, mind, said = play.server(), Simulated(), b""
        at = round(data.draw(st.floats(0, 1)) * len(said))
        server.writes(said[:at])
        event = data.draw(st.sampled_from(["nothing", "leave", "die"]))
        if event == "leave":
            who = data.draw(st.integers(0, len(clients) - 1))
            if who not in left:
                got[who] += clients[who].read_all()
                left.add(who)
                clients[who].leaves()
        if event == "die":
            server.leaves()
            server, mind = play.server(), Simulated()
        else:
            server.writes(said[at:])
    for _ in range(30):
        server.writes(mind.hears(server.read_all()))
        if server.ended:  # who left had it for itself
            server, mind = play.server(), Simulated()
    for number, client in enumerate(clients):
        got[number] += client.read_all()
        whole = _whole(kinds[number], marks[number])
        if client.ended or number in left:
            # It had only a part when it left, or when the connection died.
            told = got[number].partition(b"E")[0] if b"SFATAL" in got[number] else got[number]
            assert whole.startswith(told)
        else:
            assert got[number] == whole


def _asked(kind: str, mark: bytes) -> bytes:
    if kind.startswith("simple"):
        return query(f"{SQL.decode()} -- {mark.decode()}")
    return parse(b"", SQL) + bind(b"", mark) + execute() + SYNC


def _whole(kind: str, mark: bytes) -> bytes:
    if kind == "simple good":
        return answer(mark)
    if kind == "simple bad":
        return error("22012", f"{mark.decode()} at 0") + IDLE
    if kind == "bad":
        return PARSE_COMPLETE + BIND_COMPLETE + error("22012", mark.decode()) + IDLE
    return PARSE_COMPLETE + BIND_COMPLETE + row(mark) + complete("SELECT 1") + IDLE


def cut(data: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The messages in it, and what is left."""
    found = []
    while len(data) >= 5 and len(data) > int.from_bytes(data[1:5], "big"):
        end = 1 + int.from_bytes(data[1:5], "big")
        found.append((chr(data[0]), data[5:end]))
        data = data[end:]
    return found, data


def test_the_simulated_server_skips_to_a_sync() -> None:
    mind = Simulated()
    asked = parse(b"", SQL) + bind(b"", b"bad") + execute() + extended(SQL)
    assert mind.hears(asked) == PARSE_COMPLETE + BIND_COMPLETE + error("22012", "bad") + IDLE
    asked = parse(b"", SQL) + bind(b"", b"good") + execute() + SYNC
    assert mind.hears(asked) == PARSE_COMPLETE + BIND_COMPLETE + row(b"good") + complete("SELECT 1") + IDLE
    assert mind.hears(query("select mark -- a\n;\nselect mark -- bad\n;\nselect mark -- c")) == (
        answer(b"a").removesuffix(IDLE) + error("22012", "bad at 19") + IDLE
    )
