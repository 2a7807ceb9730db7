"""pgjdbc at a start without the server: it sets things at its login, which was known before."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pgambassador.embedded import Workspace
from tests.drivers.programs import JDBC
from tests.drivers.test_logins import LOGIN
from tests.harness import HBA, USERS, Ambassador, populate, wait_until


def test_its_login_is_answered(
    ambassador: Callable[..., Ambassador], workspace: Workspace, tmp_path: Path
) -> None:
    if reason := LOGIN.missing():
        pytest.skip(reason)
    server = workspace.primary("jdbc-offline", hba=HBA)
    populate(server)
    server.configure({"log_statement": "all"})
    server.reload()
    build = [part.format(built=tmp_path) for part in LOGIN.build]
    subprocess.run(build, check=True, timeout=120)
    proxy = ambassador(
        server.url("app", USERS["app"].password, "app"),
        state=str(tmp_path / "state"),
        failover={"hold": "2min", "offline_logins": True},
    )
    # Otherwise there are statements in its login.
    url = f"jdbc:postgresql://127.0.0.1:{proxy.port}/app?assumeMinServerVersion=9.0&ApplicationName=j"
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{tmp_path}:{JDBC}", "Login", url, "app"]

    def login() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with login() as first:
        assert first.communicate(timeout=60)[0] == "in app\n"
    assert proxy.stop() == 0
    server.stop()
    proxy.start()
    with login() as second:
        try:
            wait_until(lambda: proxy.metrics().total("pgambassador_clients") == 1, "it is in", deadline=30)
            wait_until(
                lambda: proxy.metrics().total("pgambassador_pool_waiting_clients") == 1,
                "its statement waits",
                deadline=30,
            )
            server.start()
            assert second.communicate(timeout=60)[0] == "in app\n"
        finally:
            second.kill()
    text = server.log.read_text()
    assert text.count("select current_user") == 2 and "SET extra_float_digits" not in text
    server.stop()
