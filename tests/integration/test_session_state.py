"""What a client sets stays with it, on whatever server connection; no other client ever sees it.

The same statements go to a connection of their own and through a pool, where after each of them another
client, with settings of its own, has the only server connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from pgambassador.embedded import Postgres
from pgambassador.wire import build
from tests.harness import Ambassador, Answer, Wire
from tests.messages import SYNC, bind, close_statement, execute, extended, parse

LOOK = (
    "select current_setting('work_mem'), current_setting('search_path'), current_setting('timezone'),"
    " current_setting('datestyle'), current_setting('app.tenant', true), current_setting('app.other', true),"
    " current_setting('role'), current_user, session_user, current_setting('client_encoding'),"
    " current_setting('default_transaction_isolation'), current_setting('statement_timeout'),"
    " current_setting('application_name'), current_setting('bytea_output'), current_setting('intervalstyle')"
)
SEQUENCES = [
    ["set work_mem = '5MB'"],
    ["set session work_mem to 6000", "reset work_mem"],
    ["set work_mem = '5MB'", "set work_mem to default"],
    ["set local work_mem = '5MB'"],
    ["begin", "set local work_mem = '5MB'", "set app.tenant = 'x'", "commit"],
    ["begin", "set work_mem = '5MB'", "set timezone = 'Asia/Tokyo'", "rollback"],
    ["set work_mem = '5MB'", "begin", "reset work_mem", "rollback"],
    ["set work_mem = '5MB'", "begin", "set work_mem = '7MB'", "savepoint s", "set work_mem = '8MB'",
     "rollback to s", "commit"],
    ["begin", "set work_mem = '7MB'", "select 1 / 0", "rollback"],
    ["begin", "savepoint s", "set app.tenant = 'inner'", "release s", "commit"],
    ["set search_path = a, \"B c\", \"$user\""],
    ["set search_path = 'a, b'"],
    ["set search_path = ''"],
    ["set schema 'one'"],
    ["set app.tenant = 'it''s; \\ \u00e4\u20ac'", "set app.other to 5"],
    ["set app.tenant = 'x'", "reset app.tenant"],
    ["set app.tenant = 'x'", "reset all"],
    ["select set_config('app.tenant', 'a' || 'b', false)"],
    ["select set_config('work_mem', '9MB', true)"],
    ["select set_config(n, '11MB', false) from (values ('work_mem')) v (n)"],
    ["begin", "select set_config('app.tenant', 'x', false)", "rollback"],
    ["set time zone 'Europe/Paris'"],
    ["set time zone 3"],
    ["set time zone interval '-08:00' hour to minute"],
    ["set time zone local"],
    ["set datestyle = 'German'", "set datestyle = 'YMD'"],
    ["set names 'LATIN1'", "set app.tenant = 'plain'"],
    ["set client_encoding = 'SQL_ASCII'"],
    ["set role clerk"],
    ["set role clerk", "set work_mem = '5MB'", "reset role"],
    ["set role clerk", "reset all"],
    ["begin", "set local role clerk", "commit"],
    ["set role clerk", "begin", "set role none", "rollback"],
    ["set session authorization clerk"],
    ["set session authorization clerk", "reset session authorization"],
    ["set session authorization clerk", "set role none"],
    ["set session characteristics as transaction isolation level serializable"],
    ["set default_transaction_isolation = 'repeatable read'"],
    ["set statement_timeout = '7s'", "set bytea_output = escape"],
    ["set work_mem = '5MB'; set app.tenant = 'two'; select 1"],
    ["do $$ begin set work_mem = '5MB'; perform set_config('app.tenant', 'block', false); end $$"],
    ["select hidden()"],
    ["set application_name = 'new name'"],
    ["set work_mem = '5MB'", "discard all"],
    ["set intervalstyle = iso_8601", "set work_mem = '-1'", "set nonsense = 1"],
    ["set app.tenant = '" + 3000 * "long " + "'"],
]  # fmt: skip


@pytest.fixture(scope="module")
def superuser(primary: Postgres) -> Iterator[str]:
    """Who may also SET SESSION AUTHORIZATION."""
    with psycopg.connect(primary.url(database="app"), autocommit=True) as connection:
        connection.execute("create role clerk")
        connection.execute(
            "create function hidden() returns text language sql as"
            " $$ select set_config('timezone', 'Asia/Tokyo', false) $$"
        )
        connection.execute(
            "create procedure sets() language sql as $$ select set_config('work_mem', '5MB', false) $$"
        )
        yield primary.url(database="app")
        connection.execute("drop procedure sets")
        connection.execute("drop function hidden; drop role clerk")


@pytest.fixture(scope="module")
def proxy(superuser: str, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    return ambassadors(superuser, pool={"size": 1})


@pytest.fixture(scope="module")
def direct(superuser: str, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """Each client has a server connection of its own, which nothing is done to."""
    return ambassadors(superuser, pool={"mode": "session", "size": 4})


class Told(Wire):
    """`told`: the parameters as the server has reported them."""

    told: dict[str, str]

    def login(self, **parameters: str) -> Answer:
        answer = super().login(**parameters)
        self.told = answer.parameters
        return answer


def say(client: Told, sql: str, how: str) -> tuple[str, list[list[str]], bytes]:
    """What is answered: messages, rows, and the state of the transaction."""
    client.send(build.query(sql) if how == "simple" else extended(sql.encode()) + SYNC)
    answer = client.until("Z")
    client.told.update(answer.parameters)
    kinds = "".join(kind for kind in answer.kinds if kind not in "12nTS")
    # A custom parameter that anybody has set before is empty, not unknown: so it is on every connection.
    rows = [[value or "" for value in values] for values in answer.rows]
    return kinds, rows, answer[-1].payload


@pytest.mark.parametrize("how", ["simple", "extended"])
@pytest.mark.parametrize(
    "start", [{}, {"timezone": "America/Bogota", "app.other": "start"}], ids=["", "start"]
)
@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda sequence: "; ".join(sequence)[:60])
def test_it_is_as_on_a_connection_of_ones_own(
    proxy: Ambassador, direct: Ambassador, sequence: list[str], start: dict[str, str], how: str
) -> None:
    with (
        Told.session(proxy.port, **start) as client,
        Told.session(direct.port, **start) as model,
        Told.session(proxy.port, timezone="Asia/Kolkata", application_name="other") as other,
    ):
        own = say(other, LOOK, "simple")
        for sql in sequence:
            if ";" in sql and "$$" not in sql and how == "extended" and "''" not in sql:
                pytest.skip("a Parse holds one statement")
            expected = say(model, sql, how)
            assert say(client, sql, how) == expected, sql
            if expected[2] == b"I":
                assert say(other, LOOK, "simple") == own
                assert say(client, LOOK, how) == say(model, LOOK, how), sql
        assert say(other, LOOK, "simple") == own
        assert say(client, LOOK, how) == say(model, LOOK, how)
        assert client.told == model.told


def test_who_comes_after_finds_nothing(proxy: Ambassador) -> None:
    with Told.session(proxy.port) as fresh:
        nothing = say(fresh, LOOK, "simple")
        for sequence in SEQUENCES:
            client = Told.session(proxy.port)
            for sql in sequence:
                client.ask(sql)
            client.vanish(reset=len(sequence) % 2 == 0)
            assert say(fresh, LOOK, "simple") == nothing, sequence


CALL = b"select set_config($1, $2, false)"
HIDDEN = [
    parse(b"", CALL) + bind(b"", b"app.tenant", b"secret") + execute() + SYNC,
    parse(b"s", CALL) + bind(b"s", b"work_mem", b"5MB") + execute() + SYNC,
    build.query("select set_config('app.' || 'tenant', 'secret', false)"),
    build.query("select set_config('work' || '_mem', '5MB', false)"),
    build.query("select \"set_config\"('work_mem', '5MB', false)"),
    build.query("select set_config('work_mem', '5MB' /*, true) */, false)"),
    build.query("do $$ begin execute 'set app.' || 'tenant = 5'; end $$"),
    build.query("set \"app.tenant\" = 'secret'"),
    build.query("set app.\"tenant\" = 'secret'"),
    build.query("set app.tenant/**/= 'secret'"),
    build.query("set local.tenant = 'secret'; set app.tenant = 'secret'"),
    build.query(f"select length('{'x' * 100_000}'); set app.tenant = 'secret'; create temp table t (a int)"),
    build.query(f"select length('{'x' * 100_000}'), set_config('app.tenant', 'secret', false)"),
    build.query("prepare p (text, text) as select set_config($1, $2, false)")
    + build.query("execute p ('work_mem', '5MB')")
    + build.query("deallocate p"),
    build.query("call sets()") + build.query("set geqo = off"),
    build.query("do $$ begin create temp table t (a int); perform pg_advisory_lock(7); end $$"),
    build.query("set statement_timeout = 1")
    + build.query("select set_config('app.tenant', 'secret', false)"),
]


@pytest.mark.parametrize("messages", HIDDEN, ids=lambda messages: repr(messages[5:60]))
def test_what_nobody_can_read_out_of_a_text_reaches_nobody(proxy: Ambassador, messages: bytes) -> None:
    """Its own client may lose it; that is said in the documentation."""
    see = (
        "select current_setting('work_mem'), current_setting('app.tenant', true), current_setting('geqo'),"
        " to_regclass('pg_temp.t'), current_setting('statement_timeout'),"
        " (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid())"
    )
    with Told.session(proxy.port) as client:
        client.send(messages)
        for _ in range(messages.count(b"Q\0") or 1):
            client.until("Z")
        client.vanish()
    with Told.session(proxy.port) as other:
        assert say(other, see, "simple")[1] == [["4MB", "", "on", "", "0", "0"]]


@pytest.mark.parametrize(
    "messages",
    [
        parse(b"", CALL) + bind(b"", b"app.tenant", b"mine") + execute() + SYNC,
        parse(b"named", CALL) + bind(b"named", b"App.Tenant", b"mine") + execute() + SYNC,
        build.query("select set_config('app.tenant' || '', 'mine', false)"),
        build.query("set \"app.tenant\" = 'mine'"),
        build.query("set app.\"tenant\" = 'mine'"),
        build.query("do $$ begin execute 'set app.tenant = ''mine'''; end $$"),
    ],
    ids=lambda messages: repr(messages[5:60]),
)
def test_a_name_that_is_bound_or_quoted_is_found(proxy: Ambassador, messages: bytes) -> None:
    with Told.session(proxy.port) as client, Told.session(proxy.port) as other:
        client.send(messages)
        client.until("Z")
        assert other.ask("select current_setting('app.tenant', true)").value in (None, "")
        assert client.ask("select current_setting('app.tenant')").value == "mine"


def test_an_unnamed_statement_that_is_executed_in_another_transaction(proxy: Ambassador) -> None:
    """Each execution counts, not the Parse."""
    with Told.session(proxy.port) as client, Told.session(proxy.port) as other:
        client.send(parse(b"", b"select set_config('app.tenant', $1, false)"), SYNC)
        client.until("Z")
        for value in (b"one", b"two"):
            assert other.ask("select current_setting('app.tenant', true)").value in (None, "")
            client.send(bind(b"", value), execute(), SYNC)
            client.until("Z")
            assert other.ask("select current_setting('app.tenant', true)").value in (None, "")
            client.send(extended(b"select current_setting('app.tenant')") + SYNC)
            assert client.until("Z").rows == [[value.decode()]]
            client.send(parse(b"", b"select set_config('app.tenant', $1, false)"), SYNC)
            client.until("Z")


def test_a_statement_means_what_its_own_client_has_set(proxy: Ambassador) -> None:
    """Constants are understood when a statement is parsed: clients with other settings do not share it."""
    sql = b"select '2020-01-02 00:00'::timestamptz at time zone 'UTC', '01/02/2020'::date::text, 'a\\b'"
    with (
        Told.session(proxy.port, timezone="Asia/Tokyo", datestyle="ISO, DMY") as one,
        Told.session(proxy.port, standard_conforming_strings="off", timezone="UTC") as two,
    ):
        expected = (
            ["2020-01-01 15:00:00", "2020-02-01", "a\\b"],
            ["2020-01-02 00:00:00", "2020-01-02", "a\b"],
        )
        for _ in range(2):
            for client, row in zip((one, two), expected, strict=True):
                client.send(parse(b"", sql), bind(b""), execute(), SYNC)
                assert client.until("Z").rows == [row]
                client.send(parse(b"s", sql), bind(b"s"), execute(), close_statement(b"s"), SYNC)
                assert client.until("Z").rows == [row]


def test_who_it_was_is_not_who_comes_next(proxy: Ambassador) -> None:
    with Told.session(proxy.port) as one, Told.session(proxy.port) as two:
        two.ask("set role clerk")
        one.ask("set session authorization clerk")
        one.ask("set role none")
        for client, who in [(two, ["clerk", "postgres"]), (one, ["clerk", "clerk"])] * 2:
            assert client.ask("select current_user, session_user").rows == [who]
        one.ask("reset session authorization")
        one.ask("set log_min_messages = error")
        one.ask("set role clerk")
        assert two.ask("show log_min_messages").value == "warning"
        assert one.ask("select current_user, current_setting('log_min_messages')").rows == [
            ["clerk", "error"]
        ]


def test_a_thousand_settings(proxy: Ambassador) -> None:
    with Told.session(proxy.port) as client, Told.session(proxy.port) as other:
        for n in range(0, 1000, 50):
            client.ask("; ".join(f"set many.of_{i} = '{i} {i * 'x'}'" for i in range(n, n + 50)))
        assert other.ask("select current_setting('many.of_7', true)").value in (None, "")
        for n in (0, 7, 999):
            assert client.ask(f"show many.of_{n}").value == f"{n} {n * 'x'}"
            assert other.ask("select 1").value == "1"
