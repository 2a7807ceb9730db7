"""Servers that die, restart and are away: idle deaths are not noticed, others are said once and clearly."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres, Workspace
from pgambassador.wire import build
from tests.harness import HBA, USERS, Ambassador, Answer, Link, Wire, populate, wait_until
from tests.harness.activity import sessions, terminate, wait_running
from tests.harness.mumbler import Mumbler, Speech, says
from tests.messages import SYNC, bind, execute, parse

CLIENTS = 8


@pytest.fixture(scope="module", params=["transaction", "session"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def proxy(mode: str, primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 3})


@pytest.fixture(scope="module")
def fragile(workspace: Workspace) -> Iterator[Postgres]:
    """A server that may be broken; each test leaves it running."""
    server = workspace.primary("fragile", hba=HBA)
    populate(server)
    yield server
    server.stop(immediate=True)


@pytest.fixture
def before(fragile: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    """The ambassador before the fragile server."""
    return ambassador(fragile.url("app", USERS["app"].password, "app"), pool={"size": 4})


def pid(client: Wire) -> int:
    return int(client.ask("select pg_backend_pid()").value or 0)


def the_end(client: Wire) -> Answer:
    """All that comes before the connection ends: one error, whole."""
    answer = client.rest()
    assert answer.kinds == "E", answer
    fields = answer.error.fields
    assert (fields["S"], fields["V"]) == ("FATAL", "FATAL")
    return answer


# Idle.


def test_an_idle_server_connection_that_was_killed_is_not_noticed(
    mode: str, proxy: Ambassador, observer: Connection
) -> None:
    """The next statement has another one, whether or not the death has been seen in the meantime."""
    if mode == "session":
        pytest.skip("a client keeps its server connection, and dies with it")
    with Wire.session(proxy.port) as client:
        for index in range(15):
            victim = pid(client)
            terminate(observer, victim)
            answer = client.ask(f"select {index}, pg_backend_pid()")
            assert answer.kinds == "TDCZ", answer
            assert answer.rows[0][0] == str(index)
            assert answer.rows[0][1] != str(victim)


def test_idle_server_connections_that_died_together_are_not_noticed(
    mode: str, proxy: Ambassador, observer: Connection
) -> None:
    if mode == "session":
        pytest.skip("a client keeps its server connection, and dies with it")
    clients = [Wire.session(proxy.port) for _ in range(3)]
    for round_ in range(4):
        for client in clients:
            client.send(build.query("select pg_sleep(0.02)"))
        for client in clients:
            assert client.until("Z").kinds == "TDCZ"
        terminate(observer, *sessions(observer))
        for index, client in enumerate(clients):
            client.send(parse(b"", b"select $1"), bind(b"", b"%d %d" % (round_, index)), execute(), SYNC)
        for index, client in enumerate(clients):
            answer = client.until("Z")
            assert (answer.kinds, answer.value) == ("12DCZ", f"{round_} {index}")
    for client in clients:
        client.leave()


def test_prepared_statements_survive_the_death_of_an_idle_server_connection(
    mode: str, proxy: Ambassador, observer: Connection
) -> None:
    if mode == "session":
        pytest.skip("a client keeps its server connection, and dies with it")
    with Wire.session(proxy.port) as client:
        client.send(parse(b"mine", b"select $1 || ', still there'"), SYNC)
        client.until("Z")
        for index in range(4):
            terminate(observer, *sessions(observer))
            client.send(bind(b"mine", b"%d" % index), execute(), SYNC)
            answer = client.until("Z")
            assert (answer.kinds, answer.value) == ("2DCZ", f"{index}, still there")


def test_a_session_dies_with_its_server_connection(
    mode: str, proxy: Ambassador, observer: Connection
) -> None:
    """In the server's own words, as without a proxy."""
    if mode == "transaction":
        pytest.skip("an idle client has no server connection")
    with Wire.session(proxy.port) as client:
        terminate(observer, pid(client))
        assert the_end(client).error.sqlstate == "57P01"
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"


