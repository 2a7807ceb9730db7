"""Real servers: verified TLS, replication that streams, promotion, crashes, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pgambassador.embedded import Authority, Postgres, Workspace
from pgambassador.errors import AmbassadorError
from tests.harness import USERS, psql, wait_until

ENCRYPTED = "select ssl, version, client_dn from pg_stat_ssl where pid = pg_backend_pid()"


def test_tls_verifies(primary: Postgres) -> None:
    assert psql(primary.url("app", "app-secret", "app"), ENCRYPTED) == "t|TLSv1.3|"


def test_direct_tls_verifies(primary: Postgres) -> None:
    url = primary.url("app", "app-secret", "app", sslnegotiation="direct")
    assert psql(url, ENCRYPTED) == "t|TLSv1.3|"


def test_another_authority_is_not_believed(primary: Postgres, tmp_path: Path) -> None:
    stranger = Authority(tmp_path)
    url = primary.url("app", "app-secret", "app", sslrootcert=str(stranger.root))
    assert "certificate verify failed" in psql(url, "select 1", check=False)


@pytest.mark.parametrize("name", [name for name in USERS if name != "app_cert"])
def test_every_user_logs_in(primary: Postgres, name: str) -> None:
    assert psql(primary.url(name, USERS[name].password, "app"), "select current_user") == name


def test_a_certificate_logs_in(primary: Postgres, ca: Authority, tmp_path: Path) -> None:
    certificate = ca.client(tmp_path, "app_cert")
    url = primary.url("app_cert", None, "app", sslcert=str(certificate.chain), sslkey=str(certificate.key))
    assert psql(url, ENCRYPTED).endswith("/CN=app_cert")


def test_clear_text_is_refused_but_where_allowed(primary: Postgres) -> None:
    assert psql(primary.url("app_plain", "plain-secret", "app", sslmode="disable"), ENCRYPTED) == "f||"
    refused = psql(primary.url("app", "app-secret", "app", sslmode="disable"), "select 1", check=False)
    assert "no encryption" in refused


def test_unix_socket(primary: Postgres) -> None:
    url = f"postgresql://app:app-secret@/app?host={primary.socket_folder}&port={primary.port}"
    assert psql(url, "select inet_server_addr() is null") == "t"


def test_the_machines_own_postgresql(system_postgres: Postgres) -> None:
    assert psql(system_postgres.url("app", "app-secret", "app"), ENCRYPTED).startswith("t|TLSv1.3|")


def test_replica_streams(primary: Postgres, replica: Postgres) -> None:
    primary.sql(
        "create table if not exists streamed (i int); insert into streamed values (7)", database="app"
    )
    wait_until(lambda: "7" in _rows(replica, "select i from streamed"), "replication")
    assert replica.sql("select pg_is_in_recovery()") == "t"
    assert "replica" in primary.sql("select application_name from pg_stat_replication")


def _rows(server: Postgres, sql: str) -> str:
    try:
        return server.sql(sql, database="app")
    except AmbassadorError:  # the table may not be there yet
        return ""


def test_promotion_crash_and_restart(workspace: Workspace) -> None:
    first = workspace.primary("first")
    second = first.replica("second")
    first.sql("create table t as select 1 as i")
    lsn = first.sql("select pg_current_wal_lsn()")
    wait_until(lambda: second.sql(f"select pg_last_wal_replay_lsn() >= '{lsn}'") == "t", "replication")
    first.kill()
    assert not first.running
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first.port)).close()
    second.promote()
    assert second.sql("insert into t values (2); select sum(i) from t") == "3"
    port = first.port
    first.start()
    assert first.port == port
    assert first.sql("select sum(i) from t") == "1"
    first.restart()
    second.stop()
    assert not second.running


def test_certificate_is_exchanged_while_running(workspace: Workspace) -> None:
    server = workspace.primary("exchange")
    server.certify(expired=True)
    server.reload()
    assert "certificate verify failed" in psql(server.url(), "select 1", check=False)
    server.certify(hosts=("elsewhere.example",))
    server.reload()
    assert 'does not match host name "127.0.0.1"' in psql(server.url(), "select 1", check=False)
    server.certify()
    server.reload()
    assert psql(server.url(), "select 1") == "1"


def test_settings_outlive_a_restart(workspace: Workspace) -> None:
    server = workspace.primary("settings", {"work_mem": "7MB", "application_name": "it's"})
    assert server.sql("show work_mem; show application_name") == "7MB\npsql"
    server.configure({"work_mem": "8MB"})
    server.reload()
    wait_until(lambda: server.sql("show work_mem") == "8MB")
    server.restart()
    assert server.sql("show work_mem") == "8MB"


def test_what_hinders_a_start_is_said(workspace: Workspace) -> None:
    server = workspace.primary("broken")
    server.stop()
    server.configure({"shared_buffers": "many"})
    with pytest.raises(AmbassadorError, match=r'did not start: .*"shared_buffers": "many"'):
        server.start()


def test_nobody_else_can_read(primary: Postgres) -> None:
    for private in (primary.data, primary.log, primary.folder / "server.key"):
        assert private.stat().st_mode & 0o077 == 0, private
    assert not (primary.folder / "password").exists()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, None])
def test_nothing_is_left_behind(end: signal.Signals | None, tmp_path: Path) -> None:
    """By Ctrl-C, by TERM turned into an exception, and by an interpreter that ends without closing."""
    script = """
import signal, sys
from pgambassador.embedded import Workspace
signal.signal(signal.SIGTERM, signal.default_int_handler)
space = Workspace()
server = space.primary()
print(space.folder, server.pid, flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process:
        folder, pid = process.stdout.readline().split()
        assert Path(folder).exists()
        if end is not None:
            process.send_signal(end)
        else:
            process.stdin.close()
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
