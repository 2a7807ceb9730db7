"""`pgambassador check` and bad input, as a user meets them: a real server, a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pgambassador.embedded import Authority, Postgres
from pgambassador.embedded.ports import HOST, free_port

ROOT = Path(__file__).parents[2]


def ambassador(*arguments: str, said: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "UPSTREAM_"))}
    return subprocess.run(
        [sys.executable, "-m", "pgambassador", *arguments],
        cwd=ROOT,
        env={**clean, **environ},
        input=said,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def url(server: Postgres, ca: Authority, *, password: str = "app-secret", **more: str) -> str:
    query = urlencode({"sslrootcert": str(ca.root), **more})
    return f"postgresql://app:{password}@{HOST}:{server.port}/app?{query}"


def test_all_is_well(primary, ca):
    done = ambassador("check", url(primary, ca), "--listen", f"127.0.0.1:{free_port()}")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"cluster main, 127.0.0.1:{primary.port}: logged in as app to app: PostgreSQL 18" in done.stdout
    assert "TLSv1.3" in done.stdout


def test_the_exec_provider_is_run(primary, ca):
    environ = {
        "PGAMBASSADOR_CLUSTERS__MAIN__URL": url(primary, ca, password="wrong"),
        "PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__PROVIDER": "exec",
        "PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__COMMAND": "echo app-secret",
    }
    done = ambassador("check", **environ)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password": "hunter2"}, 'password authentication failed for user "app"'),
        ({"sslrootcert": "/nonexistent.pem"}, "/nonexistent.pem cannot be read: no such file or directory"),
        ({"sslrootcert": __file__}, "holds no certificate in PEM form"),
        ({"sslmode": "verfy-full"}, "verify-full"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(primary, ca, changes, said):
    done = ambassador("check", url(primary, ca, **changes))
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "hunter2" not in done.stderr + done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_a_configuration_by_standard_input(primary, ca):
    """A pipe, and one that is read to its end, unlike those that nobody writes into."""
    text = f"clusters: {{main: {{url: '{url(primary, ca)}'}}}}"
    done = ambassador("check", "--config", "/dev/stdin", said=text)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("option", ["PGAMBASSADOR_CONFIG", "PGAMBASSADOR_TLS__CERTIFICATE"])
def test_nobody_waits_for_a_pipe(command, option, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    done = ambassador(command, "postgresql://app@db.example/app", said="", **{option: str(tmp_path / "pipe")})
    assert done.returncode == 2
    assert f"{tmp_path / 'pipe'} " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nobody_there():
    done = ambassador("check", f"postgresql://app@127.0.0.1:{free_port()}/app?sslmode=disable")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert "warning: sslmode=disable" in lines[0]
    assert "refused" in lines[1].lower()
    assert len(lines) == 2


@pytest.mark.parametrize("option", ["--listen", "--http"])
def test_a_busy_port(primary, ca, option):
    other = {"--listen": ["--http", "off"], "--http": ["--listen", f"{HOST}:{free_port()}"]}[option]
    done = ambassador("run", url(primary, ca), option, f"{HOST}:{primary.port}", *other)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(primary.port) in done.stderr
    assert len(done.stderr.splitlines()) == 1
