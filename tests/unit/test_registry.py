"""From the configuration to a provider, ours or somebody else's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pgambassador.config import (
    Credentials,
    EnvCredentials,
    ExecCredentials,
    FileCredentials,
    InstalledCredentials,
    Secret,
    StaticCredentials,
    load,
)
from pgambassador.config.aws import (
    AwsDsqlCredentials,
    AwsRdsIamCredentials,
    AwsSecretsManagerCredentials,
)
from pgambassador.config.providers import GROUP, OURS
from pgambassador.credentials.provider import Login, Provider
from pgambassador.credentials.registry import keyring_of, provider_of
from pgambassador.credentials.static import Static
from pgambassador.errors import ConfigError
from pgambassador.net.tasks import spawn

ROOT = Path(__file__).parents[2]
URL = "postgresql://app@db.example/shop"
HIDDEN = "hunter2"


class Vault(Static):
    """As another package would have it."""

    made: Mapping[str, Any]

    def __init__(self, options: Mapping[str, Any]) -> None:
        if "path" not in options:
            raise ConfigError("clusters.main.credentials.path is missing.")
        if options["path"] == "broken":
            raise ValueError(HIDDEN)
        self.made = options


def nothing(user: str) -> bytes | None:
    return None


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> list[metadata.EntryPoint]:
    """The entry points of other packages."""
    found = [
        metadata.EntryPoint("vault", f"{__name__}:Vault", GROUP),
        metadata.EntryPoint("gone", "a_module_that_is_not_there:Provider", GROUP),
        metadata.EntryPoint("exec", f"{__name__}:Vault", GROUP),
    ]
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Vault.__module__])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda *, group: found)
    return found


def configured(tmp_path: Path, text: str) -> Credentials:
    file = tmp_path / "c.yaml"
    file.write_text(f"clusters: {{main: {{url: '{URL}', credentials: {{{text}}}}}}}")
    found = load(path=str(file)).clusters["main"].credentials
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("credentials", "name"),
    [
        (StaticCredentials(password=Secret(HIDDEN)), "static"),
        (EnvCredentials(variable="X"), "env"),
        (FileCredentials(path="/x"), "file"),
        (ExecCredentials(command=("x",)), "exec"),
        (AwsRdsIamCredentials(), "aws-rds-iam"),
        (AwsDsqlCredentials(), "aws-dsql"),
        (AwsSecretsManagerCredentials(secret="x", region="eu-west-1"), "aws-secretsmanager"),
    ],
)
def test_ours(credentials: Credentials, name: str) -> None:
    assert f"{type(provider_of(credentials)).__module__}:{type(provider_of(credentials)).__name__}" == (
        credentials.maker
    )
    ring = keyring_of("main", credentials, nothing, spawn)
    assert (ring.cluster, ring.provider) == ("main", name)


def test_ours_are_entry_points_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][GROUP] == {name: kind.maker for name, kind in OURS.items()}


def test_only_what_is_configured_is_imported() -> None:
    code = (
        "import sys; from pgambassador.config import load; from pgambassador.credentials import registry\n"
        "from pgambassador.config import EnvCredentials\n"
        "registry.provider_of(EnvCredentials(variable='X'))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('pgambassador.credentials.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name.rpartition(".")[2] for name in done.stdout.split()} == {
        *("environ", "keyring", "life", "provider", "registry", "static")
    }


def test_without_credentials_the_password_is_found_by_name() -> None:
    ring = keyring_of("main", None, {"app": b"x"}.get, spawn)
    assert ring.provider == "url"

    async def main() -> object:
        return (await ring.attempt("app", "shop").issued("a", 1)).secret.password

    assert asyncio.run(main()) == b"x"


def test_the_provider_of_another_package(others: object, tmp_path: Path) -> None:
    credentials = configured(
        tmp_path,
        f"provider: vault, path: kv/db, token: {HIDDEN}, more: [1, {{a: b}}], lazy: true, timeout: 3s",
    )
    assert isinstance(credentials, InstalledCredentials)
    assert (credentials.lazy, credentials.timeout, credentials.reconnect) == (True, 3.0, False)
    assert HIDDEN not in repr(credentials)
    provider: Provider = provider_of(credentials)
    assert isinstance(provider, Vault)
    assert provider.made == {"path": "kv/db", "token": HIDDEN, "more": [1, {"a": "b"}]}
    with pytest.raises(TypeError):
        provider.made["path"] = "x"  # type: ignore[index]
    assert keyring_of("main", credentials, nothing, spawn).provider == "vault"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("provider: vault", "clusters.main.credentials.path is missing."),
        ("provider: vault, path: broken", "cannot use its options (ValueError). Correct them"),
        ("provider: gone", "cannot be loaded (ModuleNotFoundError). Install it again"),
    ],
)
def test_what_another_package_does_wrong(others: object, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        provider_of(configured(tmp_path, text))
    assert said in caught.value.sentence()
    assert HIDDEN not in caught.value.sentence()
    assert caught.value.__cause__ is None


def test_an_unknown_name_lists_the_known_ones(others: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(tmp_path, "provider: magic")
    assert caught.value.message == (
        f"clusters.main.credentials.provider must be one of {', '.join(OURS)}, gone, vault, not 'magic'."
    )


@pytest.mark.parametrize("tag", ["'*'", "''", "7", "[a]"])
def test_what_is_no_name_at_all(others: object, tmp_path: Path, tag: str) -> None:
    with pytest.raises(ConfigError, match=r"clusters\.main\.credentials\.provider must be one of static"):
        configured(tmp_path, f"provider: {tag}")


def test_nobody_takes_the_place_of_ours(others: object, tmp_path: Path) -> None:
    assert configured(tmp_path, "provider: exec, command: [x]") == ExecCredentials(command=("x",))


def test_a_package_that_was_removed() -> None:
    with pytest.raises(ConfigError, match="The credentials provider nosuch is not installed"):
        provider_of(InstalledCredentials(name="nosuch", options={}))


def test_a_fetch_by_another_package(others: object, tmp_path: Path) -> None:
    provider = provider_of(configured(tmp_path, "provider: vault, path: x"))
    provider._password = Secret("x")  # type: ignore[attr-defined]
    assert asyncio.run(provider.fetch(Login("a", 1, "b", "c"))).password == b"x"