def test_an_idle_connection_that_broke_is_not_noticed(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    proxy = ambassador(url, pool={"size": 2})
    with Wire.session(proxy.port) as client:
        for index in range(10):
            assert client.ask(f"select {index}").value == str(index)
            wait_until(lambda: proxy.metrics().total("pgambassador_server_connections", state="idle") == 1)
            link.cut()


# At work.


@pytest.mark.parametrize("state", ["idle in transaction", "failed transaction", "running", "in a pipeline"])
def test_one_clear_error_when_the_server_connection_is_killed_at_work(
    mode: str, state: str, proxy: Ambassador, observer: Connection
) -> None:
    """The server's own last words, once; then the end in session mode, as without a proxy. Others go on."""
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as neighbour:
        neighbour.ask("begin")
        client.ask("begin")
        victim = pid(client)
        if state == "failed transaction":
            client.ask("select 1 / 0")
        elif state == "running":
            client.send(build.query("select pg_sleep(30), 'killed'"))
            wait_running(observer, "'killed'")
        elif state == "in a pipeline":
            client.send(parse(b"", b"select pg_sleep(30), 'killed'"), bind(b""), execute())
            client.send(parse(b"", b"select 2"), bind(b""), execute(), SYNC)
            wait_running(observer, "'killed'")
        terminate(observer, victim)
        if mode == "session":
            answer = client.rest()
            assert answer.kinds.lstrip("T12") == "E", answer
            assert (answer.error.sqlstate, answer.error.fields["S"]) == ("57P01", "FATAL")
        else:
            if state == "idle in transaction":
                client.send(build.query("select 1"))
            elif state == "failed transaction":
                client.send(build.query("rollback"))
            answer = client.until("Z")
            if state == "failed transaction":
                assert (answer.kinds, answer[-1].payload) == ("CZ", b"I")
            else:
                assert answer.kinds.lstrip("T12") == "EZ", answer
                assert (answer.error.sqlstate, answer.error.fields["S"]) == ("57P01", "ERROR")
                assert answer[-1].payload == b"E"
                assert client.ask("rollback").kinds == "CZ"
            assert client.ask("select 'on'").value == "on"
        assert neighbour.ask("select 1").value == "1"
        assert neighbour.ask("commit").kinds == "CZ"
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"


@pytest.mark.parametrize("running", [False, True], ids=["idle in transaction", "running"])
def test_one_clear_error_when_the_connection_breaks_at_work(
    running: bool,
    link: Link,
    primary: Postgres,
    observer: Connection,
    ambassador: Callable[..., Ambassador],
) -> None:
    """The server could not say anything; what we say has the class of connection errors."""
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    proxy = ambassador(url, pool={"size": 2})
    with Wire.session(proxy.port) as client:
        client.ask("begin")
        if running:
            client.send(parse(b"", b"select pg_sleep(30), 'cut off'"), bind(b""), execute(), SYNC)
            wait_running(observer, "'cut off'")
        link.cut()
        if not running:
            wait_until(lambda: proxy.metrics().total("pgambassador_server_connections", state="active") == 0)
            client.send(build.query("select 1"))
        answer = client.until("Z")
        assert answer.kinds.lstrip("12") == "EZ", answer
        assert (answer.error.sqlstate, answer.error.fields["S"]) == ("08006", "ERROR")
        assert "transaction" in answer.error.fields["M"]
        assert client.ask("rollback").kinds == "CZ"
    # The server goes on, and would be in the way of others.
    observer.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where usename = 'app' and query like '%cut off%'"
    )


