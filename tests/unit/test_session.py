"""What a client says, and what its server hears of it. Each transcript runs whole and byte by byte."""

from __future__ import annotations

import gc
import socket
from typing import Any

import pytest

from tests.messages import (
    BIND_COMPLETE,
    CLOSE_COMPLETE,
    COPY_DONE,
    COPY_IN,
    COPY_OUT,
    FAILED,
    FLUSH,
    FUNCTION_CALL,
    FUNCTION_RESULT,
    IDLE,
    NO_DATA,
    PARSE_COMPLETE,
    SUSPENDED,
    SYNC,
    TERMINATE,
    TRANSACTION,
    bind,
    close_portal,
    close_statement,
    columns,
    complete,
    copy_data,
    copy_fail,
    describe,
    describe_portal,
    error,
    execute,
    extended,
    notice,
    parameter_description,
    parameter_status,
    parse,
    query,
    row,
)
from tests.playbook import BASE, Client, MakePlay, Playbook, Server
from tests.policies import AGREED, switched

ONE = (columns(b"?column?"), row(b"1"), complete("SELECT 1"))


def join(play: Playbook) -> tuple[Client, Server]:
    return play.client(), play.server()


def begin(client: Client, server: Server) -> None:
    """The client opens a transaction."""
    client.sends(query("BEGIN"))
    server.answers(query("BEGIN"), complete("BEGIN"), TRANSACTION)
    client.gets(complete("BEGIN"), TRANSACTION)
    assert client.holds(server)


def commit(client: Client, server: Server) -> None:
    client.sends(query("COMMIT"))
    server.gets(query("COMMIT"))
    server.sends(complete("COMMIT"), IDLE)
    client.gets(complete("COMMIT"), IDLE)


