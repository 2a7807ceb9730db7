"""A password that a command prints: what it may print, its end, and that it is never shown."""

from __future__ import annotations

import asyncio
import subprocess
import time

import pytest

from pgambassador.config import ExecCredentials
from pgambassador.credentials.command import Command, read_answer
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import Unreachable

NOW = 1_000_000_000.0


@pytest.mark.parametrize(
    ("printed", "secret"),
    [
        (b"token", Secret(None, b"token", None)),
        (b"  token with spaces \n", Secret(None, b"token with spaces", None)),
        (b'"quoted"', Secret(None, b'"quoted"', None)),
        (b"\xff\xfe", Secret(None, b"\xff\xfe", None)),
        (b'{"password": "x"}', Secret(None, b"x", None)),
        (b'\n{"password": "\\u00e9", "user": "app"}\n', Secret("app", "é".encode(), None)),
        (
            b'{"password": "x", "user": null, "expires_at": "2001-09-09T01:46:40Z"}',
            Secret(None, b"x", NOW),
        ),
        (b'{"password": "x", "expires_at": "2001-09-09T03:46:40+02:00", "more": 1}', Secret(None, b"x", NOW)),
    ],
)
def test_what_a_command_may_print(printed, secret):
    assert read_answer(printed, "/bin/token") == secret


@pytest.mark.parametrize(
    "printed",
    [
        b'{"password": "hunter2"',
        b'{"user": "hunter2"}',
        b'{"password": ["hunter2"]}',
        b'{"password": "hunter2", "user": 7}',
        b'{"password": "hunter2", "expires_at": "tomorrow"}',
        b'{"password": "hunter2", "expires_at": 7}',
        b'{"password": "hunter2", "expires_at": "2001-09-09T01:46:40"}',
        b'{"password": "\xff hunter2"}',
    ],
)
def test_what_is_not_understood_is_not_shown(printed):
    with pytest.raises(Unreachable) as caught:
        read_answer(printed, "/bin/token")
    assert caught.value.message == "the credentials command /bin/token printed JSON that is not understood"
    assert "hunter2" not in caught.value.sentence()
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("printed", [b"", b" \n"])
def test_nothing_was_printed(printed):
    with pytest.raises(Unreachable, match="printed nothing"):
        read_answer(printed, "token")


@pytest.mark.parametrize("printed", [b"warning: old\nhunter2\n", b"hunter2\r\nmore", b"hunter2\n\n{}"])
def test_several_lines_are_no_password(printed):
    with pytest.raises(Unreachable, match="printed several lines") as caught:
        read_answer(printed, "token")
    assert "hunter2" not in caught.value.sentence()


def run(*command: str, timeout: float = 10.0) -> Secret:
    provider = Command(ExecCredentials(command=command, timeout=timeout))
    return asyncio.run(provider.fetch(Login("db.example", 5432, "app", "shop")))


def test_a_command_is_run_without_a_shell():
    assert run("/bin/echo", "$HOME", "&&") == Secret(None, b"$HOME &&", None)


def test_what_a_command_inherits(monkeypatch):
    """Not what is secret among our own options; everything else."""
    for name, value in {
        "PGAMBASSADOR_CLUSTERS__MAIN__URL": "hunter2",
        "PGAMBASSADOR_CLUSTERS__MAIN__CREDENTIALS__PASSWORD": "hunter2",
        "PGAMBASSADOR_AUTH__USERS__ALICE": "hunter2",
        "PGAMBASSADOR_POOL__SIZE": "7",
        "VAULT_TOKEN": "its own",
    }.items():
        monkeypatch.setenv(name, value)
    printed = run("/bin/sh", "-c", "env | tr '\\n' '\\f'").password
    assert isinstance(printed, bytes)
    inherited = printed.decode().split("\f")
    assert not any("hunter2" in line for line in inherited)
    assert {"PGAMBASSADOR_POOL__SIZE=7", "VAULT_TOKEN=its own"} <= set(inherited)


def test_a_command_that_is_not_there():
    with pytest.raises(Unreachable, match="/nonexistent/token cannot be run: No such file") as caught:
        run("/nonexistent/token", "hunter2")
    assert "hunter2" not in caught.value.sentence()


def test_a_command_that_fails():
    with pytest.raises(Unreachable, match="failed with exit status 3") as caught:
        run("/bin/sh", "-c", "echo hunter2; echo hunter2 >&2; exit 3")
    assert "hunter2" not in caught.value.sentence()


def test_a_command_that_never_ends_is_ended():
    with pytest.raises(Unreachable, match=r"was not done within 0\.05 s"):
        run("/bin/sh", "-c", "sleep 1000; echo late", timeout=0.05)


def test_a_pipe_that_stays_open_is_not_waited_for():
    with pytest.raises(Unreachable, match=r"was not done within 0\.1 s"):
        run("/bin/sh", "-c", "sleep 1 & echo token", timeout=0.1)


def test_what_a_command_has_started_ends_with_it(tmp_path):
    """Also if it has ended itself, and only its pipe is still held."""
    mark = tmp_path / "mark"
    with pytest.raises(Unreachable, match="was not done"):
        run("/bin/sh", "-c", f"sleep 1000 & echo $! > {mark}; echo token", timeout=0.3)
    pid = int(mark.read_text())
    end = time.monotonic() + 10
    while running(pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert not running(pid)


def running(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def test_all_that_a_command_prints_counts():
    assert run("/bin/sh", "-c", "printf to; sleep 0.05; printf ken") == Secret(None, b"token", None)


def test_a_command_that_prints_too_much():
    with pytest.raises(Unreachable, match="printed more than"):
        run("/bin/sh", "-c", "yes hunter2")
