"""A server that is away for a while: who waits, who is told, and what comes after it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from pgambassador.wire import build
from tests.harness import HBA, USERS, Ambassador, Link, Wire, populate, wait_until
from tests.harness.servers import several
from tests.integration.test_splitting import cluster

LONG = {"hold": "1min"}
SHORT = {"hold": "500ms", "longest_pause": "200ms"}


@pytest.fixture(scope="module")
def own(workspace: Workspace) -> Iterator[Postgres]:
    server = workspace.primary("restarted", hba=HBA)
    populate(server)
    yield server
    if server.running:
        server.stop(immediate=True)


@pytest.fixture
def couple(workspace: Workspace) -> Iterator[tuple[Postgres, Postgres]]:
    """A primary and its replica, which a test may stop and promote."""
    primary = workspace.primary("coupled", hba=HBA)
    populate(primary)
    replica = primary.replica(f"{primary.folder.name}-replica")
    yield primary, replica
    for server in (replica, primary):
        if server.running:
            server.stop(immediate=True)


@pytest.fixture
def fragile(own: Postgres) -> Postgres:
    """A server to break."""
    if not own.running:
        own.start()
    return own


def url(server: Postgres, link: Link | None = None, **parameters: str) -> str:
    found = server.url("app", USERS["app"].password, "app", **parameters)
    return found if link is None else found.replace(f":{server.port}/", f":{link.port}/")


def console(proxy: Ambassador) -> psycopg.Connection:
    return psycopg.connect(proxy.dsn(database="pgambassador"), autocommit=True)


def held(proxy: Ambassador) -> float:
    return proxy.metrics().total("pgambassador_pool_held_clients")


def breaker(proxy: Ambassador, state: str) -> bool:
    return proxy.metrics().total("pgambassador_breaker_state", state=state) == 1


# Restarts.


def test_clients_outside_a_transaction_do_not_notice_a_restart(
    fragile: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Statements that come while the server is away wait for it; so do logins."""
    proxy = ambassador(url(fragile), pool={"size": 3}, failover=LONG)
    clients = [Wire.session(proxy.port) for _ in range(8)]
    for each in clients:
        assert each.ask("select 1").value == "1"
    fragile.stop()
    for index, each in enumerate(clients):
        each.send(build.query(f"select 'served', {index}"))
    newcomer = Wire(proxy.port)
    newcomer.start(user="app", database="app", timezone="Asia/Tokyo")
    wait_until(lambda: held(proxy) == 9, "all are held")
    fragile.start()
    for index, each in enumerate(clients):
        answer = each.until("Z")
        assert answer.rows == [["served", str(index)]], answer
        each.leave()
    assert newcomer.until("Z").parameters["TimeZone"] == "Asia/Tokyo"
    newcomer.leave()
    assert held(proxy) == 0


