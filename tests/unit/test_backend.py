"""What a server says, and who hears of it. Each transcript runs whole and byte by byte."""

from __future__ import annotations

import pytest

from pgambassador.net.backend import Backend
from pgambassador.net.parties import Statement
from tests.messages import (
    BIND_COMPLETE,
    COPY_IN,
    FLUSH,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TERMINATE,
    TRANSACTION,
    bind,
    columns,
    complete,
    copy_data,
    error,
    execute,
    extended,
    fatal,
    notice,
    notification,
    parameter_status,
    parse,
    query,
    row,
)
from tests.playbook import Client, MakePlay, Playbook, Server
from tests.policies import AGREED, switched

ONE = (columns(b"?column?"), row(b"1"), complete("SELECT 1"))
QUERY = query("select 1")


@pytest.fixture
def client(play: Playbook) -> Client:
    return play.client()


@pytest.fixture
def server(play: Playbook) -> Server:
    return play.server()


def working(client: Client, server: Server) -> None:
    """A query is under way."""
    client.sends(QUERY)
    server.gets(QUERY)


def told(client: Client, text: str) -> bool:
    """Whether what has come is an error of ours with this text, then the end."""
    got = client.read()
    return client.ended and got.startswith(b"E") and text.encode() in got


# Messages that nobody asked for.


