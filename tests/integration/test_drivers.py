"""Programs and drivers as people use them, on a pool smaller than the number of clients, TLS to the server.

Each test runs in both pool modes against PostgreSQL 18, and in transaction mode against the one that the
machine has installed.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import io
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pgambassador.embedded import Postgres
from tests.harness import USERS, Ambassador, pgbench, psql

CLIENTS = 8


class Place(NamedTuple):
    """Where a test runs."""

    proxy: Ambassador
    mode: str
    version: int

    def dsn(self, **parameters: str) -> str:
        return self.proxy.dsn(**parameters)


@pytest.fixture(scope="module", params=["transaction 18", "session 18", "transaction system"])
def place(request: pytest.FixtureRequest, ambassadors: Callable[..., Ambassador]) -> Place:
    mode, _, which = str(request.param).partition(" ")
    server: Postgres = request.getfixturevalue("primary" if which == "18" else "system_postgres")
    url = server.url("app", USERS["app"].password, "app")
    proxy = ambassadors(
        url, pool={"mode": mode, "size": 3 if mode == "transaction" else CLIENTS + 2, "wait_timeout": "20s"}
    )
    version = int(psql(proxy.dsn(), "show server_version_num")) // 10_000
    tls = psql(proxy.dsn(), "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    assert tls == "t"
    return Place(proxy, mode, version)


@pytest.fixture
def table(place: Place) -> Iterator[str]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    psql(place.dsn(), f"create table {name} (id int primary key, name text, at timestamptz default now())")
    yield name
    psql(place.dsn(), f"drop table {name}")


# psql


def test_psql_scripts(place: Place, table: str) -> None:
    script = f"""
        \\set ON_ERROR_STOP off
        \\set number 41
        select :number + 1;
        begin;
        insert into {table} values (1, 'one'), (2, 'two');
        savepoint s;
        insert into {table} values (1, 'again');
        rollback to s;
        commit;
        select count(*) from {table};
        \\copy {table} (id, name) from stdin with (format csv)
3,"three, or so"
4,
\\.
        \\copy (select id, name from {table} order by id) to stdout with (format csv)
        select id from {table} order by id \\g |tr '\\n' ,
        \\echo
        select 'a' as x, 'b' as y \\gset
        select :'x' || :'y';
        \\if true
        select 'end';
        \\endif
    """
    lines = psql(place.dsn(), script.replace("\n        ", "\n"), check=False).splitlines()
    assert lines == [
        "42",
        'ERROR:  duplicate key value violates unique constraint "' + table + '_pkey"',
        "DETAIL:  Key (id)=(1) already exists.",
        "2",
        "1,one",
        "2,two",
        '3,"three, or so"',
        "4,",
        "1,2,3,4,",
        "ab",
        "end",
    ]


def test_psql_with_the_extended_protocol(place: Place) -> None:
    """\\bind needs psql 16; named statements and pipelines psql 18. Ours is, whatever the server."""
    script = """
        select $1::int + $2 \\bind 40 2 \\g
        select $1::text as x \\parse twice
        \\bind_named twice one \\g
        select 'between';
        \\bind_named twice two \\g
        \\close_prepared twice
        \\startpipeline
        select $1 \\bind 1 \\sendpipeline
        select $1 \\bind 2 \\sendpipeline
        \\syncpipeline
        select 3 \\bind \\sendpipeline
        \\endpipeline
    """
    assert psql(place.dsn(), script).splitlines() == ["42", "one", "between", "two", "1", "2", "3"]


def test_psql_describes_and_fetches_in_pieces(place: Place, table: str) -> None:
    assert "not null" in psql(place.dsn(), f"\\d {table}")
    assert "app" in psql(place.dsn(), "\\l")
    rows = psql(place.dsn(), "\\set FETCH_COUNT 100\nselect generate_series(1, 2500)").splitlines()
    assert rows == [str(n) for n in range(1, 2501)]
    assert len(psql(place.dsn(), "select repeat('x', 3000000)")) == 3_000_000


def test_psql_ends_as_it_would_without_us(place: Place) -> None:
    assert "division by zero" in psql(place.dsn(), "select 1/0", check=False)
    with pytest.raises(AssertionError, match=r"ended with 3: .*division by zero"):
        psql(place.dsn(), "select 1/0; select 2")
    assert psql(place.dsn(), "\\conninfo", "-c", "select 7") == "7"


# pgbench


@pytest.fixture(scope="module")
def bench(place: Place) -> Place:
    """pgbench's tables, filled through the ambassador."""
    pgbench(place.dsn(), "-i", "-q", "-s", "1")
    assert psql(place.dsn(), "select count(*) from pgbench_accounts") == "100000"
    return place


