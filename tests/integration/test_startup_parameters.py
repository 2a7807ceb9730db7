"""Whatever a start packet sets holds for its client, although others share the only server connection.

What PostgreSQL itself does with the same parameters is the measure.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Wire, psql

SHOW = "select current_setting($$%s$$)"


@pytest.fixture(scope="module", params=["transaction", "session"])
def proxy(
    request: pytest.FixtureRequest, primary: Postgres, ambassadors: Callable[..., Ambassador]
) -> Ambassador:
    """In session mode with a place for each client."""
    size = 1 if request.param == "transaction" else 4
    url = primary.url("app", USERS["app"].password, "app")
    return ambassadors(url, pool={"mode": request.param, "size": size, "wait_timeout": "5s"})


@pytest.fixture(scope="module")
def sharing(primary: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """One server connection for all."""
    url = primary.url("app", USERS["app"].password, "app")
    return ambassadors(url, pool={"mode": "transaction", "size": 1, "wait_timeout": "5s"})


def settings(wire: Wire, *names: str) -> list[str | None]:
    (row,) = wire.ask("select " + ", ".join(f"current_setting($${name}$$)" for name in names)).rows
    return row


# Options.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            r"-c statement_timeout=1234 -c search_path=a,\ b",
            {"statement_timeout": "1234ms", "search_path": "a, b"},
        ),
        ("-cwork_mem=8MB", {"work_mem": "8MB"}),
        ("--work-mem=9MB --enable-seqscan=off", {"work_mem": "9MB", "enable_seqscan": "off"}),
        (r"-c my.value=back\\slash\ and'quote", {"my.value": r"back\slash and'quote"}),
        ("  -c  geqo=off\t-c\ngeqo=on ", {"geqo": "on"}),
        ("-c my.value=", {"my.value": ""}),
        ("-c my.value=a=b", {"my.value": "a=b"}),
        ("", {"work_mem": "4MB"}),
    ],
)
def test_options_hold_for_their_client(proxy: Ambassador, options: str, expected: dict[str, str]) -> None:
    with Wire(proxy.port) as wire, Wire.session(proxy.port) as other:
        wire.login(user="app", database="app", options=options)
        for _ in range(2):
            assert settings(wire, *expected) == list(expected.values())
            assert settings(other, "statement_timeout", "search_path") == ["0", '"$user", public']


@pytest.mark.parametrize(
    "options",
    [
        r"-c search_path=a\ b",  # PostgreSQL wants a comma between them
        "-c work_mem=many",
        "-c no_such_parameter=1",
        "-c no..such=1",
        "-c session_replication_role=replica",
        "-c shared_buffers=1GB",
        "-c server_version=7",
        "-c client_encoding=no_such_encoding",
        "-c role=no_such_role",
    ],
)
def test_options_that_a_server_refuses_are_refused_at_login_in_its_words(
    proxy: Ambassador, primary: Postgres, options: str
) -> None:
    def complaint(dsn: str) -> str:
        with pytest.raises(psycopg.OperationalError) as raised:
            psycopg.connect(dsn, options=options).close()
        return str(raised.value).partition("FATAL:")[2].splitlines()[0]

    assert complaint(proxy.dsn()) == complaint(primary.url("app", USERS["app"].password, "app")) != ""
    with Wire.session(proxy.port) as wire:
        assert settings(wire, "work_mem") == ["4MB"]


# Parameters by name.


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"extra_float_digits": "-3"}, {"extra_float_digits": "-3"}),
        ({"search_path": "pg_catalog"}, {"search_path": "pg_catalog"}),
        ({"search_path": 'a, "B c"'}, {"search_path": 'a, "B c"'}),
        (
            {"statement_timeout": "5min", "lock_timeout": "77"},
            {"statement_timeout": "5min", "lock_timeout": "77ms"},
        ),
        ({"DateStyle": "German"}, {"datestyle": "German, DMY"}),
        ({"TIMEZONE": "america/new_york"}, {"TimeZone": "America/New_York"}),
        ({"client_encoding": "latin1"}, {"client_encoding": "LATIN1"}),
        ({"application_name": "it's \\ me"}, {"application_name": "it's \\ me"}),
        ({"standard_conforming_strings": "off", "my.value": "\\'"}, {"my.value": "\\'"}),
        ({"default_transaction_read_only": "on"}, {"transaction_read_only": "on"}),
        ({"default_transaction_isolation": "serializable"}, {"transaction_isolation": "serializable"}),
        ({"my.value": "é"}, {"my.value": "é"}),
        ({"my.value": "x" * 4096}, {"my.value": "x" * 4096}),
        ({"options": "-c geqo=off", "geqo": "on"}, {"geqo": "on"}),
        ({"role": "app"}, {"role": "app"}),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_parameters_are_applied(
    proxy: Ambassador, parameters: dict[str, str], expected: dict[str, str]
) -> None:
    with Wire.session(proxy.port) as other:
        before = settings(other, *(name for name in expected if "." not in name), "work_mem")
        with Wire(proxy.port) as wire:
            wire.login(user="app", database="app", **parameters)
            for _ in range(2):
                assert settings(wire, *expected) == list(expected.values())
                now = settings(other, *(name for name in expected if "." not in name), "work_mem")
                assert now == before


@pytest.mark.parametrize(
    "parameters",
    [{"ignore_system_indexes": "on"}, {"options": "-c ignore_system_indexes=on -c work_mem=7MB"}],
    ids=["by name", "options"],
)
def test_what_a_server_takes_only_from_a_start_packet_is_applied(
    proxy: Ambassador, parameters: dict[str, str]
) -> None:
    """On server connections of their own, which others never get."""
    with Wire.session(proxy.port) as other, Wire.session(proxy.port, **parameters) as wire:
        for _ in range(2):
            assert settings(other, "ignore_system_indexes", "work_mem") == ["off", "4MB"]
            assert settings(wire, "ignore_system_indexes") == ["on"]
            assert settings(wire, "work_mem") == ["7MB" if "options" in parameters else "4MB"]
        pid = "select pg_backend_pid()"
        assert other.ask(pid).value != wire.ask(pid).value


def test_in_whatever_spelling_it_is_the_same_pool(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), pool={"size": 1})
    pids = set()
    for given in (
        {"ignore_system_indexes": "on"},
        {"Ignore_System_Indexes": "TRUE"},
        {"options": "-c ignore_system_indexes=1"},
        {"options": "--IGNORE-system-indexes=y"},
    ):
        with Wire.session(proxy.port, **given) as wire:
            assert settings(wire, "ignore_system_indexes") == ["on"]
            pids.add(wire.ask("select pg_backend_pid()").value)
    assert len(pids) == 1


def test_many_such_pools_together_are_no_larger_than_one(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    proxy = ambassador(
        primary.url("app", USERS["app"].password, "app"), pool={"size": 2, "wait_timeout": "500ms"}
    )
    with ExitStack() as stack:
        for value in ("0", "0s"):
            wire = stack.enter_context(Wire.session(proxy.port, post_auth_delay=value))
            wire.ask("begin")
        # A third kind finds no place, and is told where there is none; everybody else has the pool as it was.
        with Wire(proxy.port) as late:
            late.start(user="app", database="app", post_auth_delay="0ms")
            error = late.rest().error
            assert error.sqlstate == "53300"
            assert "begin with parameters of their own" in error.fields["D"]
            assert "pool.size" in error.fields["H"]
        for _ in range(2):
            stack.enter_context(Wire.session(proxy.port)).ask("begin")
        wire.ask("commit")
        with Wire.session(proxy.port, post_auth_delay="0ms") as late:
            assert late.ask("select 1").value == "1"


def test_and_refused_as_the_server_does_it(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="app", ignore_system_indexes="perhaps")
        assert wire.rest().error.sqlstate == "22023"


def test_clients_with_different_settings_share_one_server_connection(sharing: Ambassador) -> None:
    chosen: list[dict[str, str]] = [
        {},
        {"TimeZone": "Asia/Tokyo", "DateStyle": "SQL, DMY"},
        {"TimeZone": "Europe/Vienna", "search_path": "one"},
        {"options": "-c statement_timeout=4321 -c my.tenant=eins"},
        {"my.tenant": "zwei", "IntervalStyle": "iso_8601", "application_name": "third"},
    ]
    wires = [Wire.session(sharing.port, **parameters) for parameters in chosen]
    question = (
        "select current_setting('TimeZone'), current_setting('DateStyle'), current_setting('search_path'),"
        " current_setting('statement_timeout'), coalesce(current_setting('my.tenant', true), ''),"
        " interval '1 day'::text, current_setting('application_name'), pg_backend_pid()"
    )
    zone, path = wires[0].ask("show timezone").value, '"$user", public'
    expected = [
        [zone, "ISO, MDY", path, "0", "", "1 day", ""],
        ["Asia/Tokyo", "SQL, DMY", path, "0", "", "1 day", ""],
        ["Europe/Vienna", "ISO, MDY", "one", "0", "", "1 day", ""],
        [zone, "ISO, MDY", path, "4321ms", "eins", "1 day", ""],
        [zone, "ISO, MDY", path, "0", "zwei", "P1D", "third"],
    ]
    pids = set()
    for turn in (range(5), range(4, -1, -1), range(0, 5, 2), range(5)):
        for number in turn:
            ((*values, pid),) = wires[number].ask(question).rows
            assert values == expected[number]
            pids.add(pid)
    assert len(pids) == 1
    for wire in wires:
        wire.leave()


def test_clients_with_different_encodings_share_one_server_connection(sharing: Ambassador) -> None:
    """What a start packet says arrives as it was meant, whoever had the server connection before."""
    text = "Grüße \\ aus 'Zürich' あ"
    with (
        Wire.session(sharing.port, client_encoding="LATIN1") as latin,
        Wire.session(sharing.port, client_encoding="SJIS") as sjis,
        Wire.session(
            sharing.port, client_encoding="UTF8", options="-c standard_conforming_strings=off"
        ) as utf8,
    ):
        for former in (latin, sjis, utf8, latin):
            former.ask("select 1")
            with Wire.session(sharing.port, **{"my.text": text, "search_path": "schéma"}) as wire:
                assert settings(wire, "my.text", "search_path") == [text, "schéma"]
                former.ask("select 1")
                assert settings(wire, "my.text", "search_path") == [text, "schéma"]
        latin.send(build.frame(ord("Q"), "select 'é', length('é'), octet_length('é')\0".encode("latin1")))
        row = next(message.payload for message in latin.until("Z") if message.kind == "D")
        assert row == b"\0\3" + b"\0\0\0\1\xe9" + b"\0\0\0\0011" + b"\0\0\0\0012"


def test_settings_hold_within_a_pipeline_and_a_transaction(sharing: Ambassador) -> None:
    with (
        Wire.session(sharing.port, work_mem="5MB") as one,
        Wire.session(sharing.port, work_mem="6MB") as two,
    ):
        for _ in range(3):
            for wire, expected in ((one, "5MB"), (two, "6MB")):
                assert wire.ask("begin").kinds == "CZ"
                assert settings(wire, "work_mem") == [expected]
                assert wire.ask("commit").kinds == "CZ"


def test_what_the_server_reports_is_what_the_client_asked_for(proxy: Ambassador) -> None:
    """ParameterStatus at login carries the client's own settings, as the server spells them."""
    with Wire(proxy.port) as wire:
        reported = wire.login(
            user="app",
            database="app",
            TimeZone="asia/tokyo",
            DateStyle="german",
            client_encoding="latin1",
            application_name="me",
            options="-c search_path=one,two",
        ).parameters
    assert reported["TimeZone"] == "Asia/Tokyo"
    assert reported["DateStyle"] == "German, DMY"
    assert reported["client_encoding"] == "LATIN1"
    assert reported["application_name"] == "me"
    assert reported["search_path"] == "one,two"
    assert reported["server_version"].startswith("18")
    with Wire(proxy.port) as wire:
        assert wire.login(user="app", database="app").parameters["DateStyle"] == "ISO, MDY"


