"""Users that a real server is asked about, and what happens when it cannot be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import Connection

from pgambassador.embedded import Postgres, Workspace
from pgambassador.wire import build
from tests.harness import HBA, USERS, Ambassador, Wire, psql, wait_until
from tests.harness.activity import terminate
from tests.harness.command import command

LOOKUP = """
create or replace function public.find_user(name) returns table (name name, secret text, valid boolean)
  language sql security definer set search_path = pg_catalog, pg_temp as $$
    select rolname, rolpassword, rolvaliduntil is null or rolvaliduntil > clock_timestamp()
    from pg_authid where rolname = $1 and rolcanlogin and not rolsuper $$
"""
ROLES = {
    "asked": "login password 'asked-secret'",
    "asked_expired": "login password 'asked-secret' valid until '2001-01-01'",
    "asked_nologin": "nologin password 'asked-secret'",
    "asked_bare": "login",
    "Asked Ünï": "login password 'asked-secret'",
}


@pytest.fixture(scope="module")
def server(primary: Postgres) -> Iterator[Postgres]:
    names = ", ".join(f'"{name}"' for name in ROLES)
    primary.sql("".join(f'create role "{name}" {how};' for name, how in ROLES.items()) + LOOKUP)
    yield primary
    primary.sql(f"drop function public.find_user(name); drop role {names}")


@pytest.fixture(scope="module")
def proxy(server: Postgres, ambassadors: Callable[..., Ambassador]) -> Ambassador:
    """A superuser asks pg_authid; clients work as the user of the URL."""
    return ambassadors(
        server.url("app", USERS["app"].password, "app"),
        auth={
            "users": {"postgres": server.password},
            "query": {"database": "postgres", "user": "postgres"},
        },
    )


def login(proxy: Ambassador, user: str, password: str = "asked-secret") -> str:
    """`current_user`, or the sentence of the refusal."""
    try:
        with psycopg.connect(proxy.dsn(user, password=password), connect_timeout=10) as connection:
            (found,) = connection.execute("select current_user").fetchone() or ("",)
            return str(found)
    except psycopg.OperationalError as error:
        return str(error).partition("FATAL:")[2].strip()


STRANGERS = ["asked_expired", "asked_nologin", "asked_bare", "stranger", "x" * 100]


@pytest.mark.parametrize("user", ["asked", "Asked Ünï"])
def test_a_user_of_the_server(proxy: Ambassador, user: str) -> None:
    assert login(proxy, user) == "app"
    assert psql(proxy.dsn(user, password="asked-secret"), "select 1") == "1"


@pytest.mark.parametrize(
    "user", ["asked", "asked_expired", "asked_nologin", "asked_bare", "stranger", "x" * 100]
)
def test_who_may_not_hears_the_same(proxy: Ambassador, user: str) -> None:
    password = "wrong" if user == "asked" else "asked-secret"
    said = login(proxy, user, password)
    assert said == f'password authentication failed for user "{user[:63]}"'
    assert "asked-secret" not in proxy.output()


def test_strangers_look_as_the_server_makes_them(
    workspace: Workspace, ambassador: Callable[..., Ambassador]
) -> None:
    """Where it hashes passwords otherwise than most do, iterations tell nobody who is known."""
    strong = workspace.primary("strong", settings={"scram_iterations": "10000"}, hba=HBA)
    if strong.installation.major < 16:
        pytest.skip(f"PostgreSQL {strong.installation.version} has no scram_iterations")
    strong.sql(
        "create role known login password 'x'; create role late login password 'x' valid until '2001-01-01'"
    )
    proxy = ambassador(strong.url(), auth={"query": {}})

    def shown(user: str) -> str:
        with Wire(proxy.port) as wire:
            wire.start(user=user, database="postgres")
            wire.until("R")
            wire.send(build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=" + b"x" * 18))
            challenge = wire.until("R")[-1].payload
            return re.sub(rb"(?<=[rs]=)[^,]*", lambda found: b"%d" % len(found[0]), challenge[4:]).decode()

    assert shown("known") == shown("late") == shown("stranger") == shown("another") == "r=42,s=24,i=10000"
    assert psql(proxy.dsn("known", "postgres", password="x"), "select 1") == "1"
    strong.stop(immediate=True)


def test_another_server_is_asked_after_a_signal(
    server: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    users = {"app_plain": USERS["app_plain"].password, "postgres": server.password}
    query = {"user": "postgres", "database": "postgres"}
    proxy = ambassador(server.url("app", USERS["app"].password, "app"), auth={"users": users, "query": query})
    assert login(proxy, "asked") == "app"
    asking = "select count(*) from pg_stat_activity where usename = 'app_plain' and datname = 'postgres'"
    before = observer.execute(asking).fetchone()
    statement = "select 'asked', null::text, false where $1::text is not null"
    proxy.reload(auth={"users": users, "query": query | {"statement": statement}})
    wait_until(lambda: login(proxy, "asked").startswith("password authentication failed"), "the other one")
    proxy.reload(auth={"users": users, "query": query})
    wait_until(lambda: login(proxy, "asked") == "app", "the first again")
    assert observer.execute(asking).fetchone() == before


def test_one_connection_asks_and_another_takes_its_place(
    server: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    """The statement is a function's; the connection that asks is ended in between, and nobody notices."""
    name = "enquiry_test"
    proxy = ambassador(
        server.url("app", USERS["app"].password, "app"),
        auth={
            "users": {"app_plain": USERS["app_plain"].password},
            "query": {"user": "app_plain", "database": "app", "statement": "select * from find_user($1)"},
        },
    )
    server.sql(LOOKUP, database="app")
    asking = f"select pid from pg_stat_activity where usename = 'app_plain' and '{name}' <> ''"
    try:
        assert login(proxy, "asked") == "app"
        ((pid,),) = observer.execute(asking).fetchall()
        terminate(observer, pid)
        assert login(proxy, "app_md5", USERS["app_md5"].password).startswith("password authentication failed")
        assert login(proxy, "Asked Ünï") == "app"
        ((other,),) = observer.execute(asking).fetchall()
        assert other != pid
    finally:
        server.sql("drop function public.find_user(name)", database="app")
    # What fails is told to the log, and to a stranger that it failed.
    assert login(proxy, "stranger") == (
        "it cannot be checked just now who may log in\nHINT:  Why is in the log of pgambassador."
    )
    proxy.wait_for_log(lambda line: "auth.query failed" in line["message"] and "find_user" in line["message"])