def test_a_result_that_is_cut_off_ends_without_a_false_word(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """In the middle of a row nothing can be said; a whole message is never made up."""
    url = primary.url("app", USERS["app"].password, "app").replace(f":{primary.port}/", f":{link.port}/")
    proxy = ambassador(url, pool={"size": 2})
    with Wire.session(proxy.port) as client:
        row = b"x" * 1_000_000
        client.send(build.query("select repeat('x', 1000000) from generate_series(1, 1000)"))
        assert client.receive().kind == "T"
        for _ in range(3):
            assert client.receive().payload.endswith(row)
        link.cut()
        kinds = ""
        try:
            while True:
                message = client.receive()
                kinds += message.kind
                if message.kind == "Z":
                    break  # it was cut between two rows
                assert message.kind == "E" or message.payload.endswith(row)
        except ConnectionError:
            pass
        assert kinds.rstrip("Z").rstrip("E").strip("D") == ""


def test_clients_that_wait_are_not_harmed_by_the_death_of_another(
    mode: str, primary: Postgres, observer: Connection, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"mode": mode, "size": 1})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as waiter:
        client.ask("begin")
        victim = pid(client)
        waiter.send(build.query("select 'came in'"))
        wait_until(lambda: proxy.metrics().total("pgambassador_pool_waiting_clients") == 1)
        terminate(observer, victim)
        if mode == "session":
            assert the_end(client).error.sqlstate == "57P01"
        assert waiter.until("Z").value == "came in"
        if mode == "transaction":
            assert client.ask("commit").error.sqlstate == "57P01"
            assert client.ask("select 'on'").value == "on"


# Restarts.


class Load(threading.Thread):
    """A client that asks and asks; it comes again when it is sent away in the middle of something."""

    def __init__(self, proxy: Ambassador, number: int, stop: threading.Event) -> None:
        super().__init__(name=f"load {number}")
        self.number = number
        self.errors: Counter[str] = Counter()
        self.wrong: list[object] = []
        self.last_success = 0.0
        self.connections = 0
        self._proxy = proxy
        self._stopping = stop

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._proxy.dsn(), autocommit=True) as connection:
                    self.connections += 1
                    self.ask(connection)
            except psycopg.OperationalError as error:
                self.errors[error.sqlstate or "none"] += 1
                self._stopping.wait(0.02)

    def ask(self, connection: Connection) -> None:
        asked = 0
        while not self._stopping.is_set():
            asked += 1
            try:
                found = connection.execute("select %s, %s", (self.number, asked)).fetchone()
            except psycopg.OperationalError as error:
                if connection.closed:
                    raise
                # The statement failed and the session goes on.
                self.errors[error.sqlstate or "none"] += 1
                self._stopping.wait(0.02)
                continue
            if found != (self.number, asked):
                self.wrong.append((asked, found))
            self.last_success = time.monotonic()
            self._stopping.wait(0.002)


@pytest.mark.parametrize("immediate", [False, True], ids=["fast", "crash"])
def test_clients_recover_by_themselves_when_the_database_restarts_under_load(
    immediate: bool, fragile: Postgres, before: Ambassador
) -> None:
    stop = threading.Event()
    load = [Load(before, number, stop) for number in range(CLIENTS)]
    with Wire.session(before.port) as idle:
        idle.ask("select 1")
        for client in load:
            client.start()
        try:
            wait_until(lambda: all(client.last_success for client in load))
            fragile.stop(immediate=immediate)
            wait_until(
                lambda: before.metrics().total("pgambassador_pool_waiting_clients") > 0, "somebody to wait"
            )
            fragile.start()
            up = time.monotonic()
            wait_until(lambda: all(client.last_success > up for client in load), "everybody's recovery")
        finally:
            stop.set()
            for client in load:
                client.join()
        assert not any(client.wrong for client in load)
        errors = sum((client.errors for client in load), Counter())
        # admin_shutdown, crash_shutdown, cannot_connect_now; of ours: could not connect, connection failure,
        # and that of what was not known yet to read
        assert set(errors) <= {"57P01", "57P02", "57P03", "08001", "08006", "08007"}, errors
        assert idle.ask("select 'still here'").value == "still here"