def test_the_first_login_waits_for_a_server_that_is_not_there_yet(
    fragile: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    fragile.stop()
    proxy = ambassador(url(fragile), failover=LONG)
    with Wire(proxy.port) as client:
        client.start(user="app", database="app")
        wait_until(lambda: held(proxy) >= 1)
        fragile.start()
        assert client.until("Z").kinds.startswith("R")
        assert client.ask("select 1").value == "1"


@pytest.mark.parametrize("immediate", [False, True], ids=["fast", "crash"])
def test_reads_and_writes_go_on_after_a_restart(
    immediate: bool, fragile: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Who has nothing under way when the server stops gets no error, however often it restarts."""
    proxy = ambassador(url(fragile), pool={"size": 2}, failover=LONG)
    with Wire.session(proxy.port) as client:
        client.ask("drop table if exists counted; create table counted (n int)")
        for index in range(3):
            fragile.stop(immediate=immediate)
            client.send(build.query(f"insert into counted values ({index})"))
            wait_until(lambda: held(proxy) == 1)
            fragile.start()
            assert client.until("Z").kinds == "CZ"
        assert client.ask("select count(*) from counted").value == "3"


# Who is not held.


def test_longer_than_that_nobody_is_held(fragile: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """The last error, then the breaker's, at once; the session goes on, and finds the server again."""
    quick = {"failures": 3, "first_pause": "300ms", "longest_pause": "300ms"}
    proxy = ambassador(url(fragile), failover=SHORT, breaker=quick)
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        assert client.ask("select 1").value == "1"
        fragile.stop()
        answer = client.ask("select 2")
        assert answer.kinds == "EZ"
        assert answer.error.sqlstate in ("08001", "57P03")
        assert "refused" in answer.error.fields["M"] + answer.error.fields.get("D", "")
        wait_until(lambda: breaker(proxy, "open"), "the breaker opens")

        def told() -> bool:
            """Between two attempts."""
            fields = other.ask("select 3").error.fields
            return fields["C"] == "57P03" and "breaker is open" in fields["M"] and "refused" in fields["D"]

        wait_until(told)
        fragile.start()
        wait_until(lambda: client.ask("select 'back'").kinds == "TDCZ", "the server's return")
        wait_until(lambda: not breaker(proxy, "open"))


def test_while_the_breaker_is_open_the_server_is_left_alone(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Hundreds of statements, and now and then somebody who asks in the background."""
    proxy = ambassador(
        url(primary, link),
        failover={"hold": "off"},
        breaker={"failures": 2, "first_pause": "20s", "longest_pause": "20s"},
    )
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        link.refuse()
        link.cut()
        while not breaker(proxy, "open"):
            client.ask("select 1")
        link.stall()
        link.allow()
        before = link.accepted
        for _ in range(300):
            assert client.ask("select 1").error.sqlstate == "57P03"
        assert link.accepted - before < 100
        with console(proxy) as hand:
            row = hand.execute("show breakers").fetchone()
            assert row is not None
            assert row[1:4] == (f"127.0.0.1:{link.port}", "open", "auto")
            hand.execute(f"breaker '127.0.0.1:{link.port}' auto")
        link.resume()
        wait_until(lambda: client.ask("select 'through'").kinds == "TDCZ")


ENDLESS = {"failures": 1, "first_pause": "1h", "longest_pause": "1h"}


def test_nobody_waits_for_the_end_of_a_pause(
    fragile: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """A breaker that would be open for an hour, and clients that nobody holds: the server is back, and so are
    they."""
    proxy = ambassador(url(fragile), failover={"hold": "off"}, breaker=ENDLESS)
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        fragile.stop()
        wait_until(lambda: client.ask("select 2").kinds == "EZ")
        wait_until(lambda: breaker(proxy, "open"))
        assert "as soon as it answers" in client.ask("select 3").error.fields["D"]
        fragile.start()
        back = time.monotonic()
        wait_until(lambda: client.ask("select 'back'").kinds == "TDCZ", "the server's return")
        print(f"served {time.monotonic() - back:.3f} s after the server accepts connections")
        wait_until(lambda: not breaker(proxy, "open"))


def test_an_attempt_that_went_nowhere_is_made_anew(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """A network that swallowed it works again: who waits for that attempt need not wait for its end."""
    proxy = ambassador(
        url(primary, link, connect_timeout="600"), failover={"hold": "1h"}, breaker=ENDLESS, pool={"size": 1}
    )
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        link.refuse()
        link.cut()
        client.send(build.query("select 'served'"))
        wait_until(lambda: breaker(proxy, "open"))
        link.stall()
        link.allow()
        before = link.accepted
        wait_until(lambda: proxy.metrics().total("pgambassador_server_opening") == 1)
        wait_until(lambda: link.accepted > before + 1)
        link.half_open()  # what was sent until now is lost
        link.resume()
        assert client.until("Z").value == "served"


def test_a_breaker_that_is_forced(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    proxy = ambassador(url(primary), pool={"size": 2})
    server = f"127.0.0.1:{primary.port}"
    with Wire.session(proxy.port) as client, console(proxy) as hand:
        assert client.ask("select 1").value == "1"
        hand.execute(f"breaker '{server}' open")
        assert client.ask("select 'a connection that is there'").kinds == "TDCZ"
        hand.execute("reconnect app")
        error = client.ask("select 1").error
        assert error.sqlstate == "57P03"
        assert "by hand" in error.fields["D"] and f"BREAKER '{server}' CLOSE" in error.fields["H"]
        hand.execute(f"breaker '{server}' close")
        assert client.ask("select 'again'").value == "again"
        assert proxy.metrics().total("pgambassador_breaker_forced", mode="closed") == 1
        hand.execute(f"breaker '{server}' auto")
        assert "pgambassador_breaker_forced{" not in proxy.http("/metrics")[1]
        for wrong in (f"breaker '{server}' sideways", "breaker 'nowhere:1' open", "breaker open"):
            with pytest.raises(psycopg.Error):
                hand.execute(wrong)


@pytest.mark.parametrize(
    ("wrong", "sqlstate"),
    [
        ((f":{USERS['app'].password}@", ":wrong@"), "28P01"),
        (("sslmode=verify-full", "sslmode=verify-full&sslrootcert=system"), "57P03"),
    ],
    ids=["password", "certificate"],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    wrong: tuple[str, str], sqlstate: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """With an hour of holding it would never come."""
    good = re.sub(r"&?sslrootcert=[^&]*", "", url(primary)) if "sslmode" in wrong[0] else url(primary)
    assert wrong[0] in good
    proxy = ambassador(good.replace(*wrong), failover={"hold": "1h"})
    with Wire(proxy.port) as client:
        client.start(user="app", database="app")
        answer = client.rest()
        assert answer.error.sqlstate == sqlstate, answer
        assert held(proxy) == 0


# Another primary.


def test_a_promotion_is_followed(
    couple: tuple[Postgres, Postgres], ambassador: Callable[..., Ambassador]
) -> None:
    """The primary dies, a replica is promoted: a client outside a transaction sees latency and no error."""
    primary, replica = couple
    proxy = ambassador(cluster(primary, replica), pool={"size": 3}, failover=LONG)
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.ask("create table survived (n int)")
        position = primary.sql("select pg_current_wal_flush_lsn()")
        wait_until(lambda: replica.sql(f"select pg_last_wal_replay_lsn() >= '{position}'") == "t")
        wait_until(lambda: other.ask("select inet_server_port()").value == str(replica.port))
        primary.stop(immediate=True)
        assert other.ask("select inet_server_port()").value == str(replica.port)
        client.send(build.query("insert into survived values (1)"))
        wait_until(lambda: held(proxy) >= 1)
        assert other.ask("select 'reads go on'").value == "reads go on"
        replica.promote()
        promoted = time.monotonic()
        assert client.until("Z").kinds == "CZ"
        stall = time.monotonic() - promoted
        print(f"first write {stall:.3f} s after the promotion")
        assert other.ask("insert into survived values (2)").kinds == "CZ"
        assert replica.sql("select count(*) from survived", database="app") == "2"
        assert stall < 10


def test_without_a_primary_clients_are_told_of_its_breaker(
    couple: tuple[Postgres, Postgres], ambassador: Callable[..., Ambassador]
) -> None:
    """Although a standby answers: it is none, and goes on with reads."""
    primary, replica = couple
    proxy = ambassador(cluster(primary, replica), failover={"hold": "off"}, breaker=ENDLESS)
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as other:
        client.ask("create table missed (n int)")
        wait_until(lambda: other.ask("select inet_server_port()").value == str(replica.port))
        primary.stop(immediate=True)
        wait_until(lambda: client.ask("insert into missed values (0)").kinds == "EZ")
        wait_until(lambda: breaker(proxy, "open"))
        with Wire(proxy.port) as stranger:
            stranger.start(user="app", database="postgres")
            refusals = stranger.rest(), client.ask("insert into missed values (1)")
        for fields in (refusal.error.fields for refusal in refusals):
            assert fields["C"] == "57P03", fields
            assert f"127.0.0.1:{primary.port}" in fields["M"] and "breaker is open" in fields["M"], fields
            assert "refused" in fields["D"] and "BREAKER" in fields["H"], fields
        assert other.ask("select inet_server_port()").value == str(replica.port)
        replica.promote()
        wait_until(lambda: other.ask("insert into missed values (2)").kinds == "CZ", "the new primary")


def test_a_primary_that_does_not_know_yet_that_it_was_replaced(
    couple: tuple[Postgres, Postgres], ambassador: Callable[..., Ambassador]
) -> None:
    """What is open there is closed at once, idle or not; new statements go to the new one."""
    primary, replica = couple
    proxy = ambassador(several(primary, replica), pool={"size": 3})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as busy:
        client.ask("create table there (n int)")
        position = primary.sql("select pg_current_wal_flush_lsn()")
        wait_until(lambda: replica.sql(f"select pg_last_wal_replay_lsn() >= '{position}'") == "t")
        assert busy.ask("begin; insert into there values (0)").kinds == "CCZ"
        replica.promote()
        wait_until(lambda: proxy.metrics().total("pgambassador_sessions_kept_total") == 1)
        answer = busy.ask("insert into there values (0)")
        assert answer.error.sqlstate in ("08006", "08007"), answer
        for index in range(5):
            assert client.ask(f"insert into there values ({index})").kinds == "CZ"
        assert replica.sql("select count(*) from there", database="app") == "5"
        assert primary.sql("select count(*) from there", database="app") == "0"


def test_a_name_that_leads_to_a_standby_is_not_followed(
    link: Link, primary: Postgres, replica: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """As a DNS record that lags behind: who waits is served when it leads to a primary."""
    proxy = ambassador(url(primary, link), failover={"hold": "1h", "longest_pause": "100ms"})
    with Wire.session(proxy.port) as client:
        client.ask("create table if not exists led (n int)")
        link.target = ("127.0.0.1", replica.port)
        link.cut()
        client.send(build.query("insert into led values (1)"))
        before = link.accepted
        wait_until(lambda: link.accepted >= before + 3, "it is asked again")
        assert held(proxy) == 1
        proxy.wait_for_log(lambda line: "is a standby now" in line["message"])
        link.target = ("127.0.0.1", primary.port)
        assert client.until("Z").kinds == "CZ"


def test_unless_nobody_is_held_any_more(
    link: Link, primary: Postgres, replica: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(url(primary, link), failover=SHORT)
    with Wire.session(proxy.port) as client:
        assert client.ask("show in_hot_standby").value == "off"
        link.target = ("127.0.0.1", replica.port)
        link.cut()
        wait_until(lambda: client.ask("show in_hot_standby").kinds == "TDCZ")
        assert client.ask("show in_hot_standby").value == "on"
        proxy.wait_for_log(lambda line: "used as it is" in line["message"])


# Silence.


def test_a_server_that_has_gone_quiet_is_given_up(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Packets go nowhere: who works there is told, and does not wait for ever."""
    proxy = ambassador(
        url(primary, link, connect_timeout="1"), failover={"quiet": "300ms", **SHORT}, pool={"size": 2}
    )
    with Wire.session(proxy.port) as client:
        assert client.ask("select 1").value == "1"
        client.send(build.query("select pg_sleep(1000)"))
        wait_until(lambda: proxy.metrics().total("pgambassador_server_connections", state="active") == 1)
        link.stall()
        answer = client.until("Z")
        assert answer.error.sqlstate in ("08006", "08007")
        assert "does not answer any more" in answer.error.fields["D"]
    link.cut()
    link.resume()
    with Wire.session(proxy.port) as client:
        wait_until(lambda: client.ask("select 1").kinds == "TDCZ")


def test_a_long_statement_is_not_taken_for_silence(
    link: Link, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(url(primary, link), failover={"quiet": "50ms"}, pool={"size": 1})
    with Wire.session(proxy.port) as client:
        client.ask("select 1")
        before = link.accepted
        client.send(build.query("select pg_sleep(2), 'done'"))
        wait_until(lambda: link.accepted > before, "the server is asked")
        assert client.until("Z").rows[0][1] == "done"


# By hand.


def test_pause_and_resume(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """Running transactions end, then statements wait; logins work; RESUME lets all go."""
    proxy = ambassador(url(primary), pool={"size": 3})
    paused = threading.Event()
    with Wire.session(proxy.port) as busy, Wire.session(proxy.port) as client, console(proxy) as hand:
        client.ask("select 1")
        busy.ask("begin")

        def pause() -> None:
            with console(proxy) as one:
                one.execute("pause app")
                paused.set()

        pausing = threading.Thread(target=pause)
        pausing.start()
        wait_until(lambda: proxy.metrics().total("pgambassador_pool_paused") == 1)
        client.send(build.query("select 'after'"))
        assert busy.ask("select 'goes on'").value == "goes on"
        assert not paused.is_set()
        assert busy.ask("commit").kinds == "CZ"
        pausing.join(10)
        assert paused.is_set()
        assert proxy.metrics().total("pgambassador_server_connections") == 0
        with Wire.session(proxy.port) as newcomer:
            assert "paused by hand: app" in proxy.http("/readyz")[1]
            assert client.quiet
            row = hand.execute("show databases").fetchone()
            assert row is not None and (row[0], row[15]) == ("app", "1")
            hand.execute("resume app")
            assert client.until("Z").value == "after"
            assert newcomer.ask("select 1").value == "1"
        assert proxy.metrics().total("pgambassador_pool_paused") == 0
        hand.execute("pause")
        hand.execute("pause")
        with pytest.raises(psycopg.Error, match="all databases are paused"):
            hand.execute("resume app")
        hand.execute("resume")
        assert client.ask("select 1").value == "1"
        for wrong in ("pause a b", "pause nowhere.else.at.all x"):
            with pytest.raises(psycopg.Error):
                hand.execute(wrong)


def test_reconnect_replaces_connections(primary: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    proxy = ambassador(url(primary), pool={"size": 2})
    with Wire.session(proxy.port) as client, Wire.session(proxy.port) as busy, console(proxy) as hand:
        before = client.ask("select pg_backend_pid()").value
        busy.ask("begin")
        within = busy.ask("select pg_backend_pid()").value
        hand.execute("reconnect")
        assert busy.ask("select pg_backend_pid()").value == within
        busy.ask("commit")
        found = {each.ask("select pg_backend_pid()").value for each in (client, busy)}
        assert not found & {before, within}
