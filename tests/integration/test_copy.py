"""COPY in both directions, through every way to ask for it, with everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

import asyncpg
import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Answer, Wire, wait_until
from tests.messages import (
    COPY_DONE,
    SYNC,
    bind,
    copy_data,
    copy_fail,
    describe_portal,
    execute,
    parse,
)

INTO = "copy copied from stdin"
ROWS = 5000
DATA = [b"".join(b"%d\tvalue %d\n" % (i, i) for i in range(at, at + 500)) for at in range(0, ROWS, 500)]
CHUNKS = tuple(map(copy_data, DATA))
MUCH = copy_data(b"x" * 65000)


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def proxy(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """One server connection, which the next client gets after whatever has happened to it."""
    proxy = ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 1})
    with Wire.session(proxy.port) as wire:
        wire.ask("drop table if exists copied, checked")
        wire.ask("create table copied (i int, t text)")
        wire.ask("create table checked (i int unique deferrable initially deferred)")
    return proxy


@pytest.fixture
def client(proxy: Ambassador) -> Iterable[Wire]:
    with Wire.session(proxy.port) as wire:
        wire.ask("truncate copied, checked")
        yield wire


def begin_simple(client: Wire, sql: str) -> str:
    client.send(build.query(sql))
    return client.until("G").kinds


def begin_extended(client: Wire, sql: str) -> str:
    """With a Sync behind it at once, as libpq sends it; a server ignores it while it copies."""
    client.send(parse(b"", sql.encode()), bind(b""), describe_portal(), execute(), SYNC)
    return client.until("G").kinds


def begin_prepared(client: Wire, sql: str) -> str:
    client.send(parse(b"copying", sql.encode()), SYNC)
    assert client.until("Z").kinds == "1Z"
    client.send(bind(b"copying"), execute(), SYNC)
    return client.until("G").kinds


WAYS: dict[str, tuple[Callable[[Wire, str], str], bytes, str]] = {
    "simple": (begin_simple, b"", "G"),
    "extended": (begin_extended, SYNC, "12nG"),
    "prepared": (begin_prepared, SYNC, "2G"),
}
EACH_WAY = pytest.mark.parametrize("way", WAYS)


def others_are_well(proxy: Ambassador, client: Wire) -> None:
    """Whoever gets the server connection next gets nothing but its own answers."""
    client.socket.close()
    with Wire.session(proxy.port) as next_client:
        for index in range(3):
            answer = next_client.ask(f"select {index}")
            assert (answer.kinds, answer.value) == ("TDCZ", str(index))
            next_client.send(parse(b"", b"select $1"), bind(b"", b"%d" % index), execute(), SYNC)
            assert next_client.until("Z").value == str(index)
        assert next_client.quiet


def count(client: Wire, table: str = "copied") -> int:
    return int(client.ask(f"select count(*) from {table}").value or -1)


# In.


@EACH_WAY
def test_in_arrives_and_is_counted(way: str, proxy: Ambassador, client: Wire) -> None:
    begin, end, kinds = WAYS[way]
    for round_ in (1, 2):
        assert begin(client, INTO).endswith(kinds[1:])
        for chunk in CHUNKS:
            client.send(chunk)
        client.send(COPY_DONE, end)
        answer = client.until("Z")
        assert answer.kinds == "CZ"
        assert answer[0].payload == b"COPY %d\0" % ROWS
        assert count(client) == round_ * ROWS
        if way == "prepared":
            client.send(build.close_statement(b"copying"), SYNC)
            assert client.until("Z").kinds == "3Z"
    others_are_well(proxy, client)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        ((build.query(INTO),), (), "GCZ"),
        ((build.query(f"{INTO}; select 'behind it'"),), (), "GCTDCZ"),
        ((parse(b"", INTO.encode()), bind(b""), execute()), (SYNC,), "12GCZ"),
        ((parse(b"", INTO.encode()), bind(b""), describe_portal(), execute()), (SYNC,), "12nGCZ"),
        ((parse(b"", INTO.encode()), bind(b""), execute(), SYNC), (SYNC,), "12GCZ"),
        ((build.query(INTO),), (build.query("select 'behind it'"),), "GCZTDCZ"),
        (
            (parse(b"", INTO.encode()), bind(b""), execute()),
            (SYNC, parse(b"", b"select 'behind it'"), bind(b""), execute(), SYNC),
            "12GCZ12DCZ",
        ),
    ],
    ids=["simple", "in one string", "extended", "described", "two syncs", "simple, more", "extended, more"],
)
@pytest.mark.parametrize("pieces", ["one write", "a write each", "bytes"])
def test_in_without_waiting_for_the_server(
    before: tuple[bytes, ...],
    after: tuple[bytes, ...],
    kinds: str,
    pieces: str,
    proxy: Ambassador,
    client: Wire,
) -> None:
    """Nothing in the protocol makes a client wait for CopyInResponse."""
    messages = (*before, copy_data(b"1\tone\n"), copy_data(b"2\ttwo\n"), COPY_DONE, *after)
    if pieces == "one write":
        client.send(*messages)
    elif pieces == "bytes":
        client.send_bytewise(b"".join(messages))
    else:
        for message in messages:
            client.send(message)
    answer = client.until("Z", kinds.count("Z"))
    assert answer.kinds == kinds
    assert client.quiet
    assert count(client) == 2
    others_are_well(proxy, client)


def test_in_by_psycopg(proxy: Ambassador, client: Wire) -> None:
    client.leave()
    with psycopg.connect(proxy.dsn(), autocommit=True) as connection, connection.cursor() as cursor:
        with cursor.copy(INTO) as copy:
            for row in range(ROWS):
                copy.write_row((row, f"value {row}"))
        assert cursor.rowcount == ROWS
        found = cursor.execute("select count(*), sum(i) from copied").fetchone()
        assert found == (ROWS, sum(range(ROWS)))


def test_in_and_out_by_asyncpg(proxy: Ambassador, client: Wire) -> None:
    client.leave()

    async def main() -> None:
        connection = await asyncpg.connect(proxy.dsn())
        try:
            await there_and_back(connection)
        finally:
            connection.terminate()

    async def there_and_back(connection: asyncpg.Connection) -> None:
        records = [(i, f"value {i}") for i in range(ROWS)]
        assert await connection.copy_records_to_table("copied", records=records) == f"COPY {ROWS}"
        received = bytearray()

        async def keep(data: bytes) -> None:
            received.extend(data)

        said = await connection.copy_from_query(
            "select * from copied where i >= $1 order by i", 500, output=keep
        )
        assert said == f"COPY {ROWS - 500}"
        assert bytes(received) == b"".join(DATA[1:])

    asyncio.run(main())


@EACH_WAY
def test_in_fails_early_and_the_client_goes_on_sending(way: str, proxy: Ambassador, client: Wire) -> None:
    """A server drops what was meant for the COPY, up to a Sync or the next simple query."""
    begin, end, _ = WAYS[way]
    begin(client, INTO)
    client.send(copy_data(b"no number\tone\n"))
    for _ in range(64):
        client.send(MUCH)
    client.send(COPY_DONE, end)
    answer = client.until("Z")
    assert (answer.kinds, answer.error.sqlstate) == ("EZ", "22P02")
    assert client.ask("select 'usable'").value == "usable"
    assert client.quiet
    assert count(client) == 0
    others_are_well(proxy, client)


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_in_fails_before_it_begins_and_the_client_sends_all_the_same(
    way: str, proxy: Ambassador, client: Wire
) -> None:
    sql = "copy there_is_no_such_table from stdin"
    begin = build.query(sql) if way == "simple" else parse(b"", sql.encode()) + bind(b"") + execute()
    client.send(begin, *CHUNKS, COPY_DONE, b"" if way == "simple" else SYNC)
    answer = client.until("Z")
    assert answer.kinds == ("EZ" if way == "simple" else "12EZ")
    assert answer.error.sqlstate == "42P01"
    assert client.ask("select 'usable'").value == "usable"
    assert client.quiet
    others_are_well(proxy, client)


@EACH_WAY
def test_in_fails_after_its_end(way: str, proxy: Ambassador, client: Wire) -> None:
    """The server takes all the data, and refuses them when the transaction commits."""
    begin, end, _ = WAYS[way]
    begin(client, "copy checked from stdin")
    client.send(copy_data(b"1\n1\n"), COPY_DONE, end)
    answer = client.until("Z")
    # The extended protocol commits at the Sync, when the COPY itself has been confirmed.
    assert answer.kinds == ("EZ" if way == "simple" else "CEZ")
    assert answer.error.sqlstate == "23505"
    assert answer[-1].payload == b"I"
    assert count(client, "checked") == 0
    others_are_well(proxy, client)


@EACH_WAY
def test_in_given_up_by_the_client(way: str, proxy: Ambassador, client: Wire) -> None:
    begin, end, _ = WAYS[way]
    begin(client, INTO)
    client.send(CHUNKS[0], copy_fail(b"changed my mind"), end)
    answer = client.until("Z")
    assert (answer.kinds, answer.error.sqlstate) == ("EZ", "57014")
    assert "changed my mind" in answer.error.fields["M"]
    assert count(client) == 0
    others_are_well(proxy, client)


@EACH_WAY
def test_in_fails_in_a_transaction(way: str, proxy: Ambassador, client: Wire) -> None:
    begin, end, _ = WAYS[way]
    client.ask("begin")
    client.ask("insert into copied values (1, 'rolled back')")
    begin(client, INTO)
    client.send(copy_data(b"no number\tone\n"), *CHUNKS, COPY_DONE, end)
    answer = client.until("Z")
    assert (answer.kinds, answer[-1].payload) == ("EZ", b"E")
    assert client.ask("select 1").error.sqlstate == "25P02"
    assert client.ask("rollback")[-1].payload == b"I"
    assert count(client) == 0
    others_are_well(proxy, client)


@EACH_WAY
def test_in_interrupted_by_another_query(way: str, proxy: Ambassador, client: Wire) -> None:
    """What does not belong into a COPY is an error, after which a server no longer knows where it is."""
    WAYS[way][0](client, INTO)
    client.send(CHUNKS[0], build.query("select 'not here'"))
    answer = client.rest()
    assert [(message.kind, message.sqlstate) for message in answer] == [("E", "08P01"), ("E", "08P01")]
    with Wire.session(proxy.port) as next_client:
        assert count(next_client) == 0


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("rest", [b"", copy_data(b"3\tthree\n")[:-4], b"d\0"], ids=["whole", "half", "head"])
@EACH_WAY
def test_in_left_by_its_client(way: str, rest: bytes, reset: bool, proxy: Ambassador, client: Wire) -> None:
    """Nothing of it is kept, and nothing of it is felt by the next client."""
    WAYS[way][0](client, INTO)
    client.send(CHUNKS[0], rest)
    client.vanish(reset=reset)
    with Wire.session(proxy.port) as next_client:
        assert count(next_client) == 0
        assert next_client.quiet


@pytest.mark.parametrize("late", [CHUNKS[0], COPY_DONE, copy_fail(), CHUNKS[0] + COPY_DONE], ids=str)
def test_late_data_of_a_failed_copy_take_no_server_connection(
    late: bytes, mode: str, proxy: Ambassador, client: Wire
) -> None:
    if mode == "session":
        pytest.skip("the client keeps its server connection anyway")
    begin_simple(client, INTO)
    client.send(copy_data(b"no number\tone\n"))
    assert client.until("Z").kinds == "EZ"
    with Wire.session(proxy.port) as other:
        other.ask("begin")
        client.send(late)
        client.send(SYNC)
        assert client.until("Z").kinds == "Z"  # so that the rest has been read as well
        assert proxy.metrics().total("pgambassador_pool_waiting_clients") == 0
        assert other.ask("select 1").value == "1"
        other.ask("commit")
    assert client.ask("select 'usable'").value == "usable"


def test_late_data_while_somebody_else_copies(mode: str, proxy: Ambassador, client: Wire) -> None:
    """They reach nobody's COPY."""
    if mode == "session":
        pytest.skip("the client keeps its server connection anyway")
    begin_simple(client, INTO)
    client.send(copy_data(b"no number\tone\n"))
    assert client.until("Z").kinds == "EZ"
    with Wire.session(proxy.port) as other:
        begin_simple(other, INTO)
        other.send(copy_data(b"1\tmine\n"))
        client.send(copy_data(b"2\tnot mine\n"), COPY_DONE, SYNC)
        assert client.until("Z").kinds == "Z"
        other.send(copy_data(b"3\tmine\n"), COPY_DONE)
        assert other.until("Z")[0].payload == b"COPY 2\0"
        assert other.ask("select string_agg(distinct t, ',') from copied").value == "mine"


