"""pgjdbc over TLS: the same program as in clear text, and with a certificate of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives import serialization

from pgambassador.embedded import Authority, Postgres, Workspace
from tests.drivers.programs import PROGRAMS
from tests.harness import Ambassador

NAME = "jdbc_tls"
PASSWORD = "drivers-secret"
(PGJDBC,) = (program for program in PROGRAMS if program.name == "pgjdbc")


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    made = workspace.primary(
        NAME,
        hba=("local all all scram-sha-256", "hostssl all all all scram-sha-256"),
    )
    made.sql(f"create role {NAME} login password '{PASSWORD}'; create database {NAME} owner {NAME}")
    return made


@pytest.fixture(scope="module")
def proxy(
    server: Postgres,
    ca: Authority,
    ambassadors: Callable[..., Ambassador],
    tmp_path_factory: pytest.TempPathFactory,
) -> Ambassador:
    ours = ca.server(tmp_path_factory.mktemp("ours"))
    return ambassadors(
        server.url(NAME, PASSWORD, NAME),
        pool={"mode": "session", "size": 10},
        tls={
            "certificate": str(ours.chain),
            "key": str(ours.key),
            "ca": str(ca.root),
            "mode": "verify-ca",
        },
        auth={"users": {NAME: PASSWORD}},
    )


def test_the_program_cannot_tell_it_from_postgresql(
    server: Postgres, proxy: Ambassador, ca: Authority, tmp_path: Path
) -> None:
    if reason := PGJDBC.missing():
        pytest.skip(reason)
    PGJDBC.make(tmp_path)
    certificate = ca.client(tmp_path, "jdbc")
    key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
    in_der = tmp_path / "jdbc.pk8"
    in_der.write_bytes(
        key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    verified = {"sslmode": "verify-full", "sslrootcert": str(ca.root)}
    shown = {"sslcert": str(certificate.chain), "sslkey": str(in_der)}

    def environment(port: int, options: dict[str, str]) -> dict[str, str]:
        named = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": NAME, "PGPASSWORD": PASSWORD}
        return {**named, "PGDATABASE": NAME, "JDBC_OPTIONS": f"?{urlencode(options)}"}

    alone = PGJDBC.run(tmp_path, environment(server.port, verified))
    assert (alone.code, alone.failures) == (0, []), alone.trouble
    proxied = PGJDBC.run(tmp_path, environment(proxy.port, {**verified, **shown}))
    assert proxied.lines == alone.lines, proxied.trouble
    assert proxied.code == 0, proxied.trouble
    refused = PGJDBC.run(tmp_path, environment(proxy.port, verified))
    assert refused.code != 0