def test_names_that_nobody_can_have_are_not_asked_for(
    server: Postgres, ambassador: Callable[..., Ambassador], observer: Connection
) -> None:
    """They would be errors of the server, each of which once ended the connection that asks."""
    proxy = ambassador(
        server.url("app", USERS["app"].password, "app"),
        auth={
            "users": {"app_plain": USERS["app_plain"].password},
            "query": {"user": "app_plain", "database": "app", "statement": "select * from find_user($1)"},
        },
    )
    server.sql(LOOKUP, database="app")
    asking = "select pid, xact_start, query_start from pg_stat_activity where usename = 'app_plain'"
    try:
        assert login(proxy, "asked") == "app"
        (before,) = observer.execute(asking).fetchall()
        for number in range(20):
            with Wire(proxy.port) as wire:
                wire.start(user=f"\udcff{number}", database="app")
                assert wire.receive().kind == "R"
        assert observer.execute(asking).fetchall() == [before]
        # What the statement itself does wrong is no reason for another connection either.
        server.sql("drop function public.find_user(name)", database="app")
        for user in ("one", "two"):
            assert login(proxy, user).startswith("it cannot be checked just now")
        ((pid, *_),) = observer.execute(asking).fetchall()
        assert pid == before[0]
    finally:
        server.sql("drop function if exists public.find_user(name)", database="app")


