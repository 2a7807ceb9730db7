"""Drivers of other languages, in programs that check what they get: once directly, once through us.

In transaction mode each program's other client takes connections away from it, so that its statements move.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from pgambassador.embedded import Postgres, Workspace
from tests.drivers.programs import PROGRAMS, Program, Report
from tests.harness import Ambassador

NAME = "drivers"
PASSWORD = "drivers-secret"
MODES = ("transaction", "session")

# DEALLOCATE as SQL does not know what the protocol has prepared, in transaction mode.
Run = Callable[[Program, str], Report]


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    """Takes a client without TLS, as pgambassador does."""
    made = workspace.primary(
        NAME,
        hba=(
            "local all all scram-sha-256",
            "hostssl all postgres all scram-sha-256",
            f"host all {NAME} all scram-sha-256",
        ),
    )
    made.sql(f"create role {NAME} login password '{PASSWORD}'; create database {NAME} owner {NAME}")
    return made


@pytest.fixture(scope="module")
def run(
    server: Postgres, ambassadors: Callable[..., Ambassador], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A program's report; `direct` in place of a mode is without pgambassador. Each runs once only."""
    built = tmp_path_factory.mktemp("built")

    @cache
    def port(mode: str) -> int:
        if mode == "direct":
            return server.port
        return ambassadors(
            server.url(NAME, PASSWORD, NAME),
            pool={"mode": mode, "size": 4 if mode == "transaction" else 10, "wait_timeout": "10s"},
            auth={"method": "scram-sha-256", "users": {NAME: PASSWORD}},
        ).port

    @cache
    def make(program: Program) -> None:
        program.make(built)

    reports: dict[tuple[str, str], Report] = {}

    def report(program: Program, mode: str) -> Report:
        if reason := program.missing():
            pytest.skip(reason)
        make(program)
        if (program.name, mode) not in reports:
            environment = {
                "PGHOST": "127.0.0.1",
                "PGPORT": str(port(mode)),
                "PGUSER": NAME,
                "PGPASSWORD": PASSWORD,
                "PGDATABASE": NAME,
            }
            reports[program.name, mode] = program.run(built, environment)
        return reports[program.name, mode]

    return report


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", PROGRAMS, ids=str)
def test_a_program_cannot_tell_it_from_postgresql(program: Program, mode: str, run: Run) -> None:
    alone = run(program, "direct")
    assert (alone.code, alone.failures, alone.connections) == (0, [], 1), alone.trouble
    assert len(alone.lines) > 12
    proxied = run(program, mode)
    assert proxied.lines == alone.lines, proxied.trouble
    assert proxied.code == 0, proxied.trouble
    if mode == "transaction":
        assert proxied.connections > 1
    else:
        assert proxied.connections == 1
