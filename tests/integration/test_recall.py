"""The cache of answers, with a real server as the judge of it: who gets an answer again, and until when."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from threading import Thread
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, several, wait_until

HINT: LiteralString = "/* pgambassador: cache=1h */ "
READ: LiteralString = HINT + "select n from t where id = 1"
SCHEMA = """
drop schema if exists cached cascade; create schema cached; grant all on schema cached to public;
set search_path = cached;
create table t (id int primary key, n int) with (autovacuum_enabled = off);
insert into t select i, 0 from generate_series(1, 50) as i;
create table u (id int primary key, n int); insert into u values (1, 0);
alter table u owner to app;
create view v as select sum(n) as n from u;
create table watched (n int); create table log (n int);
create function note() returns trigger language plpgsql
    as 'begin insert into cached.log values (1); return new; end';
create trigger note after insert on watched for each row execute function note();
create function touch() returns int language plpgsql as 'begin update cached.u set n = n + 1; return 1; end';
create table mine (owner name default current_user, n int);
alter table mine enable row level security;
create policy own on mine using (owner = current_user);
create table defaulted (n int default cached.touch());
grant all on all tables in schema cached to public;
create schema if not exists other; grant all on schema other to public;
drop table if exists other.t; create table other.t (id int, n int); insert into other.t values (1, 1000);
grant all on other.t to public;
"""
PATH = {"options": "-c search_path=cached"}


@pytest.fixture(scope="module")
def server(primary: Postgres) -> Postgres:
    primary.sql(SCHEMA, database="app")
    return primary


@pytest.fixture(scope="module")
def keeping(ambassadors: Callable[..., Ambassador], server: Postgres) -> Ambassador:
    """An ambassador that keeps answers, and knows the database."""
    return _kept(ambassadors(config(several(server))))


@pytest.fixture
def connection(keeping: Ambassador) -> Iterator[Connection]:
    with client(keeping) as made:
        made.execute("update t set n = 0")
        yield made


@pytest.fixture
def past(server: Postgres) -> Iterator[Connection]:
    """Changes what the ambassador does not see."""
    with psycopg.connect(server.url(database="app"), autocommit=True, **PATH) as made:  # type: ignore[arg-type]
        yield made


def config(url: str, **cache: object) -> dict[str, Any]:
    return {"clusters": {"main": {"url": url, "routing": {"cache": cache or {"memory": "1MiB"}}}}}


def client(process: Ambassador, user: str = "app", **options: object) -> Connection:
    return psycopg.connect(process.dsn(user=user), autocommit=True, **PATH | options)  # type: ignore[arg-type]


def _kept(process: Ambassador, user: str = "app") -> Ambassador:
    """Once it keeps answers, having read the catalog."""
    with client(process, user) as made:
        wait_until(lambda: again(made, HINT + "select now()"), "answers are kept")
    return process


def again(made: Connection, sql: LiteralString) -> bool:
    return made.execute(sql).fetchall() == made.execute(sql).fetchall()


def value(made: Connection, sql: LiteralString = READ, **options: Any) -> Any:
    ((found,),) = made.execute(sql, **options).fetchall()
    return found


def hits(process: Ambassador) -> float:
    return process.metrics().total("pgambassador_cache_hits_total")


def test_an_answer_is_given_again_until_its_table_is_written(
    connection: Connection, past: Connection
) -> None:
    assert value(connection) == 0
    past.execute("update t set n = 7 where id = 1")
    assert value(connection) == 0, "it was not kept"
    connection.execute("update u set n = n")
    assert value(connection) == 0, "another table was written"
    connection.execute("update t set n = n + 1 where id = 2")
    assert value(connection) == 7


WRITES: list[LiteralString] = [
    "insert into u values (2, 1)",
    "delete from u where id = 2",
    "with w as (update u set n = n + 1 returning n) select * from w",
    "merge into u using (values (1)) as x (id) on u.id = x.id when matched then update set n = u.n + 1",
    "select touch()",
    "insert into defaulted default values",
    "do $$ begin update cached.u set n = n + 1; end $$",
    "select 1; update u set n = n + 1",
    "begin; update u set n = n + 1; commit",
    "truncate u",
    "alter table u alter id set default 5",
    "comment on table u is 'told'",
    "prepare w as update u set n = n + 1; execute w; deallocate w",
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("read", ["select sum(n), count(*) from u", "select n from v", "select u from u"])
def test_what_takes_answers_away(
    connection: Connection, past: Connection, write: LiteralString, read: LiteralString
) -> None:
    """Whatever is kept says afterwards what the server says."""
    sql = HINT + read
    # The other cases may have run, or not, in any order.
    past.execute("delete from u where id = 2")
    if not write.startswith("insert"):
        past.execute("insert into u values (2, 0)")
    connection.execute("insert into u values (1, 0) on conflict do nothing")
    wait_until(lambda: _holds(connection, past, sql), "the answer is kept")
    connection.execute(write)
    assert connection.execute(sql).fetchall() == past.execute(sql).fetchall()


def _holds(connection: Connection, past: Connection, sql: LiteralString) -> bool:
    """Whether an answer is kept: it does not show what has been written past the ambassador."""
    before = connection.execute(sql).fetchall()
    past.execute("update u set n = n + 100 where id = 1")
    return connection.execute(sql).fetchall() == before


def test_what_a_trigger_writes_takes_answers_away(connection: Connection, past: Connection) -> None:
    sql: LiteralString = HINT + "select count(*) from log"
    wait_until(lambda: again(connection, HINT + "select now()"))
    before = value(connection, sql)
    connection.execute("insert into watched values (1)")
    assert value(connection, sql) == before + 1


def test_a_trigger_that_is_new_counts_at_once(connection: Connection, keeping: Ambassador) -> None:
    sql: LiteralString = HINT + "select count(*) from log"
    with client(keeping) as other:
        wait_until(lambda: again(connection, HINT + "select now()"))
        for name in ("one", "two", "three"):
            other.execute(f"create table {name} (n int)".encode())
            other.execute(
                f"create trigger note after insert on {name} for each row execute function note()".encode()
            )
            before = value(connection, sql)
            connection.execute(f"insert into {name} values (1)".encode())
            assert value(connection, sql) == before + 1
            other.execute(f"drop table {name}".encode())


def test_a_transaction_counts_from_its_write_to_its_end(connection: Connection, keeping: Ambassador) -> None:
    with client(keeping) as other:
        assert value(other) == 0
        with connection.transaction():
            connection.execute("update t set n = 5 where id = 1")
            assert value(other) == 0, "it is not committed"
            assert value(connection) == 5, "within the transaction"
            before = hits(keeping)
            assert value(other) == 0
            assert hits(keeping) == before, "nothing is kept of a table that is being written"
        assert value(other) == 5
        with contextlib.suppress(ZeroDivisionError), connection.transaction():
            connection.execute("update t set n = 6 where id = 1")
            raise ZeroDivisionError
        assert value(other) == 5


def test_who_leaves_within_a_transaction_leaves_nothing_behind(keeping: Ambassador) -> None:
    with client(keeping) as other:
        with client(keeping) as leaving:
            leaving.execute("begin")
            leaving.execute("update t set n = n")
        wait_until(lambda: again(other, HINT + "select now(), n from t where id = 1"))


def test_prepared_statements_share_by_their_text(keeping: Ambassador, past: Connection) -> None:
    sql: LiteralString = HINT + "select n from t where id = %s"
    with client(keeping) as one, client(keeping) as two:
        one.execute("update t set n = id")
        two.execute("select 1", prepare=True)  # so that their names differ
        assert value(one, sql, params=(1,), prepare=True) == 1
        assert value(one, sql, params=(1,), prepare=True) == 1
        past.execute("update t set n = -id")
        assert value(one, sql, params=(1,), prepare=True) == 1
        assert value(two, sql, params=(2,), prepare=True) == -2, "other parameters"
        value(two, sql, params=(2,), prepare=True)
        before = hits(keeping)
        assert value(two, sql, params=(1,), prepare=True) == 1, "of the other session"
        assert hits(keeping) == before + 1
        assert value(one, sql, params=(3,)) == -3
        past.execute("update t set n = 0")
        assert value(two, sql, params=(3,)) == -3, "with the unnamed statement"
        two.execute("update t set n = n + 1 where id = %s", (50,), prepare=True)
        assert value(one, sql, params=(1,), prepare=True) == 0


def test_a_constant_means_what_it_meant_when_it_was_prepared(keeping: Ambassador) -> None:
    sql: LiteralString = HINT + "select '01/02/2001'::date - '2001-01-01'::date, n from t where id = %s"
    with client(keeping) as one, client(keeping) as two:
        one.execute("update t set n = 0")
        one.execute("set datestyle = iso, dmy")
        assert value_of(one, sql) == 31
        one.execute("set datestyle = iso, mdy")
        two.execute("set datestyle = iso, mdy")
        for _round in range(2):
            assert [value_of(one, sql), value_of(two, sql)] == [31, 1]


def value_of(made: Connection, sql: LiteralString) -> int:
    """The first column, by a prepared statement."""
    row = made.execute(sql, (1,), prepare=True).fetchone()
    assert row is not None
    return int(row[0])


def test_formats_are_told_apart(keeping: Ambassador) -> None:
    sql: LiteralString = HINT + "select n, '{1,2}'::int[] from t where id = %s"
    with client(keeping) as made:
        made.execute("update t set n = 0")
        for binary in (False, True, False, True):
            for parameter in (1, "1", 1):
                cursor = made.execute(sql, (parameter,), binary=binary)
                assert cursor.fetchone() == (0, [1, 2])
                assert cursor.pgresult is not None and cursor.pgresult.fformat(0) == int(binary)


def test_sessions_that_differ_do_not_share(keeping: Ambassador, past: Connection) -> None:
    settings = [
        "select 1",
        "set search_path = other",
        "set timezone = 'Asia/Tokyo'",
        "set datestyle = german, dmy",
    ]
    settings += ["set role pg_read_all_data", "set bytea_output = escape", "set app.tenant = 'a'"]
    sql: LiteralString = (
        HINT + "select n, '2001-02-03 04:05:06+00'::timestamptz::text, '\\xff'::bytea::text, current_user,"
        " nullif(current_setting('app.tenant', true), '') from t where id = 1"
    )
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(client(keeping)) for _ in settings]
        direct = [
            stack.enter_context(psycopg.connect(_direct(past), autocommit=True, **PATH))  # type: ignore[arg-type]
            for _ in settings
        ]
        past.execute("grant pg_read_all_data to app")
        for sessions in (made, direct):
            for session, setting in zip(sessions, settings, strict=True):
                session.execute(setting.encode())
        for _round in range(3):
            for prepare in (False, True):
                ours = [session.execute(sql, prepare=prepare).fetchall() for session in made]
                theirs = [session.execute(sql, prepare=prepare).fetchall() for session in direct]
                assert ours == theirs
        assert len({str(row) for row in ours}) == len(settings)


def _direct(past: Connection) -> str:
    user = USERS["app"]
    return f"{past.info.dsn} user={user.name} password={user.password} dbname=app"


def test_users_do_not_share(ambassadors: Callable[..., Ambassador], server: Postgres) -> None:
    names = ("app", "app_plain", "app_md5")
    url = several(server).replace(f"app:{USERS['app'].password}@", "")
    users = {name: {"password": USERS[name].password} for name in names}
    process = ambassadors(
        config(url), auth={"method": "trust", "users": {n: USERS[n].password for n in names}}
    )
    assert users
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(client(process, name)) for name in names}
        for name in names:
            _kept(process, name)
        for number, name in enumerate(names):
            made[name].execute("delete from mine")
            made[name].execute("insert into mine (n) values (%s)", (number,))
        for _round in range(3):
            for number, name in enumerate(names):
                assert made[name].execute(HINT + "select owner, n from mine").fetchall() == [(name, number)]


def test_an_answer_ends_with_its_time(connection: Connection, past: Connection) -> None:
    sql: LiteralString = "/* pgambassador: cache=200ms */ select n from t where id = 1"
    assert value(connection, sql) == 0
    past.execute("update t set n = 9")
    wait_until(lambda: value(connection, sql) == 9)


def test_what_is_not_kept(connection: Connection, keeping: Ambassador) -> None:
    """Of these no two answers are the same, or they are none."""
    texts: list[LiteralString] = ["select clock_timestamp()", "select gen_random_uuid()", "select random()"]
    texts += ["select now() from pg_stat_activity limit 1", "select pg_sleep(0), now()"]
    for text in texts:
        assert not again(connection, HINT + text), text
    assert not again(connection, "select now()"), "without a hint"
    with connection.transaction():
        assert again(connection, HINT + "select now()")
    before = keeping.metrics().total("pgambassador_cache_stores_total")
    for _ in range(2):
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute(HINT + "select 1 / (n - n) from t")
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute(HINT + "select * from nothing")
    large: LiteralString = HINT + "select repeat('x', 100000) from t where id = 1"
    assert value(connection, large) == value(connection, large) == "x" * 100000
    assert keeping.metrics().total("pgambassador_cache_stores_total") == before
    connection.execute("set pgambassador.route = 'primary'")
    assert not again(connection, HINT + "select now()"), "the session wants the primary"


def test_the_unnamed_statement_is_the_one_that_was_prepared_last(keeping: Ambassador) -> None:
    """Also where a server has never heard of it, since we have answered."""

    def ask(wire: Wire, text: bytes | None) -> str | None:
        parse = build.parse(b"", text) if text is not None else b""
        wire.send(parse, build.frame(ord("B"), b"\0\0" + b"\0" * 6), EXECUTE, SYNC)
        return wire.until("Z").value

    kept = HINT.encode() + b"select 'kept' from cached.t where id = 1"
    with Wire.session(keeping.port) as wire:
        for _ in range(2):
            assert ask(wire, kept) == "kept"
        assert ask(wire, b"select 'new'") == "new"
        assert ask(wire, None) == "new"
        assert ask(wire, kept) == "kept"
        assert ask(wire, None) == "kept"
        assert ask(wire, b"select 'new'") == "new"
        simple = HINT.encode() + b"select 'simple' from cached.t where id = 1"
        for _ in range(2):
            wire.send(build.query(simple.decode()))
            assert wire.until("Z").value == "simple"
        wire.send(build.frame(ord("B"), b"\0\0" + b"\0" * 6), EXECUTE, SYNC)
        assert wire.until("Z").error.sqlstate == "26000", "a simple query has ended it"


EXECUTE = build.frame(ord("E"), b"\0" * 5)
SYNC = build.frame(ord("S"), b"")


def test_pipelines_are_answered_in_order(keeping: Ambassador) -> None:
    """What is kept and what is not, all sent at once."""
    with client(keeping) as made:
        made.execute("update t set n = id")
    with Wire.session(keeping.port) as wire:
        for _round in range(3):
            sent, expected = [], []
            for number in Random(_round).choices(range(1, 50), k=200):
                hint = HINT if number % 2 else ""
                text = f"{hint}select n from cached.t where id = {number}"
                if number % 3:
                    sent.append(build.query(text))
                else:
                    bind = build.frame(ord("B"), b"\0\0" + b"\0" * 6)
                    sent += [build.parse(b"", text.encode()), bind, EXECUTE, SYNC]
                expected.append(str(number))
            wire.send(*sent)
            assert [wire.until("Z").value for _ in expected] == expected


def test_nobody_reads_older_than_what_was_acknowledged(
    ambassadors: Callable[..., Ambassador], server: Postgres
) -> None:
    """Many write and read the same rows; who knows of a write, its own or another's, never sees less."""
    process = _kept(ambassadors(config(several(server)), pool={"size": 4}))
    acknowledged = [0] * 11
    stale: list[str] = []
    with client(process) as made:
        made.execute("update t set n = 0")

    def work(seed: int) -> None:
        random = Random(seed)
        with client(process) as made:
            for _ in range(250):
                row = random.randint(1, 10)
                known = acknowledged[row]
                prepare = random.random() < 0.5
                if random.random() < 0.05:
                    if random.random() < 0.5:
                        number = value(
                            made, "update t set n = n + 1 where id = %s returning n", params=(row,)
                        )
                    else:
                        with made.transaction():
                            made.execute("update t set n = n + 1 where id = %s", (row,), prepare=prepare)
                            number = value(made, HINT + "select n from t where id = %s", params=(row,))
                    acknowledged[row] = max(acknowledged[row], number)
                    known = number
                seen = value(made, HINT + "select n from t where id = %s", params=(row,), prepare=prepare)
                if seen < known:
                    stale.append(f"{seen} where {known} was known")

    threads = [Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not stale, stale[:5]
    assert sum(acknowledged) > 50
    assert hits(process) > 100, "nothing was tried"


def test_a_standby_that_lags_gives_nothing_to_keep(
    ambassadors: Callable[..., Ambassador], server: Postgres, replica: Postgres
) -> None:
    routing = {"probe": {"interval": "100ms"}, "max_lag": "1h", "cache": {"memory": "1MiB"}}
    process = ambassadors({"clusters": {"main": {"url": several(server, replica), "routing": routing}}})
    _kept(process)
    sql: LiteralString = "select n from t where id = 1"
    with (
        client(process) as writer,
        client(process) as reader,
        client(process) as late,
        psycopg.connect(replica.url(), autocommit=True) as standby,
    ):
        writer.execute("update t set n = 1")
        wait_until(lambda: value(reader, HINT + sql) == 1)
        standby.execute("select pg_wal_replay_pause()")
        wait_until(
            lambda: standby.execute("select pg_get_wal_replay_pause_state()").fetchone() == ("paused",)
        )
        try:
            writer.execute("update t set n = 2")
            assert value(reader, sql) == 1, "it reads what the standby has"
            assert value(reader, HINT + sql) == 1, "also so, and it is not kept"
            assert value(writer, HINT + sql) == 2
            assert value(late, HINT + sql) == 2, "what was kept of the primary's answer"
        finally:
            standby.execute("select pg_wal_replay_resume()")


def test_rules_say_what_is_kept(ambassadors: Callable[..., Ambassador], server: Postgres) -> None:
    rules = [{"tables": ["t", "v"], "ttl": "1h"}, {"fingerprint": "50fde20626009aba", "ttl": "1h"}]
    process = ambassadors(config(several(server), rules=rules))
    with client(process) as made:
        wait_until(lambda: again(made, "select now(), n from t where id = 1"), "answers are kept")
        assert again(made, "select now(), v.n from t, v")
        assert not again(made, "select now(), u.n from t, u where t.id = 1")
        assert not again(made, "/* pgambassador: primary */ select now(), n from t where id = 1")
        assert not again(made, "select now()")


def test_without_the_section_nothing_is_kept(
    ambassadors: Callable[..., Ambassador], server: Postgres, replica: Postgres
) -> None:
    process = ambassadors(several(server, replica))
    with client(process) as made:
        for _ in range(5):
            assert not again(made, HINT + "select now()")


def test_the_query_log_and_the_console_say_so(
    ambassadors: Callable[..., Ambassador], server: Postgres, tmp_path: Path
) -> None:
    log = tmp_path / "queries"
    process = _kept(ambassadors(config(several(server)), query_log={"file": str(log), "slow": "0s"}))
    with client(process) as made:
        for _ in range(2):
            made.execute(HINT + "select n as logged from t")
            made.execute(HINT + "select n as named from t", prepare=True)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(each) for each in log.read_text().splitlines()] if log.exists() else []

    for mark in ("logged", "named"):
        found = wait_until(lambda: [each for each in lines() if mark in each["query"]][1:], mark)  # noqa: B023
        assert (found[0]["route"], found[0]["server"], found[0]["rows"]) == ("cache", "", 50)
