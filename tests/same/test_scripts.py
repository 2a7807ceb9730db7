"""Whatever is said to PostgreSQL through pgambassador is answered as if it was said directly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.same.comparison import differences, in_time, readable
from tests.same.conversation import Script, Transcript, read, run
from tests.same.place import KINDS, Kind, Place

SCRIPTS = {file.stem: read(file.read_text()) for file in sorted(Path(__file__).parent.glob("scripts/*.txt"))}


def fits(script: Script, kind: Kind) -> bool:
    """In session mode every client has a server connection of its own."""
    if script.only not in ("", kind.mode):
        return False
    return kind.size >= (script.needs if kind.mode == "transaction" else len(script.clients))


@pytest.fixture(scope="package")
def said_directly() -> dict[str, Transcript]:
    """What PostgreSQL answers, by script; each is asked once."""
    return {}


def cases() -> Iterator[ParameterSet]:
    for name, script in SCRIPTS.items():
        for kind in filter(partial(fits, script), KINDS):
            why = script.differs.get(kind.mode)
            marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
            yield pytest.param(name, kind, id=f"{name}, {kind}", marks=marks)


@pytest.mark.parametrize(("name", "kind"), [*cases()])
def test_answers_are_the_same(
    name: str, kind: Kind, place: Place, said_directly: dict[str, Transcript]
) -> None:
    script = SCRIPTS[name]
    if name not in said_directly:
        said_directly[name] = run(script, place.port(None), place.database())
    direct = said_directly[name]
    assert in_time(direct), readable(direct)
    through = run(script, place.port(kind), place.database(), whole=kind.whole)
    difference = differences(direct, through, script.without)
    assert not difference, f"\n{difference}"
