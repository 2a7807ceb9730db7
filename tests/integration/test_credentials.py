"""Passwords that end, change and are late, at a PostgreSQL that means it (`VALID UNTIL`, over TLS)."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Postgres, Workspace
from tests.harness import Ambassador, Wire, wait_until
from tests.harness.command import command

Start = Callable[..., Ambassador]

ROLES = 23
DATABASES = 5
HBA = ("local all all scram-sha-256", "hostssl all all all password")

# Every 0.1 s another role gets a new password, and that becomes the token. It says that it is good for a
# second; the server takes it for one more, since a machine may be busy. Each role's turn is after that.
ISSUER = """
import json, os, secrets, sys, threading
from datetime import datetime, timedelta, UTC
import psycopg
dsn, path, roles, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pace = threading.Event()
with psycopg.connect(dsn, autocommit=True) as server:
    for number in range(rounds):
        role, token = f"token_{number % roles}", secrets.token_urlsafe(300)
        ends = datetime.now(UTC) + timedelta(seconds=1)
        until = ends + timedelta(seconds=0.1 * roles - 1.2)
        server.execute(f"alter role {role} password '{token}' valid until '{until.isoformat()}'")
        with open(path + ".new", "w") as file:
            json.dump({"user": role, "password": token, "expires_at": ends.isoformat()}, file)
        os.rename(path + ".new", path)
        if number == 0:
            print("begun", flush=True)
        pace.wait(0.1)
