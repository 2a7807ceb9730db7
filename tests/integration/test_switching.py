"""A server connection changes hands between clients with different settings: in one write, or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, Wire, several
from tests.harness.cancelling import Cancellable
from tests.harness.tap import Tap
from tests.messages import SYNC, bind, execute, extended, parse

ZONES = ("Asia/Tokyo", "America/Bogota")


@pytest.fixture(params=["primary", "system_postgres"])
def server(request: pytest.FixtureRequest) -> Postgres:
    """The newest PostgreSQL, and an older one."""
    found: Postgres = request.getfixturevalue(request.param)
    return found


def test_whatever_comes_first_is_in_no_transaction_of_ours(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Each of these finds its connection in the state of another client."""
    proxy = ambassador(server.url(database="app"), pool={"size": 1})
    with (
        Wire.session(proxy.port, timezone=ZONES[0]) as one,
        Wire.session(proxy.port, timezone=ZONES[1]) as two,
    ):
        server.sql("create table if not exists of_a_switch (n int)", database="app")
        clients = itertools.cycle((one, two))
        for framed in (build.query, lambda sql: extended(sql.encode()) + SYNC):
            for sql, tag in (
                ("vacuum of_a_switch", "VACUUM"),
                ("create database of_a_switch", "CREATE DATABASE"),
                ("drop database of_a_switch", "DROP DATABASE"),
                ("create index concurrently on of_a_switch (n)", "CREATE INDEX"),
                ("do $$ begin perform 1; commit; end $$", "DO"),
                ("begin isolation level serializable", "BEGIN"),
            ):
                client = next(clients)
                client.send(framed(sql))
                answer = client.until("Z")
                assert (answer.kinds.lstrip("12n"), answer[-2].payload) == ("CZ", tag.encode() + b"\0"), sql
                if tag == "BEGIN":
                    assert client.ask("commit").kinds == "CZ"
        client = next(clients)
        assert client.ask("select now() = statement_timestamp()").value == "t"


