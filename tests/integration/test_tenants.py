"""One process for many: wildcard, a user of the database's own, shared limits, clusters that fail apart."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import free_port
from tests.harness import Ambassador, Wire, wait_until

DATABASES = [f"d{number}" for number in range(5)]
USERS = ["ann", "bob", "reader"]
_COUNT = """
    select datname, usename, count(*) from pg_stat_activity
    where backend_type = 'client backend' and usename <> 'postgres' group by 1, 2
"""


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    hba = ("local all all scram-sha-256", "hostssl all all all scram-sha-256")
    made = workspace.primary("tenants", hba=hba)
    roles = "".join(f"create role {name} login password '{name}-secret';" for name in USERS)
    made.sql(roles + "".join(f"create database {name};" for name in DATABASES))
    return made


@pytest.fixture
def watcher(server: Postgres) -> Iterator[Connection]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        wait_until(lambda: not connection.execute(_COUNT).fetchall(), "the end of others' connections")
        yield connection


class Watch:
    """Looks at the server all the time: the most that there ever was, of all, of a database, of a user."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.everything = self.looks = 0
        self.databases: Counter[str] = Counter()
        self.users: Counter[str] = Counter()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            while not self._stop.is_set():
                databases: Counter[str] = Counter()
                users: Counter[str] = Counter()
                for database, user, count in connection.execute(_COUNT).fetchall():
                    databases[database] += count
                    users[user] += count
                self.looks += 1
                self.everything = max(self.everything, users.total())
                self.databases |= databases
                self.users |= users


def cluster(server: Postgres, **more: Any) -> dict[str, Any]:
    """Clients come as themselves."""
    url = re.sub(r"//.*@", "//", server.url()).replace("/postgres?", "/?")
    return {"url": url, **more}


AUTH = {"method": "trust", "users": {name: f"{name}-secret" for name in USERS}}


def who(proxy: Ambassador, database: str, user: str) -> tuple[Any, ...] | None:
    with psycopg.connect(proxy.dsn(database=database, user=user), autocommit=True) as connection:
        return connection.execute("select current_database(), current_user").fetchone()


def test_names_that_are_not_listed_and_a_user_for_all(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        {"clusters": {"main": cluster(server), "other": cluster(server)}},
        databases={
            "reports": {"cluster": "main", "database": "d0", "user": "reader"},
            "fixed": {"cluster": "other", "database": "d1"},
            "*": {"cluster": "main"},
        },
        auth=AUTH,
    )
    assert who(proxy, "d2", "ann") == ("d2", "ann")
    assert who(proxy, "d3", "bob") == ("d3", "bob")
    assert who(proxy, "fixed", "bob") == ("d1", "bob")
    assert who(proxy, "reports", "ann") == who(proxy, "reports", "bob") == ("d0", "reader")
    with pytest.raises(psycopg.OperationalError, match='"no_such" does not exist'):
        who(proxy, "no_such", "ann")
    # What clients make up is nobody's label, and pools that nobody uses are forgotten.
    labels = {labels for name, labels in proxy.metrics() if name == "pgambassador_pool_size"}
    shown = {dict(each)["database"] for each in labels}
    assert shown == {"d0", "d1", "*"}
    assert proxy.metrics().total("pgambassador_server_connects_total", database="*") == 2
    assert proxy.metrics().total("pgambassador_server_connect_failures_total", database="*") == 1