"""


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    """`app` and the roles of the tokens, which may do what it may; databases db_0 and so on."""
    made = workspace.primary("tokens", hba=HBA, settings={"max_connections": "150"})
    roles = ["app", *(f"token_{number}" for number in range(ROLES))]
    made.sql("".join(f"create role {role} login;" for role in roles))
    for number in range(DATABASES):
        made.sql(f"create database db_{number}")
    return made


def set_password(server: Postgres, password: str, *, until: float | None = None, role: str = "app") -> None:
    end = "infinity" if until is None else datetime.fromtimestamp(until, UTC).isoformat()
    server.sql(f"alter role {role} password '{password}' valid until '{end}'")


def write(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def token(password: str, until: float, **more: str) -> str:
    return json.dumps(
        {"password": password, "expires_at": datetime.fromtimestamp(until, UTC).isoformat(), **more}
    )


def counted(folder: Path, script: str) -> dict[str, Any]:
    """An exec provider that leaves a line for each time it is run."""
    counter = folder / "count"
    counter.touch()
    return {"provider": "exec", "command": ["/bin/sh", "-c", f"echo run >> {counter}; cd {folder}; {script}"]}


def runs(folder: Path) -> int:
    return len((folder / "count").read_text().splitlines())


def cluster(server: Postgres, credentials: dict[str, Any], **more: Any) -> dict[str, Any]:
    url = server.url("app", database="db_0")
    return {"clusters": {"main": {"url": url, "credentials": credentials}}, **more}


def ask(proxy: Ambassador, sql: str = "select 'yes'", database: str = "db_0") -> str | None:
    with Wire.session(proxy.port, database=database) as wire:
        return wire.ask(sql).value


def refreshes(proxy: Ambassador, result: str) -> float:
    return proxy.metrics().total("pgambassador_credential_refreshes_total", result=result)


def refused_directly(server: Postgres, password: str, role: str = "app") -> bool:
    try:
        psycopg.connect(server.url(role, password, "db_0")).close()
    except psycopg.OperationalError as error:
        assert "password authentication failed" in str(error)
        return True
    return False


# Rotation.


@pytest.mark.slow
def test_hundreds_of_rotations_under_load(server: Postgres, ambassador: Start, tmp_path: Path) -> None:
    """No client sees an error while every login's password is a second or two old at most."""
    rounds, path = 220, tmp_path / "token"
    issuer = subprocess.Popen(
        [sys.executable, "-c", ISSUER, server.url(), str(path), str(ROLES), str(rounds)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with issuer, ExitStack() as stack:
        stack.callback(issuer.kill)
        assert issuer.stdout is not None
        assert issuer.stdout.readline() == "begun\n"
        first = json.loads(path.read_text())
        proxy = ambassador(
            cluster(
                server, counted(tmp_path, f"cat {path}"), pool={"size": 4, "lifetime": "400ms", "min_size": 1}
            )
        )
        users: set[str] = set()
        failures: list[Exception] = []

        def work(database: str) -> None:
            while issuer.poll() is None and not failures:
                try:
                    dsn = proxy.dsn(database=database, connect_timeout="20")
                    with psycopg.connect(dsn, autocommit=True) as connection:
                        for _ in range(5):
                            ((user, _),) = connection.execute(
                                "select current_user, pg_sleep(0.02)"
                            ).fetchall()
                            users.add(user)
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=work, args=(f"db_{number % 2}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert issuer.returncode == 0
    # Which of them a connection is opened with is a matter of moments: some of them again and again.
    assert users <= {f"token_{number}" for number in range(ROLES)}
    assert len(users) > 3
    assert refused_directly(server, first["password"], first["user"])
    metrics = proxy.metrics()
    # A token lives for a second and is renewed at 0.8 of that at the latest.
    assert metrics.total("pgambassador_credential_refreshes_total", result="success") >= 20
    assert metrics.total("pgambassador_server_connects_total", user="app") >= 40
    # A question is counted when it has been answered, and the pools go on: between the two there may be one.
    wait_until(
        lambda: runs(tmp_path) == proxy.metrics().total("pgambassador_credential_refreshes_total"),
        "as many answers as questions",
    )


def test_a_password_that_was_changed_is_asked_for_again(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    """The kept token is good by its own words; the server disagrees."""
    set_password(server, "first")
    write(tmp_path / "token", token("first", time.time() + 20))
    proxy = ambassador(cluster(server, counted(tmp_path, "cat token")))
    assert ask(proxy) == "yes"
    wait_until(lambda: proxy.metrics().total("pgambassador_credential_age_seconds") > 2.1, "a moment to pass")
    set_password(server, "second")
    write(tmp_path / "token", token("second", time.time() + 3600))
    assert ask(proxy, database="db_1") == "yes"
    assert proxy.metrics().total("pgambassador_server_connect_failures_total") == 0
    assert runs(tmp_path) == 2
    proxy.wait_for_log(lambda line: "refuses a secret of exec, which is asked again" in line["message"])


@pytest.mark.parametrize("format", ["password", "pgpass"])
def test_a_gap_in_a_rotation_of_a_file(
    server: Postgres, ambassador: Start, tmp_path: Path, format: str
) -> None:
    """The server is told first. Who is connected stays; who comes new is served when the file is right."""
    path = tmp_path / "password"

    def put(password: str) -> None:
        line = f"127.0.0.1:{server.port}:*:app:{password}" if format == "pgpass" else password
        path.touch(mode=0o600)
        new = tmp_path / "new"
        new.touch(mode=0o600)
        new.write_text(line + "\n")
        new.rename(path)

    set_password(server, "one")
    put("one")
    proxy = ambassador(cluster(server, {"provider": "file", "path": str(path), "format": format}))
    with Wire.session(proxy.port, database="db_0") as old:
        set_password(server, "two")
        assert old.ask("select 'yes'").value == "yes"
        assert ask(proxy) == "yes"
        with Wire(proxy.port) as new:
            new.start(user="app", database="db_1")
            assert new.rest().error.sqlstate == "28P01"
        put("two")
        # An opening that has just failed is not repeated at once.
        wait_until(lambda: served(proxy, "db_1"), "a new connection")
        assert old.ask("select 'yes'").value == "yes"


def served(proxy: Ambassador, database: str) -> bool:
    with Wire(proxy.port) as wire:
        wire.start(user="app", database=database)
        while (message := wire.receive()).kind not in "EZ":
            pass
        return message.kind == "Z"


ROTATING = """
import os
from pgambassador.credentials.provider import Secret

class Rotating:
    per_host = False
    window = 30.0

    def __init__(self, options):
        self.folder = options["folder"]

    async def fetch(self, login):
        with open(os.path.join(self.folder, "count"), "a") as file:
            file.write("run\\n")
        with open(os.path.join(self.folder, "password"), "rb") as file:
            return Secret(None, file.read())
"""


@contextmanager
def package(folder: Path, code: str) -> Iterator[dict[str, str]]:
    """Another package, installed where this environment looks for it, with a provider `rotating`."""
    place = folder / "site"
    information = place / "rotating-1.0.dist-info"
    information.mkdir(parents=True)
    (place / "rotating.py").write_text(code)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: rotating\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[pgambassador.credentials]\nrotating = rotating:Rotating\n"
    )
    yield {"PYTHONPATH": str(place)}


def test_a_gap_that_its_provider_knows_of(server: Postgres, ambassador: Start, tmp_path: Path) -> None:
    """No error at all: the provider says that its source rotates, so that the new client waits."""
    set_password(server, "one")
    (tmp_path / "password").write_text("one")
    with package(tmp_path, ROTATING) as environment:
        proxy = ambassador(cluster(server, {"provider": "rotating", "folder": str(tmp_path)}), start=False)
        proxy.environment = environment
        proxy.start()
        assert ask(proxy) == "yes"
        set_password(server, "two")
        before = runs(tmp_path)
        with Wire(proxy.port, timeout=30) as new:
            new.start(user="app", database="db_1")
            wait_until(lambda: runs(tmp_path) >= before + 3, "repeated questions", deadline=20)
            assert ask(proxy) == "yes", "the old pool serves meanwhile"
            (tmp_path / "password").write_text("two")
            assert new.until("Z").kinds.endswith("Z")
        assert proxy.metrics().total("pgambassador_server_connect_failures_total") == 0


HANGING = """
import os, threading
from pgambassador.credentials import blocking
from pgambassador.credentials.provider import Secret

class Rotating:
    per_host = False
    window = 0.0

    def __init__(self, options):
        self.path = options["path"]

    async def fetch(self, login):
        return await blocking.ask(self.hang, seconds=600, whom="the source")

    def hang(self):
        open(self.path, "w").close()
        threading.Event().wait()
"""


def test_a_source_that_never_answers_does_not_keep_it_from_ending(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    with package(tmp_path, HANGING) as environment:
        credentials = {"provider": "rotating", "path": str(asked), "timeout": "10min"}
        proxy = ambassador(cluster(server, credentials), start=False, drain_timeout="1s")
        proxy.environment = environment
        proxy.start()
        wait_until(asked.exists, "the question")
        assert proxy.drain() == 0


# The issuer fails.


@pytest.mark.slow
def test_the_issuer_is_down_while_the_token_is_good(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    end = time.time() + 12
    set_password(server, "first", until=end)
    write(tmp_path / "token", token("first", end))
    proxy = ambassador(cluster(server, counted(tmp_path, "[ ! -e down ] && cat token")))
    assert ask(proxy) == "yes"
    (tmp_path / "down").touch()
    wait_until(lambda: refreshes(proxy, "failure") > 0, "a renewal that fails", deadline=15)
    assert ask(proxy, database="db_1") == "yes"
    metrics = proxy.metrics()
    assert metrics.total("pgambassador_credential_failures") >= 1
    assert metrics.total("pgambassador_server_connect_failures_total") == 0
    assert metrics.total("pgambassador_credential_expiry_timestamp_seconds") == pytest.approx(end)
    line = proxy.wait_for_log(lambda line: "could not be renewed" in line["message"])
    assert line["level"] == "warning"
    # It comes back, and without anybody asking all is well.
    set_password(server, "second")
    write(tmp_path / "token", token("second", time.time() + 3600))
    (tmp_path / "down").unlink()
    wait_until(lambda: refreshes(proxy, "success") == 2, "the renewal", deadline=15)
    assert proxy.metrics().total("pgambassador_credential_failures") == 0
    assert ask(proxy, database="db_2") == "yes"


def test_the_issuer_is_down_and_the_token_has_expired(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    end = time.time() + 4
    set_password(server, "first", until=end)
    write(tmp_path / "token", token("first", end))
    proxy = ambassador(cluster(server, counted(tmp_path, "[ ! -e down ] && cat token") | {"lazy": True}))
    with Wire.session(proxy.port, database="db_0") as old:
        (tmp_path / "down").touch()
        wait_until(lambda: refused_directly(server, "first"), "the end of the token")
        assert runs(tmp_path) == 1, "lazy"
        with Wire(proxy.port) as new:
            new.start(user="app", database="db_1")
            error = new.rest().error
            assert error.sqlstate == "57P03"
            assert error.fields["M"].startswith("the credentials command /bin/sh failed with exit status 1")
        assert old.ask("select 'yes'").value == "yes", "connections outlive their token"


# Many at once.


def test_a_thousand_clients_at_the_moment_of_expiry(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    """Five pools and a hundred connections that are opened at once share one answer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 4096), hard), hard))
    end = time.time() + 5
    set_password(server, "first", until=end)
    write(tmp_path / "token", token("first", end))
    # The answer comes when all have asked.
    script = "while [ -e wait ]; do sleep 0.02; done; cat token"
    proxy = ambassador(cluster(server, counted(tmp_path, script) | {"lazy": True}, pool={"size": 20}))
    assert ask(proxy) == "yes"
    wait_until(lambda: refused_directly(server, "first"), "the end of the token")
    assert runs(tmp_path) == 1
    set_password(server, "second")
    write(tmp_path / "token", token("second", time.time() + 3600))
    (tmp_path / "wait").touch()
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        wires = []
        for number in range(1000):
            wire = stack.enter_context(Wire(proxy.port, timeout=30))
            wire.start(user="app", database=f"db_{number % DATABASES}")
            wires.append(wire)
        wait_until(lambda: runs(tmp_path) == 2, "the question")
        wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 1000, "all clients", deadline=20)
        (tmp_path / "wait").unlink()
        for wire in wires:
            wire.until("Z")
        for wire in wires[:100]:
            assert wire.ask("select 'yes'").value == "yes"
    assert runs(tmp_path) == 2
    metrics = proxy.metrics()
    assert metrics.total("pgambassador_server_connect_failures_total") == 0
    assert metrics.total("pgambassador_login_failures_total") == 0


# Connections that end with their token.


def test_connections_are_replaced_when_their_token_ends(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    set_password(server, "token")
    script = 'printf \'{"password": "token", "expires_at": "%s"}\' "$(date -u -d \'+3 sec\' +%FT%TZ)"'
    proxy = ambassador(cluster(server, counted(tmp_path, script) | {"reconnect": True}))
    with Wire.session(proxy.port, database="db_0") as wire:
        pid = "select pg_backend_pid()"
        first = wire.ask(pid).value
        wait_until(lambda: wire.ask(pid).value != first, "another connection")
        wire.ask("begin")
        second = wire.ask(pid).value
        closed = proxy.metrics().total("pgambassador_server_connects_total")
        wait_until(lambda: runs(tmp_path) >= 4, "the end of that token", deadline=20)
        assert wire.ask(pid).value == second, "not within a transaction"
        wire.ask("commit")
        wait_until(lambda: wire.ask(pid).value != second, "another connection")
        assert proxy.metrics().total("pgambassador_server_connects_total") > closed


# What is shown.


HIDDEN = "tok-hunter2-SECRET/+="


def test_the_secret_is_nowhere_to_be_seen(server: Postgres, ambassador: Start, tmp_path: Path) -> None:
    """In the log at its most talkative, the metrics, what clients are told; whatever goes wrong."""
    set_password(server, HIDDEN)
    end = time.time() + 3600
    path = tmp_path / "token"
    write(path, token(HIDDEN, end))
    seen: list[str] = []
    proxy = ambassador(
        cluster(server, counted(tmp_path, f"cat {path} | tee /dev/stderr; [ ! -e bad ]")),
        log={"level": "debug"},
        query_log={"slow": 0, "literals": True},
    )
    proxy.stop()
    proxy.environment = {"PGAMBASSADOR_DEBUG": "1"}
    proxy.start()
    assert ask(proxy) == "yes"
    # It is refused; it is no JSON; the command fails; it says too much.
    set_password(server, "another")
    for database, printed in (
        ("db_1", token(HIDDEN, end)),
        ("db_2", f'{{"password": "{HIDDEN}"'),
        ("db_3", f'{{"password": ["{HIDDEN}"]}}'),
        ("db_4", HIDDEN * 100_000),
    ):
        write(path, printed)
        proxy.stop()
        proxy.start()
        with Wire(proxy.port) as wire:
            wire.start(user="app", database=database)
            seen.append(repr(wire.rest()))
            assert "ErrorResponse" in seen[-1] or "'E'" in seen[-1]
        seen += [proxy.http(page)[1] for page in ("/metrics", "/readyz", "/livez")]
    (tmp_path / "bad").touch()
    environment = {"PGAMBASSADOR_DEBUG": "1"}
    for printed in (token(HIDDEN, end), HIDDEN, "{" + HIDDEN):
        write(path, printed)
        for bad in (True, False):
            (tmp_path / "bad").touch() if bad else (tmp_path / "bad").unlink()
            done = command("check", "--config", str(proxy.config_file), environment=environment)
            assert done.code == 1
            seen += [done.out, done.err]
    seen.append(proxy.output())
    text = "\n".join(seen)
    for shape in (HIDDEN, repr(HIDDEN), HIDDEN.encode().hex(), "hunter2"):
        assert shape not in text


def test_nothing_that_can_be_asked_for_shows_a_secret(
    server: Postgres, ambassador: Start, tmp_path: Path
) -> None:
    """Every table of the console, every setting, and what a reload says of what has changed: of passwords in
    URLs, in `credentials`, of users in both lists, and of those that a provider gives."""
    set_password(server, HIDDEN)
    write(tmp_path / "token", token(HIDDEN, time.time() + 3600))
    users = tmp_path / "users"
    users.write_text(f'"filed" "{HIDDEN}-of-file"\n')
    url = server.url("app", database="db_0")
    with_password = server.url("app", HIDDEN, "db_0")
    config: dict[str, Any] = {
        "clusters": {
            "main": {"url": url, "credentials": counted(tmp_path, "cat token")},
            "written": {"url": with_password},
            "static": {"url": url, "credentials": {"provider": "static", "password": HIDDEN}},
        },
        "databases": {name: {"cluster": cluster} for name, cluster in (("db_0", "main"), ("w", "written"))},
        "auth": {"users": {"app": HIDDEN}, "users_file": str(users), "admins": ["app"]},
        "log": {"level": "debug"},
    }
    config["databases"]["w"]["database"] = "db_0"
    proxy = ambassador(config)
    seen = []
    for database in ("db_0", "w"):
        with psycopg.connect(proxy.dsn("app", database, HIDDEN)) as client:
            assert client.execute("select 'yes'").fetchone() == ("yes",)
    dsn = proxy.dsn("app", "pgambassador", HIDDEN)
    with psycopg.connect(dsn, autocommit=True) as console:
        helped = [str(row[0]) for row in console.execute("show help")]
        tables = {line for line in helped if line.startswith("SHOW ") and "'" not in line}
        assert {"SHOW CONFIG", "SHOW POOLS"} <= tables, helped
        for table in sorted(tables):
            seen += [str(row) for row in console.execute(table)]
        changed = dict(config, clusters=dict(config["clusters"]))
        changed["clusters"]["written"] = {"url": with_password.replace("db_0", "db_1")}
        changed["clusters"]["static"] = {"url": url, "credentials": {"provider": "env", "variable": "NONE"}}
        changed["auth"] = config["auth"] | {"users": {"app": HIDDEN, "new": f"{HIDDEN}-new"}}
        proxy.reload(**changed)
        line = proxy.wait_for_log(lambda line: "clusters.written.url" in line["message"])
        assert line["level"] == "warning"
        users.write_text(f'"filed" {HIDDEN}\n')
        proxy.send(signal.SIGHUP)
        proxy.wait_for_log(lambda line: "line 1 is not of the form" in line["message"])
        seen += [str(row) for row in console.execute("show reload")]
    seen += [proxy.http("/metrics")[1], proxy.output()]
    assert "hunter2" not in "\n".join(seen)


def test_check_tells_the_secret_from_the_login(server: Postgres, tmp_path: Path) -> None:
    set_password(server, "right")
    end = datetime(2999, 1, 1, tzinfo=UTC).timestamp()
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps(cluster(server, counted(tmp_path, "cat token"))))
    write(tmp_path / "token", token("right", end))
    where = f"cluster main, 127.0.0.1:{server.port}"
    done = command("check", "--config", str(config))
    assert (done.code, done.err) == (0, "")
    lines = [line for line in done.out.splitlines() if line.startswith(where)]
    assert lines[0].startswith(f"{where}, credentials: exec gave a password valid until 2999-01-01T00:00:00")
    assert lines[1].startswith(f"{where}: logged in as app to db_0")
    write(tmp_path / "token", token("wrong", end))
    done = command("check", "--config", str(config))
    assert done.code == 1
    assert f"{where}, credentials: exec gave a password" in done.out
    assert done.err.startswith(f'{where}: password authentication failed for user "app".')
    (tmp_path / "token").unlink()
    done = command("check", "--config", str(config))
    assert done.sentence.startswith(f"{where}, credentials: provider exec: the credentials command /bin/sh")


def test_providers_from_a_variable(server: Postgres, ambassador: Start) -> None:
    set_password(server, "of the variable")
    proxy = ambassador(cluster(server, {"provider": "env", "variable": "DB_PASSWORD"}), start=False)
    proxy.environment = {"DB_PASSWORD": "of the variable"}
    proxy.start()
    assert ask(proxy) == "yes"
    proxy.stop()
    proxy.environment = {}
    proxy.start()
    with Wire(proxy.port) as wire:
        wire.start(user="app", database="db_0")
        message = wire.rest().error.fields["M"]
    assert message == (
        "the environment variable DB_PASSWORD, which should hold the server's password, is not set"
    )
