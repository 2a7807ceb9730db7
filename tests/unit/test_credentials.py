"""The small providers: written down, in a variable, in a file; and what all secrets have in common."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from pgambassador.config import EnvCredentials, FileCredentials, StaticCredentials
from pgambassador.config import Secret as Hidden
from pgambassador.credentials.environ import Environ
from pgambassador.credentials.file import FILE_LIMIT, File
from pgambassador.credentials.provider import Login, Provider, Secret, scope
from pgambassador.credentials.static import Static, Written
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable

LOGIN = Login("db.example", 5432, "app", "shop")
HIDDEN = "hunter2"


def ask(provider: Provider, login: Login = LOGIN) -> Secret:
    return asyncio.run(provider.fetch(login))


def refused(provider: Provider, kind: type[AmbassadorError] = Unreachable) -> str:
    with pytest.raises(kind) as caught:
        ask(provider)
    assert caught.value.__cause__ is None
    assert caught.value.hint
    assert HIDDEN not in caught.value.sentence()
    return caught.value.sentence()


def file(path: Path, format: str = "password") -> File:
    return File(FileCredentials(path=str(path), format=format))  # type: ignore[arg-type]


def test_a_repr_without_the_password() -> None:
    assert HIDDEN not in repr(Secret("app", HIDDEN.encode(), 1.0))


def test_what_a_secret_is_good_for() -> None:
    provider = Static(StaticCredentials(password=Hidden(HIDDEN)))
    other = LOGIN._replace(host="other", port=1, database="stock")
    assert scope(provider, LOGIN) == scope(provider, other)
    assert scope(provider, LOGIN) != scope(provider, LOGIN._replace(user="b"))

    class PerHost(Static):
        per_host = True

    provider = PerHost(StaticCredentials(password=Hidden(HIDDEN)))
    assert scope(provider, LOGIN) == scope(provider, LOGIN._replace(database="stock"))
    others = (LOGIN._replace(host="b"), LOGIN._replace(port=1), LOGIN._replace(user="b"), LOGIN)
    assert len({scope(provider, each) for each in others}) == 4

    class PerDatabase(Static):
        per_database = True

    provider = PerDatabase(StaticCredentials(password=Hidden(HIDDEN)))
    assert scope(provider, LOGIN) != scope(provider, LOGIN._replace(database="stock"))


def test_a_password_written_down() -> None:
    subject = Static(StaticCredentials(password=Hidden("geheim ü")))
    assert ask(subject) == Secret(None, "geheim ü".encode())


def test_the_password_of_the_url_or_of_the_client() -> None:
    subject = Written({"app": b"theirs"}.get)
    assert ask(subject) == Secret(None, b"theirs")
    assert ask(subject, LOGIN._replace(user="b")) == Secret(None, None)


def test_a_variable_is_looked_up_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Environ(EnvCredentials(variable="DB_PASSWORD"))
    monkeypatch.setenv("DB_PASSWORD", " first ")
    assert ask(subject) == Secret(None, b" first ")
    monkeypatch.setenv("DB_PASSWORD", "second")
    assert ask(subject) == Secret(None, b"second")


@pytest.mark.parametrize(("value", "said"), [(None, "is not set"), ("", "is empty")])
def test_a_variable_that_is_of_no_use(monkeypatch: pytest.MonkeyPatch, value: str | None, said: str) -> None:
    monkeypatch.delenv("DB_PASSWORD", raising=False)
    if value is not None:
        monkeypatch.setenv("DB_PASSWORD", value)
    sentence = refused(Environ(EnvCredentials(variable="DB_PASSWORD")), ConfigError)
    assert "environment variable DB_PASSWORD" in sentence
    assert said in sentence


def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "password"
    subject = file(path)
    path.write_bytes(b" first \r\n")
    assert ask(subject) == Secret(None, b" first ")
    path.write_bytes(b"second")
    assert ask(subject) == Secret(None, b"second")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no password"),
        (b"\n\r\n", "holds no password"),
        (b"*:*:*:*:hunter2\n*:*:*:*:hunter2\n", "set credentials.format to pgpass"),
        (b"hunter2" * FILE_LIMIT, "larger than 1 MiB"),
    ],
    ids=["empty", "lines", "passfile", "large"],
)
def test_a_file_that_cannot_be_a_password(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    assert said in refused(file(path))


@pytest.mark.parametrize("format", ["password", "pgpass"])
def test_files_that_cannot_be_read(tmp_path: Path, format: str) -> None:
    assert "No such file or directory" in refused(file(tmp_path / "nothing", format))
    before = len(os.listdir("/dev/fd"))
    assert "Is a directory" in refused(file(tmp_path, format))
    assert len(os.listdir("/dev/fd")) == before
    os.mkfifo(tmp_path / "pipe")
    assert "is not a plain file" in refused(file(tmp_path / "pipe", format))


def test_a_password_file(tmp_path: Path) -> None:
    path = tmp_path / "pgpass"
    path.write_text("db.example:5432:shop:app:first\n*:*:*:b:second\n")
    path.chmod(0o600)
    subject = file(path, "pgpass")
    assert ask(subject) == Secret(None, b"first")
    assert ask(subject, LOGIN._replace(user="b")) == Secret(None, b"second")
    assert scope(subject, LOGIN) == LOGIN
    path.write_text(f"*:*:stock:*:{HIDDEN}\n")
    assert "has no line for db.example:5432:shop:app" in refused(subject)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_password_file_that_others_can_use_is_not_used(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "pgpass"
    path.write_text(f"*:*:*:*:{HIDDEN}\n")
    path.chmod(mode)
    assert f"chmod 600 {path}" in refused(file(path, "pgpass"))