def test_a_user_of_its_own_never_gets_the_secret_of_another(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    told = '{"user": "ann", "password": "ann-secret"}'
    proxy = ambassador(
        {"clusters": {"main": cluster(server, credentials={"provider": "exec", "command": ["echo", told]})}},
        databases={"reports": {"database": "d0", "user": "reader"}, "*": {}},
    )
    assert who(proxy, "d1", "bob") == ("d1", "ann")
    proxy.wait_for_log(lambda line: "'ann' of the exec credentials is whom all of them" in line["message"])
    with pytest.raises(psycopg.OperationalError, match=r"'reader'.*'ann'"):
        who(proxy, "reports", "bob")


def test_limits_hold_at_every_moment_and_everybody_is_served(
    server: Postgres, watcher: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        {"clusters": {"main": cluster(server, max_connections=4)}},
        databases={"d0": {"max_connections": 1}, "*": {"max_connections": 2}},
        users={"ann": {"max_connections": 2}, "*": {"max_connections": 3}},
        pool={"lifetime": "1s"},
        auth=AUTH,
    )
    # The server has the same limits, and refuses a connection that comes before another has really gone.
    server.sql("alter database d0 connection limit 1; alter role ann connection limit 2;")
    server.sql("alter role bob connection limit 3; alter role reader connection limit 3;")
    rounds = 25
    done: Counter[tuple[str, str]] = Counter()

    def work(database: str, user: str) -> None:
        with psycopg.connect(proxy.dsn(database=database, user=user), autocommit=True) as connection:
            for _ in range(rounds):
                connection.execute("select pg_sleep(0.002)")
                done[database, user] += 1

    with Watch(server) as watch:
        crowd = [
            threading.Thread(target=work, args=(database, user))
            for database in DATABASES
            for user in USERS
            for _ in range(2)
        ]
        for each in crowd:
            each.start()
        for each in crowd:
            each.join(120)
    server.sql("alter database d0 connection limit -1;")
    server.sql("".join(f"alter role {user} connection limit -1;" for user in USERS))
    assert proxy.metrics().total("pgambassador_server_connect_failures_total") == 0
    assert set(done.values()) == {2 * rounds}
    assert len(done) == len(DATABASES) * len(USERS)
    assert watch.looks > 50
    assert watch.everything <= 4
    assert watch.databases["d0"] <= 1
    assert max(watch.databases.values()) <= 2
    assert watch.users["ann"] <= 2
    assert max(watch.users.values()) <= 3
    assert watch.everything >= 3, "the limit was reached"
    assert proxy.metrics().total("pgambassador_server_disconnects_total", reason="another pool's turn") > 0


def test_an_idle_connection_makes_room_and_a_busy_one_when_it_is_free(
    server: Postgres, watcher: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        {"clusters": {"main": cluster(server, max_connections=1)}},
        auth=AUTH,
        pool={"wait_notice": "100ms"},
    )
    with (
        Wire.session(proxy.port, user="ann", database="d0") as ann,
        Wire.session(proxy.port, user="bob", database="d1") as bob,
    ):
        assert ann.ask("select current_database()").value == "d0"
        assert bob.ask("select current_database()").value == "d1"
        ann.ask("begin")
        bob.send(b"Q" + (4 + 9).to_bytes(4, "big") + b"select 1\0")
        notice = bob.receive()
        assert notice.kind == "N"
        assert "clusters.main.max_connections" in notice.fields["H"]
        ann.ask("commit")
        assert bob.until("Z").value == "1"


@pytest.mark.parametrize("patience", ["wait_timeout", "login_timeout"])
def test_who_waits_in_vain_is_told_which_limit(
    server: Postgres, watcher: Connection, ambassador: Callable[..., Ambassador], patience: str
) -> None:
    proxy = ambassador(
        {"clusters": {"main": cluster(server)}},
        databases={"*": {"max_connections": 1}},
        auth=AUTH,
        pool={"wait_timeout": "1s" if patience == "wait_timeout" else "1min"},
        clients={"login_timeout": "2s"},
    )
    with (
        Wire.session(proxy.port, user="ann", database="d0") as ann,
        Wire.session(proxy.port, user="bob", database="d0") as bob,
    ):
        ann.ask("begin")
        with Wire(proxy.port) as late:
            late.start(user="reader", database="d0")
            told = late.rest().error.fields
            assert told["C"] == "53300"
            assert 'database "d0"' in told["D"]
            assert 'databases."*".max_connections' in told["H"]
        if patience == "wait_timeout":
            told = bob.ask("select 1").error.fields
            assert (told["S"], told["C"]) == ("ERROR", "53300")
            assert 'databases."*".max_connections' in told["H"]
        ann.ask("commit")
        assert bob.ask("select 1").value == "1"


def test_limits_for_clients(server: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    proxy = ambassador(
        {"clusters": {"main": cluster(server)}},
        databases={"d0": {"max_clients": 2}, "*": {"max_clients": 3}},
        users={"ann": {"max_clients": 4}},
        auth={"method": "scram-sha-256", "users": AUTH["users"]},
    )

    def enter(database: str, user: str, password: str = "") -> Connection:
        dsn = proxy.dsn(database=database, user=user, password=password or f"{user}-secret")
        return psycopg.connect(dsn, autocommit=True)

    with ExitStack() as stack:
        for _ in range(5):
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                enter("d0", "ann", "wrong")  # takes nobody's place
        first = stack.enter_context(enter("d0", "ann"))
        stack.enter_context(enter("d0", "bob"))
        with pytest.raises(psycopg.OperationalError) as refused:
            enter("d0", "bob")
        assert 'too many connections for database "d0"' in str(refused.value)
        assert "At most 2 are allowed (databases.d0.max_clients)" in str(refused.value)
        for _ in range(3):
            stack.enter_context(enter("d1", "ann"))
        with pytest.raises(psycopg.OperationalError, match=r'databases\."\*"\.max_clients'):
            enter("d1", "bob")
        with pytest.raises(psycopg.OperationalError, match=r'for role "ann"(.|\n)*users\.ann\.max_clients'):
            enter("d2", "ann")
        first.close()
        wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 4)
        stack.enter_context(enter("d2", "ann"))
        stack.enter_context(enter("d0", "reader"))


def test_one_cluster_is_down_and_the_other_serves(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    url = server.url("reader", "reader-secret", "d0")
    port = free_port()
    down = url.replace(f":{server.port}/", f":{port}/")
    proxy = ambassador(
        {"clusters": {"down": {"url": down}, "up": {"url": url}}},
        databases={"d0": {"cluster": "up"}, "lost": {"cluster": "down", "database": "d0"}},
        failover={"hold": "1s"},
    )
    wait_until(lambda: "except cluster down: " in proxy.http("/readyz")[1], "readiness says which")
    assert proxy.http("/readyz")[0] == 200
    assert who(proxy, "d0", "anybody") == ("d0", "reader")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        who(proxy, "lost", "anybody")
    assert proxy.http("/readyz")[0] == 200
    assert proxy.metrics().total("pgambassador_server_connect_failures_total", cluster="up") == 0
    with socket.create_server(("127.0.0.1", port)):
        assert who(proxy, "d0", "anybody") == ("d0", "reader"), "nor while it hangs"


def test_when_all_clusters_are_down_it_is_not_ready(
    server: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    url = server.url("reader", "reader-secret", "d0")
    down = [url.replace(f":{server.port}/", f":{free_port()}/") for _ in range(2)]
    proxy = ambassador(
        {"clusters": {"a": {"url": down[0]}, "b": {"url": down[1]}}},
        databases={"d0": {"cluster": "a"}, "x": {"cluster": "b", "database": "d0"}},
    )
    wait_until(lambda: proxy.http("/readyz")[0] == 503, "not ready")
    assert all(f"cluster {name}: " in proxy.http("/readyz")[1] for name in "ab")
