"""pgjdbc sends BEGIN in one part with the first statement: read-only transactions reach a replica even so,
whether the BEGIN says that they are, or that statement."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgambassador.embedded import Postgres
from tests.drivers.programs import JDBC, PROGRAMS
from tests.harness import Ambassador, wait_until
from tests.integration.test_splitting import cluster, port

SOURCES = Path(__file__).parent / "programs"


@pytest.mark.parametrize("way", [(), ("enforced",)], ids=["setReadOnly", "enforced"])
@pytest.mark.parametrize(
    "more",
    [
        "",
        "&preferQueryMode=simple",
        "&preferQueryMode=extendedForPrepared",
        "&preferQueryMode=extendedCacheEverything",
        "&prepareThreshold=1",
    ],
)
def test_read_only_transactions_run_on_a_replica(
    ambassadors: Callable[..., Ambassador],
    primary: Postgres,
    replica: Postgres,
    tmp_path: Path,
    more: str,
    way: tuple[str, ...],
) -> None:
    (jdbc,) = (program for program in PROGRAMS if program.name == "pgjdbc")
    if reason := jdbc.missing():
        pytest.skip(reason)
    made = ambassadors(cluster(primary, replica))
    subprocess.run(
        [
            "javac",
            "-encoding",
            "UTF-8",
            "-cp",
            str(JDBC),
            "-d",
            str(tmp_path),
            str(SOURCES / "ReadOnly.java"),
        ],
        check=True,
        timeout=120,
    )
    with psycopg.connect(made.dsn(), autocommit=True) as client:
        wait_until(lambda: port(client) == replica.port, "reads reach the replica")
    url = f"jdbc:postgresql://127.0.0.1:{made.port}/app?user=app{more}"
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{tmp_path}:{JDBC}", "ReadOnly", url, "300", *way],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *transactions, last = done.stdout.split()
    # At first it sets parameters, which is on the primary.
    assert transactions[-1] == str(replica.port) and last == str(primary.port), done.stdout
