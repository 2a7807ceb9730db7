"""asyncpg, what tests/integration/test_drivers.py does not do with it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import Connection

from tests.drivers.places import MANY, Place
from tests.harness.activity import wait_over, wait_running


def run(place: Place, work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        connection = await asyncpg.connect(place.dsn(), **options)
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(main())


def test_a_wrong_password_and_an_unknown_database_are_refused(place: Place, places: dict[str, Place]) -> None:
    async def attempt(dsn: str) -> None:
        await asyncpg.connect(dsn)

    with pytest.raises(asyncpg.InvalidPasswordError):
        asyncio.run(attempt(place.dsn(password="wrong")))
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        asyncio.run(attempt(places["three"].dsn(database="nowhere")))


@pytest.mark.parametrize("cache", [0, 3, 100])
def test_statements_go_over_every_server_connection(place: Place, cache: int) -> None:
    """With a small cache statements are closed and named anew all the time."""

    async def work(connection: Any) -> None:
        pids = set()
        for turn in place.turns(12):
            for own in range(5):
                row = await connection.fetchrow(f"select pg_backend_pid(), $1::int + {own}", turn)
                assert row[1] == turn + own
                pids.add(row[0])
        assert len(pids) == place.connections

    run(place, work, statement_cache_size=cache)


def test_a_batch_with_an_error_in_the_middle_leaves_nothing(place: Place, table: str) -> None:
    async def work(connection: Any) -> None:
        insert = f"insert into {table} values ($1, $2)"
        await connection.executemany(insert, [(n, "x") for n in range(2000)])
        for _ in range(3):
            with pytest.raises(asyncpg.UniqueViolationError) as caught:
                await connection.executemany(insert, [(n, "x") for n in (*range(3000, 4000), 5, 4001)])
            assert (caught.value.sqlstate, caught.value.constraint_name) == ("23505", f"{table}_pkey")
            with pytest.raises(asyncpg.DataError):  # the client's own, found when half of it is sent
                await connection.executemany(insert, [*((n, "x") for n in range(3000, 9000)), ("no", "x")])
        assert await connection.fetchval(f"select count(*) from {table}") == 2000
        rows = await connection.fetchmany(
            f"insert into {table} values ($1, 'y') returning id", [(n,) for n in range(5000, 5050)]
        )
        assert [row["id"] for row in rows] == list(range(5000, 5050))

    run(place, work)


def test_savepoints_in_savepoints(place: Place, table: str) -> None:
    async def work(connection: Any) -> None:
        for turn in place.turns(4):
            transaction = connection.transaction()
            await transaction.start()
            for depth in range(3):
                with pytest.raises(ZeroDivisionError):
                    async with connection.transaction():
                        await connection.execute(f"insert into {table} values ($1)", depth)
                        async with connection.transaction():
                            await connection.execute(f"insert into {table} values ($1)", 10 + depth)
                        raise ZeroDivisionError
            await connection.execute(f"insert into {table} values ($1)", 100 + turn)
            await (transaction.commit() if turn % 2 else transaction.rollback())
        assert await connection.fetchval(f"select array_agg(id order by id) from {table}") == [101, 103]

    run(place, work)


def test_a_cancelled_task_ends_its_query_on_the_server(place: Place, observer: Connection) -> None:
    text = f"asyncpg of {place.database} at {place.port}"

    async def work(connection: Any) -> None:
        for _ in range(3):
            task = asyncio.get_running_loop().create_task(connection.fetch(f"select pg_sleep(30), '{text}'"))
            await asyncio.to_thread(wait_running, observer, text)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await connection.fetchval("select 'fine'") == "fine"
            await asyncio.to_thread(wait_over, observer, text)

    run(place, work)


def test_a_query_that_the_server_cancels(place: Place, observer: Connection) -> None:
    async def work(connection: Any) -> None:
        await connection.execute("set statement_timeout = 1")
        for _ in place.turns(3):
            with pytest.raises(asyncpg.QueryCanceledError) as caught:
                await connection.fetch("select pg_sleep(30)")
            assert caught.value.sqlstate == "57014"
        await connection.execute("reset statement_timeout")
        assert await connection.fetchval("select 'fine'") == "fine"

    run(place, work)


def test_copies_with_an_error_in_the_middle(place: Place, table: str) -> None:
    async def work(connection: Any) -> None:
        async def lines():
            for n in range(5000):
                yield f"{n}\tx\n".encode()
            yield b"not a number\tx\n"

        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.copy_to_table(table, source=lines())

        async def failing():
            yield b"1\tx\n"
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await connection.copy_to_table(table, source=failing())

        async def refuses(_: bytes) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await connection.copy_from_query(f"select generate_series(1, {MANY})", output=refuses)
        taken: list[bytes] = []

        async def takes(data: bytes) -> None:
            taken.append(data)

        done = await connection.copy_from_query("select generate_series(1, $1::int)", MANY, output=takes)
        assert done == f"COPY {MANY}"
        assert b"".join(taken).splitlines()[-1] == b"%d" % MANY
        assert await connection.fetchval(f"select count(*) from {table}") == 0

    run(place, work)


def test_values_of_many_types(place: Place) -> None:
    values: dict[str, Any] = {
        "int2": -7,
        "numeric": Decimal("-1234567890.0987654321"),
        "float4": 1.5,
        "text": "quotes ' \" and \\ and \U0001f418",
        "bytea": bytes(range(256)) * 10,
        "timestamptz": datetime(2020, 2, 29, 1, 2, 3, 4, tzinfo=UTC),
        "date": date(9999, 12, 31),
        "time": time(1, 2, 3),
        "interval": timedelta(days=-3, seconds=4),
        "int[]": [[1, None], [3, 4]],
        "text[]": ["ä", None, ""],
        "uuid": uuid.UUID(int=5),
        "inet": ipaddress.ip_interface("10.1.2.3/8"),
        "int4range": asyncpg.Range(1, 10),
        "bit(9)": asyncpg.BitString("101010101"),
        "point": asyncpg.Point(1, 2),
        "jsonb": '{"a": [1, null]}',
    }

    async def work(connection: Any) -> None:
        for _ in place.turns(3):
            for kind, given in values.items():
                for value in (given, None):
                    assert await connection.fetchval(f"select $1::{kind}", value) == value

    run(place, work)


def test_types_that_are_looked_up_on_the_server(place: Place, table: str) -> None:
    """By queries of asyncpg's own, in between."""

    async def work(connection: Any) -> None:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads, format="text"
        )
        for turn in place.turns(4):
            assert await connection.fetchval("select $1::jsonb", {"a": [turn]}) == {"a": [turn]}
            rows = await connection.fetchval(f"select array[(1, 'x'), $1::{table}]::{table}[]", (turn, "y"))
            assert [tuple(row) for row in rows] == [(1, "x"), (turn, "y")]
            await connection.reload_schema_state()

    run(place, work)


