"""A BEGIN that is put off is answered as PostgreSQL answers it, to the byte; so is what comes behind it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from itertools import product
from struct import pack

import asyncpg
import psycopg
import pytest

from pgambassador.embedded import Authority, Postgres
from pgambassador.wire import build
from tests.harness import Ambassador, Message, Wire, wait_until
from tests.integration.test_splitting import cluster, port
from tests.messages import (
    SYNC,
    bind,
    close_portal,
    close_statement,
    describe,
    describe_portal,
    execute,
    parse,
    query,
)

RESTRICT = b"set transaction read only"
CREATE = query("create table put_off ()")
SHOW = query("show transaction_isolation") + query("show transaction_read_only")
COMMIT, ROLLBACK = query("commit"), query("rollback")


def unnamed(text: bytes) -> bytes:
    return parse(b"", text) + bind(b"") + execute()


def named(name: bytes, text: bytes) -> bytes:
    return parse(name, text) + bind(name) + execute()


def again(name: bytes) -> bytes:
    return bind(name) + execute() + SYNC


def formats(*fields: bytes) -> bytes:
    """A Bind of the unnamed statement with these formats, parameters and formats of columns."""
    return parse(b"", b"begin") + build.frame(ord("B"), b"\0\0" + b"".join(fields)) + execute() + SYNC


NONE, TEXT, BINARY = pack("!h", 0), pack("!hh", 1, 0), pack("!hh", 1, 1)
BEGIN = unnamed(b"begin") + SYNC


@pytest.fixture(scope="module")
def proxy(ambassadors: Callable[..., Ambassador], primary: Postgres, replica: Postgres) -> Ambassador:
    made = ambassadors(cluster(primary, replica))
    with psycopg.connect(made.dsn(user="app", dbname="app"), autocommit=True) as client:
        wait_until(lambda: port(client) == replica.port, "reads reach the replica")
    return made


def said(wire: Wire, parts: list[bytes]) -> list[list[Message]]:
    """The answers, part by part; a part may have several ReadyForQuery."""
    answers = []
    for part in parts:
        wire.send(part)
        answers.append(list(wire.until("Z", _ends(part))))
    return answers


def _ends(data: bytes) -> int:
    count = 0
    while data:
        count += data[:1] in (b"Q", b"S")
        data = data[1 + int.from_bytes(data[1:5], "big") :]
    return count


CONVERSATIONS = {
    "alone": [BEGIN, SHOW, COMMIT],
    "with its tag": [unnamed(b"start transaction") + SYNC, SHOW, COMMIT],
    "a simple one with its tag": [query("start transaction"), query("select 1"), query("begin"), COMMIT],
    "with a comment": [unnamed(b"/* what */ Begin Work -- now\n;") + SYNC, SHOW, COMMIT],
    "isolation": [unnamed(b"begin isolation level repeatable read") + SYNC, SHOW, COMMIT],
    "deferrable": [
        unnamed(b"start transaction deferrable") + SYNC, query("show transaction_deferrable"), COMMIT,
    ],
    "its portal": [parse(b"", b"begin") + bind(b"") + describe_portal() + execute() + SYNC, SHOW, COMMIT],
    "its statement": [parse(b"", b"begin") + describe(b"") + bind(b"") + execute() + SYNC, SHOW, COMMIT],
    "everything": [
        parse(b"s", b"begin") + describe(b"s") + bind(b"s") + describe(b"s") + describe_portal() + execute()
        + close_statement(b"s") + SYNC,
        SHOW, ROLLBACK,
    ],
    "by name": [
        named(b"s", b"begin") + SYNC, SHOW, COMMIT, again(b"s"), SHOW, COMMIT, again(b"s"),
        again(b"s"), ROLLBACK,
    ],
    "a long name": [
        named(b"s" * 70, b"begin") + SYNC, COMMIT, again(b"s" * 63), COMMIT, again(b"s" * 90), COMMIT,
    ],
    "a name that is taken": [
        named(b"s", b"begin") + SYNC, COMMIT, named(b"s", b"begin") + SYNC, query("select 1"),
    ],
    "a name that is taken then": [named(b"s", b"begin") + SYNC, named(b"s", b"select 1") + SYNC, ROLLBACK],
    "a name that is closed": [
        named(b"s", b"begin") + close_statement(b"s") + SYNC, again(b"s"), ROLLBACK, named(b"s",
        b"begin") + SYNC, COMMIT,
    ],
    "another name is closed": [
        parse(b"t", b"select 1") + SYNC, unnamed(b"begin") + close_statement(b"t") + SYNC,
        again(b"t"), ROLLBACK,
    ],
    "no name": [BEGIN, again(b""), ROLLBACK],
    "no name, at once": [BEGIN + again(b""), ROLLBACK],
    "no name, and closed": [unnamed(b"begin") + close_statement(b"") + SYNC, again(b""), ROLLBACK],
    "no name, afterwards": [
        BEGIN, named(b"c", b"commit") + SYNC, again(b""), again(b"c"), again(b""), COMMIT, again(b""),
    ],
    "what had no name before": [
        parse(b"", b"select 7") + SYNC, named(b"s", b"begin") + SYNC, again(b""), COMMIT,
    ],
    "its portal, again": [BEGIN, execute() + SYNC, ROLLBACK],
    "its portal, described": [BEGIN, describe_portal() + SYNC, COMMIT],
    "its portal, closed": [unnamed(b"begin") + close_portal() + SYNC, execute() + SYNC, ROLLBACK],
    "its statement, described": [BEGIN, describe(b"") + SYNC, COMMIT],
    "a Sync behind it": [BEGIN + SYNC, SYNC, COMMIT],
    "a Close behind it": [BEGIN, close_statement(b"x") + SYNC, COMMIT],
    "ended at once": [BEGIN + COMMIT, BEGIN + ROLLBACK, BEGIN + unnamed(b"commit") + SYNC, query("select 1")],
    "ended": [BEGIN, unnamed(b"commit") + SYNC, BEGIN, unnamed(b"rollback") + SYNC, COMMIT],
    "twice": [BEGIN, BEGIN, COMMIT],
    "twice, simply": [BEGIN, query("begin"), COMMIT, query("begin"), BEGIN, COMMIT],
    "twice in a part": [unnamed(b"begin") + unnamed(b"begin") + SYNC, COMMIT],
    "a write behind it": [BEGIN, CREATE, ROLLBACK],
    "all at once": [BEGIN + unnamed(b"select 1") + SYNC + query("select 2") + COMMIT],
    "an error behind it": [BEGIN, query("wrong"), query("select 1"), BEGIN, unnamed(b"rollback") + SYNC],
    "parsed": [parse(b"", b"begin") + SYNC, again(b""), COMMIT],
    "parsed by name": [
        parse(b"s", b"begin") + describe(b"s") + SYNC, again(b"s"), COMMIT, again(b"s"), COMMIT,
    ],
    "too many parameters": [parse(b"", b"begin") + bind(b"", b"1") + execute() + SYNC, query("select 1")],
    "a type": [parse(b"", b"begin", [23]) + bind(b"") + execute() + SYNC, query("select 1")],
    "a type and a parameter": [parse(b"", b"begin", [23]) + bind(b"", b"1") + execute() + SYNC, COMMIT],
    "a type, by name": [
        parse(b"s", b"begin", [23]) + SYNC, again(b"s"), bind(b"s", b"1") + execute() + SYNC, COMMIT,
    ],
    "a portal": [parse(b"", b"begin") + bind(b"", portal=b"p") + execute(b"p") + SYNC, COMMIT],
    "some rows": [parse(b"", b"begin") + bind(b"") + execute(b"", 1) + SYNC, COMMIT],
    "some rows, again": [parse(b"", b"begin") + bind(b"") + execute(b"", 2) + SYNC, again(b""), ROLLBACK],
    "fewer than no rows": [parse(b"", b"begin") + bind(b"") + execute(b"", -1) + SYNC, SHOW, COMMIT],
    "not executed": [parse(b"", b"begin") + bind(b"") + SYNC, query("select 1")],
    "another's portal": [parse(b"", b"begin") + bind(b"") + execute(b"p") + SYNC, query("select 1")],
    "nothing known": [again(b"unknown"), query("select 1")],
    "a long Sync": [unnamed(b"begin") + build.frame(ord("S"), b"x"), query("select 1")],
    "a Close of nothing": [unnamed(b"begin") + build.frame(ord("C"), b"S") + SYNC, ROLLBACK],
    "a Close without its end": [unnamed(b"begin") + build.frame(ord("C"), b"Ss") + SYNC, ROLLBACK],
    **{
        f"formats {number}": [formats(first, NONE, last), SHOW, COMMIT]
        for number, (first, last) in enumerate(product((NONE, TEXT, BINARY), repeat=2))
    },
    "two formats": [formats(pack("!hhh", 2, 0, 0), NONE, NONE), query("select 1")],
    "an odd format": [formats(pack("!hh", 1, 2), NONE, NONE), COMMIT],
    "two formats of columns": [formats(NONE, NONE, pack("!hhh", 2, 0, 0)), COMMIT],
    "too short": [formats(NONE, NONE), query("select 1")],
    "too long": [formats(NONE, NONE, NONE, b"\0"), query("select 1")],
    "made read only": [BEGIN, unnamed(RESTRICT) + SYNC, SHOW, CREATE, ROLLBACK],
    "made read only by name": [
        named(b"s", b"begin") + SYNC, named(b"t", RESTRICT) + SYNC, SHOW, COMMIT, again(b"s"),
        again(b"t"), SHOW, COMMIT,
    ],
    "what would make it so is parsed": [BEGIN, parse(b"t", RESTRICT) + SYNC, CREATE, ROLLBACK],
    "what would make it so is parsed behind a simple one": [
        query("begin"), parse(b"t", RESTRICT) + SYNC, CREATE, ROLLBACK,
    ],
    "made read only and read": [BEGIN, unnamed(RESTRICT) + unnamed(b"select 1") + SYNC, SHOW, ROLLBACK],
    "made read only and written": [BEGIN, unnamed(RESTRICT) + unnamed(b"create table x ()") + SYNC, ROLLBACK],
    "made read only at once": [unnamed(b"begin") + unnamed(RESTRICT) + SYNC, SHOW, COMMIT],
    "made read only at once, by name": [
        named(b"s", b"begin") + named(b"t", RESTRICT) + SYNC, SHOW, COMMIT,
        bind(b"s") + execute() + bind(b"t") + execute() + SYNC, SHOW, COMMIT,
    ],
    "made read only, and read": [
        unnamed(b"begin") + unnamed(RESTRICT) + unnamed(b"select 1") + SYNC, SHOW, COMMIT,
    ],
    "read before it is made so": [
        unnamed(b"begin") + unnamed(b"select 1") + unnamed(RESTRICT) + SYNC, SHOW, COMMIT,
    ],
    "both without effect": [
        unnamed(b"begin") + parse(b"t", RESTRICT) + SYNC, CREATE, ROLLBACK,
    ],
    "a comment in no encoding": [query(b"begin /* \xff */"), query("select 1")],
    "a comment in no encoding, unnamed": [unnamed(b"begin /* \xff */") + SYNC, query("select 1")],
    "a comment that is not ASCII": [
        query("begin /* \xe4 */".encode()), COMMIT, unnamed("begin -- \xe4".encode()) + SYNC, COMMIT,
    ],
    "by name behind an error": [
        named(b"s", b"begin") + SYNC + COMMIT,
        unnamed(b"select 1/0") + bind(b"s") + execute() + SYNC + again(b"s") + COMMIT,
    ],
    "by SQL, behind an error": [
        unnamed(b"wrong") + parse(b"s", b"select 5") + SYNC + unnamed(b"execute s") + SYNC
        + unnamed(b"prepare s as select 6") + unnamed(b"execute s") + SYNC,
        unnamed(b"deallocate s") + SYNC,
    ],
    "closed behind an error": [
        parse(b"s", b"select 5") + SYNC,
        unnamed(b"select 1/0") + close_statement(b"s") + SYNC + named(b"t", b"execute s") + SYNC,
        query("deallocate all"),
    ],
    "nothing is left to bind behind a PREPARE": [
        query("prepare p as select 1"), BEGIN + close_statement(b"") + named(b"s", b"select 2") + again(b""),
        ROLLBACK,
    ],
    "the wrong one of two": [
        parse(b"", RESTRICT) + SYNC, unnamed(b"begin") + bind(b"") + execute() + SYNC, CREATE,
        ROLLBACK,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_answers_are_those_of_the_server(
    name: str, proxy: Ambassador, primary: Postgres, ca: Authority
) -> None:
    parts = CONVERSATIONS[name]
    with Wire(primary.port) as wire:
        wire.encrypt(ssl.create_default_context(cafile=str(ca.root)))
        wire.login(user="app_trust", database="app")
        direct = said(wire, parts)
    for _twice in range(2):
        with Wire.session(proxy.port) as wire:
            assert said(wire, parts) == direct
            assert wire.quiet


@pytest.mark.parametrize(
    ("before", "begin"),
    [
        ([], BEGIN),
        ([], unnamed(b"start transaction isolation level repeatable read") + SYNC),
        ([], parse(b"", b"begin") + bind(b"") + describe_portal() + execute(b"", 1) + SYNC),
        ([], named(b"s", b"begin") + close_statement(b"s") + SYNC),
        ([named(b"s", b"begin") + SYNC, COMMIT], again(b"s")),
        ([parse(b"s", b"begin") + describe(b"s") + SYNC], again(b"s")),
    ],
    ids=["alone", "start", "described", "closed", "again", "prepared"],
)
@pytest.mark.parametrize(
    "restricts",
    [b"", query(RESTRICT), unnamed(RESTRICT) + SYNC, named(b"t", RESTRICT) + SYNC],
    ids=["not", "simply", "unnamed", "named"],
)
def test_where_its_transaction_runs(
    proxy: Ambassador, before: list[bytes], begin: bytes, restricts: bytes
) -> None:
    """What follows says it. Where the primary had to do with it before, the replica is fresh enough soon."""

    def on_a_replica() -> bool:
        said(wire, [begin, *filter(None, [restricts])])
        where = wire.ask("select pg_is_in_recovery()").value
        assert wire.ask("show transaction_read_only").value == ("on" if restricts else "off")
        assert wire.ask("commit").kinds == "CZ"
        said(wire, [close_statement(b"t") + SYNC])
        return where == "t"

    with Wire.session(proxy.port) as wire:
        said(wire, before)
        if restricts:
            wait_until(on_a_replica, "it runs on the replica")
        else:
            assert not any(on_a_replica() for _ in range(3))


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        (unnamed(b"begin") + unnamed(RESTRICT), True),
        (unnamed(b"start transaction") + unnamed(RESTRICT), True),
        (
            named(b"s", b"begin") + parse(b"", RESTRICT) + bind(b"") + describe_portal() + execute(b"", 1),
            True,
        ),
        (unnamed(b"begin") + unnamed(RESTRICT) + unnamed(b"select 1"), True),
        (unnamed(b"begin") + unnamed(RESTRICT + b" /* pgambassador: primary */"), False),
        (unnamed(b"begin /* pgambassador: primary */") + unnamed(RESTRICT), False),
        (unnamed(b"begin") + unnamed(b"select 1") + unnamed(RESTRICT), False),
        (unnamed(b"begin") + parse(b"t", RESTRICT), False),
        (unnamed(b"begin isolation level serializable") + unnamed(RESTRICT), False),
    ],
)
def test_where_a_begin_goes_with_what_makes_it_read_only(
    proxy: Ambassador, asked: bytes, there: bool
) -> None:
    with Wire.session(proxy.port) as wire:
        for _ in range(3):
            wire.send(asked, SYNC)
            assert wire.until("Z")[-1].payload == b"T"
            assert wire.ask("select pg_is_in_recovery()").value == ("t" if there else "f")
            assert wire.ask("commit").kinds == "CZ"
            said(wire, [close_statement(b"s") + close_statement(b"t") + SYNC])


# Drivers that send it so.


def test_a_pipeline_of_psycopg(proxy: Ambassador) -> None:
    with psycopg.connect(proxy.dsn(user="app", dbname="app"), autocommit=True) as connection:
        connection.prepare_threshold = 0

        def on_a_replica(*, parts: bool) -> bool:
            with connection.pipeline() as pipeline:
                connection.execute("begin")
                if parts:
                    pipeline.sync()
                connection.execute("set transaction read only")
                where = connection.execute("select pg_is_in_recovery()")
                pipeline.sync()
                (found,) = where.fetchone() or ()
                connection.execute("commit")
            return bool(found)

        wait_until(lambda: on_a_replica(parts=True), "it runs on the replica, part by part")
        wait_until(lambda: on_a_replica(parts=False), "it runs on the replica, as one part")


def test_a_pipeline_of_psycopg_that_begins_by_itself(proxy: Ambassador) -> None:
    with psycopg.connect(proxy.dsn(user="app", dbname="app")) as connection:

        def on_a_replica() -> bool:
            with connection.pipeline() as pipeline:
                connection.execute("set transaction read only")
                where = connection.execute("select pg_is_in_recovery()")
                pipeline.sync()
                (found,) = where.fetchone() or ()
                connection.commit()
            return bool(found)

        wait_until(on_a_replica, "it runs on the replica")


def test_a_statement_of_asyncpg(proxy: Ambassador) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(proxy.dsn(user="app", dbname="app"))
        try:
            begin = await connection.prepare("begin")
            until = asyncio.get_running_loop().time() + 10
            where = False
            while not where and asyncio.get_running_loop().time() < until:
                await begin.fetch()
                assert connection.is_in_transaction()
                await connection.execute("set transaction read only")
                where = await connection.fetchval("select pg_is_in_recovery()")
                await connection.execute("commit")
            assert where
        finally:
            await connection.close()

    asyncio.run(main())
