"""Tokens of Entra ID, asked for by azure-identity itself."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from pgambassador.config.azure import SCOPE, AzureEntra
from pgambassador.credentials.azure import Entra
from pgambassador.credentials.provider import Login, Provider, Secret
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable
from tests.harness.azure import ASSERTION, CLIENT, LOGIN, RESOURCE, TENANT, Azure, refusal
from tests.harness.internet import MACHINE, Internet, Told

WHO = Login("db.example", 5432, "app", "app")


@pytest.fixture
def azure() -> Azure:
    return Azure()


@pytest.fixture
def internet(azure: Azure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Internet]:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "no_proxy", "AZURE_CLIENT_ID", "AZURE_TENANT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))  # no az, no pwsh
    monkeypatch.setenv("HOME", str(tmp_path))
    with Internet(tmp_path, azure.sites()) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://{made.address}")
        yield made
        gc.collect()


@pytest.fixture
def workload(internet: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a pod with a service account that stands for an application."""
    (tmp_path / "token").write_text(ASSERTION)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AZURE_TENANT_ID", TENANT)
    monkeypatch.setenv("AZURE_CLIENT_ID", CLIENT)


def fetch(provider: Provider) -> Secret:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(provider.fetch(WHO))


def failure(provider: Provider) -> AmbassadorError:
    with pytest.raises(AmbassadorError) as raised:
        fetch(provider)
    assert raised.value.hint
    assert raised.value.__cause__ is None
    assert ASSERTION not in raised.value.sentence()
    return raised.value


def test_the_identity_of_the_machine(azure: Azure, internet: Internet) -> None:
    provider: Provider = Entra(AzureEntra())
    secret = fetch(provider)
    assert (secret.user, secret.way) == (None, None)
    assert secret.password == azure.tokens[-1].encode()
    assert abs((secret.not_after or 0) - time.time() - 3600) < 30
    assert not provider.per_host
    assert provider.window == 0
    assert fetch(provider).password != secret.password  # asked anew
    assert f"{RESOURCE}/.default" == SCOPE


def test_one_of_the_identities_of_the_machine(azure: Azure, internet: Internet) -> None:
    azure.identity = CLIENT
    secret = fetch(Entra(AzureEntra(client_id=CLIENT, user="the app")))
    assert secret.user == "the app"
    assert secret.password == azure.tokens[-1].encode()


def test_a_sovereign_cloud(azure: Azure, internet: Internet) -> None:
    azure.resource = "https://ossrdbms-aad.database.chinacloudapi.cn"
    fetch(Entra(AzureEntra(scope="https://ossrdbms-aad.database.chinacloudapi.cn/.default")))


@pytest.mark.usefixtures("workload")
def test_a_workload_identity(azure: Azure, internet: Internet) -> None:
    secret = fetch(Entra(AzureEntra()))
    assert secret.password == azure.tokens[-1].encode()
    assert abs((secret.not_after or 0) - time.time() - 3600) < 30
    assert internet.paths(MACHINE) == []
    assert f"POST /{TENANT}/oauth2/v2.0/token" in internet.paths(LOGIN)
    assert fetch(Entra(AzureEntra(client_id=CLIENT))).password == azure.tokens[-1].encode()


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (70021, "federated credential"),
        (700016, "not in this tenant"),
        (700024, "clock"),
        (90002, "AZURE_TENANT_ID"),
        (50034, "https://login.microsoftonline.com/error"),
    ],
)
@pytest.mark.usefixtures("workload")
def test_refusals_of_entra(azure: Azure, number: int, hint: str) -> None:
    azure.trouble = [refusal(number)] * 5
    error = failure(Entra(AzureEntra(client_id=CLIENT)))
    assert isinstance(error, ConfigError)
    assert error.message == f"Entra ID refuses the identity (AADSTS{number})."
    assert hint in (error.hint or "")


def test_a_machine_without_that_identity(azure: Azure, internet: Internet) -> None:
    azure.identity = CLIENT
    azure.trouble = [Told({"error": "invalid_request", "error_description": "Identity not found"}, 400)] * 5
    error = failure(Entra(AzureEntra(client_id=CLIENT)))
    assert isinstance(error, Unreachable)
    assert error.message == f"the identity {CLIENT} is not to be had on this machine"
    assert "Assign a managed identity" in (error.hint or "")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AZURE_CLIENT_SECRET": "hunter2", "AZURE_TENANT_ID": "no such/tenant"}, "cannot be used"),
        ({"AZURE_CLIENT_SECRET": "hunter2", "AZURE_AUTHORITY_HOST": "http://plain"}, "cannot be used"),
        ({"AZURE_CLIENT_CERTIFICATE_PATH": "/no/such"}, "cannot be read (no such file or directory)"),
        ({"AZURE_CLIENT_CERTIFICATE_PATH": __file__}, "cannot be used"),
    ],
)
def test_variables_that_are_of_no_use(
    variables: dict[str, str], said: str, internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stay wrong: nobody is told to wait."""
    for name, value in {"AZURE_CLIENT_ID": CLIENT, "AZURE_TENANT_ID": TENANT, **variables}.items():
        monkeypatch.setenv(name, value)
    error = failure(Entra(AzureEntra(timeout=20)))
    assert isinstance(error, ConfigError)
    assert said in error.message
    assert any(name in (error.hint or "") for name in variables)
    assert "hunter2" not in error.sentence()


@pytest.mark.usefixtures("workload")
def test_a_token_file_that_is_missing(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", "/no/such")
    error = failure(Entra(AzureEntra(client_id=CLIENT, timeout=20)))
    assert "AZURE_FEDERATED_TOKEN_FILE" in (error.hint or "")


def test_a_machine_outside_azure(internet: Internet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:1")
    error = failure(Entra(AzureEntra(timeout=20)))
    assert isinstance(error, Unreachable)
    assert error.message == "the identity is not to be had on this machine"


@pytest.mark.usefixtures("workload")
def test_nothing_secret_is_told(azure: Azure, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    provider = Entra(AzureEntra())
    secret = fetch(provider)
    azure.trouble = [refusal(70021)] * 5
    told = [repr(provider), repr(secret), failure(provider).sentence(), caplog.text]
    for hidden in (ASSERTION, *azure.tokens, *(token[:60] for token in azure.tokens)):
        assert hidden not in "\n".join(told)


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ConfigError) as raised:
        Entra(AzureEntra())
    assert raised.value.hint == "Run pip install 'pgambassador[azure]'."
