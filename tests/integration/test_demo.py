"""`pgambassador demo` from start to Ctrl-C."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgambassador.embedded.ports import is_free
from tests.harness import psql
from tests.harness.warm import ROOT


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo(end: signal.Signals, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pgambassador", "demo"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        said = ""
        while "Ctrl-C" not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        found = re.search(r"psql (postgresql://postgres@127\.0\.0\.1:(\d+)/postgres)\n", said)
        assert found, said
        dsn, port = found[1], int(found[2])
        assert psql(dsn, "create table t as select 6 * 7 as i; select i from t") == "42"
        assert psql(dsn, "select count(*) from pg_stat_replication") == "1"
        assert psql(dsn, "select ssl from pg_stat_ssl where pid = pg_backend_pid()") == "t"
        how = re.search(r"sslmode=verify-full sslrootcert=(\S+)", said)
        assert how, said
        over_tls = psql(f"{dsn}?sslmode=verify-full&sslrootcert={how[1]}", "\\conninfo")
        assert "TLSv1.3" in over_tls
        data = Path(psql(dsn, "show data_directory"))
        assert data.exists()
        process.send_signal(end)
        assert process.wait(20) == 0
        complaints = process.stderr.read()
    assert "Traceback" not in complaints, complaints
    assert is_free(port)
    assert not data.exists()
    assert not data.parent.exists()