# Out.


@EACH_WAY
def test_out_arrives_whole_and_in_order(way: str, proxy: Ambassador, client: Wire) -> None:
    sql = f"copy (select i, 'value ' || i from generate_series(0, {ROWS - 1}) i) to stdout"
    if way == "simple":
        client.send(build.query(sql))
    elif way == "extended":
        client.send(parse(b"", sql.encode()), bind(b""), describe_portal(), execute(), SYNC)
    else:
        client.send(parse(b"out", sql.encode()), SYNC, bind(b"out"), execute(), SYNC)
        client.until("Z")
    answer = client.until("Z")
    squeezed = "".join(kind for kind, _ in itertools.groupby(answer.kinds))
    assert squeezed == {"simple": "HdcCZ", "extended": "12nHdcCZ", "prepared": "2HdcCZ"}[way]
    assert b"".join(message.payload for message in answer if message.kind == "d") == b"".join(DATA)
    assert answer[-2].payload == b"COPY %d\0" % ROWS
    others_are_well(proxy, client)


def test_out_fails_halfway(proxy: Ambassador, client: Wire) -> None:
    answer: Answer = client.ask("copy (select 1 / (100 - i) from generate_series(1, 200) i) to stdout")
    assert answer.kinds == "H" + 99 * "d" + "EZ"
    assert answer.error.sqlstate == "22012"
    assert client.ask("select 'usable'").value == "usable"
    others_are_well(proxy, client)


def test_out_left_by_its_client(proxy: Ambassador, client: Wire) -> None:
    client.send(build.query("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout"))
    client.until("d")
    client.vanish()
    with Wire.session(proxy.port) as next_client:
        answer = next_client.ask("select 'mine'")
        assert (answer.kinds, answer.value) == ("TDCZ", "mine")
    wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 0)