def run_pgbench(place: Place, *arguments: str, each: int = 60) -> None:
    """A thread for each client: while pgbench prepares a statement, the thread's other clients stand still,
    even if one of them holds the server connection that is waited for."""
    options = ("-n", "-c", str(CLIENTS), "-j", str(CLIENTS), "-t", str(each))
    report = pgbench(place.dsn(), *options, *arguments)
    done = re.search(r"actually processed: (\d+)/(\d+)", report)
    assert done is not None, report
    assert done[1] == done[2] == str(CLIENTS * each), report
    assert "failed transactions: 0 " in report, report


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_transactions(bench: Place, protocol: str) -> None:
    run_pgbench(bench, "-M", protocol)
    sums = psql(
        bench.dsn(),
        "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history),"
        " (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history),"
        " (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)",
    )
    assert sums == "t|t|t"


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench_reads(bench: Place, protocol: str) -> None:
    run_pgbench(bench, "-S", "-M", protocol, each=300)


def test_pgbench_connects_for_each_transaction(bench: Place) -> None:
    run_pgbench(bench, "-S", "-C", each=20)


@pytest.mark.parametrize("protocol", ["extended", "prepared"])
def test_pgbench_pipelines(bench: Place, protocol: str, tmp_path: Path) -> None:
    script = tmp_path / "pipeline.sql"
    script.write_text(
        "\\set id random(1, 100000)\n"
        "\\startpipeline\n"
        "begin;\n"
        "update pgbench_accounts set filler = 'x' where aid = :id;\n"
        "select abalance from pgbench_accounts where aid = :id;\n"
        "rollback;\n"
        "\\endpipeline\n"
    )
    run_pgbench(bench, "-M", protocol, "-f", str(script))


# psycopg