def test_a_notice_goes_to_the_client_that_has_the_connection(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(notice("careful"), *ONE, notice("done"), IDLE)
    client.gets(notice("careful"), *ONE, notice("done"), IDLE)


def test_a_notice_between_two_queries_of_a_transaction(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    server.sends(notice("still here"))
    client.gets(notice("still here"))


def test_an_idle_connection_speaks_to_nobody(play: Playbook, client: Client, server: Server) -> None:
    server.sends(notice("hello"), notification(b"news"), parameter_status("TimeZone", "UTC"))
    client.gets_nothing()
    assert server.is_idle
    assert server.backend.parameters == {"TimeZone": "UTC"}
    assert play.policy.count("reported") == 0
    working(client, server)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_a_parameter_of_the_client_is_part_of_its_session(
    play: Playbook, client: Client, server: Server
) -> None:
    working(client, server)
    server.sends(complete("SET"), parameter_status("TimeZone", "UTC"), IDLE)
    client.gets(complete("SET"), parameter_status("TimeZone", "UTC"), IDLE)
    assert ("reported", "TimeZone", "UTC") in play.policy.heard
    assert client.session.state == server.backend.state == "TimeZone=UTC"
    # Another client has another state.
    other = play.client()
    other.sends(QUERY)
    server.answers((switched("base"), QUERY), AGREED, *ONE, IDLE)
    other.gets(*ONE, IDLE)


def test_notifications_are_for_those_who_listen(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(notification(b"news"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    client.sends(query("listen news"))
    server.answers(query("listen news"), complete("LISTEN"), IDLE)
    client.gets(complete("LISTEN"), IDLE)
    assert client.holds(server)
    server.sends(notification(b"news", b"today"))
    client.gets(notification(b"news", b"today"))


@pytest.mark.parametrize(
    "tag", ["SET", "RESET", "LISTEN", "UNLISTEN", "PREPARE", "DISCARD ALL", "DEALLOCATE ALL", "LOAD"]
)
def test_the_policy_hears_of_what_may_concern_the_session(
    play: Playbook, client: Client, server: Server, tag: str
) -> None:
    working(client, server)
    server.sends(complete(tag), TRANSACTION)
    client.gets(complete(tag), TRANSACTION)
    assert ("tagged", tag) in play.policy.heard


@pytest.mark.parametrize(
    "tag", ["SELECT 5", "DELETE 5", "UPDATE 1", "INSERT 0 1", "BEGIN", "COPY 3", "ROLLBACK"]
)
def test_and_not_of_the_rest(play: Playbook, client: Client, server: Server, tag: str) -> None:
    working(client, server)
    server.sends(complete(tag), IDLE)
    client.gets(complete(tag), IDLE)
    assert play.policy.count("tagged") == 0


# Going home.


def test_it_goes_home_only_with_ready_for_query(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(*ONE)
    client.gets(*ONE)
    assert client.holds(server)
    server.sends(IDLE)
    client.gets(IDLE)
    assert server.is_idle


def test_each_query_has_its_own_ready_for_query(client: Client, server: Server) -> None:
    client.sends(QUERY, QUERY, extended(b"x"), SYNC)
    server.gets(QUERY, QUERY, extended(b"x"), SYNC)
    for _ in range(2):
        server.sends(*ONE, IDLE)
        client.gets(*ONE, IDLE)
        assert not server.is_idle
    server.sends(error(), IDLE)
    client.gets(error(), IDLE)
    assert server.is_idle


def test_not_while_something_was_sent_without_a_sync(client: Client, server: Server) -> None:
    client.sends(QUERY, parse(b"", b"x"))
    server.answers((QUERY, parse(b"", b"x")), *ONE, IDLE, PARSE_COMPLETE)
    client.gets(*ONE, IDLE, PARSE_COMPLETE)
    assert client.holds(server)
    client.sends(SYNC)
    server.answers(SYNC, IDLE)
    client.gets(IDLE)
    assert server.is_idle


def test_not_while_its_client_is_in_the_middle_of_a_message(client: Client, server: Server) -> None:
    long = query("select '" + 70_000 * "x" + "'")
    client.sends(QUERY)
    client.writes(long[:-1])
    server.answers((QUERY, long[:-1]), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert client.holds(server)
    client.writes(long[-1:])
    server.answers(long[-1:], *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle


def test_not_while_a_cancel_request_is_under_way(play: Playbook, client: Client, server: Server) -> None:
    other = play.client()
    working(client, server)
    server.backend.cancel_begins()
    server.backend.cancel_begins()
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.backend.parked
    assert not server.is_idle
    other.sends(QUERY)
    assert other.session.waiting
    server.backend.cancel_ends()
    server.gets_nothing()
    server.backend.cancel_ends()
    server.answers(QUERY, *ONE, IDLE)
    other.gets(*ONE, IDLE)
    assert server.is_idle


def test_a_cancel_that_ends_before_the_query(client: Client, server: Server) -> None:
    working(client, server)
    server.backend.cancel_begins()
    server.backend.cancel_ends()
    assert client.holds(server)
    server.sends(error("57014"), IDLE)
    client.gets(error("57014"), IDLE)
    assert server.is_idle


def test_a_connection_lost_behind_a_cancel(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.backend.cancel_begins()
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    server.leaves()
    server.backend.cancel_ends()
    assert (play.lane.total, play.lane.idle) == (0, [])


def test_not_in_session_mode(plays: MakePlay) -> None:
    play = plays(sticky=True)
    client, server = play.client(), play.server()
    working(client, server)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert client.holds(server)


def test_not_in_doubt(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    client.session.spoil()
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert not client.holds(server)
    server.gets_end(TERMINATE)
    assert not client.session.closed


def test_a_retiring_connection_is_closed_instead(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.backend.retiring = True
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    server.gets_end(TERMINATE)
    assert ("lost", "retired") in play.policy.heard


# The end of a server.


def test_last_words_reach_the_client_of_a_session_that_ends(
    play: Playbook, client: Client, server: Server
) -> None:
    working(client, server)
    server.backend.pinned = True
    server.sends(columns(b"a"), fatal())
    client.gets(columns(b"a"), fatal())
    server.leaves()
    client.gets_end()
    assert play.policy.count("lost") == 1
    assert play.lane.total == 0


def test_last_words_within_an_idle_transaction(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.sends(complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    server.sends(fatal("25P03"))
    server.leaves()
    client.gets_end(fatal("25P03"))
    assert not play.policy.count("bereft")


def test_a_shutdown_within_an_idle_transaction(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.sends(complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    server.sends(fatal("57P01"))
    server.leaves()
    client.gets_end(fatal("08006", "the server ended the connection (57P01)"))
    ((_, loss),) = [each for each in play.policy.heard if each[0] == "bereft"]
    assert loss.farewell == fatal("57P01")[5:]
    assert (loss.owed, loss.status, loss.open) == ([], "T", False)


def test_last_words_of_an_idle_connection_reach_nobody(
    play: Playbook, client: Client, server: Server
) -> None:
    server.sends(fatal())
    server.leaves()
    client.gets_nothing()
    assert (play.lane.total, play.lane.idle) == (0, [])


def test_last_words_to_a_client_that_is_done(play: Playbook, client: Client, server: Server) -> None:
    """They come with its last reply: it no longer needs the connection, and its session goes on."""
    working(client, server)
    server.writes(b"".join((*ONE, IDLE, fatal())))
    client.gets(*ONE, IDLE)
    assert not client.session.closed
    server.leaves()
    assert play.lane.total == 0
    replacement = play.server()
    working(client, replacement)
    replacement.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)


@pytest.mark.parametrize("sqlstate", ["26000", "42P05"])
def test_a_server_that_knows_other_statements_than_we_think(
    play: Playbook, client: Client, server: Server, sqlstate: str
) -> None:
    """A DO block can DEALLOCATE: such a connection is not used for others."""
    client.sends(parse(b"s", b"x"), SYNC)
    server.answers((parse(b"pga_1", b"x"), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    client.sends(bind(b"s"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), error(sqlstate), IDLE)
    client.gets(error(sqlstate), IDLE)
    server.gets_end(TERMINATE)
    assert ("lost", "retired") in play.policy.heard


def test_a_death_without_a_word(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.leaves()
    assert told(client, "the server closed the connection unexpectedly")
    assert play.lane.total == play.lane.sessions == 0


def test_a_death_in_the_middle_of_a_message_is_not_commented_there(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(columns(b"a"), row(b"0123456789")[:9])
    client.gets(columns(b"a"), row(b"0123456789")[:9])
    server.leaves()
    client.gets_end()


def test_nothing_of_ours_is_said_in_the_middle_of_a_message(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(row(b"0123456789")[:9])
    client.session.tell(notice("not now"))
    server.sends(row(b"0123456789")[9:])
    client.gets(row(b"0123456789"))
    client.session.tell(notice("now"))
    client.gets(notice("now"))


@pytest.mark.parametrize(
    "reply",
    [
        PARSE_COMPLETE,
        BIND_COMPLETE,
        b"s\0\0\0\x04",
        b"R\0\0\0\x08\0\0\0\0",
        b"Y\0\0\0\x04",
        b"D\0\0\0\x01",
        b"Z\x7f\0\0\0I",
        b"\x15\x03\x03\0\x02\x02\x50",
    ],
)
def test_a_reply_that_cannot_be(play: Playbook, client: Client, server: Server, reply: bytes) -> None:
    working(client, server)
    server.writes(reply)
    assert told(client, "the server broke the protocol")
    assert play.lane.total == 0


def test_what_came_before_a_breach_is_delivered(client: Client, server: Server) -> None:
    working(client, server)
    server.writes(b"".join((*ONE, PARSE_COMPLETE)))
    got = client.read()
    assert got.startswith(b"".join(ONE) + b"E")
    assert b"the server broke the protocol" in got
    client.gets_end()


@pytest.mark.parametrize("reply", [IDLE, row(b"secret"), complete("SELECT 1"), PARSE_COMPLETE])
def test_a_reply_that_nobody_asked_for(play: Playbook, client: Client, server: Server, reply: bytes) -> None:
    server.writes(reply)
    client.gets_nothing()
    assert play.lane.total == 0
    assert play.policy.heard[-1][0] == "lost"


def test_one_reply_too_many_reaches_nobody(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.sends(*ONE, IDLE)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert play.lane.total == 0
    assert not client.session.closed


def test_one_reply_too_many_in_the_same_read(play: Playbook, client: Client, server: Server) -> None:
    working(client, server)
    server.writes(b"".join((*ONE, IDLE, *ONE, IDLE)))
    got = client.read()
    assert got.startswith(b"".join((*ONE, IDLE)) + b"E") and got.count(row(b"1")) == 1
    client.gets_end()
    assert play.lane.total == 0


def test_a_malformed_parameter(client: Client, server: Server) -> None:
    working(client, server)
    server.writes(b"S\0\0\0\x09only\0")
    assert told(client, "a ParameterStatus is malformed")


def test_a_malformed_error_does_no_harm(client: Client, server: Server) -> None:
    working(client, server)
    server.sends(b"E\0\0\0\x07Cxy", IDLE)
    client.gets(b"E\0\0\0\x07Cxy", IDLE)
    assert server.is_idle


def test_a_cancel_that_hits_the_switch_has_cancelled_what_was_asked(play: Playbook, server: Server) -> None:
    """The session goes on, on another connection; the server has skipped what came behind the switch."""
    client = play.client(state="german")
    for asked, ended in ((QUERY, True), (extended(b"select 1") + SYNC, True), (extended(b"select 1"), False)):
        client.sends(asked)
        server.answers((switched("german"), asked), PARSE_COMPLETE, BIND_COMPLETE, error("57014"))
        if not ended:
            client.gets(error("57014"))
            client.sends(extended(b"select 2"), SYNC)
            client.gets(IDLE)
        else:
            client.gets(error("57014"), IDLE)
        server.gets_end()
        server = play.server()
    client.sends(QUERY)
    server.answers((switched("german"), QUERY), AGREED, *ONE, IDLE)
    client.gets(*ONE, IDLE)


@pytest.mark.parametrize("behind", [QUERY, extended(b"select 2") + SYNC])
def test_and_what_is_asked_behind_it_is_done(play: Playbook, server: Server, behind: bytes) -> None:
    """It was not meant, and nothing of it has been sent."""
    client = play.client(state="german")
    client.sends(extended(b"select 1") + SYNC, behind)
    server.answers((switched("german"), extended(b"select 1") + SYNC), error("57014"))
    client.gets(error("57014"), IDLE)
    server.gets_end()
    play.server().gets(switched("german"), behind)


def test_a_long_one_that_was_cancelled_so_is_read_to_its_end(plays: MakePlay) -> None:
    """Its client was not read any more, because the server did not take what it had sent."""
    play = plays()
    server = play.server(buffer=4096)
    client = play.client(state="german")
    client.writes(parse(b"", b"select $1") + bind(b"", b"x" * 150_000) + execute() + SYNC)
    assert not client.is_read()
    server.writes(error("57014"))
    client.gets(error("57014"), IDLE)
    server.ended = True  # whatever has come is cut off
    client.writes(QUERY)
    play.server().gets(switched("german"), QUERY)


def test_a_refused_switch_does_not_let_its_client_through(play: Playbook, server: Server) -> None:
    client = play.client(state="another role")
    client.sends(QUERY)
    server.answers((switched("another role"), QUERY), PARSE_COMPLETE, error("42501"))
    assert told(client, "settings")
    server.gets_end()
    assert play.lane.total == 0


# What the login's end brought along.


def test_early_messages(play: Playbook) -> None:
    server = play.server(early=parameter_status("TimeZone", "UTC") + notice("welcome")[:7])
    server.sends(notice("welcome")[7:])
    assert server.backend.parameters == {"TimeZone": "UTC"}
    assert server.is_idle


def test_early_garbage_is_not_counted(play: Playbook) -> None:
    server = play.server(early=row(b"1"), add=False)
    assert server.backend.closed
    assert play.lane.total == 0


# Backpressure.


def test_a_slow_client_stops_its_server(plays: MakePlay) -> None:
    play = plays(high_water=10_000)
    client, server = play.client(buffer=5_000), play.server()
    client.sends(QUERY)
    server.gets(QUERY)
    wide = row(1000 * b"x")
    sent = 0
    while server.is_read():
        server.writes(wide)
        sent += 1
        assert sent < 1000
    assert 10_000 < client.channel.pending < 10_000 + 128 * 1024
    server.writes(wide)
    assert play.lane.bytes_sent == sent * len(wide)
    # It goes on when the client reads.
    assert client.read_all() == (sent + 1) * wide
    assert server.is_read()
    server.sends(complete("SELECT"), IDLE)
    client.gets(complete("SELECT"), IDLE)
    assert server.is_idle


def test_a_client_that_does_not_read_its_own_replies_is_not_read(plays: MakePlay) -> None:
    """Pipelined statements whose results nobody takes."""
    play = plays(high_water=10_000)
    client, server = play.client(buffer=5_000), play.server()
    client.sends(QUERY)
    server.gets(QUERY)
    while server.is_read():
        server.writes(row(1000 * b"x"))
    client.sends(QUERY)
    assert not client.is_read()
    client.read_all()
    assert server.is_read()
    assert client.is_read()
    server.answers(QUERY, complete("SELECT"), IDLE, *ONE, IDLE)
    client.gets(complete("SELECT"), IDLE, *ONE, IDLE)


def test_a_slow_server_stops_its_client(plays: MakePlay) -> None:
    play = plays(high_water=10_000)
    client, server = play.client(), play.server(buffer=5_000)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    data = copy_data(1024 * b"x")
    sent = 0
    while client.is_read():
        client.writes(data)
        sent += 1
        assert sent < 1000
    assert 10_000 < server.channel.pending < 10_000 + 128 * 1024
    client.writes(data)
    assert server.read_all() == (sent + 1) * data
    assert client.is_read()


def test_a_client_that_left_a_slow_server(plays: MakePlay) -> None:
    """What was kept for the server is not kept any longer than the connection."""
    play = plays(high_water=10_000)
    client, server = play.client(), play.server(buffer=5_000)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    while client.is_read():
        client.writes(copy_data(1024 * b"x"))
    client.leaves()
    server.read_all()
    assert server.backend.closed
    assert play.lane.total == 0


# What the policy asks of it.


def test_ask(play: Playbook, server: Server) -> None:
    heard: list[bytes | None] = []
    play.lane.idle.remove(server.backend)
    server.backend.ask(query("a") + query("b"), 2, heard.append)
    server.answers((query("a"), query("b")), *ONE, IDLE, notice("x"), *ONE)
    assert heard == []
    assert server.backend.resetting
    server.sends(IDLE)
    assert heard == [None]
    assert server.is_idle


def test_ask_nothing(play: Playbook, server: Server) -> None:
    play.lane.idle.remove(server.backend)
    server.backend.ask(b"", 0)
    assert server.is_idle


def test_ask_hands_the_whole_first_error_over(play: Playbook, server: Server) -> None:
    heard: list[bytes | None] = []
    play.lane.idle.remove(server.backend)
    server.backend.ask(query("a") + query("b"), 2, heard.append)
    first = error("22023", "invalid value " + 500 * "x")
    server.answers((query("a"), query("b")), first, IDLE, error("42601"), IDLE)
    assert heard == [first[5:]]
    assert server.is_idle


def test_an_error_without_anybody_to_tell_ends_the_connection(play: Playbook, server: Server) -> None:
    play.lane.idle.remove(server.backend)
    server.backend.ask(query("DISCARD ALL"), 1)
    server.answers(query("DISCARD ALL"), error(), IDLE)
    assert play.lane.total == 0
    server.read()


def test_what_is_asked_leaves_a_transaction_open_is_not_given_away(play: Playbook, server: Server) -> None:
    play.lane.idle.remove(server.backend)
    server.backend.ask(query("a"), 1)
    server.answers(query("a"), complete("BEGIN"), TRANSACTION)
    assert not server.is_idle


def test_close_says_goodbye(play: Playbook, server: Server) -> None:
    server.backend.close("lifetime")
    server.gets_end(TERMINATE)
    assert play.policy.heard == [("lost", "lifetime")]
    assert play.lane.idle == []
    server.backend.close("again")
    assert play.policy.count("lost") == 1


def test_close_in_the_middle_tells_the_client(client: Client, server: Server) -> None:
    working(client, server)
    server.backend.close("no more")
    assert told(client, "no more")
    server.gets_end()


def test_statements_can_be_forgotten(client: Client, server: Server) -> None:
    client.sends(parse(b"s", b"x"), SYNC)
    server.answers((parse(b"pga_1", b"x"), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    server.backend.forget_statements()
    client.sends(bind(b"s"), execute(), SYNC)
    server.gets(parse(b"pga_1", b"x"), bind(b"pga_1"), execute(), SYNC)
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("X"), IDLE)
    client.gets(BIND_COMPLETE, complete("X"), IDLE)


def test_what_is_prepared_behind_deallocate_all_is_kept(client: Client, server: Server) -> None:
    client.sends(parse(b"s", b"x"), SYNC)
    server.answers((parse(b"pga_1", b"x"), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    client.sends(query("DEALLOCATE ALL"), parse(b"t", b"y"), SYNC)
    server.gets(query("DEALLOCATE ALL"), parse(b"pga_2", b"y"), SYNC)
    server.sends(complete("DEALLOCATE ALL"), IDLE, PARSE_COMPLETE, IDLE)
    client.gets(complete("DEALLOCATE ALL"), IDLE, PARSE_COMPLETE, IDLE)
    assert set(client.session.statements) == {b"t"}
    assert [each.name for each in server.backend.prepared] == [b"pga_2"]


def test_clean(client: Client, server: Server) -> None:
    client.sends(parse(b"", b"x"), FLUSH)
    server.gets(parse(b"", b"x"), FLUSH)
    assert (server.backend.owes, server.backend.clean) == (True, False)
    server.sends(PARSE_COMPLETE)
    client.gets(PARSE_COMPLETE)
    assert (server.backend.owes, server.backend.clean) == (False, False)
    client.sends(SYNC)
    server.answers(SYNC, TRANSACTION)
    client.gets(TRANSACTION)
    assert (server.backend.owes, server.backend.clean, server.backend.transaction) == (False, True, "T")


def test_a_broken_socket(play: Playbook, client: Client, server: Server) -> None:
    client.sends(QUERY)
    server.leaves()  # without having read: a reset
    assert told(client, "the connection to the server broke")


def test_repr_shows_the_state(client: Client, server: Server) -> None:
    backend: Backend = server.backend
    address = backend.link.address
    assert repr(backend) == f"<Backend {address} idle I <Ledger >>"
    working(client, server)
    assert repr(backend) == f"<Backend {address} active I <Ledger Q>>"
    backend.close("")
    assert repr(backend) == f"<Backend {address} closed I <Ledger Q>>"
    client.read()
    assert repr(Statement(b"pga_1", b"", b"")) == "<Statement pga_1>"