def test_a_client_that_waits_while_the_server_starts_up_is_served_when_it_has(
    fragile: Postgres, before: Ambassador
) -> None:
    """An idle client, and what it has set, outlive a restart."""
    with Wire.session(before.port) as client:
        client.ask("set timezone = 'Asia/Tokyo'")
        wait_until(lambda: before.metrics().total("pgambassador_server_connections", state="active") == 0)
        fragile.restart()
        assert client.ask("show timezone").value == "Asia/Tokyo"


def test_where_nobody_is_held_statements_fail_at_once_and_sessions_go_on(
    fragile: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Class 08 or 57, a cause and no hang; as soon as it is back, so is the client."""
    url = fragile.url("app", USERS["app"].password, "app")
    before = ambassador(url, pool={"size": 4}, failover={"hold": "off"})
    with Wire.session(before.port) as client:
        assert client.ask("select 1").value == "1"
        fragile.stop()
        try:
            for message in (build.query("select 1"), parse(b"", b"select 1") + bind(b"") + execute() + SYNC):
                client.send(message)
                answer = client.until("Z")
                assert answer.kinds == "EZ"
                assert answer.error.sqlstate[:2] in ("08", "57")
                assert answer.error.fields["S"] == "ERROR"
                assert "refused" in answer.error.fields["M"].lower()
            with Wire.session(before.port) as newcomer:
                assert newcomer.ask("select 1").error.sqlstate[:2] in ("08", "57")
        finally:
            fragile.start()

        def back() -> bool:
            return client.ask("select 'back'").kinds == "TDCZ"

        wait_until(back, "the server's return", deadline=10)


def _agrees_to_tls(end: socket.socket) -> None:
    """And then says something else."""
    end.sendall(b"S")
    end.recv(65536)
    end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    "speech",
    [says(b"X"), says(b"SS"), says(b"E\0\0\0\x08FATAL"), says(b"HTTP/1.1 400\r\n"), _agrees_to_tls],
    ids=["a letter", "two", "an error", "another protocol", "not TLS"],
)
def test_what_comes_in_place_of_a_server_that_was_well_before(
    speech: Speech, link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Perhaps the network: it is waited for as for one that is away. Before any login the port is wrong."""
    url = primary.url("app", USERS["app"].password, "app")
    proxy = ambassador(url.replace(f":{primary.port}/", f":{link.port}/"))
    with Mumbler(speech) as mumbler, Wire.session(proxy.port) as client:
        assert client.ask("select 'before'").value == "before"
        well, link.target = link.target, (link.target[0], mumbler.port)
        link.cut()
        client.send(build.query("select 'behind'"))
        wait_until(lambda: len(mumbler.heard) > 1, "two tries")
        link.target = well
        assert client.until("Z").value == "behind"
        stranger = ambassador(url.replace(f":{primary.port}/", f":{mumbler.port}/"))
        with Wire(stranger.port) as newcomer:
            newcomer.start(user="app", database="app")
            assert newcomer.rest().error.fields["M"].startswith("could not connect to ")


def test_without_any_server_a_login_fails_within_the_connect_timeout(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Silent (packets go nowhere) or refusing: a class 08 or 57 error, and not a hang."""
    url = primary.url("app", USERS["app"].password, "app", connect_timeout="2")
    url = url.replace(f":{primary.port}/", f":{link.port}/")
    link.stall()
    proxy = ambassador(url, failover={"hold": "off"})
    began = time.monotonic()
    with Wire(proxy.port) as client:
        client.start(user="app", database="app")
        answer = client.rest()
        assert answer.kinds == "E"
        assert answer.error.sqlstate[:2] in ("08", "57")
        assert time.monotonic() - began < 4
    link.refuse()  # before it cuts: a try in between would stay connected
    link.cut()
    link.resume()
    with Wire(proxy.port) as client:
        client.start(user="app", database="app")
        answer = client.rest()
        assert answer.kinds == "E"
        assert answer.error.sqlstate[:2] in ("08", "57")
