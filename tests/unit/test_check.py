"""`check`: which logins it tries, what it says, its exit code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from pgambassador import check as module
from pgambassador.config import load
from pgambassador.embedded import Authority, Certificate
from pgambassador.errors import ConfigError, ServerRefused, Unreachable

HIDDEN = "hunter2"


@pytest.fixture
def servers(monkeypatch):
    """What each (host, database) answers; every login that was tried."""
    world = SimpleNamespace(answers={}, tried=[])

    class Origin:
        def __init__(self, upstream, keyring, *, database, user, only=False) -> None:
            self.hosts = ",".join(endpoint.host for endpoint in upstream.endpoints)
            self.database, self.user, self.keyring = database, user, keyring

        async def open(self):
            world.tried.append((self.hosts, self.database, self.user))
            keys = self.keyring.attempt(self.user, self.database)
            await keys.issued("a", 5432)
            assert not await keys.refused("a", 5432)
            answer = world.answers.get((self.hosts, self.database))
            if answer is not None:
                raise answer
            return SimpleNamespace(
                parameters={"server_version": "18.1"}, tls_version="TLSv1.3", close=lambda: None
            )

    monkeypatch.setattr(module, "Origin", Origin)
    return world


def run(capsys, **sources) -> tuple[int, str, str]:
    code = asyncio.run(module.check(load(**sources)))
    out, err = capsys.readouterr()
    assert HIDDEN not in out + err
    return code, out, err


def test_every_host_is_tried(capsys, servers):
    code, out, err = run(capsys, url=f"postgresql://app:{HIDDEN}@a,b:6000/shop")
    assert (code, err) == (0, "")
    assert servers.tried == [("a", "shop", "app"), ("b", "shop", "app")]
    assert "configuration: 1 cluster, listening on 127.0.0.1:5432, auth trust\n" in out
    assert "cluster main, TLS: sslmode=verify-full, sslrootcert=system\n" in out
    assert "cluster main, b:6000: logged in as app to shop: PostgreSQL 18.1, TLSv1.3, " in out


def test_every_database_is_tried_once(capsys, servers, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        f"clusters: {{main: {{url: 'postgresql://app:{HIDDEN}@a,b/shop'}}}}\n"
        "databases: {x: {database: one}, y: {database: two}, z: {database: one}}"
    )
    assert run(capsys, path=str(file))[0] == 0
    assert servers.tried == [("a", "one", "app"), ("b", "one", "app"), ("a,b", "two", "app")]


def test_a_failure_names_its_step(capsys, servers):
    servers.answers["a", "shop"] = ServerRefused({"M": f"no password={HIDDEN} for you", "C": "28P01"})
    servers.answers["b", "shop"] = Unreachable("b:5432 did not answer.", hint="Check the firewall.")
    code, _, err = run(capsys, url="postgresql://app@a,b/shop")
    assert code == 1
    assert err.splitlines() == [
        (
            "cluster main, a:5432: no password=*** for you."
            " Correct user or password, in the URL or where it says that they are kept."
        ),
        "cluster main, b:5432: b:5432 did not answer. Check the firewall.",
    ]


@pytest.mark.parametrize(
    "error", [ServerRefused({"M": "no", "C": "28P01"}), ConfigError("no password", sqlstate="28P01")]
)
def test_without_a_user_an_answer_is_enough(capsys, servers, error):
    servers.answers["a", "shop"] = error
    code, out, err = run(capsys, url="postgresql://a/shop")
    assert (code, err) == (0, "")
    assert "the server answers; the URL names no user" in out


def test_without_a_user_another_error_still_counts(capsys, servers):
    servers.answers["a", "postgres"] = ServerRefused({"M": "shutting down", "C": "57P03"})
    assert run(capsys, url="postgresql://a")[::2] == (
        1,
        "cluster main, a:5432: shutting down. Wait until the server has started.\n",
    )


def provider(tmp_path, script) -> dict[str, str]:
    file = tmp_path / "c.yaml"
    command = json.dumps(["/bin/sh", "-c", script])
    file.write_text(
        "clusters: {main: {url: 'postgresql://app@a/shop', "
        f"credentials: {{provider: exec, command: {command}}}}}}}"
    )
    return {"path": str(file)}


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (HIDDEN, "exec gave a password without an end, "),
        (f'{{"password": "{HIDDEN}", "user": "b"}}', "exec gave a password for user b without an end, "),
        (
            f'{{"password": "{HIDDEN}", "expires_at": "2999-01-01T00:00:00+01:00"}}',
            "exec gave a password valid until 2998-12-31T23:00:00+00:00, ",
        ),
        (
            f'{{"password": "{HIDDEN}", "expires_at": "2001-01-01T00:00:00Z"}}',
            "exec gave a password that was valid until 2001-01-01T00:00:00+00:00 only; compare the clock",
        ),
    ],
)
def test_the_secret_has_a_line_of_its_own(capsys, servers, tmp_path, printed, said):
    code, out, err = run(capsys, **provider(tmp_path, f"echo '{printed}'"))
    assert (code, err) == (0, "")
    assert f"cluster main, a:5432, credentials: {said}" in out
    assert "cluster main, a:5432: logged in as app to shop" in out


def test_without_a_secret_there_is_no_login(capsys, servers, tmp_path):
    code, out, err = run(capsys, **provider(tmp_path, f"echo {HIDDEN}; exit 1"))
    assert code == 1
    assert err == (
        "cluster main, a:5432, credentials: provider exec: the credentials command /bin/sh failed with"
        " exit status 1. Run it by hand to see why.\n"
    )
    assert "a:5432:" not in out


def test_a_weak_mode_is_a_warning(capsys, servers):
    code, _, err = run(capsys, url="postgresql://app@a/shop?sslmode=require")
    assert code == 0
    assert "warning: sslmode=require" in err


def test_files_come_before_connections(capsys, servers):
    with pytest.raises(ConfigError, match="/nonexistent"):
        run(capsys, url="postgresql://app@a/shop?sslrootcert=/nonexistent")
    assert servers.tried == []


# TLS towards clients.


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def configured(tmp_path, certificate, **more):
    tls = {"certificate": str(certificate.chain), "key": str(certificate.key), **more}
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps({"clusters": {"main": {"url": "postgresql://app@a/shop"}}, "tls": tls}))
    return str(file)


def test_without_tls_towards_clients(capsys, servers):
    assert "clients, TLS: off\n" in run(capsys, url="postgresql://app@a/shop")[1]


def test_what_clients_are_offered(capsys, servers, authority, tmp_path):
    path = configured(tmp_path, authority.server(tmp_path, hosts=("db.internal",)), mode="require")
    code, out, err = run(capsys, path=path)
    assert (code, err) == (0, "")
    assert f"clients, TLS: mode=require, certificate={tmp_path}/server.crt (for db.internal; until " in out


def test_a_certificate_that_ends_soon(capsys, servers, authority, tmp_path):
    path = configured(tmp_path, authority.server(tmp_path, days=2.5))
    code, _, err = run(capsys, path=path)
    assert code == 0
    assert err.startswith("clients, TLS: the certificate in the file of tls.certificate ends on ")
    assert "in 2 days; renew it" in err


def test_a_certificate_that_has_ended(capsys, servers, authority, tmp_path):
    path = configured(tmp_path, authority.server(tmp_path, expired=True))
    code, _, err = run(capsys, path=path)
    assert code == 1
    assert "the certificate in the file of tls.certificate ended on " in err


def test_a_certificate_that_is_not_valid_yet(capsys, servers, authority, tmp_path, monkeypatch):
    path = configured(tmp_path, authority.server(tmp_path))
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 0.0, monotonic=lambda: 0.0))
    code, _, err = run(capsys, path=path)
    assert code == 1
    assert err.startswith("clients, TLS: the certificate is not valid before ")


def test_files_for_clients_of_no_use(capsys, servers, authority, tmp_path):
    one, other = authority.server(tmp_path), authority.server(tmp_path, "other")
    with pytest.raises(ConfigError, match="does not belong to the certificate"):
        run(capsys, path=configured(tmp_path, one, key=str(other.key)))
    with pytest.raises(ConfigError, match=r"The tls.ca file .* holds no certificate"):
        run(capsys, path=configured(tmp_path, one, ca=str(one.key)))
    with pytest.raises(ConfigError, match=r"The tls.certificate file /nonexistent cannot be read"):
        run(capsys, path=configured(tmp_path, Certificate(Path("/nonexistent"), one.key)))
    assert servers.tried == []