def test_a_changed_table_is_noticed(place: Place, table: str) -> None:
    async def work(connection: Any) -> None:
        await connection.execute(f"create view v_{table} as select id from {table}")
        try:
            await connection.fetch(f"select * from v_{table}")
            for number, column in enumerate(("one", "two")):
                await connection.execute(
                    f"drop view v_{table};"
                    f" create view v_{table} as select id, {number} as {column} from {table}"
                )
                for _ in range(3):
                    prepared = await connection.prepare(f"select * from v_{table}")
                    assert [each.name for each in prepared.get_attributes()] == ["id", column]
                    await connection.fetch(f"select * from v_{table}")
        finally:
            await connection.execute(f"drop view v_{table}")

    run(place, work, statement_cache_size=0)


WHERE = pytest.mark.parametrize("place", ["direct", "one", "session"], indirect=True)


@pytest.fixture
def own(place: Place, table: str) -> Iterator[str]:
    """A table that its own user may change."""
    with psycopg.connect(place.dsn(), autocommit=True) as connection:
        connection.execute(f"create table own_{table} (id int, name text)")
        yield f"own_{table}"
        connection.execute(f"drop table own_{table}")


@WHERE
def test_who_prepares_after_a_column_has_changed_gets_its_new_type(place: Place, own: str) -> None:
    async def insert(number: int, connection: Any) -> None:
        await connection.execute(f"insert into {own} values ($1)", number)

    for number, kind in ((1, "int"), (5_000_000_000, "bigint")):
        with psycopg.connect(place.dsn(), autocommit=True) as server:
            server.execute(f"alter table {own} alter id type {kind}")
        run(place, partial(insert, number))