def together(work: Callable[[int], None], clients: int = CLIENTS) -> None:
    """`work(number)` in as many threads; the first failure is this test's."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_psycopg_values_of_many_types(place: Place) -> None:
    values: list[Any] = [
        1,
        -(2**40),
        2.5,
        decimal.Decimal("12345678901234567890.123"),
        "text with 'quotes' and \\ and é",
        b"\x00\xff",
        True,
        None,
        datetime.date(2020, 2, 29),
        datetime.datetime(2020, 2, 29, 12, tzinfo=datetime.UTC),
        datetime.timedelta(days=1, seconds=2),
        uuid.UUID(int=7),
        [1, 2, None],
    ]
    query = sql.SQL("select {}").format(sql.SQL(", ").join(sql.Placeholder() * len(values)))
    for binary in (False, True):
        for threshold in (None, 0):
            with psycopg.connect(place.dsn()) as connection:
                connection.prepare_threshold = threshold
                for _ in range(3):
                    assert connection.execute(query, values, binary=binary).fetchone() == tuple(values)
                stored = connection.execute("select %s::jsonb", [Jsonb({"a": [1]})]).fetchone()
                assert stored == ({"a": [1]},)


@pytest.mark.parametrize("threshold", [0, 2])
def test_psycopg_prepared_statements_of_many_clients(place: Place, threshold: int) -> None:
    """The same names with other texts, and the same texts under other names, on fewer server connections."""

    def work(number: int) -> None:
        with psycopg.connect(place.dsn(), autocommit=True, prepare_threshold=threshold) as connection:
            for turn in range(30):
                for own in range(4):
                    row = connection.execute(
                        f"select {number}, {own}, %s::int, 'shared' where %s", (turn, True)
                    ).fetchone()
                    assert row == (number, own, turn, "shared")
                shared = connection.execute("select %s::text || 'x'", (str(turn),)).fetchone()
                assert shared == (f"{turn}x",)

    together(work)


def test_psycopg_more_statements_than_are_kept(place: Place) -> None:
    def work(number: int) -> None:
        with psycopg.connect(place.dsn(), autocommit=True, prepare_threshold=0) as connection:
            connection.prepared_max = 20
            for turn in range(150):
                assert connection.execute(f"select {turn % 50} + %s", (number,)).fetchone() == (
                    turn % 50 + number,
                )

    together(work, 4)


def test_psycopg_transactions(place: Place, table: str) -> None:
    with psycopg.connect(place.dsn(), row_factory=dict_row) as connection:
        with connection.transaction():
            connection.execute(f"insert into {table} values (1, 'kept')")
            with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
                connection.execute(f"insert into {table} values (1, 'twice')")
            connection.execute(f"insert into {table} values (2, 'kept too')")
        with pytest.raises(ZeroDivisionError), connection.transaction():
            connection.execute(f"insert into {table} values (3, 'not kept')")
            raise ZeroDivisionError
        rows = connection.execute(f"select id, name from {table} order by id").fetchall()
        assert rows == [{"id": 1, "name": "kept"}, {"id": 2, "name": "kept too"}]
        connection.rollback()
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute(f"delete from {table}")
        connection.rollback()


def test_psycopg_pipelines(place: Place, table: str) -> None:
    with psycopg.connect(place.dsn(), autocommit=True) as connection:
        with connection.pipeline() as pipeline, connection.cursor() as cursor:
            cursor.executemany(
                f"insert into {table} values (%s, %s) returning id",
                [(n, f"name {n}") for n in range(300)],
                returning=True,
            )
            pipeline.sync()
            returned = []
            while True:
                returned.append(cursor.fetchone())
                if not cursor.nextset():
                    break
            assert returned == [(n,) for n in range(300)]
        with connection.pipeline():
            cursors = [connection.execute("select %s::int * 2", (n,)) for n in range(1000)]
        assert [cursor.fetchone() for cursor in cursors] == [(2 * n,) for n in range(1000)]


def test_psycopg_pipelines_with_errors(place: Place, table: str) -> None:
    with psycopg.connect(place.dsn(), autocommit=True) as connection:
        for _ in range(3):
            with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
                connection.execute(f"insert into {table} values (%s)", (1,), prepare=True)
                connection.execute("select 1/%s", (0,), prepare=True)
                connection.execute("select %s::int", (2,), prepare=True)
            assert connection.execute(f"select count(*) from {table}").fetchone() == (0,)
            assert connection.execute("select %s::int", (3,), prepare=True).fetchone() == (3,)
        with connection.pipeline() as pipeline:
            first = connection.execute("select 1")
            pipeline.sync()
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("select * from no_such_table").fetchone()
            pipeline.sync()
            last = connection.execute("select 3")
            assert (first.fetchone(), last.fetchone()) == ((1,), (3,))


def test_psycopg_copies(place: Place, table: str) -> None:
    rows = [(n, f"name\t{n}\n" if n % 3 else None) for n in range(5000)]
    with psycopg.connect(place.dsn()) as connection, connection.cursor() as cursor:
        with cursor.copy(f"copy {table} (id, name) from stdin") as copy:
            for row in rows:
                copy.write_row(row)
        assert cursor.rowcount == len(rows)
        with cursor.copy(f"copy {table} (id, name) to stdout (format binary)") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == rows
        with (
            pytest.raises(psycopg.errors.InvalidTextRepresentation),
            cursor.copy(f"copy {table} from stdin") as copy,
        ):
            copy.write("not a number\n")
        connection.rollback()
        assert cursor.execute(f"select count(*) from {table}").fetchone() == (0,)


def test_psycopg_server_side_cursors_and_streams(place: Place) -> None:
    with psycopg.connect(place.dsn()) as connection:
        with connection.cursor("named") as cursor:
            cursor.itersize = 100
            cursor.execute("select generate_series(1, 1234)")
            assert sum(n for (n,) in cursor) == 1234 * 1235 // 2
        with connection.cursor() as plain:
            assert sum(n for (n,) in plain.stream("select generate_series(1, 1234)")) == 1234 * 1235 // 2


def test_psycopg_hears_notices_in_their_order(place: Place) -> None:
    heard: list[str | None] = []
    with psycopg.connect(place.dsn()) as connection:
        connection.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
        connection.execute("do $$ begin for i in 1..50 loop raise notice 'number %', i; end loop; end $$")
    assert heard == [f"number {n}" for n in range(1, 51)]


def test_psycopg_asynchronously(place: Place) -> None:
    async def work(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(place.dsn(), autocommit=True) as connection:
            for turn in range(20):
                cursor = await connection.execute("select %s::int, %s::int", (number, turn))
                assert await cursor.fetchone() == (number, turn)

    async def main() -> None:
        await asyncio.gather(*(work(number) for number in range(CLIENTS)))

    asyncio.run(main())


# asyncpg


async def with_asyncpg(place: Place, work: Callable[[Any], Awaitable[None]], **options: Any) -> None:
    connection = await asyncpg.connect(place.dsn(), **options)
    try:
        await work(connection)
    finally:
        await connection.close()


def test_asyncpg_prepared_statements(place: Place) -> None:
    async def client(number: int) -> None:
        async def work(connection: Any) -> None:
            statement = await connection.prepare(f"select {number}, $1::int, $2::text")
            for turn in range(30):
                assert tuple(await statement.fetchrow(turn, "x")) == (number, turn, "x")
                assert await connection.fetchval("select $1::int + 1", turn) == turn + 1
            assert [attribute.type.name for attribute in statement.get_attributes()] == [
                "int4",
                "int4",
                "text",
            ]

        await with_asyncpg(place, work)

    async def main() -> None:
        await asyncio.gather(*(client(number) for number in range(CLIENTS)))

    asyncio.run(main())


def test_asyncpg_transactions(place: Place, table: str) -> None:
    async def work(connection: Any) -> None:
        async with connection.transaction():
            await connection.execute(f"insert into {table} values (1, 'kept')")
            with pytest.raises(asyncpg.UniqueViolationError):
                async with connection.transaction():
                    await connection.execute(f"insert into {table} values ($1, $2)", 1, "twice")
            await connection.executemany(
                f"insert into {table} values ($1, $2)", [(n, "m") for n in range(2, 200)]
            )
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction(isolation="serializable"):
                await connection.execute(f"delete from {table}")
                raise ZeroDivisionError
        assert await connection.fetchval(f"select count(*) from {table}") == 199
        async with connection.transaction(readonly=True):
            cursor = await connection.cursor(f"select id from {table} order by id")
            assert [row["id"] for row in await cursor.fetch(5)] == [1, 2, 3, 4, 5]
            assert await cursor.forward(100) == 100
            assert [row["id"] for row in await cursor.fetch(2)] == [106, 107]
            ids = [row["id"] async for row in connection.cursor(f"select id from {table}", prefetch=7)]
            assert len(ids) == 199

    asyncio.run(with_asyncpg(place, work))


def test_asyncpg_copies(place: Place, table: str) -> None:
    records = [(n, f"name {n}") for n in range(5000)]

    async def work(connection: Any) -> None:
        done = await connection.copy_records_to_table(table, records=records, columns=["id", "name"])
        assert done == "COPY 5000"
        out = io.BytesIO()
        done = await connection.copy_from_query(
            f"select id, name from {table} where id < $1 order by id", 3000, output=out, format="csv"
        )
        assert done == "COPY 3000"
        assert out.getvalue().decode().splitlines()[-1] == "2999,name 2999"
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.copy_records_to_table(table, records=records, columns=["id", "name"])
        assert await connection.fetchval("select 'fine'") == "fine"

    asyncio.run(with_asyncpg(place, work))


def test_asyncpg_errors_and_types(place: Place) -> None:
    async def work(connection: Any) -> None:
        for _ in range(3):
            with pytest.raises(asyncpg.DivisionByZeroError):
                await connection.fetch("select 1/$1::int", 0)
            with pytest.raises(asyncpg.PostgresSyntaxError):
                await connection.fetch("selec $1", 0)
            with pytest.raises(asyncpg.DataError):
                await connection.fetch("select $1::int", "text")
        value = {"list": [1, 2], "at": datetime.datetime(2020, 2, 29, tzinfo=datetime.UTC)}
        row = await connection.fetchrow("select $1::int[] as list, $2::timestamptz as at", *value.values())
        assert dict(row) == value

    asyncio.run(with_asyncpg(place, work))


def test_asyncpg_pools_keep_the_settings_of_their_clients(place: Place) -> None:
    """They send RESET ALL whenever a connection is given back."""

    async def main() -> None:
        pool = await asyncpg.create_pool(
            place.dsn(), min_size=2, max_size=CLIENTS // 2, server_settings={"search_path": "of_the_pool"}
        )
        async with pool:

            async def work(number: int) -> None:
                for _ in range(10):
                    async with pool.acquire() as connection:
                        path = await connection.fetchval("select current_setting('search_path') || $1", "")
                        assert path == "of_the_pool"

            await asyncio.gather(*(work(number) for number in range(CLIENTS)))

    asyncio.run(main())


# SQLAlchemy


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "sqlalchemy_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    balance: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(12, 2))


def url_of(place: Place, driver: str) -> str:
    return place.dsn().replace("postgresql://", f"postgresql+{driver}://")


def test_sqlalchemy_with_psycopg(place: Place) -> None:
    engine = sa.create_engine(url_of(place, "psycopg"), pool_size=CLIENTS, pool_pre_ping=True)
    try:
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all(Account(name=f"n{n}", balance=decimal.Decimal(n)) for n in range(500))
            session.commit()
            session.add(Account(name="n1", balance=decimal.Decimal(0)))
            with pytest.raises(sa.exc.IntegrityError):
                session.commit()
            session.rollback()

        def work(number: int) -> None:
            for _ in range(10):
                with Session(engine) as session, session.begin():
                    account = session.scalars(
                        sa.select(Account).where(Account.name == f"n{number}").with_for_update()
                    ).one()
                    account.balance += 1

        together(work)
        with Session(engine) as session:
            balances = session.scalars(sa.select(Account.balance).order_by(Account.id).limit(CLIENTS)).all()
            assert [int(balance) for balance in balances] == [n + 10 for n in range(CLIENTS)]
            streamed = session.scalars(sa.select(Account.id), execution_options={"yield_per": 50}).all()
            assert len(streamed) == 500
        with engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection:
            assert connection.scalar(sa.text("show transaction_isolation")) == "serializable"
        assert {column["name"] for column in sa.inspect(engine).get_columns("sqlalchemy_account")} == {
            "id",
            "name",
            "balance",
        }
        Base.metadata.drop_all(engine)
    finally:
        engine.dispose()


def test_sqlalchemy_with_asyncpg(place: Place) -> None:
    async def main() -> None:
        engine = create_async_engine(url_of(place, "asyncpg"), pool_size=CLIENTS, pool_pre_ping=True)
        sessions = async_sessionmaker(engine)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
                await connection.run_sync(Base.metadata.create_all)
            async with sessions() as session:
                session.add_all(Account(name=f"n{n}", balance=decimal.Decimal(n)) for n in range(200))
                await session.commit()

            async def work(number: int) -> None:
                for _ in range(10):
                    async with sessions() as session, session.begin():
                        query = sa.select(Account).where(Account.name == f"n{number}").with_for_update()
                        account = (await session.scalars(query)).one()
                        account.balance += 1

            await asyncio.gather(*(work(number) for number in range(CLIENTS)))
            async with sessions() as session:
                total = await session.scalar(sa.select(sa.func.sum(Account.balance)))
                assert total == 199 * 100 + CLIENTS * 10
                with pytest.raises(sa.exc.IntegrityError):
                    session.add(Account(name="n1", balance=decimal.Decimal(0)))
                    await session.commit()
                await session.rollback()
                result = await session.stream_scalars(sa.select(Account.id))
                assert len([each async for each in result]) == 200
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)
        finally:
            await engine.dispose()

    asyncio.run(main())


# All at once.


def test_an_application_in_a_process_of_its_own(place: Place) -> None:
    """Environment variables in place of a connection string, and an exit without goodbye."""
    program = (
        "import os, psycopg\n"
        "for n in range(5):\n"
        "    c = psycopg.connect(options='-c statement_timeout=5s')\n"
        "    c.execute('begin'); print(c.execute('show statement_timeout').fetchone()[0])\n"
        "print(flush=True)\n"
        "os._exit(0)\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environment |= {
        "PGHOST": "127.0.0.1",
        "PGPORT": str(place.proxy.port),
        "PGUSER": "app",
        "PGDATABASE": "app",
    }
    if place.mode == "transaction":
        program = program.replace("range(5)", "range(3)")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert set(done.stdout.split()) == {"5s"}
    assert psql(place.dsn(), "show statement_timeout") == "0"