def test_it_costs_no_round_trip_and_the_client_sees_nothing_of_it(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    with Tap(primary.port) as tap:
        url = primary.url("app_plain", USERS["app_plain"].password, "app", sslmode="disable")
        proxy = ambassador(url.replace(f":{primary.port}/", f":{tap.port}/"), pool={"size": 1})
        with (
            Wire.session(proxy.port, timezone=ZONES[0]) as one,
            Wire.session(proxy.port, timezone=ZONES[1]) as two,
        ):
            for client, zone in [(one, ZONES[0]), (two, ZONES[1])] * 3:
                before = len(tap.said[0])
                answer = client.ask("show timezone")
                assert (answer.kinds, answer.value) == ("TDCZ", zone)
                said = bytes(tap.said[0][before:])
                # One Sync or simple query, one ReadyForQuery: one round trip.
                assert said.endswith(build.query("show timezone"))
                assert said.count(b"BEGIN") == said.count(b"\0COMMIT\0") == 1
                assert len(said) < 400


def test_a_client_whose_state_cannot_be_reached_runs_nothing(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """A role that has been dropped meanwhile: its statement must not run as somebody else."""
    server.sql("drop table if exists signed; create table signed (by name)", database="app")
    server.sql("create role passing; grant all on signed to passing", database="app")
    proxy = ambassador(server.url(database="app"), pool={"size": 1})
    with Wire.session(proxy.port) as other, Wire.session(proxy.port, role="passing") as client:
        assert client.ask("insert into signed values (current_user)").kinds == "CZ"
        assert other.ask("select * from signed").value == "passing"
        other.ask("drop owned by passing")
        other.ask("drop role passing")
        client.send(build.query("insert into signed values (current_user)"))
        answer = client.rest()
        assert answer.kinds == "E"
        assert answer.error.fields["S"] == "FATAL"
        assert "settings" in answer.error.fields["M"]
        assert other.ask("select count(*) from signed").value == "1"


def test_a_cancel_request_never_hits_the_switch(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """That would cost the client its session."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    with Cancellable(proxy.port) as one, Wire.session(proxy.port, timezone=ZONES[1]) as two:
        one.login(user="app", database="app", timezone=ZONES[0])
        for _ in range(20):
            assert two.ask("show timezone").value == ZONES[1]
            one.send(build.query("select pg_sleep(20)"))
            while one.quiet:
                one.cancel()
            answer = one.until("Z")
            assert answer.error.sqlstate == "57014"


def test_the_unnamed_statement_is_the_one_that_was_parsed_last(
    ambassador: Callable[..., Ambassador], primary: Postgres
) -> None:
    """Not the one before, on a connection that has been somebody else's meanwhile."""
    proxy = ambassador(several(primary), pool={"size": 2})
    bind = build.frame(ord("B"), b"\0\0" + b"\0" * 6)
    run = build.frame(ord("E"), b"\0" * 5) + build.frame(ord("S"), b"")
    with Wire.session(proxy.port) as one, Wire.session(proxy.port) as other:

        def ask(wire: Wire, *messages: bytes) -> Answer:
            wire.send(*messages, run)
            return wire.until("Z")

        begin, commit = build.parse(b"a", b"begin"), build.parse(b"b", b"commit")
        named = [build.frame(ord("B"), b"\0" + name + b"\0" + b"\0" * 6) for name in (b"a", b"b")]
        assert ask(one, build.parse(b"", b"select 'first'"), bind).value == "first"
        ask(other, begin, named[0])
        assert ask(one, build.parse(b"", b"select 'second'"), bind).value == "second"
        ask(other, commit, named[1])
        assert ask(one, bind).value == "second"


def test_a_constant_means_what_it_meant_on_whatever_connection(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """The statement is new to the connection, and its client has set something else since it was prepared."""
    sql = b"/* when */ select '01/02/2001'::date - '2001-01-01'::date, 1 / $1::int"
    moment = b"select '2001-01-01 12:00'::timestamptz = '2001-01-01 12:00+09'"
    proxy = ambassador(server.url(database="app"), pool={"size": 2})

    def asks(client: Wire, value: bytes) -> Answer:
        client.send(bind(b"s", value), execute(), SYNC)
        return client.until("Z")

    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.ask("set datestyle = 'iso, dmy'")
        client.ask("set timezone = 'Asia/Tokyo'")
        client.send(parse(b"s", sql), parse(b"t", moment), parse(b"v", b"vacuum"), SYNC)
        assert client.until("Z").kinds == "111Z"
        client.ask("set datestyle = 'iso, mdy'")
        client.ask("set timezone = 'UTC'")
        first = client.ask("select pg_backend_pid()").value
        assert other.ask("begin").kinds == "CZ"
        assert other.ask("select pg_backend_pid()").value == first
        assert asks(client, b"1").rows == [["31", "1"]]
        client.send(bind(b"t"), execute(), SYNC)
        assert client.until("Z").value == "t"
        assert asks(client, b"0").error.sqlstate == "22012"
        assert client.ask("show datestyle").value == "ISO, MDY"
        assert client.ask("show timezone").value == "UTC"
        assert client.ask("select pg_backend_pid()").value != first
        client.send(bind(b"v"), execute(), SYNC)
        assert client.until("Z").kinds == "2CZ", "what must stand alone does"


def test_a_constant_that_is_new_to_the_connection_within_a_transaction(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(server.url(database="app"), pool={"size": 2})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.ask("set datestyle = 'iso, dmy'")
        client.send(parse(b"s", b"select '01/02/2001'::date - '2001-01-01'::date"), SYNC)
        assert client.until("Z").kinds == "1Z"
        client.ask("set datestyle = 'iso, mdy'")
        assert other.ask("begin").kinds == "CZ"
        assert other.ask("select 1").value == "1"
        assert client.ask("begin isolation level serializable").kinds == "CZ"
        client.send(bind(b"s"), execute(), SYNC)
        answer = client.until("Z")
        assert (answer.value, answer.kinds) == ("31", "2DCZ")
        assert client.ask("show datestyle").value == "ISO, MDY"
        assert client.ask("set local datestyle = german").kinds == "CSZ"
        assert client.ask("rollback").kinds == "CSZ"
        assert client.ask("show datestyle").value == "ISO, MDY"
