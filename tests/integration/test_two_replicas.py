"""A primary and two replicas that lag in turn: who may read where, at each level of consistency. Servers say
where it ran, by their ports, and what they had replayed, by what is read."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import psycopg
import pytest
from psycopg import Connection, errors

from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import HOST
from tests.harness import Ambassador, several, wait_until

SECONDS = 4.0
CLIENTS = 6
MANY = 24
READS = 9
"""Behind each write."""
COUNT = "select n, inet_server_port() from tallies where client = {}"
ADD = "update tallies set n = n + 1 where client = {}"


@dataclass(frozen=True)
class Three:
    primary: Postgres
    first: Postgres
    second: Postgres

    @property
    def replicas(self) -> set[int]:
        return {self.first.port, self.second.port}


@pytest.fixture(scope="module")
def three(workspace: Workspace, primary: Postgres, replica: Postgres) -> Iterator[Three]:
    made = Three(primary, replica, primary.replica(f"other-{len(workspace.servers)}"))
    primary.sql(
        "create table tallies (client int primary key, n int);"
        f"insert into tallies select c, 0 from generate_series(0, {MANY}) c; grant all on tallies to app",
        database="app",
    )
    yield made
    primary.sql("drop table tallies", database="app")
    made.second.stop()


Make = Callable[..., Ambassador]


def front(
    ambassadors: Make,
    three: Three,
    *,
    on: Callable[[Three], set[int]] = lambda three: three.replicas,
    **routing: object,
) -> Ambassador:
    """When reads are on both replicas, or on these servers."""
    common = {"functions": {"read": ["inet_server_port"]}, "probe": {"interval": "100ms", "timeout": "20s"}}
    url = several(three.primary, three.first, three.second)
    made = ambassadors({"clusters": {"main": {"url": url, "routing": common | routing}}}, pool={"size": 4})
    with client(made) as connection:
        seen: set[int] = set()

        def both() -> bool:
            with suppress(errors.CannotConnectNow):  # at first nothing is known of them
                seen.add(read(connection)[1])
            return on(three) <= seen

        wait_until(both, "reads on both replicas")
    return made


@pytest.fixture(scope="module")
def proxy(ambassadors: Make, three: Three) -> Ambassador:
    return front(ambassadors, three)


def client(proxy: Ambassador) -> Connection:
    return psycopg.connect(proxy.dsn(), autocommit=True)


def read(connection: Connection, number: int = 0, hint: str = "") -> tuple[int, int]:
    """The count, and the port of the server that says so."""
    comment = f" /* pgambassador: {hint} */" if hint else ""
    ((count, port),) = connection.execute((COUNT.format(number) + comment).encode()).fetchall()
    return int(count), int(port)


def add(connection: Connection, number: int = 0) -> None:
    connection.execute(ADD.format(number).encode())


def back(connection: Connection, three: Three) -> None:
    wait_until(lambda: read(connection)[1] in three.replicas, "reads are back at the replicas")


@contextmanager
def paused(*replicas: Postgres) -> Iterator[None]:
    """They replay nothing."""
    try:
        for each in replicas:
            each.sql("select pg_wal_replay_pause()")
            state = partial(each.sql, "select pg_get_wal_replay_pause_state()")
            wait_until(lambda: state() == "paused", f"{each!r} is paused")  # noqa: B023
        yield
    finally:
        for each in replicas:
            each.sql("select pg_wal_replay_resume()")


def test_who_has_written_reads_where_that_is_and_others_anywhere(proxy: Ambassador, three: Three) -> None:
    with client(proxy) as writer, client(proxy) as other:
        back(writer, three)
        with paused(three.first):
            before, _ = read(writer)
            add(writer)
            found = [read(writer) for _ in range(200)]
            assert {count for count, _ in found} == {before + 1}
            assert three.first.port not in {port for _, port in found}
            wait_until(lambda: read(writer)[1] == three.second.port, "the other replica is fresh")
            seen = {read(other) for _ in range(50)}
            assert {(before, three.first.port), (before + 1, three.second.port)} <= seen
        wait_until(lambda: read(writer) == (before + 1, three.first.port), "the first is back")


def test_a_hint_for_a_replica_asks_for_no_stale_read(proxy: Ambassador, three: Three) -> None:
    with client(proxy) as writer:
        back(writer, three)
        with paused(three.first, three.second):
            before, _ = read(writer)
            add(writer)
            for hint in ("replica", "any", "max_lag=1h", "replica, max_lag=1h"):
                assert read(writer, hint=hint) == (before + 1, three.primary.port), hint
        wait_until(lambda: read(writer, hint="replica")[1] in three.replicas, "the hint is obeyed again")


def test_a_hint_for_a_replica_says_how_far_it_may_lag(proxy: Ambassador, three: Three) -> None:
    with client(proxy) as reader, client(proxy) as writer:
        with paused(three.first, three.second):
            add(writer)
            hint = "replica, max_lag=300ms"
            wait_until(lambda: read(reader, hint=hint)[1] == three.primary.port, "they lag more than that")
            assert read(reader, hint="replica")[1] in three.replicas
        wait_until(lambda: read(reader, hint=hint)[1] in three.replicas, "they lag less again")


def test_a_replica_is_tried_with_a_small_share(proxy: Ambassador, three: Three) -> None:
    """By a client that asks one after the other."""
    canary = f"'{HOST}:{three.first.port}'".encode()
    with client(proxy) as reader, psycopg.connect(proxy.dsn(database="pgambassador")) as console:
        console.execute(b"set weight %b 0.1" % canary)
        try:
            wait_until(lambda: read(reader)[1] in three.replicas)
            ports = Counter(read(reader)[1] for _ in range(440))
        finally:
            console.execute(b"set weight %b 1" % canary)
    assert set(ports) == three.replicas
    assert 20 <= ports[three.first.port] <= 60, ports


@pytest.mark.parametrize(("balance", "share"), [("round-robin", 200), ("weighted", 100)])
def test_replicas_take_turns(ambassadors: Make, three: Three, balance: str, share: int) -> None:
    where = [f"{HOST}:{server.port}" for server in (three.first, three.second)]
    proxy = front(ambassadors, three, balance=balance, weights={where[0]: 1, where[1]: 3})
    with client(proxy) as reader:
        ports = Counter(read(reader)[1] for _ in range(400))
    assert abs(ports[three.first.port] - share) <= 2 and ports.total() == 400, ports
    assert set(ports) == three.replicas


def test_by_response_time_both_are_tried(ambassadors: Make, three: Three) -> None:
    proxy = front(ambassadors, three, balance="response-time")
    with client(proxy) as reader:
        assert {read(reader)[1] for _ in range(100)} <= three.replicas


def test_near_ones_first_and_others_if_there_are_none(ambassadors: Make, three: Three) -> None:
    zones = {f"{HOST}:{three.first.port}": "far", f"{HOST}:{three.second.port}": "here"}
    near = {three.second.port}
    proxy = front(ambassadors, three, on=lambda _: near, zone="here", zones=zones)
    with client(proxy) as reader:
        wait_until(lambda: {read(reader)[1] for _ in range(50)} == near, "reads on the near one only")
        with psycopg.connect(proxy.dsn(database="pgambassador"), autocommit=True) as console:
            console.execute(f"set weight '{HOST}:{three.second.port}' 0".encode())
            wait_until(lambda: read(reader)[1] == three.first.port, "reads on the other one")


def test_globally_everybody_sees_what_anybody_has_written(ambassadors: Make, three: Three) -> None:
    proxy = front(ambassadors, three, consistency="global")
    with client(proxy) as writer, client(proxy) as other:
        with paused(three.first, three.second):
            before, _ = read(other)
            add(writer)
            assert {read(other) for _ in range(20)} == {(before + 1, three.primary.port)}
        back(other, three)


def test_whatever_is_there_if_that_is_enough(ambassadors: Make, three: Three) -> None:
    proxy = front(ambassadors, three, consistency="eventual")
    with client(proxy) as writer, paused(three.first, three.second):
        before, _ = read(writer)
        add(writer)
        assert {read(writer) for _ in range(20)} == {(before, port) for port in three.replicas}


def test_who_lags_too_far_is_out_and_comes_back_by_itself(ambassadors: Make, three: Three) -> None:
    proxy = front(ambassadors, three, consistency="bounded", max_lag="500ms")
    with client(proxy) as writer:
        with paused(three.first, three.second):
            before, _ = read(writer)
            add(writer)
            found = [read(writer)]
            while found[-1][1] != three.primary.port:
                found.append(read(writer))
            assert found[-1][0] == before + 1
            assert {count for count, where in found if where in three.replicas} <= {before}
        back(writer, three)
        with paused(three.first):
            add(writer)

            def only_the_second() -> bool:
                return {read(writer)[1] for _ in range(50)} == {three.second.port}

            wait_until(only_the_second, "the first is out")
        seen: set[int] = set()

        def both() -> bool:
            seen.add(read(writer)[1])
            return three.replicas <= seen

        wait_until(both, "both are in")


def test_without_a_replica_it_may_be_an_error(ambassadors: Make, three: Three) -> None:
    proxy = front(ambassadors, three, without_replica="error")
    with client(proxy) as writer:
        with paused(three.first, three.second):
            add(writer)
            with pytest.raises(errors.CannotConnectNow, match="no replica is fresh") as caught:
                read(writer)
            assert "without_replica" in (caught.value.diag.message_hint or "")
            assert read(writer, hint="primary")[1] == three.primary.port

        def answered() -> bool:
            try:
                return read(writer)[1] in three.replicas
            except errors.CannotConnectNow:
                return False

        wait_until(answered, "reads are answered again")


def test_what_replay_cancels_is_asked_elsewhere(
    ambassadors: Make, three: Three, workspace: Workspace
) -> None:
    """The standby's own 40001, which its client does not see."""
    hasty = {"max_standby_streaming_delay": "0", "hot_standby_feedback": "off"}
    standby = three.primary.replica(f"hasty-{len(workspace.servers)}", hasty)
    try:
        two = Three(three.primary, standby, standby)
        proxy = front(ambassadors, two)
        where: list[int] = []
        slow = COUNT.replace("select n,", "select n, pg_sleep(5),").format(0)

        def ask() -> None:
            with client(proxy) as connection:
                ((_count, _slept, port),) = connection.execute(slow.encode()).fetchall()
                where.append(port)

        thread = threading.Thread(target=ask)
        thread.start()
        active = "select count(*) from pg_stat_activity where query like '%pg_sleep(5)%' and usename = 'app'"
        wait_until(lambda: standby.sql(active) == "1", "it runs on the standby")
        three.primary.sql("begin; lock table tallies in access exclusive mode; commit", database="app")
        thread.join()
        assert where == [three.primary.port]
        assert "conflict with recovery" in standby.log.read_text()
    finally:
        standby.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "pause", "clients"),
    [("session", 0.0, CLIENTS), ("global", 0.0, CLIENTS), ("session", 0.01, MANY)],
    ids=["session", "global", "session, at leisure"],
)
def test_thousands_of_writes_with_reads_behind_them(
    ambassadors: Make, three: Three, level: str, pause: float, clients: int
) -> None:
    """At the level `global` the reads are another client's. The replicas stand still in turn. Who never
    pauses reads mostly on the primary; who does for some milliseconds reads mostly on replicas."""
    proxy = front(ambassadors, three, consistency=level)
    stale: list[str] = []
    ports: Counter[int] = Counter()
    writes: Counter[int] = Counter()
    until = time.monotonic() + SECONDS

    def run(number: int) -> None:
        with client(proxy) as writer, client(proxy) as other:
            reader = other if level == "global" else writer
            told, _ = read(reader, number, "primary")
            while time.monotonic() < until:
                add(writer, number)
                told += 1
                writes[number] += 1
                for turn in range(READS):
                    time.sleep(pause)
                    if turn % 3:
                        count, port = read(reader, number)
                    else:
                        reader.execute("begin read only")
                        count, port = read(reader, number)
                        reader.execute("commit")
                    ports[port] += 1
                    if count != told:
                        stale.append(f"client {number}: {told} was due, {count} came from {port}")

    threads = [threading.Thread(target=run, args=(number,)) for number in range(1, clients + 1)]
    for thread in threads:
        thread.start()
    pauses = 0
    while time.monotonic() < until:
        for each in (three.first, three.second):
            with paused(each):
                pauses += 1
    for thread in threads:
        thread.join()
    about = f"{sum(writes.values())} writes, {pauses} pauses, read at {dict(ports)}, {three}"
    assert not stale, "\n".join((about, *stale[:10]))
    assert len(writes) == clients and min(writes.values()) > 10 and pauses > 4, about
    assert all(ports[each] > 50 for each in three.replicas), about
    assert not pause or ports[three.primary.port] < ports.total() / 2, about
    print(about)
