"""The command line: what is called with what, exit codes, and errors of one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from pgambassador import __version__, cli
from pgambassador.config import Config
from pgambassador.errors import ConfigError, Unreachable
from pgambassador.process.store import Store

HIDDEN = "hunter2"
URL = f"postgresql://app:{HIDDEN}@db.example/shop"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("PGAMBASSADOR_", "UPSTREAM_")):
            monkeypatch.delenv(name)


@pytest.fixture
def served(monkeypatch):
    """The configurations that `serve` was called with, and what it is to do."""
    module: Any = ModuleType("pgambassador.process.service")
    module.configs, module.outcome, module.again_fails = [], 0, False

    async def serve(config: Config, again: Callable[[], Config], fallback: Any) -> int:
        module.configs.append(config)
        module.fallback = fallback
        assert module.again_fails or again() == config
        if isinstance(module.outcome, BaseException):
            raise module.outcome
        return module.outcome

    module.serve, module.prove = serve, lambda config: None
    monkeypatch.setitem(sys.modules, "pgambassador.process.service", module)
    return module


def complaint(capsys, *argv: str, code: int) -> str:
    assert cli.main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert HIDDEN not in err
    assert err.startswith("pgambassador: ")
    assert err.count("\n") == 1
    return err


def test_run_with_everything(served, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("pool: {min_size: 2, size: 3}")
    served.outcome = 7
    options = ["--config", str(file), "--listen", "127.0.0.1:7000", "--listen", "unix:/run", "--http", "off"]
    assert cli.main(["run", URL, *options, "--pool-size", "9", "--pool-mode", "session"]) == 7
    (config,) = served.configs
    assert config.listen == ("127.0.0.1:7000", "unix:/run")
    assert config.http == "off"
    assert (config.pool.size, config.pool.min_size, config.pool.mode) == (9, 2, "session")
    assert config.clusters["main"].url.reveal() == URL


@pytest.mark.parametrize("by", ["--state", "PGAMBASSADOR_STATE"])
def test_run_without_its_file(served, tmp_path, monkeypatch, capsys, by):
    """The directory has to be named beside the file; without one the error stays."""
    file, state = tmp_path / "c.yaml", tmp_path / "state"
    argv = ["run", "postgresql://app@db.example/shop", "--config", str(file)]
    file.write_text("pool: {size: 3}")
    assert cli.main(argv) == 0
    assert not served.fallback
    if by == "--state":
        argv += ["--state", str(state)]
    else:
        monkeypatch.setenv(by, str(state))
    assert cli.main(argv) == 0
    assert served.configs[-1].state == str(state)
    kept = served.fallback.kept()
    file.write_text("pool: {size: no}")
    complaint(capsys, *argv, code=2)
    Store(str(state)).write("configuration", kept)
    with pytest.raises(ConfigError):
        served.fallback.again()
    served.again_fails = True
    assert cli.main(argv) == 0
    assert served.configs[-1].pool.size == 3
    assert "pool.size must be a whole number" in served.fallback.why


def test_run_takes_the_environment(served, monkeypatch):
    monkeypatch.setenv("UPSTREAM_HOST", "db")
    monkeypatch.setenv("PGAMBASSADOR_POOL__SIZE", "4")
    assert cli.main(["run"]) == 0
    assert served.configs[0].pool.size == 4


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "the following arguments are required: COMMAND."),
        (["rnu"], "invalid choice: 'rnu'"),
        (["run", "--foo", URL], "unrecognized arguments: --foo"),
        (["run", URL, URL], "unrecognized arguments: postgresql://app:***@db.example/shop"),
        (["run", "--pool-s", "5", URL], "unrecognized arguments: --pool-s"),
        (["run", "--config"], "argument --config: expected one argument."),
        (
            ["run", URL, "--pool-size", "many"],
            "--pool-size must be a whole number from 1 to 10000, not 'many'.",
        ),
        (["run", URL, "--pool-mode", "statement"], "--pool-mode must be one of session, transaction"),
        (["run", URL, "--listen", "0.0.0.0:5432"], "0.0.0.0:5432 can be reached from other machines"),
        (["run", URL, "--http", "x"], "http must be HOST:PORT, not 'x'."),
        (["run"], "There is no PostgreSQL to connect to."),
        (["check"], "There is no PostgreSQL to connect to."),
        (["run", "--config", "/nonexistent"], "/nonexistent cannot be read: No such file or directory."),
        (["run", f"http://a:{HIDDEN}@h/"], "clusters.main.url: "),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(capsys, served, argv, said):
    assert said in complaint(capsys, *argv, code=2)
    assert served.configs == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("The port is busy.", hint="Take another."), 2, "The port is busy. Take another."),
        (Unreachable("gone."), 1, "gone."),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied."),
        (
            OSError("odd"),
            1,
            "This should not have happened (OSError: odd). Set PGAMBASSADOR_DEBUG=1 to see where.",
        ),
        (
            ValueError(f"bad {URL}\nsecond line"),
            1,
            "(ValueError: bad postgresql://app:***@db.example/shop second line)",
        ),
        (KeyError(), 1, "This should not have happened (KeyError)."),
    ],
)
def test_failures_are_one_sentence(capsys, served, error, code, said):
    served.outcome = error
    assert said in complaint(capsys, "run", URL, code=code)


def test_the_traceback_is_there_for_those_who_ask(capsys, served, monkeypatch):
    monkeypatch.setenv("PGAMBASSADOR_DEBUG", "1")
    served.outcome = ValueError("odd")
    assert cli.main(["run", URL]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "PGAMBASSADOR_DEBUG" not in err


def test_an_interrupt_is_quiet(capsys, monkeypatch):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_load", interrupted)
    assert cli.main(["check", URL]) == 130
    assert capsys.readouterr() == ("", "")


def test_demo(monkeypatch):
    module: Any = ModuleType("pgambassador.demo")
    module.main = lambda: 5
    monkeypatch.setitem(sys.modules, "pgambassador.demo", module)
    assert cli.main(["demo"]) == 5


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["run", "--help"]])
def test_help_and_version(capsys, argv):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert f"pgambassador {__version__}\n" == out if argv == ["--version"] else "usage: pgambassador" in out


def test_the_version_needs_nothing_heavy():
    code = "import sys; from pgambassador import cli\ntry: cli.main(['--version'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'msgspec', 'yaml', 'uvloop', 'asyncio', 'pglast', 'ssl'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == f"pgambassador {__version__}\n[]\n"


def test_as_a_module():
    command = [sys.executable, "-m", "pgambassador", "run", "--nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "pgambassador: unrecognized arguments: --nonsense. See pgambassador --help.\n"