@pytest.mark.parametrize("reset", ["reset all", "reset work_mem", "set work_mem to default", "discard all"])
def test_a_reset_leads_back_to_what_the_start_packet_said(proxy: Ambassador, reset: str) -> None:
    """Drivers' pools send RESET ALL before a connection is used again."""
    with Wire.session(proxy.port, work_mem="5MB") as wire:
        wire.ask("set work_mem = '6MB'")
        assert settings(wire, "work_mem") == ["6MB"]
        wire.ask(reset)
        assert settings(wire, "work_mem") == ["5MB"]


@pytest.mark.parametrize("name", ["", "x", "ä", "a" * 200], ids=["empty", "short", "not ascii", "long"])
def test_any_application_name_is_welcome(proxy: Ambassador, primary: Postgres, name: str) -> None:
    def told(dsn: str) -> tuple[Any, ...]:
        with psycopg.connect(dsn, application_name=name) as connection:
            row = connection.execute("show application_name").fetchone()
            return row, connection.info.parameter_status("application_name")

    assert told(proxy.dsn()) == told(primary.url("app", USERS["app"].password, "app"))


def test_a_refused_client_leaves_the_pool_as_it_was(sharing: Ambassador) -> None:
    for _ in range(5):
        with Wire(sharing.port) as wire:
            wire.start(user="app", database="app", work_mem="7MB", statement_timeout="never")
            fields = wire.rest().error.fields
            assert (fields["S"], fields["C"]) == ("FATAL", "22023")
            assert 'invalid value for parameter "statement_timeout": "never"' in fields["M"]
    with Wire.session(sharing.port) as wire:
        assert settings(wire, "work_mem", "statement_timeout") == ["4MB", "0"]


def test_psql_with_pgoptions(proxy: Ambassador) -> None:
    dsn = proxy.dsn(options="-c search_path=here -c lock_timeout=3s", application_name="a b")
    assert psql(dsn, "show search_path; show lock_timeout; show application_name") == ("here\n3s\na b")
