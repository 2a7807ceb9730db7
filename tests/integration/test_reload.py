"""SIGHUP to a process that serves: what changes, what stays, and what the log says of it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgambassador.embedded import Authority, Postgres
from pgambassador.embedded.authority import LOOPBACK
from pgambassador.wire import build
from tests.harness import USERS, Ambassador, Link, Wire, psql, wait_until

Make = Callable[..., Ambassador]
READ = "configuration, certificates, users and credentials are read again"


def url(primary: Postgres) -> str:
    return primary.url("app", USERS["app"].password, "app")


def lines(proxy: Ambassador, text: str) -> list[str]:
    return [line["message"] for line in proxy.log_lines() if text in line.get("message", "")]


def reload(proxy: Ambassador, says: str = READ, **changes: Any) -> str:
    """The line of the log that ends it."""
    before = len(lines(proxy, says))
    proxy.reload(**changes)
    return wait_until(lambda: lines(proxy, says)[before:], f"a line with {says!r}")[0]


def refusal(proxy: Ambassador, user: str, password: str = "x") -> str:
    try:
        with psycopg.connect(proxy.dsn(user, password=password), connect_timeout=10):
            return ""
    except psycopg.OperationalError as error:
        return str(error)


def test_rules_users_and_maps(primary: Postgres, ambassador: Make, tmp_path: Path) -> None:
    listed = tmp_path / "users"
    listed.write_text('"bob" "bobs"\n')
    rules = [{"user": "alice", "method": "scram-sha-256"}]
    proxy = ambassador(url(primary), auth={"users": {"alice": "hers"}, "rules": rules})
    with psycopg.connect(proxy.dsn("alice", password="hers"), autocommit=True) as alice:
        assert "no entry in auth.rules" in refusal(proxy, "bob", "bobs")
        auth = {"users_file": str(listed), "rules": [{"user": "bob", "method": "scram-sha-256"}]}
        told = reload(proxy, auth=auth)
        assert told == f"{READ}; applied: auth.rules, auth.users.alice, auth.users_file"
        assert refusal(proxy, "bob", "bobs") == ""
        assert "no entry in auth.rules" in refusal(proxy, "alice", "hers")
        assert alice.execute("select 'stays'").fetchone() == ("stays",)
        # The file itself, at once.
        listed.write_text('"bob" "new"\n')
        assert reload(proxy) == READ
        assert refusal(proxy, "bob", "new") == ""
        assert "password authentication failed" in refusal(proxy, "bob", "bobs")


def test_a_bad_file_keeps_the_old(primary: Postgres, ambassador: Make, tmp_path: Path) -> None:
    proxy = ambassador(url(primary), auth={"users": {"alice": "hers"}})
    good = dict(proxy.config)
    stays = "the configuration stays as it was: "
    told = reload(proxy, stays, auth={"users": {"alice": "hunter2"}, "ruels": []})
    assert "auth.ruels is not an option" in told
    assert refusal(proxy, "alice", "hers") == ""
    assert refusal(proxy, "alice", "hunter2") != ""
    told = reload(proxy, stays, auth={"users_file": str(tmp_path / "none")})
    assert f"auth.users_file {tmp_path / 'none'} cannot be read" in told
    proxy.config_file.write_text("listen: [")
    before = len(lines(proxy, stays))
    proxy.send(signal.SIGHUP)
    assert wait_until(lambda: lines(proxy, stays)[before:])
    proxy.config_file.unlink()
    proxy.send(signal.SIGHUP)
    assert wait_until(lambda: lines(proxy, stays)[before + 1 :])
    told = reload(proxy, stays, **{**good, "tls": {"certificate": str(tmp_path / "none")}})
    assert f"The tls.certificate file {tmp_path / 'none'} cannot be read" in told
    assert refusal(proxy, "alice", "hers") == ""
    assert all(line["level"] == "error" for line in proxy.log_lines() if stays in line["message"])
    assert "hunter2" not in proxy.output()
    assert reload(proxy, **{**good, "tls": {}}) == READ


def test_what_needs_a_restart_is_named_and_left(primary: Postgres, ambassador: Make) -> None:
    proxy = ambassador(url(primary))
    clusters = {"main": {"url": "postgresql://app:hunter2@127.0.0.1:1/app", "max_connections": 3}}
    needs = "only a restart will apply"
    told = reload(proxy, needs, clusters=clusters, pool={"size": 3}, log={"level": "warning"})
    assert told == (
        "only a restart will apply the changes of pool.size, clusters.main.url, clusters.main.max_connections"
    )
    assert psql(proxy.dsn(), "select 1") == "1"
    assert "hunter2" not in proxy.output()


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgambassador", "reload", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def test_the_command_says_how_it_ended(primary: Postgres, ambassador: Make, tmp_path: Path) -> None:
    """By the file, which says where it listens, and by a URL."""
    proxy = ambassador(url(primary), listen=[f"unix:{tmp_path}"])
    by_file = "--config", str(proxy.config_file)
    done = command(*by_file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n", "")
    proxy.config |= {"drain_timeout": "3s", "pool": {"size": 3}}
    proxy.write_config()
    done = command(*by_file)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "reloaded; applied: drain_timeout\nonly a restart will apply the changes of pool.size\n"
    )
    address = f"postgresql:///pgambassador?host={tmp_path}"
    proxy.config["auth"] = {"users_file": str(tmp_path / "none")}
    proxy.write_config()
    why = f"auth.users_file {tmp_path / 'none'} cannot be read"
    done = command(address)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.startswith("pgambassador: ") and why in done.stderr
    proxy.config_file.write_text("listen: [")
    done = command(address)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    with psycopg.connect(host=str(tmp_path), dbname="pgambassador", autocommit=True) as hand:
        with pytest.raises(psycopg.Error) as caught:
            hand.execute("reload")
        row = hand.execute("show reload").fetchone()
        assert (
            row is not None and str(caught.value.diag.message_primary) in row[1] and row[2:] == (None, None)
        )
        del proxy.config["auth"]
        proxy.write_config()
        hand.execute("reload")
        row = hand.execute("show reload").fetchone()
        assert row is not None and row[1:] == ("applied", None, "pool.size")
    for wrong, code, told in (
        ("postgresql://127.0.0.1/app", 2, "'app' is not a console"),
        (f"postgresql:///pgambassador?host={tmp_path / 'nowhere'}", 1, "could not connect"),
    ):
        done = command(wrong)
        assert done.returncode == code and told in done.stderr, done.stderr


def test_the_command_logs_in_as_any_client(primary: Postgres, ambassador: Make) -> None:
    rules = [{"user": "alice", "method": "scram-sha-256"}]
    proxy = ambassador(
        url(primary), auth={"users": {"alice": "hunter2"}, "rules": rules, "admins": ["alice"]}
    )
    there = f"127.0.0.1:{proxy.port}/pgambassador?sslmode=disable"
    done = command(f"postgresql://alice:hunter2@{there}")
    assert (done.returncode, done.stdout) == (0, "reloaded\n"), done.stderr
    done = command(f"postgresql://alice:wrong@{there}")
    assert done.returncode == 1 and "password authentication failed" in done.stderr
    assert "wrong" not in done.stderr


def test_what_happens_while_a_server_is_away(link: Link, primary: Postgres, ambassador: Make) -> None:
    """Who is held is told when nobody is to be held any more; breakers go by the new rules, but what hands
    have set stays."""
    address = f"127.0.0.1:{link.port}"
    patient = {"failures": 1000, "volume": 10000}
    proxy = ambassador(
        url(primary).replace(f":{primary.port}/", f":{link.port}/"), failover={"hold": "1h"}, breaker=patient
    )

    def shown(hand: psycopg.Connection) -> tuple[str, str]:
        row = hand.execute("show breakers").fetchone()
        assert row is not None
        return row[2], row[3]

    with (
        Wire.session(proxy.port) as client,
        psycopg.connect(proxy.dsn(database="pgambassador"), autocommit=True) as hand,
    ):
        assert client.ask("select 1").value == "1"
        link.refuse()
        link.cut()
        client.send(build.query("select 'held'"))
        wait_until(lambda: proxy.metrics().total("pgambassador_pool_held_clients") == 1)
        told = reload(proxy, failover={"hold": "off"}, breaker={"failures": 1, "dry_run": True})
        assert told.endswith("applied: failover.hold, breaker.failures, breaker.volume, breaker.dry_run")
        assert client.until("Z").error.sqlstate in ("08001", "57P03")
        wait_until(lambda: client.ask("select 2").kinds == "EZ" and shown(hand) == ("open", "dry"))
        reload(proxy, breaker={"failures": 1, "longest_pause": "1h", "first_pause": "1h"})
        assert shown(hand) == ("open", "auto")
        hand.execute(f"breaker '{address}' close")
        reload(proxy, breaker={"failures": 1, "dry_run": True})
        assert shown(hand)[1] == "closed"
        link.allow()
        wait_until(lambda: client.ask("select 'back'").kinds == "TDCZ")


def test_logs(primary: Postgres, ambassador: Make) -> None:
    proxy = ambassador(url(primary), query_log={"slow": "off"})
    with psycopg.connect(proxy.dsn(), autocommit=True) as client:
        client.execute("select 'unlogged'")
        reload(proxy, query_log={"slow": 0, "literals": True}, log={"level": "debug"})
        client.execute("select 'logged'")
        wait_until(lambda: "select 'logged'" in proxy.output(), "the statement, in a pool that was there")
        assert "unlogged" not in proxy.output()
        reload(proxy, query_log={"slow": 0})
        client.execute("select 'hidden'")
        wait_until(lambda: proxy.metrics().total("pgambassador_query_log_records_total") == 2)
        assert "hidden" not in proxy.output()


def test_limits_for_clients(primary: Postgres, ambassador: Make) -> None:
    proxy = ambassador(url(primary))
    with Wire.session(proxy.port), Wire.session(proxy.port):
        reload(proxy, clients={"max": 2})
        assert "sorry, too many clients already" in refusal(proxy, "app")
        reload(proxy, clients={"max": 3})
        assert refusal(proxy, "app") == ""


def test_certificates_towards_clients(
    primary: Postgres, ambassador: Make, ca: Authority, tmp_path: Path
) -> None:
    proxy = ambassador(url(primary))
    assert "does not support SSL" in psql(proxy.dsn(sslmode="require"), "select 1", check=False)
    made = ca.server(tmp_path, hosts=LOOPBACK)
    tls = {"certificate": str(made.chain), "key": str(made.key), "mode": "require"}
    assert "tls.certificate" in reload(proxy, tls=tls)

    def shown() -> bytes:
        with Wire(proxy.port) as wire:
            wire.encrypt(context)
            assert isinstance(wire.socket, ssl.SSLSocket)
            found = wire.socket.getpeercert(binary_form=True)
            assert found is not None
            return found

    context = ssl.create_default_context(cafile=str(ca.root))
    context.check_hostname = False
    first = shown()
    said = psql(proxy.dsn(sslmode="disable"), "select 1", check=False)
    assert "connections without TLS are not accepted" in said
    ca.server(tmp_path, hosts=LOOPBACK)
    reload(proxy)
    assert shown() != first
    # Who was offered TLS before it was turned off gets it.
    with Wire(proxy.port) as wire:
        wire.send(build.SSL_REQUEST)
        assert wire.take(1) == b"S"
        reload(proxy, tls={})
        wire.encrypt(context, direct=True)
        wire.login(user="app", database="app")
        assert wire.ask("select 1").value == "1"
    assert psql(proxy.dsn(sslmode="disable"), "select 1") == "1"


def test_credentials_are_asked_for_anew(primary: Postgres, ambassador: Make, tmp_path: Path) -> None:
    token, counter = tmp_path / "token", tmp_path / "count"

    def issue(password: str) -> None:
        end = datetime.fromtimestamp(time.time() + 3600, UTC).isoformat()
        token.write_text(json.dumps({"password": password, "expires_at": end}))

    def runs() -> int:
        return len(counter.read_text().splitlines())

    issue(USERS["app"].password)
    script = f"echo run >> {counter}; cat {token}"
    credentials = {"provider": "exec", "command": ["/bin/sh", "-c", script]}
    clusters = {"main": {"url": primary.url("app", database="app"), "credentials": credentials}}
    proxy = ambassador({"clusters": clusters})
    with psycopg.connect(proxy.dsn(), autocommit=True) as client:
        assert runs() == 1
        reload(proxy)
        wait_until(lambda: runs() == 2, "the question")
        # No answer is no reason to give up what is good.
        token.rename(tmp_path / "away")
        reload(proxy)
        proxy.wait_for_log(lambda line: "could not be renewed and is still used" in line["message"])
        client.execute("begin")
        assert psql(proxy.dsn(), "select 1") == "1", "over a new connection"
        assert client.execute("select 1").fetchone() == (1,)
    assert proxy.metrics().total("pgambassador_server_connect_failures_total") == 0


@pytest.mark.slow
def test_many_signals_under_load(primary: Postgres, ambassador: Make) -> None:
    """Logins and statements go on, and the last configuration is what counts."""
    proxy = ambassador(url(primary), auth={"users": {"alice": "hers", "bob": "bobs"}})
    failures: list[Exception] = []
    done = [0, 0]
    over = threading.Event()

    def work(number: int) -> None:
        user, password = (("alice", "hers"), ("bob", "bobs"))[number]
        while not over.is_set() and not failures:
            try:
                with psycopg.connect(proxy.dsn(user, password=password), autocommit=True) as client:
                    client.execute("select 1")
                    done[number] += 1
            except Exception as error:
                failures.append(error)

    def further(before: list[int]) -> bool:
        return bool(failures) or all(now > then for now, then in zip(done, before, strict=True))

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        for number in range(30):
            proxy.config["auth"]["users"][f"user{number}"] = "x"
            proxy.reload()
            wait_until(partial(further, list(done)), "a login of everybody", deadline=30)
        wait_until(lambda: refusal(proxy, "user29", "x") == "", "the last one")
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert refusal(proxy, "user0", "x") == ""