def test_the_clients_key_opens_the_server(server: Postgres, ambassador: Callable[..., Ambassador]) -> None:
    """Nobody but the client knows the password, and it is itself on the server."""
    url = server.url("app", "unused", "app").replace("app:unused@", "")
    proxy = ambassador(
        url,
        auth={
            "users": {"postgres": server.password},
            "query": {"database": "postgres", "user": "postgres"},
        },
    )
    for user in ("app", "app_plain"):
        for _ in range(2):
            assert login(proxy, user, USERS[user].password) == user
        assert psql(proxy.dsn(user, password=USERS[user].password), "select current_user") == user
        assert "password authentication failed" in login(proxy, user, "wrong")
        assert USERS[user].password not in proxy.output()
    # The verifier of this one is an md5 hash, which is of no use here.
    assert "password authentication failed" in login(proxy, "app_md5", USERS["app_md5"].password)


def test_the_list_is_read_again(
    server: Postgres, ambassador: Callable[..., Ambassador], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("users") / "users.txt"
    file.write_text('"early" "secret-one"\n')
    proxy = ambassador(server.url("app", USERS["app"].password, "app"), auth={"users_file": str(file)})
    assert login(proxy, "early", "secret-one") == "app"
    file.write_text('"late" "secret-two"\n')
    wait_until(lambda: login(proxy, "late", "secret-two") == "app", "the new user")
    assert "failed" in login(proxy, "early", "secret-one")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({}, "permission denied for table pg_authid"),
        ({"statement": "selec $1"}, 'syntax error at or near "selec"'),
        ({"statement": "select $1::text"}, "auth.query.statement gives 1 columns for one user"),
        ({"database": "nowhere"}, 'user "app", database "nowhere", SSL encryption'),
    ],
)
def test_what_is_wrong_with_the_question_is_said_to_who_runs_it(
    query: dict[str, str], said: str, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """In the log and by `check`, with a remedy; who has not logged in is told nothing."""
    proxy = ambassador(primary.url("app", USERS["app"].password, "app"), auth={"query": query})
    told = login(proxy, "stranger", "x")
    assert told.startswith("it cannot be checked just now who may log in")
    line = proxy.wait_for_log(lambda line: "auth.query failed" in line["message"])
    for sentence in (line["message"], command("check", "--config", str(proxy.config_file)).sentence):
        where, _, rest = sentence.partition(f"{said}.")
        assert where.startswith(("auth.query failed: ", "auth.query: "))
        assert rest.startswith((" Correct ", " It gives one row or none"))
    proxy.stop()


def test_check_asks_for_users(server: Postgres, proxy: Ambassador) -> None:
    done = command("check", "--config", str(proxy.config_file))
    assert "auth.query: the server answers" in done.out


def test_a_server_that_cannot_be_asked(
    workspace: Workspace, primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    """Those of the list come in as before, others hear that it is not their fault; it is logged once."""
    asked = workspace.primary(
        "asked", hba=("local all all scram-sha-256", "hostssl all all all scram-sha-256")
    )
    asked.sql("create role found login password 'found-secret'")
    proxy = ambassador(
        {
            "clusters": {
                "main": {"url": primary.url("app", USERS["app"].password, "app")},
                "asked": {"url": asked.url()},
            },
            "databases": {"app": {"cluster": "main"}},
        },
        auth={"users": {"listed": "listed-secret"}, "query": {"cluster": "asked"}},
    )
    assert login(proxy, "found", "found-secret") == "app"
    asked.stop(immediate=True)
    assert login(proxy, "listed", "listed-secret") == "app"
    for user in ("one", "two", "three"):
        assert login(proxy, user, "x").startswith("it cannot be checked just now who may log in")
    complaints = [line for line in proxy.log_lines() if "auth.query failed" in line["message"]]
    assert len(complaints) == 1
    asked.start()
    assert login(proxy, "one", "x") == 'password authentication failed for user "one"'
    assert login(proxy, "found", "found-secret") == "app"
    asked.stop()
