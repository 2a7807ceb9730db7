"""Finding, unpacking and owning, with programs that are shell scripts."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from pgambassador.cluster.upstream import parse_url
from pgambassador.embedded import Postgres, installation, unpack, workspace
from pgambassador.embedded.account import Account, account
from pgambassador.embedded.authority import Authority
from pgambassador.embedded.installation import PROGRAMS, Installation, find, system
from pgambassador.errors import AmbassadorError, ConfigError

ME = Account("me", os.geteuid(), os.getegid(), foreign=False)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable, no package, nothing on the machine, no other account."""
    monkeypatch.delenv("PGAMBASSADOR_PG_BIN", raising=False)
    monkeypatch.setattr(installation, "unpacked", lambda: None)
    monkeypatch.setattr(installation, "_system_folders", list)
    monkeypatch.setattr(installation, "account", lambda: ME)


def programs(folder: Path, postgres: str = "echo 'postgres (PostgreSQL) 18.1 (Debian)'") -> Path:
    folder.mkdir(parents=True)
    for name in PROGRAMS:
        script(folder / name, postgres if name == "postgres" else "exit 1")
    return folder


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


# finding


def test_the_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = programs(tmp_path / "bin")
    monkeypatch.setenv("PGAMBASSADOR_PG_BIN", str(folder))
    monkeypatch.setattr(installation, "unpacked", lambda: pytest.fail("looked further"))
    assert find() == Installation(folder, "18.1")
    assert find().major == 18


def test_then_the_package_with_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(tmp_path / "bin")
    monkeypatch.setattr(installation, "unpacked", lambda: tmp_path)
    found = find()
    assert found == Installation(tmp_path / "bin", "18.1", tmp_path / "lib")
    assert found.environment()[installation.LIBRARY_PATH] == str(tmp_path / "lib")
    assert found.command("psql") == f"{installation.LIBRARY_PATH}={tmp_path}/lib {tmp_path}/bin/psql"


def test_then_the_machines_first_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = programs(tmp_path / "17", "exit 1")
    works = programs(tmp_path / "15", "echo 'postgres (PostgreSQL) 15.9'")
    monkeypatch.setattr(installation, "_system_folders", lambda: [tmp_path / "none", broken, works])
    assert find() == system() == Installation(works, "15.9")


def test_none_at_all() -> None:
    assert system() is None
    with pytest.raises(ConfigError) as caught:
        find()
    assert caught.value.sentence() == (
        "No PostgreSQL server was found. Run pip install 'pgambassador[demo]', or name the folder of its "
        "programs in PGAMBASSADOR_PG_BIN."
    )


@pytest.mark.parametrize(
    ("postgres", "reason", "remedy"),
    [
        ("echo oops", "postgres --version says 'oops'", "PGAMBASSADOR_PG_BIN"),
        ("echo no such luck >&2; exit 3", "postgres failed: no such luck", "PGAMBASSADOR_PG_BIN"),
        (
            "echo 'postgres: error: libgssapi_krb5.so.2: cannot open shared object file: …' >&2; exit 127",
            "libgssapi_krb5.so.2 is missing",
            "libgssapi-krb5-2",
        ),
    ],
)
def test_unusable_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres: str, reason: str, remedy: str
) -> None:
    monkeypatch.setenv("PGAMBASSADOR_PG_BIN", str(programs(tmp_path / "bin", postgres)))
    with pytest.raises(ConfigError) as caught:
        find()
    assert caught.value.message == f"The PostgreSQL programs in {tmp_path}/bin cannot be used: {reason}."
    assert remedy in (caught.value.hint or "")


def test_incomplete_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = programs(tmp_path / "bin")
    (folder / "initdb").unlink()
    monkeypatch.setenv("PGAMBASSADOR_PG_BIN", str(folder))
    with pytest.raises(ConfigError, match="initdb not found there"):
        find()


def test_programs_that_may_not_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = programs(tmp_path / "bin")
    (folder / "postgres").chmod(0o644)
    monkeypatch.setenv("PGAMBASSADOR_PG_BIN", str(folder))
    with pytest.raises(ConfigError, match="Permission denied"):
        find()


# running


def test_the_environment_is_without_libpqs_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGOPTIONS", "PGPASSWORD"):
        monkeypatch.setenv(name, "mischief")
    environment = Installation(Path("/bin"), "18.1").environment(PGPASSWORD="ours")
    assert [name for name in environment if name.startswith("PG")] == ["PGPASSWORD"]
    assert environment["PGPASSWORD"] == "ours"


def test_a_failure_is_told_in_the_programs_words(tmp_path: Path) -> None:
    script(tmp_path / "initdb", "echo 'initdb: error: disk full' >&2; exit 1")
    with pytest.raises(AmbassadorError, match=r"^initdb failed: initdb: error: disk full$"):
        Installation(tmp_path, "18.1").run("initdb", environment={})


