"""What is done a few times a second goes on, whatever of it fails."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pgambassador.config import Cluster, Config, Secret
from pgambassador.net.tasks import spawn
from pgambassador.process import service as module
from pgambassador.process.rounds import APART, Rounds
from pgambassador.process.service import Service


class Broken:
    def __init__(self) -> None:
        self.count = 0

    def tick(self, *_: object) -> None:
        self.count += 1
        raise ValueError("odd")

    async def wait(self) -> None:
        self.tick()


def test_it_is_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    rounds, broken = Rounds(lambda: now), Broken()
    rounds.do(broken.tick)
    rounds.do(broken.tick, 7)
    asyncio.run(rounds.wait_for(broken.wait))
    assert caplog.messages == [
        "Broken.tick failed, and is tried again",
        "Broken.wait failed, and is tried again",
    ]
    now += APART
    rounds.do(broken.tick)
    assert len(caplog.messages) == broken.count - 1 == 3
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_the_others_are_served(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A keyring's renewals, although a limit and the porter fail before and after it."""
    monkeypatch.setattr(module, "TICK", 0.001)
    renewed = 0

    async def main() -> None:
        nonlocal renewed
        service = Service(Config(clusters={"main": Cluster(url=Secret("postgresql://app@db.example/shop"))}))
        broken, done = Broken(), asyncio.Event()
        monkeypatch.setattr(service, "_remind", broken.tick)
        monkeypatch.setattr(service.house.limits, "tick", broken.tick)
        monkeypatch.setattr(service.house.porter, "tick", broken.wait)

        def tick() -> None:
            nonlocal renewed
            renewed += 1
            if renewed == 3:
                done.set()

        monkeypatch.setattr(service.house.ways.keyrings["main"], "tick", tick)
        task = spawn(service._tick(), "tick")
        async with asyncio.timeout(10):
            await done.wait()
        task.cancel()
        assert broken.count > 3

    asyncio.run(main())
    assert renewed >= 3
    assert "Broken.tick failed, and is tried again" in caplog.messages
