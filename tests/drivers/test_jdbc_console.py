"""pgjdbc on the console: it sets things at its login, begins transactions and prepares statements."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgambassador import __version__
from pgambassador.embedded import Postgres
from tests.drivers.programs import JDBC, PROGRAMS
from tests.harness import USERS, Ambassador

SOURCES = Path(__file__).parent / "programs"


@pytest.mark.parametrize("more", ["", "&preferQueryMode=simple", "&prepareThreshold=1&binaryTransfer=true"])
def test_it_is_of_use(
    ambassadors: Callable[..., Ambassador], primary: Postgres, tmp_path: Path, more: str
) -> None:
    (jdbc,) = (program for program in PROGRAMS if program.name == "pgjdbc")
    if reason := jdbc.missing():
        pytest.skip(reason)
    made = ambassadors(primary.url("app", USERS["app"].password, "app"))
    subprocess.run(
        ["javac", "-encoding", "UTF-8", "-cp", str(JDBC), "-d", str(tmp_path), str(SOURCES / "Console.java")],
        check=True,
        timeout=120,
    )
    url = f"jdbc:postgresql://127.0.0.1:{made.port}/pgambassador?user=admin{more}"
    with psycopg.connect(made.dsn()) as client:
        client.execute("select 1")
        done = subprocess.run(
            ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{tmp_path}:{JDBC}", "Console", url],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"pgambassador {__version__}", *["class write"] * 7, "42601"]
