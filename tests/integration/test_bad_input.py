"""What a user can get wrong: one sentence that names it and says what to do, a code, and no traceback."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgambassador.embedded import Authority, Postgres, Workspace
from pgambassador.embedded.ports import HOST, free_port
from tests.harness import HBA, USERS, Ambassador, populate
from tests.harness.command import Run, command

FAILED, USAGE = 1, 2
SECRET = "a-secret-that-nobody-may-see"
URL = f"postgresql://app:{SECRET}@127.0.0.1:5433/app"


def written(folder: Path, config: dict[str, Any] | str) -> str:
    file = folder / "config.yaml"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return str(file)


def said(run: Run, code: int, *words: str) -> None:
    """It failed with this code and in one sentence that contains these words, and no secret."""
    sentence = run.sentence
    assert run.code == code, run
    for word in words:
        assert word.lower() in sentence.lower(), sentence
    assert sentence.rstrip().endswith((".", "?", "!", ")")), sentence
    assert SECRET not in run.out + run.err
    assert 20 < len(sentence) < 500, sentence


# Words on the command line.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--nonsense"), ("--nonsense", "--help")),
        (("fly",), ("fly", "run", "check", "demo")),
        ((), ("required",)),
        (("run",), ("url",)),
        (("run", "mysql://app@127.0.0.1/app"), ("postgresql://",)),
        (("run", f"postgresql://app:{SECRET}@127.0.0.1:port/app"), ("port",)),
        (("run", f"{URL}?sslmode=verfy-full"), ("sslmode", "verfy-full", "verify-full")),
        (("run", f"{URL}?ssl_mode=disable"), ("ssl_mode",)),
        (("run", URL, "--listen", "127.0.0.1"), ("listen", "127.0.0.1")),
        (("run", URL, "--listen", "127.0.0.1:99999"), ("listen", "99999")),
        (("run", URL, "--http", "here"), ("http", "here")),
        (("run", URL, "--pool-size", "many"), ("--pool-size", "many")),
        (("run", URL, "--pool-size", "0"), ("--pool-size", "0")),
        (("run", URL, "--pool-mode", "statement"), ("--pool-mode", "transaction", "session")),
        (("run", URL, "--listen", "0.0.0.0:0"), ("0.0.0.0", "auth")),
        (("check", "--config", "/no/such/file.yaml"), ("/no/such/file.yaml",)),
    ],
    ids=lambda value: " ".join(value)[:40].replace("/", "-") if isinstance(value, tuple) else None,
)
def test_a_command_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    said(command(*arguments), USAGE, *words)


# Words in the file.


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"lisen": ["127.0.0.1:0"]}, ("lisen", "listen")),
        ({"pool": {"sise": 5}}, ("pool", "sise")),
        ({"clusters": {"main": {"url": URL, "pol": {}}}}, ("clusters.main", "pol")),
        ({"pool": {"size": "many"}}, ("pool.size", "many")),
        ({"pool": {"size": 0}}, ("pool.size", "1")),
        ({"pool": {"wait_timeout": "soon"}}, ("pool.wait_timeout", "soon")),
        ({"pool": []}, ("pool",)),
        ({"listen": ["127.0.0.1:0:0:0"], "clusters": {"main": {"url": URL}}}, ("listen",)),
        ({"query_log": {"sample": 2}}, ("query_log.sample",)),
        ({"query_log": {"slow": "yes"}}, ("query_log.slow",)),
        ({"clusters": {"main": {}}}, ("clusters.main", "url")),
        ({"clusters": {"main": {"url": f"mysql://app:{SECRET}@127.0.0.1"}}}, ("clusters.main.url",)),
        (
            {"clusters": {"main": {"url": URL}}, "databases": {"shop": {"cluster": "mian"}}},
            ("databases.shop", "mian"),
        ),
        ({"clusters": {"main": {"url": URL, "credentials": {"provider": "magic"}}}}, ("magic",)),
        ({"clusters": {"main": {"url": URL}}, "auth": {"users_file": "/no/such/list"}}, ("/no/such/list",)),
        ({"clusters": {"main": {"url": URL}}, "log": {"level": "loud"}}, ("log.level", "loud")),
        ("pool: {size: 5\n", ("config.yaml", "line")),
        ("- 1\n- 2\n", ("config.yaml",)),
        ("", ("url",)),
        ("pool:\n\tsize: 5\n", ("config.yaml", "line 2")),
        ("\x00", ("config.yaml",)),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict | str) else None,
)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_configuration_file(
    verb: str, config: dict[str, Any] | str, words: tuple[str, ...], tmp_path: Path
) -> None:
    said(command(verb, "--config", written(tmp_path, config)), USAGE, *words)


def test_a_configuration_file_that_is_a_folder(tmp_path: Path) -> None:
    said(command("check", "--config", str(tmp_path)), USAGE, str(tmp_path))


def test_a_configuration_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xff\xfe\x80listen")
    said(command("check", "--config", str(file)), USAGE, str(file))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PGAMBASSADOR_POOL__SIZE", "many", ("PGAMBASSADOR_POOL__SIZE", "many")),
        ("PGAMBASSADOR_POOL__SISE", "5", ("PGAMBASSADOR_POOL__SISE",)),
        ("PGAMBASSADOR_HTTP", "here", ("http", "here")),
        ("UPSTREAM_PORT", "no number", ("UPSTREAM_PORT",)),
    ],
)
def test_the_environment(name: str, value: str, words: tuple[str, ...]) -> None:
    url = [] if name.startswith("UPSTREAM") else [URL]
    said(command("check", *url, environment={name: value}), USAGE, *words)


# Files of certificates.


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize("content", [None, "nothing of the kind", "", "folder"])
def test_a_certificate_authority_that_cannot_be_used(content: str | None, verb: str, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_text(content)
    run = command(verb, f"{URL}?sslrootcert={file}", "--listen", f"{HOST}:{free_port()}", "--http", "off")
    said(run, USAGE, str(file))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_certificate_authority_without_permission(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("")
    file.chmod(0)
    said(command("check", f"{URL}?sslrootcert={file}"), USAGE, str(file), "permission")


def test_a_client_certificate_that_is_missing(primary: Postgres, tmp_path: Path) -> None:
    file = str(tmp_path / "client.pem")
    said(check(primary, sslcert=file, sslkey=file), USAGE, "client.pem")


# Addresses.


@pytest.mark.parametrize("option", ["--listen", "--http"])
def test_a_busy_port(option: str) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        options = {"--listen": f"{HOST}:{free_port()}", "--http": "off", option: f"{HOST}:{port}"}
        run = command("run", f"{URL}?sslmode=disable", *(word for each in options.items() for word in each))
        lines = [line for line in run.err.splitlines() if '"level":"warning"' not in line]
        said(Run(run.code, run.out, "\n".join(lines)), USAGE, str(port), "in use")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
def test_a_port_without_permission() -> None:
    run = command("run", f"{URL}?sslmode=disable", "--listen", f"{HOST}:1", "--http", "off")
    assert run.code == USAGE
    assert "Traceback" not in run.err
    assert "permission" in run.err.lower()


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    """192.0.2.0/24 is for documentation (RFC 5737). It is not loopback, so it needs users."""
    config = {
        "listen": ["192.0.2.1:5432"],
        "http": "off",
        "clusters": {"main": {"url": f"{URL}?sslmode=disable"}},
        "auth": {"users": {"app": SECRET}},
        "log": {"level": "error"},
    }
    said(command("run", "--config", written(tmp_path, config)), USAGE, "192.0.2.1")


def test_a_folder_for_sockets_that_cannot_be(ca: Authority, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    run = command("run", f"{URL}?sslrootcert={ca.root}", "--listen", f"unix:{file}", "--http", "off")
    said(run, USAGE, str(file))


# Servers.


@pytest.fixture(scope="module")
def odd(workspace: Workspace) -> Iterator[Postgres]:
    """A server whose certificate is changed by the tests."""
    server = workspace.primary("strange", hba=HBA)
    populate(server)
    yield server
    server.stop(immediate=True)


def check(server: Postgres, password: str = "app-secret", user: str = "app", **parameters: str) -> Run:
    return command("check", server.url(user, password, "app", **parameters))


def test_a_server_that_is_not_there(ca: Authority) -> None:
    port = free_port()
    run = command("check", f"postgresql://app:{SECRET}@{HOST}:{port}/app?sslrootcert={ca.root}")
    said(run, FAILED, f"{HOST}:{port}", "refused")


def test_a_name_that_does_not_exist(ca: Authority) -> None:
    run = command("check", f"postgresql://app:{SECRET}@nowhere.invalid/app?sslrootcert={ca.root}")
    said(run, FAILED, "nowhere.invalid")


def test_a_server_that_does_not_answer(ca: Authority) -> None:
    """It accepts, and says nothing."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        run = command(
            "check", f"postgresql://app:{SECRET}@{HOST}:{port}/app?sslrootcert={ca.root}&connect_timeout=2"
        )
        said(run, FAILED, f"{HOST}:{port}", "2 s")


