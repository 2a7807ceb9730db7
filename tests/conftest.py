"""Fixtures for whatever needs a real server; the servers are started when the first test asks for them."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from psycopg import Connection

from pgambassador.embedded import Authority, Postgres, Workspace, ports, system
from tests.harness import HBA, Ambassador, Link, populate

# How long an example takes depends on what else the machine does, and says nothing.
settings.register_profile("pgambassador", deadline=None)
settings.load_profile("pgambassador")


def pytest_configure(config: pytest.Config) -> None:
    # So that servers are stopped and folders removed when a test run is ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        # A worker is told to end by an interrupt, which whatever runs in the background of a shell ignores.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Ports that the other workers never give: who was given one may not have bound it yet, or be down.
        share = (ports.HIGHEST - ports.LOWEST) // worker["workercount"]
        ports.LOWEST += share * int(worker["workerid"].removeprefix("gw"))
        ports.HIGHEST = ports.LOWEST + share


def pytest_collection_finish() -> None:
    # What thousands of tests are made of stays for ever: no collection needs to look at it again.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    with Workspace() as space:
        yield space


@pytest.fixture(scope="session")
def ca(workspace: Workspace) -> Authority:
    """The authority that signed the servers' certificates; `ca.root` is its file."""
    return workspace.authority


@pytest.fixture(scope="session")
def primary(workspace: Workspace) -> Postgres:
    """TLS, a user for each way to log in (tests.harness.USERS), database `app`. Do not stop it: make your own
    with `workspace.primary`."""
    server = workspace.primary(hba=HBA)
    populate(server)
    return server


@pytest.fixture(scope="session")
def replica(primary: Postgres) -> Postgres:
    """Streams from `primary`."""
    return primary.replica()


@pytest.fixture(scope="session")
def system_postgres(workspace: Workspace) -> Postgres:
    """Like `primary`, of the version that this machine has installed."""
    installation = system()
    if installation is None:
        pytest.skip("no PostgreSQL server is installed on this machine")
    if installation.folder == workspace.installation.folder:
        pytest.skip("the PostgreSQL of this machine is the one that all tests use")
    server = workspace.primary("system", hba=HBA, installation=installation)
    populate(server)
    return server


@pytest.fixture
def ambassador(tmp_path: Path) -> Iterator[Callable[..., Ambassador]]:
    """Makes and starts one: `ambassador(url)` or `ambassador({"clusters": …}, pool={"size": 2})`. Each is
    stopped at the end, and must then end by itself, with 0, without a traceback."""
    with ExitStack() as stack:
        yield _maker(tmp_path, stack)


@pytest.fixture(scope="module")
def ambassadors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Ambassador]]:
    """Like `ambassador`, for all tests of a module; they must not stop it."""
    with ExitStack() as stack:
        yield _maker(tmp_path_factory.mktemp("ambassadors"), stack)


def _maker(parent: Path, stack: ExitStack) -> Callable[..., Ambassador]:
    def make(config: Mapping[str, Any] | str, *, start: bool = True, **more: Any) -> Ambassador:
        folder = Path(tempfile.mkdtemp(prefix="ambassador-", dir=parent))
        process = Ambassador(folder, config, **more)
        stack.callback(_finish, process)
        if start:
            process.start()
        return process

    return make


def _finish(process: Ambassador) -> None:
    if process.running:
        assert process.stop() == 0, process.output()[-4000:]
    assert "Traceback" not in process.output(), process.output()[-4000:]


@pytest.fixture
def link(primary: Postgres) -> Iterator[Link]:
    """A way to the primary that can be stalled, cut and refused."""
    with Link(primary.port) as relay:
        yield relay


@pytest.fixture
def observer(primary: Postgres) -> Iterator[Connection]:
    """A superuser at the primary, past every ambassador."""
    with psycopg.connect(primary.url(), autocommit=True) as connection:
        yield connection
