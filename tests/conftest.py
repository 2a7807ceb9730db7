"""Fixtures for whatever needs a real server; the servers are started when the first test asks for them."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from psycopg import Connection

from pgambassador.embedded import Authority, Postgres, Workspace, ports, system
from tests.harness import HBA, Ambassador, Link, populate
from tests.harness.ambassador import clean_environment
from tests.harness.network import Lan
from tests.harness.warm import Warm

# How long an example takes depends on what else the machine does, and says nothing.
settings.register_profile("pgambassador", deadline=None)
settings.load_profile("pgambassador")


def pytest_xdist_auto_num_workers() -> int:
    """Most tests wait for something most of the time."""
    return (os.cpu_count() or 1) * 3 // 2


def pytest_configure(config: pytest.Config) -> None:
    # So that servers are stopped and folders removed when a test run is ended from outside.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    gc.disable()  # until everything is collected
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        # A worker is told to end by an interrupt, which whatever runs in the background of a shell ignores.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Ports that the other workers never give: who was given one may not have bound it yet, or be down.
        share = (ports.HIGHEST - ports.LOWEST) // worker["workercount"]
        ports.LOWEST += share * _number(worker)
        ports.HIGHEST = ports.LOWEST + share


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Each worker begins with other modules, and finds what another has rewritten and compiled by then."""
    config = session.config
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    files = sorted(file for path in config.args for file in _modules(config.rootpath / path))
    for file in files[len(files) * _number(worker) // worker["workercount"] :]:
        with suppress(Exception, pytest.skip.Exception):  # it is told when it is imported again
            import_module(".".join(file.relative_to(config.rootpath).with_suffix("").parts))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Nobody begins something long when the others have nothing left to do.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish() -> None:
    # What thousands of tests are made of stays for ever: no collection needs to look at it again.
    gc.enable()
    gc.collect()
    gc.freeze()


def _number(worker: Mapping[str, Any]) -> int:
    return int(worker["workerid"].removeprefix("gw"))


def _modules(path: Path) -> list[Path]:
    return list(path.rglob("test_*.py")) if path.is_dir() else [path]


class _Workspace(Workspace):
    """Tests of a module may come to a worker in several parts, each of which makes the module's servers."""

    def primary(self, name: str = "primary", *rest: Any, **more: Any) -> Postgres:
        taken = (self.folder / name).exists()
        # Those that were stopped count too.
        return super().primary(f"{name}-{len(self.servers)}" if taken else name, *rest, **more)


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    with _Workspace() as space:
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


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    with Warm(clean_environment()) as made:
        yield made


@pytest.fixture
def ambassador(tmp_path: Path, warm: Warm) -> Iterator[Callable[..., Ambassador]]:
    """Makes and starts one: `ambassador(url)` or `ambassador({"clusters": …}, pool={"size": 2})`. Each is
    stopped at the end, and must then end by itself, with 0, without a traceback."""
    with ExitStack() as stack:
        yield _maker(tmp_path, stack, warm)


@pytest.fixture(scope="module")
def ambassadors(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Iterator[Callable[..., Ambassador]]:
    """Like `ambassador`, for all tests of a module; they must not stop it."""
    with ExitStack() as stack:
        yield _maker(tmp_path_factory.mktemp("ambassadors"), stack, warm)


def _maker(parent: Path, stack: ExitStack, warm: Warm) -> Callable[..., Ambassador]:
    def make(config: Mapping[str, Any] | str, *, start: bool = True, **more: Any) -> Ambassador:
        folder = Path(tempfile.mkdtemp(prefix="ambassador-", dir=parent))
        process = Ambassador(folder, config, **more)
        process.warm = warm
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


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    """Two machines and a switch, of this test module alone."""
    try:
        made = Lan(2)
    except OSError as error:
        pytest.skip(f"no networks of one's own can be made here: {error}")
    with made:
        yield made
