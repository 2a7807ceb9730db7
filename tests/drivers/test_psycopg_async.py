"""psycopg 3 on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, Connection, errors

from tests.drivers.places import MANY, Place
from tests.harness.activity import wait_over, wait_running


@asynccontextmanager
async def opened(place: Place, **options: Any) -> AsyncIterator[AsyncConnection]:
    async with await AsyncConnection.connect(place.dsn(), **{"autocommit": True, **options}) as connection:
        yield connection


async def value(connection: AsyncConnection, query: str, *parameters: object) -> Any:
    row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None
    return row[0]


def run(place: Place, work: Callable[[AsyncConnection], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with opened(place, **options) as connection:
            await work(connection)

    asyncio.run(main())


def test_a_wrong_password_and_an_unknown_database_are_refused(place: Place, places: dict[str, Place]) -> None:
    async def attempt(dsn: str) -> None:
        await AsyncConnection.connect(dsn)

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        asyncio.run(attempt(place.dsn(password="wrong")))
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        asyncio.run(attempt(places["three"].dsn(database="nowhere")))


def test_prepared_statements_go_over_every_server_connection(place: Place) -> None:
    async def work(connection: AsyncConnection) -> None:
        pids = set()
        for turn in place.turns(15):
            cursor = await connection.execute("select pg_backend_pid(), %s::int", (turn,))
            row = await cursor.fetchone()
            assert row is not None and row[1] == turn
            pids.add(row[0])
        assert len(pids) == place.connections

    run(place, work, prepare_threshold=2)


def test_transactions_within_transactions(place: Place, table: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        async with connection.transaction():
            await connection.execute(f"insert into {table} values (1, 'kept')")
            with pytest.raises(errors.UniqueViolation):
                async with connection.transaction():
                    await connection.execute(f"insert into {table} values (1, 'twice')")
            async with connection.transaction(force_rollback=True):
                await connection.execute(f"insert into {table} values (2, 'not kept')")
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await connection.execute(f"insert into {table} values (3, 'not kept')")
                raise ZeroDivisionError
        assert await value(connection, f"select array_agg(id) from {table}") == [1]

    run(place, work)


def test_a_pipeline_with_an_error_in_the_middle(place: Place, table: str) -> None:
    """Up to the next sync nothing is done, behind it everything is."""

    async def work(connection: AsyncConnection) -> None:
        for _ in range(3):
            async with connection.pipeline() as pipeline:
                await connection.execute(f"insert into {table} values (1, 'undone')", prepare=True)
                with pytest.raises(errors.DivisionByZero):
                    await (await connection.execute("select 1 / %s::int", (0,), prepare=True)).fetchone()
                await pipeline.sync()
                kept = await connection.execute("select %s::int", (7,), prepare=True)
                assert await kept.fetchone() == (7,)
            assert await value(connection, f"select count(*) from {table}") == 0

    run(place, work)


def test_a_pipeline_in_a_transaction_with_an_error_in_the_middle(place: Place, table: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        with pytest.raises(errors.UniqueViolation):
            async with connection.pipeline(), connection.transaction():
                for n in (1, 2, 1, 3):
                    await connection.execute(f"insert into {table} values (%s, 'x')", (n,))
        assert await value(connection, f"select count(*) from {table}") == 0
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE

    run(place, work)


def test_copies_in_and_out(place: Place, table: str) -> None:
    rows = [(n, f"näme\t{n}" if n % 2 else None) for n in range(3000)]

    async def work(connection: AsyncConnection) -> None:
        async with connection.cursor() as cursor:
            async with cursor.copy(f"copy {table} from stdin (format binary)") as into:
                into.set_types(["int4", "text"])
                for row in rows:
                    await into.write_row(row)
            async with cursor.copy(f"copy (select * from {table} order by id) to stdout") as out:
                out.set_types(["int4", "text"])
                assert [row async for row in out.rows()] == rows
            with pytest.raises(errors.UniqueViolation):
                async with cursor.copy(f"copy {table} from stdin") as into:
                    await into.write("1\ttwice\n")
            with pytest.raises(ZeroDivisionError):  # CopyFail
                async with cursor.copy(f"copy {table} from stdin") as into:
                    await into.write("5000\tgiven up\n")
                    raise ZeroDivisionError
            with pytest.raises(ZeroDivisionError):  # a cancel request in the middle of what the server sends
                async with cursor.copy("copy (select generate_series(1, 10000000)) to stdout") as out:
                    await out.read()
                    raise ZeroDivisionError
        assert await value(connection, f"select count(*) from {table}") == len(rows)

    run(place, work)


def test_a_task_that_is_cancelled_ends_its_query_on_the_server(place: Place, observer: Connection) -> None:
    text = f"task of {place.database} at {place.port}"

    async def work(connection: AsyncConnection) -> None:
        for _ in range(2):
            task = asyncio.get_running_loop().create_task(
                connection.execute(f"select pg_sleep(30), '{text}'")
            )
            await asyncio.to_thread(wait_running, observer, text)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await value(connection, "select 'fine'") == "fine"
            await asyncio.to_thread(wait_over, observer, text)

    run(place, work)


def test_a_cancelled_query_is_an_error_and_the_session_goes_on(place: Place, observer: Connection) -> None:
    text = f"query of {place.database} at {place.port}"

    async def work(connection: AsyncConnection) -> None:
        async def cancel() -> None:
            await asyncio.to_thread(wait_running, observer, text)
            await connection.cancel_safe()

        canceller = asyncio.get_running_loop().create_task(cancel())
        with pytest.raises(errors.QueryCanceled) as caught:
            await connection.execute(f"select pg_sleep(30), '{text}'")
        await canceller
        assert caught.value.sqlstate == "57014"
        assert await value(connection, "select 'fine'") == "fine"

    run(place, work)


def test_notifications_are_heard(place: Place) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute("listen news")
        for n in range(5):
            await asyncio.to_thread(place.notify, "news", f"number {n}")
        heard = [each.payload async for each in connection.notifies(timeout=10, stop_after=5)]
        assert heard == [f"number {n}" for n in range(5)]
        await connection.execute("unlisten *")

    run(place, work)


def test_server_side_cursors_and_big_results(place: Place) -> None:
    async def work(connection: AsyncConnection) -> None:
        async with connection.cursor("named") as cursor:
            cursor.itersize = 1000
            await cursor.execute("select n, repeat('x', 20) from generate_series(1, %s) n", (MANY,))
            assert sum([row[0] async for row in cursor]) == MANY * (MANY + 1) // 2
        await connection.commit()
        rows = await (await connection.execute("select generate_series(1, %s::int)", (MANY,))).fetchall()
        assert len(rows) == MANY

    run(place, work, autocommit=False)


def test_more_clients_than_server_connections(place: Place, table: str) -> None:
    async def client(number: int) -> None:
        async with opened(place) as connection:
            for turn in range(5):
                async with connection.transaction():
                    await connection.execute(
                        f"insert into {table} values (%s, %s)", (number * 10 + turn, str(number))
                    )
            mine = f"select count(*) from {table} where name = %s"
            assert await value(connection, mine, str(number)) == 5

    async def main() -> None:
        await asyncio.gather(*(client(number) for number in range(8)))

    asyncio.run(main())