def test_a_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def expire(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("initdb", 1)

    monkeypatch.setattr(subprocess, "run", expire)
    with pytest.raises(AmbassadorError, match="did not finish within 120 s"):
        Installation(tmp_path, "18.1").run("initdb", environment={})


# unpacking


UNPACKS = (
    'd="$HOME/.pg0/installation/18.1.0/bin"; mkdir -p "$d"; touch "$d/postgres"; echo as planned; exit 1'
)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = script(tmp_path / "pg0", UNPACKS)
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr(unpack, "_packed", lambda: program)
    monkeypatch.setattr(unpack, "_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.9")
    return program


def test_unpacked_once(packed: Path, tmp_path: Path) -> None:
    target = unpack.unpacked()
    assert target == tmp_path / "cache" / "postgresql-0.9"
    assert (target / "bin" / "postgres").exists()
    assert list((tmp_path / "cache").iterdir()) == [target], "nothing else is left"
    script(packed, "exit 1")
    assert unpack.unpacked() == target


def test_unpacking_fails(packed: Path, tmp_path: Path) -> None:
    script(packed, "echo 'Error: No space left on device (os error 28)'; exit 1")
    with pytest.raises(ConfigError) as caught:
        unpack.unpacked()
    assert "could not be unpacked" in caught.value.message
    assert "No space left on device" in caught.value.message
    assert not list((tmp_path / "cache").iterdir())


def test_another_process_was_quicker(packed: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "cache" / "postgresql-0.9" / "bin"
    script(packed, f'{UNPACKS.removesuffix("exit 1")} mkdir -p "{theirs}"; echo theirs > "{theirs}/postgres"')
    target = unpack.unpacked()
    assert target is not None
    assert (target / "bin" / "postgres").read_text() == "theirs\n"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert unpack.unpacked() is None


def test_the_cache_of_an_ordinary_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert unpack._cache() == tmp_path / "xdg" / "pgambassador"


def test_a_cache_in_the_temporary_folder_must_be_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = os.geteuid()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    ours = unpack._cache()
    assert ours == tmp_path / f"pgambassador-{uid}"
    ours.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        unpack._cache()


# owning


def test_an_ordinary_user_runs_it_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    who = account()
    assert not who.foreign
    assert who.identity == {}
    assert who.reaches(tmp_path)


def test_root_hands_it_to_the_first_account_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(name: str) -> pwd.struct_passwd:
        if name != "nobody":
            raise KeyError(name)
        return pwd.struct_passwd((name, "x", 65534, 65533, "", "/nonexistent", "/bin/false"))

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", known)
    assert account() == Account("nobody", 65534, 65533, foreign=True)
    assert account().identity == {"user": 65534, "group": 65533, "extra_groups": ()}


def test_root_without_any_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    with pytest.raises(ConfigError, match="refuses to run as root"):
        account()


def test_a_closed_folder_is_no_place_for_another_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    stranger = Account("nobody", 65534, 65534, foreign=True)
    assert not stranger.reaches(closed)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(closed))
    folder = workspace._temporary(stranger)
    folder.rmdir()
    assert folder.parent in (Path("/tmp"), Path("/var/tmp"))


def test_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate = authority.server(tmp_path)
    assert authority.root.read_text().startswith("-----BEGIN CERTIFICATE-----")
    assert certificate.key.stat().st_mode & 0o777 == 0o600
    before = certificate.chain.read_bytes()
    assert authority.server(tmp_path, expired=True) == certificate
    assert certificate.chain.read_bytes() != before


def test_certificates_need_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ConfigError) as caught:
        Authority(tmp_path)
    assert caught.value.hint == "Run pip install 'pgambassador[demo]'."


# addresses


def test_a_url_says_the_same_to_libpq_and_to_us(tmp_path: Path) -> None:
    folder = tmp_path / "the ca"
    folder.mkdir()
    made = Postgres(
        tmp_path / "server",
        Installation(tmp_path, "18.1"),
        Authority(folder),
        ME,
        "se cret+/%",
        lambda _: None,
    )
    url = made.url(application_name="a b+c", options="-c work_mem=1MB")
    theirs = conninfo_to_dict(url)
    assert theirs["password"] == "se cret+/%"
    assert theirs["application_name"] == "a b+c"
    assert theirs["options"] == "-c work_mem=1MB"
    assert theirs["sslrootcert"] == str(folder / "ca.pem")
    ours = parse_url(url)
    assert (ours.password, ours.sslrootcert) == ("se cret+/%", str(folder / "ca.pem"))
    assert ours.params == {"application_name": "a b+c", "options": "-c work_mem=1MB"}
