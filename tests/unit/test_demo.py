"""What the demo configures and prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pgambassador import demo
from pgambassador.embedded import Certificate, Installation, Postgres

OURS = Certificate(Path("/c.crt"), Path("/c.key"))


def server(port: int) -> Postgres:
    url = f"postgresql://postgres:secret@127.0.0.1:{port}/postgres?sslmode=verify-full&sslrootcert=/ca.pem"
    installation = Installation(Path("/pg/bin"), "18.1", Path("/pg/lib"))
    return cast("Postgres", SimpleNamespace(port=port, url=lambda: url, installation=installation))


def test_both_servers_behind_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "is_free", lambda port: True)
    config = demo.configuration(server(1001), server(1002), OURS)
    assert (config.tls.effective_mode, config.tls.certificate, config.tls.key) == (
        "allow",
        "/c.crt",
        "/c.key",
    )
    assert config.listen == ("127.0.0.1:5432",)
    assert config.http == "127.0.0.1:9187"
    upstream = config.clusters["demo"].upstream()
    assert [(each.host, each.port) for each in upstream.endpoints] == [
        ("127.0.0.1", 1001),
        ("127.0.0.1", 1002),
    ]
    assert upstream.sslmode == "verify-full"


def test_another_port_if_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "is_free", lambda port: False)
    monkeypatch.setattr(demo, "free_port", lambda: 23456)
    assert demo.configuration(server(1001), server(1002), OURS).listen == ("127.0.0.1:23456",)


@pytest.mark.parametrize(("found", "command"), [("/usr/bin/psql", "psql"), (None, "/pg/bin/psql")])
def test_the_invitation(monkeypatch: pytest.MonkeyPatch, found: str | None, command: str) -> None:
    monkeypatch.setattr(demo, "is_free", lambda port: True)
    monkeypatch.setattr("shutil.which", lambda name: found)
    config = demo.configuration(server(1001), server(1002), OURS)
    text = demo.invitation(config, server(1001), server(1002))
    assert f"{command} postgresql://postgres@127.0.0.1:5432/postgres" in text
    assert "sslmode=verify-full sslrootcert=/ca.pem" in text
    assert "secret" not in text
