"""What a client has set, while the server connections under it change all the time.

Each client gets another of three server connections than the time before; other clients have other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire
from tests.harness.elsewhere import Elsewhere
from tests.harness.tap import Tap
from tests.messages import SYNC, bind, close_statement, execute, extended, parse

SIZE = 3
TRACKED = {
    "TimeZone": "Asia/Tokyo",
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "application_name": "it's me",
    "IntervalStyle": "iso_8601",
}
"""The server says when these change."""
UNTRACKED = {
    "work_mem": "5MB",
    "statement_timeout": "77s",
    "lock_timeout": "66s",
    "app.tenant": "x" * 4096,
    "enable_seqscan": "off",
    "default_transaction_isolation": "serializable",
}


@pytest.fixture
def proxy(primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    return ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": SIZE})


@pytest.fixture
def elsewhere(proxy: Ambassador) -> Iterator[Elsewhere]:
    with Elsewhere(proxy, SIZE) as moving:
        yield moving


def tapped(tap: Tap, primary: Postgres, ambassador: Callable[..., Ambassador]) -> Ambassador:
    """What its one server connection is told can be read."""
    url = primary.url("app_plain", USERS["app_plain"].password, "app", sslmode="disable")
    return ambassador(url.replace(f":{primary.port}/", f":{tap.port}/"), pool={"size": 1})


def look(client: Wire, *names: str) -> tuple[str | None, list[str]]:
    """The server's process, and the settings. A parameter of one's own is unknown or empty."""
    values = ", ".join(f"current_setting('{name}', true)" for name in names)
    ((pid, *found),) = client.ask(f"select pg_backend_pid(), {values}").rows
    return pid, [value or "" for value in found]


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


@pytest.mark.parametrize("how", ["simple", "extended", "pipelined", "start packet"])
@pytest.mark.parametrize("chosen", [TRACKED, UNTRACKED], ids=["tracked", "untracked"])
def test_what_is_set_goes_along_and_reaches_nobody(
    chosen: dict[str, str], how: str, proxy: Ambassador, elsewhere: Elsewhere
) -> None:
    start = chosen if how == "start packet" else {}
    with Wire.session(proxy.port, **start) as client, Wire.session(proxy.port) as other:
        _, nothing = look(other, *chosen)
        for name, value in chosen.items() if how != "start packet" else ():
            elsewhere()
            sql = f"set {name} = {literal(value)}"
            if how == "simple":
                client.ask(sql)
            elif how == "extended":
                client.send(extended(sql.encode()), SYNC)
                client.until("Z")
            else:
                client.send(build.query("select 1"), extended(sql.encode()), SYNC, build.query("select 1"))
                assert client.until("Z", 3).kinds.count("E") == 0
            assert look(other, *chosen)[1] == nothing
        pids = set()
        for _ in range(2 * SIZE):
            elsewhere()
            pid, found = look(client, *chosen)
            assert found == list(chosen.values())
            pids.add(pid)
            assert look(other, *chosen) == (pid, nothing)
        assert len(pids) == SIZE
    with Wire.session(proxy.port) as fresh:
        for _ in range(SIZE):
            elsewhere()
            assert look(fresh, *chosen)[1] == nothing


def test_what_a_rolled_back_transaction_has_set_is_nowhere(proxy: Ambassador, elsewhere: Elsewhere) -> None:
    with Wire.session(proxy.port) as client:
        names = ("TimeZone", "work_mem", "app.tenant", "application_name")
        nothing = look(client, *names)[1]
        for end in ("rollback", "commit"):
            client.ask("begin")
            for name, value in zip(names, ("Asia/Tokyo", "5MB", "me", "me"), strict=True):
                client.ask(f"set {name} = '{value}'")
            if end == "commit":
                client.ask("select 1 / 0")
            answer = client.ask(end)
            assert (answer[-1].payload, "E" in answer.kinds) == (b"I", False)
            for _ in range(SIZE):
                elsewhere()
                assert look(client, *names)[1] == nothing


def test_settings_and_a_statement_that_the_server_lacks_come_together(
    proxy: Ambassador, elsewhere: Elsewhere
) -> None:
    """On each server connection the client is switched to, and the statement prepared, in one go."""
    sql = b"select pg_backend_pid(), current_setting('TimeZone'), '2020-01-01 UTC'::timestamptz::text, $1"
    tokyo, bogota = ("Asia/Tokyo", "2020-01-01 09:00:00+09"), ("America/Bogota", "2019-12-31 19:00:00-05")
    with (
        Wire.session(proxy.port, timezone=tokyo[0]) as one,
        Wire.session(proxy.port, timezone=bogota[0]) as two,
    ):
        for turn in range(4):
            pids = set()
            name = b"s%d" % turn
            for client in (one, two):
                elsewhere()
                client.send(parse(name, sql), SYNC)
                assert client.until("Z").kinds == "1Z"
            for _ in range(SIZE):
                elsewhere()
                for client, expected in ((one, tokyo), (two, bogota)):
                    client.send(bind(name, b"%d" % turn), execute(), SYNC)
                    answer = client.until("Z")
                    assert answer.kinds == "2DCZ", answer
                    ((pid, *rest),) = answer.rows
                    assert rest == [*expected, str(turn)]
                    pids.add(pid)
            assert len(pids) == SIZE
            sql += b" "  # another text, which no server knows yet
        elsewhere()
        one.send(close_statement(b"s0"), parse(b"s0", b"select wrong"), SYNC)
        assert one.until("Z").error.sqlstate == "42703"


REPORTED = [
    ("timezone", ["Asia/Tokyo", "asia/tokyo", "ASIA/TOKYO"]),
    ("datestyle", ["ISO, DMY", "iso,dmy", "DMY", "European"]),
    ("client_encoding", ["UTF8", "utf-8", "Unicode"]),
    ("intervalstyle", ["iso_8601", "ISO_8601"]),
]
UNREPORTED = [
    ("work_mem", ["5MB", "5120", "5120kB", "5 MB"]),
    ("enable_seqscan", ["off", "false", "0", "no"]),
]


@pytest.mark.parametrize(
    ("name", "spellings", "how"),
    [
        *((*each, how) for each in REPORTED for how in ("start packet", "set")),
        *((*each, "set") for each in UNREPORTED),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_same_in_other_words_is_the_same(
    name: str, spellings: list[str], how: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Clients whose settings differ in nothing but spelling share a server connection at no cost: once all is
    set, only their own messages go there."""
    with Tap(primary.port) as tap, ExitStack() as stack:
        proxy = tapped(tap, primary, ambassador)
        clients = []
        for spelling in spellings:
            parameters = {name: spelling} if how == "start packet" else {}
            client = stack.enter_context(Wire.session(proxy.port, **parameters))
            if how == "set":
                assert "E" not in client.ask(f"set {name} = '{spelling}'").kinds
            clients.append(client)
        assert len({client.ask(f"show {name}").value for _ in range(2) for client in clients}) == 1
        before = len(tap.said[0])
        for client in clients * 5:
            client.ask("select 'counted'")
        assert bytes(tap.said[0][before:]) == build.query("select 'counted'") * 5 * len(clients)
        assert len(tap.said) == 1


def test_setting_again_what_is_set_is_asked_for_once(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """After a SET in other words the client's next statements go to the server alone."""
    with Tap(primary.port) as tap:
        proxy = tapped(tap, primary, ambassador)
        with Wire.session(proxy.port, timezone="Asia/Tokyo") as client:
            client.ask("select 1")
            for spelling in ("asia/tokyo", "ASIA/TOKYO", "Asia/Tokyo"):
                client.ask(f"set timezone = '{spelling}'")
                client.ask("select 'settles'")
                before = len(tap.said[0])
                for _ in range(5):
                    client.ask("select 'counted'")
                assert bytes(tap.said[0][before:]) == build.query("select 'counted'") * 5