def teach(client: Client, server: Server, name: bytes, sql: bytes, known_as: bytes) -> None:
    """The client prepares what the server does not know yet."""
    client.sends(parse(name, sql), SYNC)
    server.answers((parse(known_as, sql), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)


# Simple queries.


def test_simple_query(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("select 1"))
    assert client.holds(server)
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle
    assert play.lane.transactions == play.lane.queries == 1


def test_several_statements_in_one_query(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("insert into t values (1); select 1"))
    server.gets(query("insert into t values (1); select 1"))
    server.sends(complete("INSERT 0 1"))
    client.gets(complete("INSERT 0 1"))
    assert client.holds(server)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle


def test_a_failed_query_ends_only_itself(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("selekt"), query("select 1"))
    server.answers((query("selekt"), query("select 1")), error(), IDLE)
    client.gets(error(), IDLE)
    assert client.holds(server)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle
    assert (play.lane.queries, play.lane.errors) == (2, 1)


def test_a_query_too_long_to_be_held(play: Playbook) -> None:
    client, server = join(play)
    long = query("select '" + "x" * 100_000 + "'")
    client.writes(long[:70_000])
    server.gets(long[:70_000])
    client.writes(long[70_000:])
    server.answers(long[70_000:], *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle


def test_an_empty_query(play: Playbook) -> None:
    client, server = join(play)
    empty = b"I\0\0\0\x04"
    client.sends(query(""))
    server.answers(query(""), empty, IDLE)
    client.gets(empty, IDLE)


def test_a_transaction_keeps_its_connection(play: Playbook) -> None:
    client, server = join(play)
    begin(client, server)
    client.sends(query("selekt"))
    server.answers(query("selekt"), error(), FAILED)
    client.gets(error(), FAILED)
    assert client.holds(server)
    client.sends(query("ROLLBACK"))
    server.answers(query("ROLLBACK"), complete("ROLLBACK"), IDLE)
    client.gets(complete("ROLLBACK"), IDLE)
    assert server.is_idle
    assert play.lane.transactions == 1


def test_messages_that_came_with_the_login(play: Playbook) -> None:
    server = play.server()
    client = play.client(early=query("select 1") + query("select 2")[:3])
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    client.sends(query("select 2")[3:])
    server.answers(query("select 2"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


# The extended protocol.


def test_an_unnamed_statement(play: Playbook) -> None:
    client, server = join(play)
    client.sends(extended(b"select $1", b"1"), SYNC)
    server.answers((extended(b"select $1", b"1"), SYNC), PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    assert server.is_idle


def test_a_pipeline_of_several_syncs(play: Playbook) -> None:
    client, server = join(play)
    batch = (extended(b"select 1"), SYNC, extended(b"select 2"), SYNC, query("select 3"))
    client.sends(*batch)
    server.gets(*batch)
    for _ in range(2):
        server.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
        client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
        assert client.holds(server)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle


def test_flush_brings_replies_but_does_not_end(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"", b"select 1"), describe(b""), FLUSH)
    server.gets(parse(b"", b"select 1"), describe(b""), FLUSH)
    server.sends(PARSE_COMPLETE, parameter_description(), columns(b"a"))
    client.gets(PARSE_COMPLETE, parameter_description(), columns(b"a"))
    assert client.holds(server)
    client.sends(bind(b""), execute(), SYNC)
    server.answers((bind(b""), execute(), SYNC), BIND_COMPLETE, row(b"1"), complete("SELECT 1"), IDLE)
    client.gets(BIND_COMPLETE, row(b"1"), complete("SELECT 1"), IDLE)
    assert server.is_idle


def test_a_portal_read_in_pieces(play: Playbook) -> None:
    client, server = join(play)
    start = (parse(b"", b"select 1"), bind(b"", portal=b"c"), execute(b"c", 1), FLUSH)
    client.sends(*start)
    server.answers(start, PARSE_COMPLETE, BIND_COMPLETE, row(b"1"), SUSPENDED)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, row(b"1"), SUSPENDED)
    client.sends(execute(b"c"), close_portal(b"c"), SYNC)
    server.answers((execute(b"c"), close_portal(b"c"), SYNC), complete("SELECT 0"), CLOSE_COMPLETE, IDLE)
    client.gets(complete("SELECT 0"), CLOSE_COMPLETE, IDLE)
    assert server.is_idle


def test_nothing_is_answered_between_an_error_and_sync(play: Playbook) -> None:
    client, server = join(play)
    client.sends(extended(b"selekt"), extended(b"select 2"), SYNC, extended(b"select 3"), SYNC)
    server.gets(extended(b"selekt"), extended(b"select 2"), SYNC, extended(b"select 3"), SYNC)
    server.sends(error(), IDLE)
    client.gets(error(), IDLE)
    assert client.holds(server)
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    assert server.is_idle


def test_an_error_before_the_sync_was_sent(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"s", b"selekt"), FLUSH)
    server.answers((parse(b"pga_1", b"selekt"), FLUSH), error())
    client.gets(error())
    assert client.holds(server)
    # The server skips all of these, so they go as they are.
    skipped = (parse(b"t", b"select 1"), bind(b"s"), describe(b"s"), close_statement(b"s"), query("select 1"))
    client.sends(*skipped)
    server.gets(*skipped)
    assert client.session.statements == {}
    client.sends(SYNC)
    server.answers(SYNC, IDLE)
    client.gets(IDLE)
    assert server.is_idle


def test_a_sync_alone_is_answered_here(play: Playbook) -> None:
    client = play.client()
    client.sends(SYNC, FLUSH, SYNC)
    client.gets(IDLE, IDLE)


def test_a_function_call(play: Playbook) -> None:
    client, server = join(play)
    client.sends(FUNCTION_CALL)
    server.answers(FUNCTION_CALL, FUNCTION_RESULT, IDLE)
    client.gets(FUNCTION_RESULT, IDLE)
    assert server.is_idle
    client.sends(FUNCTION_CALL)
    server.answers(FUNCTION_CALL, error(), IDLE)
    client.gets(error(), IDLE)
    assert server.is_idle


# Prepared statements.


def test_a_statement_has_our_name_on_the_server(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"mine", b"select $1", b"pga_1")
    client.sends(bind(b"mine", b"1"), describe_portal(), execute(), SYNC)
    server.answers((bind(b"pga_1", b"1"), describe_portal(), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    client.sends(describe(b"mine"), SYNC)
    server.answers((describe(b"pga_1"), SYNC), parameter_description(25), NO_DATA, IDLE)
    client.gets(parameter_description(25), NO_DATA, IDLE)


def test_two_clients_share_a_statement(play: Playbook) -> None:
    first, server = join(play)
    second = play.client()
    teach(first, server, b"mine", b"select 1", b"pga_1")
    second.sends(parse(b"hers", b"select 1"), bind(b"hers"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    second.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    assert server.is_idle


def test_a_faked_parse_alone(play: Playbook) -> None:
    first, server = join(play)
    second = play.client()
    teach(first, server, b"mine", b"select 1", b"pga_1")
    second.sends(parse(b"hers", b"select 1"), SYNC)
    server.answers(SYNC, IDLE)
    second.gets(PARSE_COMPLETE, IDLE)


def test_flush_pays_a_faked_parse(play: Playbook) -> None:
    first, server = join(play)
    second = play.client()
    teach(first, server, b"mine", b"select 1", b"pga_1")
    second.sends(parse(b"hers", b"select 1"), FLUSH)
    second.gets(PARSE_COMPLETE)
    second.sends(SYNC)
    server.answers((FLUSH, SYNC), IDLE)
    second.gets(IDLE)


def test_flush_pays_a_fake_behind_a_reply(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"mine", b"select 1", b"pga_1")
    client.sends(describe(b"mine"), close_statement(b"mine"), FLUSH)
    server.answers((describe(b"pga_1"), FLUSH), parameter_description(), columns(b"a"))
    client.gets(parameter_description(), columns(b"a"), CLOSE_COMPLETE)
    client.sends(SYNC)
    server.answers(SYNC, IDLE)
    client.gets(IDLE)


def test_a_fake_is_not_paid_within_another_message(play: Playbook) -> None:
    """The RowDescription before it comes in two reads."""
    client, server = join(play)
    teach(client, server, b"mine", b"select 1", b"pga_1")
    client.sends(bind(b"mine"), describe_portal(), close_statement(b"mine"), FLUSH)
    server.gets(bind(b"pga_1"), describe_portal(), FLUSH)
    message = columns(b"a", b"b", b"c")
    server.sends(BIND_COMPLETE, message[:9])
    client.gets(BIND_COMPLETE, message[:9])
    client.sends(FLUSH)
    server.gets(FLUSH)
    client.gets_nothing()
    server.sends(message[9:])
    client.gets(message[9:], CLOSE_COMPLETE)
    client.sends(SYNC)
    server.answers(SYNC, IDLE)
    client.gets(IDLE)


def test_a_server_that_lacks_the_statement_is_taught_it(plays: MakePlay) -> None:
    play = plays(limit=2)
    client, first = join(play)
    second = play.server()
    other = play.client()
    # The server used last is used next.
    teach(client, second, b"s", b"select 1", b"pga_1")
    begin(other, second)
    client.sends(bind(b"s"), execute(), SYNC)
    assert client.holds(first)
    first.gets(parse(b"pga_1", b"select 1"), bind(b"pga_1"), execute(), SYNC)
    first.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    assert first.is_idle
    # It knows it now.
    client.sends(describe(b"s"), SYNC)
    first.answers((describe(b"pga_1"), SYNC), parameter_description(), NO_DATA, IDLE)
    client.gets(parameter_description(), NO_DATA, IDLE)
    commit(other, second)


def test_an_injected_parse_that_fails_fails_the_bind(plays: MakePlay) -> None:
    """The table may be gone meanwhile; the server's words go to the client."""
    play = plays(limit=2)
    client, first = join(play)
    second = play.server()
    other = play.client()
    teach(client, second, b"s", b"select * from t", b"pga_1")
    begin(other, second)
    client.sends(bind(b"s"), execute(), SYNC)
    first.gets(parse(b"pga_1", b"select * from t"), bind(b"pga_1"), execute(), SYNC)
    first.sends(error("42P01"), IDLE)
    client.gets(error("42P01"), IDLE)
    assert first.is_idle
    # The statement is still the client's, and not the server's.
    client.sends(bind(b"s"), execute(), SYNC)
    first.gets(parse(b"pga_1", b"select * from t"), bind(b"pga_1"), execute(), SYNC)
    first.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    commit(other, second)


def test_a_parse_that_fails_is_forgotten(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"s", b"selekt"), SYNC)
    server.answers((parse(b"pga_1", b"selekt"), SYNC), error(), IDLE)
    client.gets(error(), IDLE)
    assert not client.session.statements
    assert not server.backend.prepared
    # The name is free again, and so is the server's.
    client.sends(parse(b"s", b"select 1"), SYNC)
    server.answers((parse(b"pga_2", b"select 1"), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    client.sends(parse(b"t", b"selekt"), SYNC)
    server.answers((parse(b"pga_1", b"selekt"), SYNC), error(), IDLE)
    client.gets(error(), IDLE)


def test_what_stands_behind_an_error_did_not_happen(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(parse(b"bad", b"selekt"), parse(b"t", b"select 1"), close_statement(b"s"), SYNC)
    # While something is under way only the server can say what it knows.
    server.gets(parse(b"pga_2", b"selekt"), close_statement(b"pga_1"), parse(b"pga_1", b"select 1"), SYNC)
    server.sends(error(), IDLE)
    client.gets(error(), IDLE)
    assert set(client.session.statements) == {b"s"}
    client.sends(bind(b"s"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)


def test_a_known_statement_prepared_behind_something_under_way(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(query("DEALLOCATE ALL"), parse(b"t", b"select 1"), bind(b"t"), SYNC)
    server.gets(
        query("DEALLOCATE ALL"),
        close_statement(b"pga_1"),
        parse(b"pga_1", b"select 1"),
        bind(b"pga_1"),
        SYNC,
    )
    server.sends(complete("DEALLOCATE ALL"), IDLE, CLOSE_COMPLETE, PARSE_COMPLETE, BIND_COMPLETE, IDLE)
    client.gets(complete("DEALLOCATE ALL"), IDLE, PARSE_COMPLETE, BIND_COMPLETE, IDLE)
    assert set(client.session.statements) == {b"t"}


def test_a_faked_parse_before_an_error_did_happen(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(parse(b"t", b"select 1"), parse(b"bad", b"selekt"), SYNC)
    server.answers((parse(b"pga_2", b"selekt"), SYNC), error(), IDLE)
    client.gets(PARSE_COMPLETE, error(), IDLE)
    assert set(client.session.statements) == {b"s", b"t"}


@pytest.mark.parametrize("again", [False, True], ids=["executed again", "prepared again"])
def test_a_plan_that_does_not_fit_its_table_any_more_is_made_again(play: Playbook, again: bool) -> None:
    """On each server connection it fails once, as on a connection of one's own it would for ever."""
    client, server = join(play)
    first = parse(b"s", b"select * from t")
    client.sends(first, bind(b"s"), execute(), SYNC)
    made = parse(b"pga_1", b"select * from t")
    server.answers((made, bind(b"pga_1"), execute(), SYNC), PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.sends(bind(b"s"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), error("0A000"), IDLE)
    client.gets(error("0A000"), IDLE)
    if again:
        client.sends(close_statement(b"s"), first)
    client.sends(bind(b"s"), execute(), SYNC)
    server.gets(close_statement(b"pga_1"), made, bind(b"pga_1"), execute(), SYNC)
    server.sends(CLOSE_COMPLETE, PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    told = (CLOSE_COMPLETE, PARSE_COMPLETE) if again else ()
    client.gets(*told, BIND_COMPLETE, *ONE, IDLE)
    client.sends(bind(b"s"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)


def told(client: Client, server: Server, name: bytes, ours: bytes, described: bytes) -> None:
    """The client asks what rows its statement has."""
    client.sends(describe(name), SYNC)
    server.answers((describe(ours), SYNC), parameter_description(), described, IDLE)
    client.gets(parameter_description(), described, IDLE)


ROWS = columns(b"a", b"b")


@pytest.mark.parametrize(
    ("before", "after"),
    [(ROWS, ROWS), (NO_DATA, NO_DATA), (ROWS, columns(b"a", b"b", table=7)), (columns(b"a"), columns(b"a"))],
    ids=["same", "none", "another table", "one"],
)
def test_a_statement_whose_rows_are_the_same_after_a_change_of_tables(
    plays: MakePlay, before: bytes, after: bytes
) -> None:
    """A server that has to be taught it is asked first; the client's message waits for the answer."""
    play = plays(limit=2)
    client, first = join(play)
    second = play.server()
    other = play.client()
    teach(client, second, b"s", b"select * from t", b"pga_1")
    told(client, second, b"s", b"pga_1", before)
    begin(other, second)
    play.policy.statements.forget()
    client.sends(bind(b"s"), execute(), SYNC)
    first.gets(parse(b"pga_1", b"select * from t"), describe(b"pga_1"), FLUSH)
    first.sends(PARSE_COMPLETE)
    first.gets_nothing()
    first.sends(parameter_description(), after)
    first.gets(bind(b"pga_1"), execute(), SYNC)
    first.sends(BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    # Now it is known.
    client.sends(bind(b"s"), execute(), SYNC)
    first.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    commit(other, second)


@pytest.mark.parametrize("asks", [bind(b"s"), describe(b"s")], ids=["Bind", "Describe"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(ROWS, columns(b"a")), (ROWS, columns(b"a", b"c")), (ROWS, NO_DATA), (NO_DATA, ROWS)],
    ids=["less", "another name", "none", "some"],
)
def test_a_statement_whose_rows_are_others_than_its_client_was_told(
    plays: MakePlay, before: bytes, after: bytes, asks: bytes
) -> None:
    """As on a connection of one's own it fails until it is prepared anew."""
    play = plays(limit=2)
    client, first = join(play)
    second = play.server()
    other = play.client()
    teach(client, second, b"s", b"select * from t", b"pga_1")
    told(client, second, b"s", b"pga_1", before)
    begin(other, second)
    play.policy.statements.forget()
    for closed in ((), (close_statement(b"pga_1"),)):
        client.sends(asks, execute(), SYNC)
        first.gets(*closed, parse(b"pga_1", b"select * from t"), describe(b"pga_1"), FLUSH)
        first.sends(*(CLOSE_COMPLETE for _ in closed), PARSE_COMPLETE, parameter_description(), after)
        first.gets(describe(b"pga_1_before"), execute(), SYNC)
        first.sends(error("26000"), IDLE)
        refusal = error("0A000", "cached plan must not change result type")
        client.gets(refusal, IDLE)
        assert first.is_idle
    commit(other, second)


def test_a_table_that_is_gone_fails_what_waits(plays: MakePlay) -> None:
    play = plays(limit=2)
    client, first = join(play)
    second = play.server()
    other = play.client()
    teach(client, second, b"s", b"select * from t", b"pga_1")
    told(client, second, b"s", b"pga_1", ROWS)
    begin(other, second)
    play.policy.statements.forget()
    client.sends(bind(b"s"), execute(), SYNC)
    first.gets(parse(b"pga_1", b"select * from t"), describe(b"pga_1"), FLUSH)
    first.sends(error("42P01"))
    first.gets(bind(b"s"), execute(), SYNC)  # which the server skips
    first.sends(IDLE)
    client.gets(error("42P01"), IDLE)
    assert first.is_idle
    commit(other, second)


def test_the_statement_used_longest_ago_is_forgotten(plays: MakePlay) -> None:
    play = plays(statements=2)
    client, server = join(play)
    teach(client, server, b"a", b"select 1", b"pga_1")
    teach(client, server, b"b", b"select 2", b"pga_2")
    client.sends(bind(b"a"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    client.sends(parse(b"c", b"select 3"), SYNC)
    server.gets(parse(b"pga_3", b"select 3"), close_statement(b"pga_2"), SYNC)
    server.sends(PARSE_COMPLETE, CLOSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    # It is the server that forgot: the client's statement comes back.
    client.sends(bind(b"b"), execute(), SYNC)
    server.gets(parse(b"pga_2", b"select 2"), close_statement(b"pga_1"), bind(b"pga_2"), execute(), SYNC)
    server.sends(PARSE_COMPLETE, CLOSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    assert len(server.backend.prepared) == 2


def test_a_statement_that_was_not_closed_after_all(plays: MakePlay) -> None:
    """The error kept the server from forgetting it."""
    play = plays(statements=1)
    client, server = join(play)
    teach(client, server, b"a", b"select 1", b"pga_1")
    client.sends(parse(b"b", b"selekt"), SYNC)
    server.answers((parse(b"pga_2", b"selekt"), close_statement(b"pga_1"), SYNC), error(), IDLE)
    client.gets(error(), IDLE)
    client.sends(bind(b"a"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)


def test_an_unnamed_statement_follows_its_client(plays: MakePlay) -> None:
    play = plays(limit=2)
    client, first = join(play)
    second = play.server()
    other = play.client()
    client.sends(parse(b"", b"select $1"), SYNC)
    second.answers((parse(b"", b"select $1"), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)
    begin(other, second)
    client.sends(bind(b"", b"1"), execute(), SYNC)
    first.gets(parse(b"", b"select $1"), bind(b"", b"1"), execute(), SYNC)
    first.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)
    # It is there now.
    client.sends(describe(b""), SYNC)
    first.answers((describe(b""), SYNC), parameter_description(25), NO_DATA, IDLE)
    client.gets(parameter_description(25), NO_DATA, IDLE)
    commit(other, second)


def test_nobody_gets_the_unnamed_statement_of_another(play: Playbook) -> None:
    first, server = join(play)
    second = play.client()
    first.sends(parse(b"", b"select secret"), SYNC)
    server.answers((parse(b"", b"select secret"), SYNC), PARSE_COMPLETE, IDLE)
    first.gets(PARSE_COMPLETE, IDLE)
    second.sends(bind(b""), execute(), SYNC)
    server.gets(close_statement(b""), bind(b""), execute(), SYNC)
    server.sends(CLOSE_COMPLETE, error("26000"), IDLE)
    second.gets(error("26000"), IDLE)
    # And the first has its own again.
    first.sends(bind(b""), execute(), SYNC)
    server.gets(parse(b"", b"select secret"), bind(b""), execute(), SYNC)
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    first.gets(BIND_COMPLETE, *ONE, IDLE)


def test_a_simple_query_ends_the_unnamed_statement(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"", b"select 1"), SYNC, query("select 2"))
    server.answers((parse(b"", b"select 1"), SYNC, query("select 2")), PARSE_COMPLETE, IDLE, *ONE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE, *ONE, IDLE)
    client.sends(describe(b""), SYNC)
    server.gets(close_statement(b""), describe(b""), SYNC)
    server.sends(CLOSE_COMPLETE, error("26000"), IDLE)
    client.gets(error("26000"), IDLE)


def test_an_unknown_name_is_the_servers_to_refuse(play: Playbook) -> None:
    client, server = join(play)
    for message in (bind(b"nope"), describe(b"nope")):
        client.sends(message, SYNC)
        server.answers((message, SYNC), error("26000"), IDLE)
        client.gets(error("26000"), IDLE)
        assert server.is_idle


def test_a_name_in_use_is_refused_in_the_servers_words(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(parse(b"s", b"select 2"), bind(b"s"), SYNC)
    # The name is made known, so that the server can refuse it, and unmade behind the Sync.
    server.gets(parse(b"s", b""), parse(b"s", b"select 2"), bind(b"pga_1"), SYNC, close_statement(b"s"), SYNC)
    server.sends(PARSE_COMPLETE, error("42P05"), IDLE, CLOSE_COMPLETE, IDLE)
    client.gets(error("42P05"), IDLE)
    assert server.is_idle
    client.sends(bind(b"s"), execute(), SYNC)
    server.answers((bind(b"pga_1"), execute(), SYNC), BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)


def test_a_name_prepared_twice_in_one_pipeline(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"s", b"select 1"), parse(b"s", b"select 2"), SYNC)
    # However the server is brought to refuse the second.
    asked = server.read_all()
    assert asked.startswith(parse(b"pga_1", b"select 1")) and asked.count(parse(b"s", b"")) == 1
    server.sends(PARSE_COMPLETE, PARSE_COMPLETE, error("42P05"), IDLE, CLOSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, error("42P05"), IDLE)
    assert server.is_idle
    assert client.session.statements == {b"s": play.policy.known[b"select 1\0\0\0"]}


def test_a_closed_name_can_be_used_again(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(close_statement(b"s"), parse(b"s", b"select 2"), bind(b"s"), SYNC)
    server.answers((parse(b"pga_2", b"select 2"), bind(b"pga_2"), SYNC), PARSE_COMPLETE, BIND_COMPLETE, IDLE)
    client.gets(CLOSE_COMPLETE, PARSE_COMPLETE, BIND_COMPLETE, IDLE)


@pytest.mark.parametrize("first", [parse(b"", b"wrong"), execute()])
def test_what_was_taught_behind_an_error_is_not_known_to_the_next_part(play: Playbook, first: bytes) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    server.leaves()
    server = play.server()
    asked = bind(b"s"), execute(), SYNC
    client.sends(first, *asked, *asked)
    server.answers((first, parse(b"pga_1", b"select 1"), bind(b"pga_1"), execute(), SYNC), error(), IDLE)
    client.gets(error(), IDLE)
    server.answers(
        (parse(b"pga_1", b"select 1"), bind(b"pga_1"), execute(), SYNC),
        *(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE),
    )
    client.gets(BIND_COMPLETE, *ONE, IDLE)


def test_what_was_taught_as_the_first_of_a_part_is_waited_for_by_nobody(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    server.leaves()
    server = play.server()
    client.sends(bind(b"s"), execute(), SYNC, bind(b"s"), execute(), bind(b"s"), SYNC)
    ours = bind(b"pga_1")
    server.gets(parse(b"pga_1", b"select 1"), ours, execute(), SYNC, ours, execute(), ours, SYNC)


def test_where_nothing_unnamed_is_left_nobody_waits_for_it(play: Playbook) -> None:
    """Behind a Parse of ours in the same part, which no Sync follows yet."""
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    server.backend.tied = True
    client.sends(
        parse(b"", b"select 1"), SYNC, close_statement(b""), parse(b"t", b"select 2"), bind(b""), SYNC
    )
    assert server.read_all().endswith(bind(b"") + SYNC)


def test_close_without_a_connection_is_answered_here(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(close_statement(b"s"), close_statement(b"never"), SYNC)
    client.gets(CLOSE_COMPLETE, CLOSE_COMPLETE, IDLE)
    assert client.session.statements == {}
    assert server.is_idle
    client.sends(bind(b"s"), SYNC)
    server.answers((bind(b"s"), SYNC), error("26000"), IDLE)
    client.gets(error("26000"), IDLE)


def test_close_within_a_transaction(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    begin(client, server)
    client.sends(close_statement(b"s"), close_portal(b"p"), SYNC)
    server.answers((close_portal(b"p"), SYNC), CLOSE_COMPLETE, TRANSACTION)
    client.gets(CLOSE_COMPLETE, CLOSE_COMPLETE, TRANSACTION)
    commit(client, server)


def test_close_of_the_unnamed_statement(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"", b"select 1"), close_statement(b""), SYNC)
    server.gets(parse(b"", b"select 1"), close_statement(b""), SYNC)
    server.sends(PARSE_COMPLETE, CLOSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, CLOSE_COMPLETE, IDLE)


def test_deallocate_all_forgets(play: Playbook) -> None:
    client, server = join(play)
    teach(client, server, b"s", b"select 1", b"pga_1")
    client.sends(query("DEALLOCATE ALL"))
    server.answers(query("DEALLOCATE ALL"), complete("DEALLOCATE ALL"), IDLE)
    client.gets(complete("DEALLOCATE ALL"), IDLE)
    assert not client.session.statements
    assert not server.backend.prepared
    teach(client, server, b"s", b"select 1", b"pga_1")


def test_names_longer_than_the_first_look(play: Playbook) -> None:
    client, server = join(play)
    name, portal = b"n" * 1000, b"p" * 600
    teach(client, server, name, b"select $1", b"pga_1")
    client.sends(bind(name, b"v" * 500, portal=portal), execute(portal), SYNC)
    server.gets(bind(b"pga_1", b"v" * 500, portal=portal), execute(portal), SYNC)
    server.sends(BIND_COMPLETE, *ONE, IDLE)
    client.gets(BIND_COMPLETE, *ONE, IDLE)


def test_session_mode_leaves_statements_alone(plays: MakePlay) -> None:
    play = plays(sticky=True)
    client, server = join(play)
    messages = (parse(b"s", b"select 1"), bind(b"s"), describe(b"s"), close_statement(b"s"), SYNC)
    client.sends(*messages)
    server.answers(
        messages, PARSE_COMPLETE, BIND_COMPLETE, parameter_description(), NO_DATA, CLOSE_COMPLETE, IDLE
    )
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, parameter_description(), NO_DATA, CLOSE_COMPLETE, IDLE)
    assert client.holds(server)
    client.sends(bind(b"", b"1"), SYNC)
    # The unnamed statement there may be one of ours.
    server.answers((close_statement(b""), bind(b"", b"1"), SYNC), CLOSE_COMPLETE, error("26000"), IDLE)
    client.gets(error("26000"), IDLE)


# COPY.


def test_copy_in(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    client.sends(copy_data(b"1\n"), FLUSH, SYNC, copy_data(b"2\n"), COPY_DONE)
    server.gets(copy_data(b"1\n"), FLUSH, SYNC, copy_data(b"2\n"), COPY_DONE)
    assert client.holds(server)
    server.sends(complete("COPY 2"), IDLE)
    client.gets(complete("COPY 2"), IDLE)
    assert server.is_idle


def test_copy_in_given_up_by_the_client(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    client.sends(copy_data(b"1\n"), copy_fail())
    server.answers((copy_data(b"1\n"), copy_fail()), error("57014"), IDLE)
    client.gets(error("57014"), IDLE)
    assert server.is_idle


def test_copy_in_refused_at_once(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), error("42P01"), IDLE)
    client.gets(error("42P01"), IDLE)
    assert server.is_idle


def test_late_copy_data_is_dropped(play: Playbook) -> None:
    """The COPY failed while the client was still sending."""
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    client.sends(copy_data(b"x\n"))
    server.answers(copy_data(b"x\n"), error("22P02"), IDLE)
    client.gets(error("22P02"), IDLE)
    assert server.is_idle
    client.sends(copy_data(b"y\n"), copy_data(b"z\n"), COPY_DONE, query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_the_rest_of_a_late_copy_data_goes_where_its_beginning_went(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    message = copy_data(b"0123456789")
    client.writes(message[:8])
    server.answers(message[:8], error("22P02"), IDLE)
    client.gets(error("22P02"), IDLE)
    assert client.holds(server)
    client.writes(message[8:])
    server.gets(message[8:])
    assert server.is_idle
    client.sends(COPY_DONE)
    server.gets_nothing()


def test_copy_in_by_the_extended_protocol(play: Playbook) -> None:
    """libpq sends a Sync at once, which the server ignores, and another at the end."""
    client, server = join(play)
    begun = (extended(b"copy t from stdin"), SYNC)
    client.sends(*begun)
    server.answers(begun, PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, COPY_IN)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, COPY_IN)
    client.sends(copy_data(b"1\n"), COPY_DONE, SYNC)
    server.answers((copy_data(b"1\n"), COPY_DONE, SYNC), complete("COPY 1"), IDLE)
    client.gets(complete("COPY 1"), IDLE)
    assert server.is_idle


def test_a_copy_that_is_sent_without_waiting_for_its_response(play: Playbook) -> None:
    """Copy-both at once: the end of the COPY was sent before the CopyInResponse has come."""
    client, server = join(play)
    batch = (query("copy t from stdin"), copy_data(b"1\n"), COPY_DONE, query("select 1"))
    client.sends(*batch)
    server.answers(batch, COPY_IN, complete("COPY 1"), IDLE)
    client.gets(COPY_IN, complete("COPY 1"), IDLE)
    assert client.holds(server)
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle


def test_a_copy_that_is_sent_without_waiting_and_fails(play: Playbook) -> None:
    client, server = join(play)
    batch = (query("copy t from stdin"), copy_data(b"1\n"), COPY_DONE, query("select 1"))
    client.sends(*batch)
    server.answers(batch, error("42P01"), IDLE, *ONE, IDLE)
    client.gets(error("42P01"), IDLE, *ONE, IDLE)
    assert server.is_idle


def test_copy_in_by_the_extended_protocol_that_fails(play: Playbook) -> None:
    client, server = join(play)
    begun = (extended(b"copy t from stdin"), SYNC)
    client.sends(*begun)
    server.answers(begun, PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, COPY_IN)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, COPY_IN)
    client.sends(copy_data(b"x\n"))
    server.answers(copy_data(b"x\n"), error("22P02"))
    client.gets(error("22P02"))
    assert client.holds(server)
    client.sends(copy_data(b"y\n"), COPY_DONE, SYNC)
    server.answers((copy_data(b"y\n"), COPY_DONE, SYNC), IDLE)
    client.gets(IDLE)
    assert server.is_idle


def test_a_copy_that_cannot_begin_by_the_extended_protocol(play: Playbook) -> None:
    client, server = join(play)
    begun = (extended(b"copy t from stdin"), SYNC)
    client.sends(*begun)
    server.answers(begun, error("42P01"), IDLE)
    client.gets(error("42P01"), IDLE)
    assert server.is_idle


def test_a_sync_during_a_copy_that_fails_leaves_doubt(play: Playbook) -> None:
    """Whether the server has ignored it depends on when it failed: nobody else may have the connection."""
    client, server = join(play)
    begun = (extended(b"copy t from stdin"), FLUSH)
    client.sends(*begun)
    server.answers(begun, PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, COPY_IN)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, NO_DATA, COPY_IN)
    client.sends(copy_data(b"x\n"), SYNC)
    server.answers((copy_data(b"x\n"), SYNC), error("22P02"))
    client.gets(error("22P02"))
    client.sends(SYNC)
    server.answers(SYNC, IDLE)
    client.gets(IDLE)
    assert client.holds(server)
    client.sends(TERMINATE)
    client.gets_end()
    server.gets_end(TERMINATE)


def test_copy_out(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t to stdout"))
    answer = (
        COPY_OUT,
        copy_data(b"1\n"),
        copy_data(b""),
        copy_data(b"2\n"),
        COPY_DONE,
        complete("COPY 2"),
        IDLE,
    )
    server.answers(query("copy t to stdout"), *answer)
    client.gets(*answer)
    assert server.is_idle


def test_copy_out_that_fails_in_the_middle(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t to stdout"))
    server.answers(query("copy t to stdout"), COPY_OUT, copy_data(b"1\n"), error("57014"), IDLE)
    client.gets(COPY_OUT, copy_data(b"1\n"), error("57014"), IDLE)
    assert server.is_idle


# The client's state.


def test_a_server_in_another_state_is_switched_in_the_same_write(play: Playbook) -> None:
    first, server = join(play)
    second = play.client(state="german")
    second.sends(query("select 1"))
    server.answers((switched("german"), query("select 1")), AGREED, *ONE, IDLE)
    second.gets(*ONE, IDLE)
    assert server.is_idle
    second.sends(query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    second.gets(*ONE, IDLE)
    first.sends(extended(b"select 1"), SYNC)
    server.answers(
        (switched(BASE), extended(b"select 1"), SYNC), AGREED, PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE
    )
    first.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    assert play.lane.queries == 3


def test_what_a_server_knows_it_knows_behind_a_switch(play: Playbook) -> None:
    """A Parse that was suppressed is answered in its place, and the statement is not sent again."""
    first, server = join(play)
    second = play.client(state="german")
    for client, before in ((first, b""), (second, switched("german"))):
        client.sends(parse(b"s", b"select 1"), bind(b"s"), execute(), SYNC)
        known = server.read_all()
        assert known.startswith(before)
        assert known.endswith(bind(b"pga_1") + execute() + SYNC)
        assert (b"P" in known.removeprefix(before)[:1]) == (client is first)
        parsed = PARSE_COMPLETE if client is first else b""
        server.sends(AGREED if before else b"", parsed, BIND_COMPLETE, *ONE, IDLE)
        client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE)
    assert server.is_idle


def test_a_message_in_pieces_behind_a_switch(play: Playbook) -> None:
    server = play.server()
    client = play.client(state="german")
    client.sends(extended(b"select 1"))
    server.gets(switched("german"), extended(b"select 1"))
    client.sends(SYNC, query("select 3")[:9])
    server.gets(SYNC)
    server.sends(AGREED)
    client.sends(query("select 3")[9:])
    server.gets(query("select 3"))
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE, *ONE, IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE, *ONE, IDLE)
    assert server.is_idle


@pytest.mark.parametrize("behind", [query("select 2"), extended(b"select 2") + SYNC, SYNC, copy_data(b"1")])
def test_what_is_asked_behind_a_switch_waits_for_it(play: Playbook, behind: bytes) -> None:
    """A server that refuses the switch skips to the next Sync, no farther."""
    server = play.server()
    client = play.client(state="german")
    client.sends(extended(b"select 1") + SYNC, behind)
    server.gets(switched("german"), extended(b"select 1") + SYNC)
    client.sends(query("select 3"))
    server.gets_nothing()
    server.sends(AGREED)
    server.gets(behind, query("select 3"))


def test_a_client_that_was_waiting_is_switched_to(play: Playbook) -> None:
    client = play.client(state="german")
    client.sends(query("select 1"))
    server = play.server()
    server.answers((switched("german"), query("select 1")), AGREED, *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert server.is_idle


def test_a_client_that_leaves_during_the_switch(play: Playbook) -> None:
    server = play.server()
    client, other = play.client(state="german"), play.client(state="german")
    client.sends(query("select 1"))
    server.gets(switched("german"), query("select 1"))
    other.sends(query("select 2"))
    client.leaves()
    server.gets_end()
    server = play.server("german")
    server.answers(query("select 2"), *ONE, IDLE)
    other.gets(*ONE, IDLE)


def test_a_client_that_says_goodbye_during_the_switch(play: Playbook) -> None:
    """What it sent before it left is still done."""
    server = play.server()
    client = play.client(state="german")
    client.sends(query("insert"), TERMINATE)
    server.gets(switched("german"), query("insert"))
    client.sock.shutdown(socket.SHUT_WR)
    play.loop.run()
    server.sends(AGREED, complete("INSERT 0 1"), IDLE)
    client.gets_end(complete("INSERT 0 1"), IDLE)
    assert server.is_idle


def test_what_one_client_has_set_is_unset_for_the_next(play: Playbook) -> None:
    first, server = join(play)
    second = play.client()
    first.sends(query("set x = 1"))
    server.answers(query("set x = 1"), complete("SET"), IDLE)
    first.gets(complete("SET"), IDLE)
    first.sends(query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    first.gets(*ONE, IDLE)
    second.sends(query("select 1"))
    server.answers((switched(BASE), query("select 1")), AGREED, *ONE, IDLE)
    second.gets(*ONE, IDLE)


@pytest.mark.parametrize("how", ["query", "unnamed", "named"])
def test_what_set_config_has_set_is_unset_too(play: Playbook, how: str) -> None:
    """No tag says that it was called."""
    first, server = join(play)
    second = play.client()
    sql = b"select pg_catalog.Set_Config('role', 'boss', false)"
    if how == "query":
        first.sends(query(sql))
    else:
        name = b"s" if how == "named" else b""
        first.sends(parse(name, sql), bind(name), execute(), SYNC)
    server.read_all()
    server.sends(*(() if how == "query" else (PARSE_COMPLETE, BIND_COMPLETE)), row(b"boss"))
    server.sends(complete("SELECT 1"), IDLE)
    first.read_all()
    second.sends(query("select 1"))
    server.answers((switched(BASE), query("select 1")), AGREED, *ONE, IDLE)
    second.gets(*ONE, IDLE)


def test_what_the_switch_says_is_for_us_alone(play: Playbook) -> None:
    """Older servers report a parameter at once, newer ones before ReadyForQuery: it is no news."""
    server = play.server()
    client = play.client(state="german")
    play.policy.old_news.add(("DateStyle", "German"))
    client.sends(query("select 1"))
    server.gets(switched("german"), query("select 1"))
    report = parameter_status("DateStyle", "German")
    server.sends(notice("hm"), report, AGREED, *ONE, report, IDLE)
    client.gets(*ONE, IDLE)
    assert server.backend.parameters == {"DateStyle": "German"}
    assert play.policy.count("reported") == 2


# Waiting.


def test_a_message_waits_for_a_connection(play: Playbook) -> None:
    client = play.client()
    client.sends(query("select 1"))
    assert client.session.waiting
    assert play.policy.count("wanted") == 1
    server = play.server()
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_what_is_sent_while_waiting_comes_behind(play: Playbook) -> None:
    client = play.client()
    client.sends(extended(b"select 1"), SYNC, query("select 2"), query("select 3")[:8])
    server = play.server()
    server.gets(extended(b"select 1"), SYNC, query("select 2"))
    client.sends(query("select 3")[8:])
    server.gets(query("select 3"))
    server.sends(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE, *ONE, IDLE, *ONE, IDLE)
    client.gets(PARSE_COMPLETE, BIND_COMPLETE, *ONE, IDLE, *ONE, IDLE, *ONE, IDLE)
    assert server.is_idle


def test_a_short_message_waits_after_a_long_one_came_in_pieces(play: Playbook) -> None:
    client, server = join(play)
    other = play.client()
    long = query("select '" + 300 * "x" + "'")
    client.writes(long[:50])
    client.writes(long[50:])
    server.answers(long, *ONE, IDLE)
    client.gets(*ONE, IDLE)
    begin(other, server)
    client.sends(query("select 1"))
    assert client.session.waiting
    commit(other, server)
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_a_waiting_client_is_read_only_so_far(play: Playbook) -> None:
    client = play.client()
    long = query("select '" + 300_000 * "x" + "'")
    sent = 0
    while sent < len(long):
        client.play.loop.run()
        try:
            sent += client.sock.send(long[sent : sent + 50_000])
        except BlockingIOError:
            break
    assert not client.channel.reading
    server = play.server()
    got = b""
    while sent < len(long) or len(got) < len(long):
        play.loop.run()
        got += server.read()
        if sent < len(long):
            sent += client.sock.send(long[sent : sent + 50_000])
    assert got == long
    server.sends(*ONE, IDLE)
    client.gets(*ONE, IDLE)


WAITED = error("53300", "no connection")


def test_a_waiting_query_is_refused(play: Playbook) -> None:
    client = play.client()
    client.sends(query("select 1"))
    client.session.refuse(WAITED)
    client.gets(WAITED, IDLE)
    assert not client.session.waiting
    # The session goes on.
    server = play.server()
    client.sends(query("select 2"))
    server.answers(query("select 2"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_a_waiting_pipeline_is_refused_up_to_its_sync(play: Playbook) -> None:
    client = play.client()
    client.sends(extended(b"select 1"))
    client.session.refuse(WAITED)
    client.gets(WAITED)
    client.sends(extended(b"select 2"), FLUSH, query("select 3"), SYNC)
    client.gets(IDLE)
    server = play.server()
    client.sends(query("select 4"))
    server.answers(query("select 4"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_a_refused_client_waits_again_for_what_it_sent_behind(play: Playbook) -> None:
    client = play.client()
    client.sends(query("select 1"), query("select 2"))
    client.session.refuse(WAITED)
    client.gets(WAITED, IDLE)
    assert client.session.waiting
    client.session.refuse(WAITED)
    client.gets(WAITED, IDLE)
    assert play.lane.waiting == 0


def test_a_refused_query_that_came_in_pieces(play: Playbook) -> None:
    client = play.client()
    long = query("select '" + 70_000 * "x" + "'")
    client.writes(long[:-10])
    client.session.refuse(WAITED)
    client.gets(WAITED, IDLE)
    client.writes(long[-10:])
    client.gets_nothing()
    client.sends(SYNC)
    client.gets(IDLE)


def test_refusing_who_does_not_wait_does_nothing(play: Playbook) -> None:
    client = play.client()
    client.session.refuse(WAITED)
    client.gets_nothing()


def test_a_notice_while_waiting(play: Playbook) -> None:
    client = play.client()
    client.sends(query("select 1"))
    client.session.tell(notice("patience"))
    client.gets(notice("patience"))
    server = play.server()
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


# The end.


def test_terminate(play: Playbook) -> None:
    client, server = join(play)
    client.sends(TERMINATE)
    client.gets_end()
    assert play.policy.heard == [("left", "")]
    assert (play.lane.sessions, server.is_idle) == (0, True)


def test_terminate_waits_for_what_was_sent(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("insert"), TERMINATE)
    server.gets(query("insert"))
    client.gets_nothing()
    assert client.session.leaving
    server.sends(complete("INSERT 0 1"), IDLE)
    client.gets_end(complete("INSERT 0 1"), IDLE)
    assert server.is_idle


def test_terminate_within_a_transaction_rolls_back(play: Playbook) -> None:
    client, server = join(play)
    begin(client, server)
    client.sends(query("insert"), TERMINATE)
    server.answers(query("insert"), complete("INSERT 0 1"), TRANSACTION)
    client.gets_end(complete("INSERT 0 1"), TRANSACTION)
    server.answers(query("ROLLBACK"), complete("ROLLBACK"), IDLE)
    assert server.is_idle


def test_terminate_without_a_sync(play: Playbook) -> None:
    """Nothing of it is committed, whether or not the server sees it."""
    client, server = join(play)
    client.sends(extended(b"insert"), TERMINATE)
    client.gets_end()
    assert extended(b"insert").startswith(server.read())
    server.gets_end()


def test_nothing_behind_terminate_counts(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("select 1"))
    client.writes(TERMINATE + query("drop table t"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets_end(*ONE, IDLE)
    assert server.is_idle


def test_vanishing_while_idle(play: Playbook) -> None:
    client, server = join(play)
    client.leaves()
    assert play.policy.heard == [("left", "the client went away")]
    assert server.is_idle


def test_vanishing_while_waiting(play: Playbook) -> None:
    first, second = play.client(), play.client()
    first.sends(query("select 1"))
    second.sends(query("select 2"))
    first.leaves()
    server = play.server()
    server.answers(query("select 2"), *ONE, IDLE)
    second.gets(*ONE, IDLE)


def test_saying_goodbye_while_waiting(play: Playbook) -> None:
    """What was sent before it is still done, in its turn."""
    client = play.client()
    client.sends(query("insert"), TERMINATE)
    client.sock.shutdown(socket.SHUT_WR)
    play.loop.run()
    assert client.session.waiting
    server = play.server()
    server.answers(query("insert"), complete("INSERT 0 1"), IDLE)
    client.gets_end(complete("INSERT 0 1"), IDLE)
    assert server.is_idle


def test_vanishing_in_a_transaction(play: Playbook) -> None:
    client, server = join(play)
    begin(client, server)
    client.leaves()
    assert ("abandoned", False) in play.policy.heard
    server.answers(query("ROLLBACK"), complete("ROLLBACK"), IDLE)
    assert server.is_idle


def test_vanishing_while_a_query_runs(play: Playbook) -> None:
    client, server = join(play)
    other = play.client()
    client.sends(query("select pg_sleep(10)"))
    server.gets(query("select pg_sleep(10)"))
    client.leaves()
    assert ("abandoned", False) in play.policy.heard
    server.gets_end()
    other.sends(query("select 1"))
    assert other.session.waiting


def test_vanishing_while_its_reply_comes(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("select 1"))
    server.answers(query("select 1"), columns(b"a"), row(b"1")[:7])
    client.gets(columns(b"a"), row(b"1")[:7])
    client.leaves()
    server.gets_end()


def test_vanishing_in_the_middle_of_a_message(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    client.sends(copy_data(b"0123456789")[:8])
    client.leaves()
    assert ("abandoned", True) in play.policy.heard
    server.gets_end(copy_data(b"0123456789")[:8])


def test_vanishing_in_the_middle_of_a_message_that_was_held(play: Playbook) -> None:
    """The server has seen nothing of it, and need not suffer."""
    client, server = join(play)
    begin(client, server)
    client.sends(query("select 1")[:9])
    client.leaves()
    assert ("abandoned", False) in play.policy.heard
    server.answers(query("ROLLBACK"), complete("ROLLBACK"), IDLE)
    assert server.is_idle


def test_vanishing_during_copy_in(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("copy t from stdin"))
    server.answers(query("copy t from stdin"), COPY_IN)
    client.gets(COPY_IN)
    client.leaves()
    server.gets_end()


def test_vanishing_without_a_sync(play: Playbook) -> None:
    client, server = join(play)
    client.sends(parse(b"", b"select 1"), FLUSH)
    server.answers((parse(b"", b"select 1"), FLUSH), PARSE_COMPLETE)
    client.gets(PARSE_COMPLETE)
    client.leaves()
    server.gets_end()


@pytest.mark.parametrize(
    "garbage", [b"Y\0\0\0\x04", b"\0\0\0\x08\x04\xd2\x16\x2f", b"Q\0\0\0\x01", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_a_client_that_breaks_the_protocol(play: Playbook, garbage: bytes) -> None:
    client, server = join(play)
    client.writes(garbage)
    got = client.read()
    assert got.startswith(b"E") and b"\0C08P01\0" in got
    client.gets_end()
    assert server.is_idle


@pytest.mark.parametrize(
    "message", [b"P\0\0\0\x07abc", b"B\0\0\0\x06ab", b"B\0\0\0\x07a\0b", b"E\0\0\0\x05a"]
)
def test_a_name_without_an_end_is_for_the_server_to_refuse(play: Playbook, message: bytes) -> None:
    client, server = join(play)
    client.sends(message, SYNC)
    server.answers((message, SYNC), error("08P01"), IDLE)
    client.gets(error("08P01"), IDLE)
    assert server.is_idle


def test_what_came_before_a_broken_message_is_still_answered(play: Playbook) -> None:
    client, server = join(play)
    client.writes(query("select 1") + b"Q\0\0\0\0")
    server.answers(query("select 1"), *ONE, IDLE)
    got = client.read()
    assert got.startswith(b"".join((*ONE, IDLE)))
    assert b"\0C08P01\0" in got
    client.gets_end()
    assert server.is_idle


def test_a_message_too_long_to_be_held(play: Playbook) -> None:
    client = play.client()
    client.writes(b"P\x10\0\0\0")
    assert b"\0C54000\0" in client.read()
    client.gets_end()


# Draining.


def test_an_idle_client_is_let_go_at_once(play: Playbook) -> None:
    client = play.client()
    client.session.drain()
    client.gets_end()


def test_a_busy_client_is_let_go_when_it_is_done(play: Playbook) -> None:
    client, server = join(play)
    begin(client, server)
    client.session.drain()
    client.gets_nothing()
    client.sends(query("COMMIT"))
    server.answers(query("COMMIT"), complete("COMMIT"), IDLE)
    client.gets_end(complete("COMMIT"), IDLE)
    assert server.is_idle


def test_a_waiting_client_is_served_before_it_is_let_go(play: Playbook) -> None:
    client = play.client()
    client.sends(query("select 1"))
    client.session.drain()
    client.gets_nothing()
    server = play.server()
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets_end(*ONE, IDLE)
    assert server.is_idle


# Counting.


def test_what_the_log_is_told(play: Playbook) -> None:
    records: list[tuple[Any, ...]] = []
    play.lane.sink = lambda session, note, *rest: records.append((note, *rest[2:]))
    play.lane.slow = 0.0
    client, server = join(play)
    client.sends(query("select 1; insert"))
    server.answers(query("select 1; insert"), *ONE, complete("INSERT 0 41"), IDLE)
    client.gets(*ONE, complete("INSERT 0 41"), IDLE)
    teach(client, server, b"s", b"select 2", b"pga_1")
    client.sends(bind(b"s"), execute(), bind(b"s", portal=b"p"), execute(b"p"), SYNC)
    server.gets(bind(b"pga_1"), execute(), bind(b"pga_1", portal=b"p"), execute(b"p"), SYNC)
    server.sends(BIND_COMPLETE, complete("SELECT 7"), BIND_COMPLETE, error("22012"), IDLE)
    client.gets(BIND_COMPLETE, complete("SELECT 7"), BIND_COMPLETE, error("22012"), IDLE)
    client.sends(extended(b"select 3"), SYNC)
    server.answers((extended(b"select 3"), SYNC), error("42703"), IDLE)
    client.gets(error("42703"), IDLE)
    statement = play.policy.known[b"select 2\0\0\0"]
    assert records == [
        (b"select 1; insert\0", 42, ""),
        (statement, 7, ""),
        (statement, 0, "22012"),
        (parse(b"", b"select 3"), 0, "42703"),
    ]
    assert (play.lane.queries, play.lane.errors) == (4, 2)
    assert sum(play.lane.query_histogram) == 4
    assert play.lane.query_seconds > 0


def test_a_quick_statement_is_not_logged(play: Playbook) -> None:
    play.lane.sink = lambda *record: pytest.fail("logged")
    client, server = join(play)
    client.sends(query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_bytes_are_counted(play: Playbook) -> None:
    client, server = join(play)
    client.sends(query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert play.lane.bytes_received == len(query("select 1"))
    assert play.lane.bytes_sent == len(b"".join((*ONE, IDLE)))
    assert client.session.traffic() == (play.lane.bytes_received, play.lane.bytes_sent)
    assert client.session.traffic() == (0, 0)


def test_bytes_sent_while_waiting_are_counted(play: Playbook) -> None:
    client = play.client()
    client.sends(query("select 1"))
    server = play.server()
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    assert play.lane.bytes_received == len(query("select 1"))


def test_portals_are_not_remembered_for_ever(plays: MakePlay) -> None:
    """In session mode too, where the connection never goes home."""
    play = plays(sticky=True)
    client, server = join(play)
    for i in range(3):
        portal = b"C_%d" % i
        client.sends(
            parse(b"", b"select 1"), bind(b"", portal=portal), execute(portal), close_portal(portal), SYNC
        )
        server.read()
        server.sends(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), CLOSE_COMPLETE, IDLE)
        client.gets(PARSE_COMPLETE, BIND_COMPLETE, complete("SELECT 0"), CLOSE_COMPLETE, IDLE)
    kept = [each for each in gc.get_referents(client.session) if isinstance(each, dict) and b"C_0" in each]
    assert not kept


def test_repr_shows_the_state(play: Playbook) -> None:
    client = play.client()
    assert repr(client.session) == "<Session idle statements=0>"
    client.sends(query("select 1"))
    assert repr(client.session) == "<Session waiting statements=0>"
    server = play.server()
    assert repr(client.session) == "<Session active statements=0>"
    client.sends(TERMINATE)
    assert repr(client.session) == "<Session active leaving statements=0>"
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets_end(*ONE, IDLE)
    assert repr(client.session) == "<Session closed leaving statements=0>"


def prepares(client: Client, server: Server, name: bytes, text: bytes, known_as: bytes) -> None:
    client.sends(parse(name, text), SYNC)
    server.answers((parse(known_as, text), SYNC), PARSE_COMPLETE, IDLE)
    client.gets(PARSE_COMPLETE, IDLE)


def test_sql_may_name_what_the_protocol_has_prepared(play: Playbook) -> None:
    client, server = join(play)
    prepares(client, server, b"s", b"select 1", b"pga_1")
    client.sends(query("execute s"))
    server.answers(
        (close_statement(b"s"), parse(b"s", b"select 1"), query("execute s"), close_statement(b"s"), SYNC),
        *(CLOSE_COMPLETE, PARSE_COMPLETE, *ONE, IDLE, CLOSE_COMPLETE, IDLE),
    )
    client.gets(*ONE, IDLE)
    assert play.lane.idle == [server.backend]


def test_a_cancel_that_hits_what_was_lent_ends_that_statement_alone(play: Playbook) -> None:
    client, server = join(play)
    prepares(client, server, b"s", b"select 1", b"pga_1")
    client.sends(query("execute s"))
    server.answers(
        (close_statement(b"s"), parse(b"s", b"select 1"), query("execute s"), close_statement(b"s"), SYNC),
        *(CLOSE_COMPLETE, error("57014"), IDLE),
    )
    client.gets(error("57014"), IDLE)
    assert play.lane.idle == [server.backend]
    client.sends(query("select 1"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)


def test_a_query_that_names_a_statement_waits_for_those_before_it(play: Playbook) -> None:
    client, server = join(play)
    prepares(client, server, b"s", b"select 1", b"pga_1")
    client.sends(query("select 1"), query("execute s"))
    server.answers(query("select 1"), *ONE, IDLE)
    client.gets(*ONE, IDLE)
    server.answers(
        (close_statement(b"s"), parse(b"s", b"select 1"), query("execute s"), close_statement(b"s"), SYNC),
        *(CLOSE_COMPLETE, PARSE_COMPLETE, *ONE, IDLE, CLOSE_COMPLETE, IDLE),
    )
    client.gets(*ONE, IDLE)


def test_what_is_deallocated_and_prepared_anew_stays(play: Playbook) -> None:
    client, server = join(play)
    prepares(client, server, b"s", b"select 1", b"pga_1")
    text = "deallocate s; prepare s as select 2"
    client.sends(query(text))
    answer = (complete("DEALLOCATE"), complete("PREPARE"), IDLE)
    server.answers(
        (close_statement(b"s"), parse(b"s", b""), query(text), SYNC),
        *(CLOSE_COMPLETE, PARSE_COMPLETE, *answer, IDLE),
    )
    client.gets(*answer)
    server.gets_end(TERMINATE)  # nobody else may find it there


def test_an_error_names_a_statement_that_is_closed_behind_it(play: Playbook) -> None:
    client, server = join(play)
    prepares(client, server, b"s", b"select $1", b"pga_1")
    client.sends(bind(b"s"), close_statement(b"s"), SYNC)
    wrong = 'bind message supplies 0 parameters, but prepared statement "{}" requires 1'
    server.answers((bind(b"pga_1"), SYNC), error("08P01", wrong.format("pga_1")), IDLE)
    client.gets(error("08P01", wrong.format("s")), IDLE)
