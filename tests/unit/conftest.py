"""Transcripts run twice: all at once, and byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pgambassador.credentials import blocking
from tests.playbook import MakePlay, Playbook


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be asked in a thread is asked at once."""

    async def run(question: Callable[[], Any], whom: str) -> Any:
        return question()

    monkeypatch.setattr(blocking, "run", run)


@pytest.fixture(params=[0, 1], ids=["whole", "bytewise"])
def plays(request: pytest.FixtureRequest) -> Iterator[MakePlay]:
    """Makes plays with other options than the usual ones."""
    made: list[Playbook] = []

    def make(**options: Any) -> Playbook:
        made.append(Playbook(piece=request.param, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def play(plays: MakePlay) -> Playbook:
    """One client at a time: a lane for one server connection."""
    return plays()
