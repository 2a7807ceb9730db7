"""The shape of the package: imports point only downwards, each module has its tests, tasks have an owner."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "pgambassador"

# A part may import those before it, and itself. Parts in one line may not import one another.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("wire",),
    ("auth",),
    ("protocol",),
    ("cluster",),
    ("config", "embedded"),
    ("credentials",),
    ("pool",),
    ("routing",),
    ("observe", "admin"),
    ("net",),
    ("process",),
    ("check", "demo", "remote"),
    ("explain",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}

ASYNCIO = ("credentials/", "net/", "process/", "observe/http.py", "check.py", "explain.py")
PGLAST = ("protocol/ties.py", "routing/reading.py")

# Modules whose behaviour shows in the tests of another.
TESTED_BY = {
    "__main__": "test_cli",
    "aftermath": "test_wake",
    "branch": "test_branches",
    "builtin": "test_catalog",
    "conversation": "test_connector",
    "counting": "test_lane",
    "facts": "test_login",
    "failures": "test_backend",
    "families": "test_metrics",
    "answers": "test_backend",
    "der": "test_certificate",
    "desk": "test_console",
    "grammar": "test_decision",
    "link": "test_connector",
    "lobby": "test_session",
    "levers": "test_console",
    "numbers": "test_keeper",
    "outlet": "test_channel",
    "openings": "test_keeper",
    "parties": "test_backend",
    "partings": "test_keeper",
    "patience": "test_lease",
    "pausing": "test_console",
    "preparing": "test_session",
    "question": "test_catalog",
    "readings": "test_switching",
    "reading": "test_decision",
    "remote": "test_reload",
    "requests": "test_session",
    "riddles": "test_wake",
    "seat": "test_login",
    "sockets": "test_reactor",
    "standby": "test_watch",
    "stats": "test_metrics",
    "tally": "test_memory",
    "tolls": "test_asking",
    "stream": "test_visitor",
    "transport": "test_connector",
    "trials": "test_porter",
    "turns": "test_porter",
    "ways": "test_house",
}

MODULES = sorted(PACKAGE.rglob("*.py"))
COMPILED = sorted(PACKAGE.rglob("*.pyx"))


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py").removesuffix(".pyx")


def _imports(path: Path) -> Iterator[str]:
    """The modules that it imports, wherever in the file; of a .pyx its cimports too."""
    if path.suffix == ".pyx":
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["cimport"], ["from"]) and len(words) > 1:
                yield words[1]
        return
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=str(module), level=0, names=names):
                yield module
                if module == "pgambassador":
                    yield from (f"pgambassador.{each.name}" for each in names)
            case ast.ImportFrom(level=level) if level:
                raise AssertionError(f"{_name(path)}: a relative import does not show what it imports")


@pytest.mark.parametrize("path", [*MODULES, *COMPILED], ids=_name)
def test_imports_point_downwards(path: Path) -> None:
    part = _part(path)
    if part == "__init__":
        assert list(_imports(path)) == [], "the package itself imports nothing"
        return
    for module in _imports(path):
        top, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if top != "pgambassador" or other in ("", "__version__", part):
            continue
        assert RANK[other] < RANK[part], f"{_name(path)} imports {module}, which lies above or beside it"


@pytest.mark.parametrize("path", [*MODULES, *COMPILED], ids=_name)
def test_who_may_import_what(path: Path) -> None:
    for module in _imports(path):
        top = module.partition(".")[0]
        if top == "asyncio":
            assert _name(path).startswith(ASYNCIO), f"{_name(path)} imports asyncio"
        if top == "pglast":
            assert _name(path) in PGLAST, f"{_name(path)} imports pglast"


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_every_task_has_an_owner(path: Path) -> None:
    if _name(path) == "net/tasks.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("create_task", "ensure_future"), (
                f"{_name(path)}:{node.lineno}: use pgambassador.net.tasks.spawn"
            )
            # The interpreter waits for such threads at its end. A derivation is over in a moment.
            assert node.attr not in ("to_thread", "run_in_executor") or _name(path) == "net/derivation.py", (
                f"{_name(path)}:{node.lineno}: use pgambassador.credentials.blocking"
            )


def test_every_module_has_its_tests() -> None:
    tests = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for path in [*MODULES, *COMPILED]:
        if path.stem == "__init__":
            continue
        names = {f"test_{path.stem}", f"test_{path.parent.name}_{path.stem}", f"test_{path.parent.name}"}
        if not tests & {*names, TESTED_BY.get(path.stem, "")}:
            missing.append(_name(path))
    assert not missing, f"without a test file: {', '.join(missing)}"


@pytest.mark.parametrize("path", [*MODULES, *COMPILED], ids=_name)
def test_modules_stay_small(path: Path) -> None:
    """House rule: aim at 150 lines, stop at 400."""
    lines = len(path.read_text().splitlines())
    assert lines <= 400, f"{_name(path)} has {lines} lines"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        _name(path)
        for path in MODULES
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_every_compiled_module_is_built_and_typed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {source for each in project["tool"]["setuptools"]["ext-modules"] for source in each["sources"]}
    assert listed == {path.relative_to(ROOT).as_posix() for path in COMPILED}
    for path in COMPILED:
        assert path.with_suffix(".pyi").exists(), f"{_name(path)} has no .pyi"