@WHERE
def test_who_prepares_after_a_type_was_made_anew_gets_the_new_one(place: Place, table: str) -> None:
    name = f"e_{table}"
    with psycopg.connect(place.dsn(), autocommit=True) as server:
        try:
            for _ in range(2):
                server.execute(f"drop type if exists {name}; create type {name} as enum ('a')")
                run(place, lambda connection: connection.execute(f"select $1::{name}", "a"))
        finally:
            server.execute(f"drop type {name}")


@WHERE
def test_who_prepares_after_a_table_has_grown_sees_the_new_column(place: Place, own: str) -> None:
    """In a transaction, where asyncpg cannot prepare again by itself."""
    found: list[list[str]] = []

    async def look(connection: Any) -> None:
        async with connection.transaction():
            prepared = await connection.prepare(f"select * from {own}")
            found.append([each.name for each in prepared.get_attributes()])

    run(place, look)
    with psycopg.connect(place.dsn(), autocommit=True) as server:
        server.execute(f"alter table {own} add more int")
    run(place, look)
    assert found == [["id", "name"], ["id", "name", "more"]]


def test_listeners_are_called(place: Place) -> None:
    async def work(connection: Any) -> None:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        def listener(_connection: object, _pid: int, channel: str, payload: str) -> None:
            heard.put_nowait((channel, payload))

        await connection.add_listener("one", listener)
        await connection.add_listener("two", listener)
        await asyncio.to_thread(place.notify, "one", "first")
        await asyncio.to_thread(place.notify, "two", "second")
        assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == [
            ("one", "first"),
            ("two", "second"),
        ]
        await connection.remove_listener("one", listener)
        await connection.remove_listener("two", listener)
        await asyncio.to_thread(place.notify, "one", "nobody")
        await connection.fetchval("select 1")
        assert heard.empty()

    run(place, work)


def test_notices_reach_their_listener(place: Place) -> None:
    heard: list[str] = []

    async def work(connection: Any) -> None:
        connection.add_log_listener(lambda _, message: heard.append(message.message))
        await connection.execute("do $$ begin raise notice 'one'; raise warning 'two'; end $$")
        await connection.fetchval("select 1")
        await asyncio.sleep(0)

    run(place, work)
    assert heard == ["one", "two"]


def test_big_results_at_once_and_in_portions(place: Place) -> None:
    async def work(connection: Any) -> None:
        query = "select n, 'row ' || n from generate_series(1, $1::int) n"
        rows = await connection.fetch(query, MANY)
        assert len(rows) == MANY and tuple(rows[-1]) == (MANY, f"row {MANY}")
        async with connection.transaction():
            assert len([row async for row in connection.cursor(query, MANY, prefetch=1000)]) == MANY
        async with connection.transaction():
            async for row in connection.cursor(query, MANY, prefetch=10):
                if row[0] == 25:
                    break
        assert len(await connection.fetch("select n from generate_series(1, 10) n", timeout=10)) == 10
        assert await (await connection.prepare(query)).fetchval(5) == 1

    run(place, work)


def test_a_pool_with_more_tasks_than_connections(place: Place, table: str) -> None:
    """Those of the pool and those of the ambassador; RESET ALL, UNLISTEN and the rest at each release."""

    async def main() -> None:
        async with asyncpg.create_pool(place.dsn(), min_size=2, max_size=4) as pool:

            async def work(number: int) -> None:
                for turn in range(5):
                    async with pool.acquire() as connection, connection.transaction():
                        await connection.execute(f"set local app.number = {number}")
                        await connection.execute(f"insert into {table} values ($1)", number * 10 + turn)
                        seen = await connection.fetchval("select current_setting('app.number')")
                        assert seen == str(number)

            await asyncio.gather(*(work(number) for number in range(10)))
            assert await pool.fetchval(f"select count(*) from {table}") == 50

    asyncio.run(main())
