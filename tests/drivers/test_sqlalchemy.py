"""SQLAlchemy on each driver: the same programme, what goes over the wire differs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg import Connection
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session, registry

from tests.drivers.places import MANY, Place, when_running

DRIVERS = ["psycopg", "psycopg2", "pg8000"]


@pytest.fixture(params=DRIVERS)
def engine(request: pytest.FixtureRequest, place: Place) -> Iterator[sa.Engine]:
    made = sa.create_engine(place.dsn(f"postgresql+{request.param}"))
    yield made
    made.dispose()


@pytest.fixture
def things(place: Place) -> Iterator[sa.Table]:
    """A table of columns of many types, made past the ambassador, of a name of its own."""
    table = sa.Table(
        f"thing_{uuid.uuid4().hex[:12]}",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, unique=True),
        sa.Column("price", sa.Numeric(12, 2)),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("tags", ARRAY(sa.Text)),
        sa.Column("document", JSONB),
        sa.Column("key", sa.Uuid),
        sa.Column("data", sa.LargeBinary),
        sa.Column("span", sa.Interval),
    )
    server = sa.create_engine(place.server.replace("postgresql:", "postgresql+psycopg:"))
    with server.begin() as connection:
        connection.execute(sa.text("set lock_timeout = '10s'"))
        table.metadata.create_all(connection)
        connection.execute(sa.text(f"grant all on {table.name}, {table.name}_id_seq to public"))
    yield table
    with server.begin() as connection:
        connection.execute(sa.text("set lock_timeout = '10s'"))
        table.metadata.drop_all(connection)
    server.dispose()


def row(number: int) -> dict[str, Any]:
    return {
        "name": f"näme {number}",
        "price": Decimal(number) / 4,
        "at": datetime(2020, 2, 29, tzinfo=UTC) + timedelta(number),
        "tags": ["ä", None, f"{number}"],
        "document": {"list": [number, None]},
        "key": uuid.UUID(int=number),
        "data": bytes(range(256)),
        "span": timedelta(number, 5),
    }


def sqlstate(error: sa.exc.DBAPIError) -> str:
    origin: Any = error.orig
    for name in ("sqlstate", "pgcode"):
        if found := getattr(origin, name, None):
            return str(found)
    return str(origin.args[0]["C"])


def test_many_rows_of_many_types(engine: sa.Engine, things: sa.Table) -> None:
    """INSERT … RETURNING in batches, in one order."""
    rows = [row(n) for n in range(100)]
    with engine.begin() as connection:
        returned = connection.scalars(
            things.insert().returning(things.c.id, sort_by_parameter_order=True), rows
        )
        ids = returned.all()
        assert ids == sorted(ids) and len(ids) == 100
        connection.execute(things.insert().values(name="nothing"))
    with engine.connect() as connection:
        found = connection.execute(things.select().order_by(things.c.id)).mappings().all()
        assert [{key: each[key] for key in rows[0]} for each in found[:-1]] == rows
        assert {value for key, value in found[-1].items() if key not in ("id", "name")} == {None}


def test_savepoints_and_a_batch_with_an_error_in_the_middle(engine: sa.Engine, things: sa.Table) -> None:
    count = sa.select(sa.func.count()).select_from(things)
    with engine.connect() as connection:
        with connection.begin():
            connection.execute(things.insert(), row(1))
            for _ in range(3):
                with pytest.raises(sa.exc.IntegrityError) as caught, connection.begin_nested():
                    connection.execute(things.insert(), [row(2), row(1), row(3)])
                assert sqlstate(caught.value) == "23505"
            nested = connection.begin_nested()
            connection.execute(things.insert(), row(4))
            nested.rollback()
        with pytest.raises(ZeroDivisionError), connection.begin():
            connection.execute(things.delete())
            raise ZeroDivisionError
        assert connection.scalar(count) == 1


def test_statements_go_over_every_server_connection(place: Place, engine: sa.Engine) -> None:
    """SQLAlchemy rolls back whenever a connection is given back."""
    pids = set()
    query = sa.select(sa.func.pg_backend_pid(), sa.literal(5) + sa.bindparam("n", type_=sa.Integer))
    for turn in place.turns(12):
        with engine.connect() as connection:
            pid, sum_ = connection.execute(query, {"n": turn}).one()
            assert sum_ == 5 + turn
            pids.add(pid)
    assert len(pids) == place.connections
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for turn in place.turns(6):
            assert connection.execute(query, {"n": turn}).one()[1] == 5 + turn


def test_upserts_and_streams(engine: sa.Engine, things: sa.Table) -> None:
    upsert = insert(things)
    upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"price": upsert.excluded.price})
    with engine.begin() as connection:
        for price in (1, 2):
            connection.execute(upsert, [{"name": f"{n}", "price": price} for n in range(50)])
        assert connection.scalar(sa.select(sa.func.sum(things.c.price))) == 100
    with engine.connect() as connection:
        numbers = sa.select(sa.func.generate_series(1, MANY))
        streamed = connection.execution_options(yield_per=5000).scalars(numbers)
        assert sum(streamed) == MANY * (MANY + 1) // 2


def test_errors_leave_the_connection_usable(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        for query, code in (
            ("selec 1", "42601"),
            ("select 1/0", "22012"),
            ("select * from no_such", "42P01"),
        ):
            with pytest.raises(sa.exc.DBAPIError) as caught:
                connection.execute(sa.text(query))
            assert (sqlstate(caught.value), caught.value.connection_invalidated) == (code, False)
            connection.rollback()
        assert connection.scalar(sa.text("select 1")) == 1


def test_tables_as_the_catalogue_describes_them(engine: sa.Engine, things: sa.Table) -> None:
    found = sa.Table(things.name, sa.MetaData(), autoload_with=engine)
    assert [column.type.compile(engine.dialect) for column in found.columns] == [
        column.type.compile(engine.dialect) for column in things.columns
    ]
    assert sa.inspect(engine).get_unique_constraints(things.name)[0]["column_names"] == ["name"]


def test_a_wrong_password_and_an_unknown_database_are_refused(
    engine: sa.Engine, place: Place, places: dict[str, Place]
) -> None:
    scheme = engine.url.drivername
    for dsn, text in (
        (place.dsn(scheme, password="wrong"), "password authentication failed"),
        (places["three"].dsn(scheme, database="nowhere"), 'database "nowhere" does not exist'),
    ):
        refused = sa.create_engine(dsn)
        with pytest.raises(sa.exc.DBAPIError, match=text):
            refused.connect()
        refused.dispose()


@pytest.mark.parametrize("engine", ["psycopg", "psycopg2"], indirect=True)
def test_a_cancelled_query(engine: sa.Engine, place: Place, observer: Connection) -> None:
    text = f"{engine.driver} at {place.port} {place.database}"
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        with when_running(observer, text, driver.cancel), pytest.raises(sa.exc.DBAPIError) as caught:
            connection.execute(sa.text(f"select pg_sleep(30), '{text}'"))
        assert sqlstate(caught.value) == "57014"
        connection.rollback()
        assert connection.scalar(sa.text("select 'fine'")) == "fine"


def test_objects_and_their_relations(engine: sa.Engine, things: sa.Table) -> None:
    class Thing:
        id: int
        name: str
        price: Decimal

        def __init__(self, **values: object) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    mapped = registry()
    mapped.map_imperatively(Thing, things)
    try:
        with Session(engine) as session:
            session.add_all(Thing(**row(n)) for n in range(20))
            session.commit()
            thing = session.scalars(sa.select(Thing).where(things.c.name == "näme 3").with_for_update()).one()
            thing.price += 1
            session.flush()
            session.expire(thing)
            assert thing.price == Decimal("1.75")
            with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
                session.add(Thing(**row(3)))
            session.commit()
            session.delete(thing)
            session.commit()
            assert session.scalar(sa.select(sa.func.count()).select_from(Thing)) == 19
    finally:
        mapped.dispose()


# asyncpg


def asynchronously(place: Place, work: Any, **options: Any) -> None:
    async def main() -> None:
        engine: AsyncEngine = create_async_engine(place.dsn("postgresql+asyncpg"), **options)
        try:
            await work(engine)
        finally:
            await engine.dispose()

    asyncio.run(main())


def test_asyncpg_rows_savepoints_and_errors(place: Place, things: sa.Table) -> None:
    rows = [row(n) for n in range(100)]

    async def work(engine: AsyncEngine) -> None:
        async with engine.begin() as connection:
            await connection.execute(things.insert(), rows)
            for _ in range(3):
                with pytest.raises(sa.exc.IntegrityError) as caught:
                    async with connection.begin_nested():
                        await connection.execute(things.insert(), [row(1000), row(1), row(1001)])
                assert sqlstate(caught.value) == "23505"
        async with engine.connect() as connection:
            found = (await connection.execute(things.select().order_by(things.c.id))).mappings().all()
            assert [{key: each[key] for key in rows[0]} for each in found] == rows
            with pytest.raises(sa.exc.ProgrammingError):
                await connection.execute(sa.text("selec 1"))
            await connection.rollback()
            result = await connection.stream(sa.select(sa.func.generate_series(1, 5000)))
            assert len([each async for each in result]) == 5000

    asynchronously(place, work)


@pytest.mark.parametrize("cache", [0, 100])
def test_asyncpg_statements_go_over_every_server_connection(place: Place, cache: int) -> None:
    async def work(engine: AsyncEngine) -> None:
        pids = set()
        for turn in place.turns(12):
            async with engine.connect() as connection:
                query = sa.select(sa.func.pg_backend_pid(), sa.cast(sa.bindparam("n"), sa.Integer))
                pid, n = (await connection.execute(query, {"n": turn})).one()
                assert n == turn
                pids.add(pid)
        assert len(pids) == place.connections

    asynchronously(place, work, connect_args={"prepared_statement_cache_size": cache})


def test_asyncpg_tasks_that_are_cancelled(place: Place) -> None:
    async def work(engine: AsyncEngine) -> None:
        async with engine.connect() as connection:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await connection.execute(sa.text("select pg_sleep(30)"))
        async with engine.connect() as connection:
            assert await connection.scalar(sa.text("select 'fine'")) == "fine"

    asynchronously(place, work)