def test_a_server_that_is_none(ca: Authority) -> None:
    """Something else answers on that port."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]

        def answer() -> None:
            end, _ = listener.accept()
            with end:
                end.recv(1000)
                end.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        run = command("check", f"postgresql://app:{SECRET}@{HOST}:{port}/app?sslrootcert={ca.root}")
        thread.join()
        said(run, FAILED, f"{HOST}:{port}")


def test_a_wrong_password(primary: Postgres) -> None:
    said(
        check(primary, password=SECRET),
        FAILED,
        'password authentication failed for user "app"',
        "correct user or password",
    )


def test_no_password(primary: Postgres) -> None:
    run = command("check", primary.url("app", None, "app"))
    said(run, FAILED, "password")


def test_an_unknown_database(primary: Postgres) -> None:
    run = command("check", primary.url(database="nowhere"))
    said(run, FAILED, '"nowhere"', "does not exist", "correct the database")


def test_an_unknown_user(primary: Postgres) -> None:
    said(check(primary, user="nobody_of_that_name"), FAILED, "nobody_of_that_name")


def test_a_server_without_tls(primary: Postgres, workspace: Workspace, odd: Postgres) -> None:
    odd.configure({"ssl": "off"})
    odd.reload()
    try:
        said(check(odd), FAILED, "TLS")
    finally:
        odd.configure({"ssl": "on"})
        odd.reload()


def test_an_expired_certificate(odd: Postgres) -> None:
    odd.certify(expired=True)
    odd.reload()
    said(check(odd), FAILED, "certificate", "expired")


def test_a_wrong_host_name_in_the_certificate(odd: Postgres) -> None:
    """It says which names the certificate has, for that is what one has to know."""
    odd.certify(hosts=("db.example.com",))
    odd.reload()
    said(check(odd), FAILED, "127.0.0.1", "db.example.com")


def test_a_certificate_of_an_unknown_authority(odd: Postgres, tmp_path: Path) -> None:
    odd.certify(Authority(tmp_path, "stranger"))
    odd.reload()
    said(check(odd), FAILED, "certificate", "sslrootcert")


def test_a_running_ambassador_says_in_its_log_what_is_wrong(odd: Postgres, tmp_path: Path) -> None:
    """There it is not fatal: the server may be mended. A client is told as well, and no secret is."""
    odd.certify(expired=True)
    odd.reload()
    with Ambassador(tmp_path, odd.url("app", USERS["app"].password, "app")) as proxy:
        line = proxy.wait_for_log(lambda line: line["level"] == "error")
        assert "cluster main" in line["message"]
        assert "expired" in line["message"]
        assert "app-secret" not in proxy.output()
        assert proxy.http("/livez")[0] == 200
        assert proxy.http("/readyz")[0] == 503


# The demo.


@pytest.mark.parametrize("content", [None, "", "empty folder"])
def test_the_programs_of_postgresql_are_missing(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    if content == "empty folder":
        folder.mkdir()
    elif content is not None:
        folder.write_text(content)
    run = command("demo", environment={"PGAMBASSADOR_PG_BIN": str(folder)})
    assert run.code in (FAILED, USAGE)
    said(run, run.code, str(folder), "PGAMBASSADOR_PG_BIN")


def test_help_is_no_mistake() -> None:
    for arguments in (
        ("--help",),
        ("run", "--help"),
        ("check", "--help"),
        ("demo", "--help"),
        ("--version",),
    ):
        run = command(*arguments)
        assert (run.code, run.err) == (0, ""), arguments
        assert run.out
