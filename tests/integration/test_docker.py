"""The container files, as far as they can be tried without an engine."""

from __future__ import annotations

import os
import shutil
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgambassador.config import load

DOCKER = Path(__file__).resolve().parents[2] / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return document


def test_what_is_mounted_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).is_file(), source
            else:
                assert source in compose["volumes"]
    build = compose["services"]["ambassador"]["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()


def test_what_is_waited_for_can_happen(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for other, wanted in service.get("depends_on", {}).items():
            assert other in services
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in services[other]


def test_configuration_fits(compose: dict[str, Any]) -> None:
    config = load(path=str(DOCKER / "ambassador.yaml"))
    upstream = config.clusters["main"].upstream()
    assert upstream.sslmode == "verify-full"
    assert {each.host for each in upstream.endpoints} == {"primary", "replica"} <= set(compose["services"])
    assert config.drain_timeout < float(compose["services"]["ambassador"]["stop_grace_period"].rstrip("s"))


def test_image_is_not_root_and_says_how_it_is() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users and users[-1].split(":")[0] not in ("0", "root")
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
    copied = [
        word
        for line in lines
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    ]
    allowed = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert {f"!{each}" for each in copied} <= set(allowed), "what is copied is not sent to the engine"


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed")
def test_certificates_satisfy_a_strict_client(tmp_path: Path) -> None:
    command = ["bash", str(DOCKER / "certificates.sh"), "primary", "replica"]
    environment = {**os.environ, "CERTIFICATES": str(tmp_path), "OWNER": ""}
    for _ in range(2):  # the second time leaves all as it is
        subprocess.run(command, env=environment, check=True, capture_output=True)
    assert {each.name for each in tmp_path.iterdir()} == {"ca.pem", "server.crt", "server.key"}
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    _handshake(tmp_path, "replica")
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(tmp_path, "elsewhere")


def _handshake(folder: Path, host: str) -> None:
    """In memory, as Python 3.13 and later check by default."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "server.crt", folder / "server.key")
    client_context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there, server_hostname=host)
    server = server_context.wrap_bio(there, back, server_side=True)
    open_ends = [client, server]
    for _ in range(10):
        for end in list(open_ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            open_ends.remove(end)
    assert not open_ends
