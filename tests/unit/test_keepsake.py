"""What is written for the next process and when, and that nothing about the disk stops this one."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgambassador.cluster.upstream import Endpoint, parse_url
from pgambassador.config.discovery import PatroniDiscovery
from pgambassador.errors import Unreachable
from pgambassador.net.discovery.lasting import Lasting
from pgambassador.net.discovery.source import Found
from pgambassador.net.names import Names
from pgambassador.net.transport import Address, numeric
from pgambassador.process.keepsake import REFRESH, SOON, Keepsake
from pgambassador.process.store import Kept, Store

NOW = 1_700_000_000.0
DB = Endpoint("db.example")
URL = "postgresql://app:hunter2@db.example/shop"


class Process:
    """One, with its clock standing still: names that are found, and a cluster whose servers are."""

    every = 5.0
    sure = True

    def __init__(self, folder: Path, fallback: Any = None) -> None:
        self.folder = folder
        self.addresses = ["10.0.0.1"]
        self.servers: tuple[Found, ...] = ()
        self.names = Names(self.ask, lambda: NOW)
        options = PatroniDiscovery(urls=("http://a:8008",))
        self.lasting = Lasting(self, parse_url(URL), options, lambda: NOW)
        watch: Any = SimpleNamespace(name="main", source=self.lasting)
        self.keepsake = Keepsake(Store(str(folder), lambda: NOW), self.names, [watch], fallback, lambda: NOW)

    async def ask(self, endpoint: Endpoint) -> list[Address]:
        return [numeric(endpoint, text) for text in self.addresses]

    async def find(self, reports: Any) -> tuple[Found, ...]:
        if not self.servers:
            raise Unreachable("nobody answers")
        return self.servers

    def kept(self) -> list[str]:
        return sorted(each.name for each in self.folder.iterdir()) if self.folder.exists() else []


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


@pytest.fixture
def state(tmp_path: Path, inline: None) -> Path:
    return tmp_path / "state"


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_from_one_process_to_the_next(state: Path) -> None:
    async def main() -> None:
        one = Process(state)
        await one.keepsake.recall()
        one.servers = (Found(Endpoint("a.example")),)
        await one.names.resolve(DB)
        await one.lasting.find({})
        await one.keepsake.write()
        assert one.kept() == ["addresses", "servers"]
        two = Process(state)
        await two.keepsake.recall()
        assert two.names.memory() == {"db.example": [["10.0.0.1"], NOW]}
        assert two.lasting.before() == (Found(Endpoint("a.example")), Found(DB))
        assert two.keepsake.in_use == {"addresses": 0, "servers": 1, "configuration": 0}

    run(main)
    assert "hunter2" not in "".join(each.read_text() for each in state.iterdir())


def test_what_has_changed_is_written_soon_and_what_has_not_now_and_then(state: Path) -> None:
    async def main() -> None:
        process = Process(state)
        await process.keepsake.recall()

        async def at(now: float) -> int:
            process.keepsake.tick(now)
            await settled()
            return process.keepsake.writes

        begin = REFRESH + 10.0
        assert await at(begin) == 0 and not process.kept()
        await process.names.resolve(DB)
        assert await at(begin + SOON / 2) == 0
        assert await at(begin + SOON) == 1
        await process.names.resolve(DB)
        assert await at(begin + 2 * SOON) == 1
        process.addresses = ["10.0.0.2"]
        await process.names.resolve(DB)
        assert await at(begin + 3 * SOON) == 2
        assert await at(begin + REFRESH) == 3
        assert await at(begin + REFRESH + SOON) == 3

    run(main)


def test_the_configuration_too(state: Path) -> None:
    text = ["a"]
    fallback = SimpleNamespace(kept=lambda: Kept(NOW, {"file": text[0]}), why="because")

    async def main() -> None:
        process = Process(state, fallback)
        await process.keepsake.write()
        await process.keepsake.write()
        assert process.keepsake.writes == 1 and process.kept() == ["configuration"]
        text[0] = "b"
        await process.keepsake.close()
        assert process.keepsake.writes == 2
        assert process.keepsake.in_use["configuration"] == 1

    run(main)


@pytest.mark.parametrize("body", [1, None, [], ["x"], {"main": 1}, {"main": {"of": 1}}, {"x": [["y"], 1]}])
def test_what_is_not_understood_is_ignored(state: Path, body: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        process = Process(state)
        for kind in ("addresses", "servers"):
            Store(str(state), lambda: NOW).write(kind, Kept(NOW, body))
        await process.keepsake.recall()
        assert process.names.memory() == {} and process.lasting.memory() is None
        assert await process.names.resolve(DB)

    run(main)
    assert len(caplog.records) in (1, 2)
    assert all("is ignored: it is not understood" in record.message for record in caplog.records)


def test_who_shares_the_directory_is_waited_for(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    state.mkdir(mode=0o700)
    other = os.open(state, os.O_RDONLY)

    async def main() -> None:
        process = Process(state)
        await process.keepsake.recall()
        await process.names.resolve(DB)
        fcntl.flock(other, fcntl.LOCK_EX)
        await process.keepsake.write()
        assert (process.keepsake.writes, process.keepsake.failures) == (0, 0)
        fcntl.flock(other, fcntl.LOCK_UN)
        await process.keepsake.write()
        assert (process.keepsake.writes, process.keepsake.failures) == (1, 0)

    try:
        run(main)
    finally:
        os.close(other)
    assert not caplog.records


def test_a_disk_that_does_not_work_is_said_once(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    state.write_text("in the way")

    async def main() -> None:
        process = Process(state)
        with caplog.at_level(logging.WARNING):
            await process.keepsake.recall()
            await process.names.resolve(DB)
            for number in range(3):
                process.addresses = [f"10.0.1.{number}"]
                await process.names.resolve(DB)
                await process.keepsake.write()
        assert (process.keepsake.writes, process.keepsake.failures) == (0, 3)
        state.rename(state.with_name("elsewhere"))  # noqa: ASYNC240  a test has time
        process.addresses = ["10.0.0.9"]
        await process.names.resolve(DB)
        await process.keepsake.write()
        assert process.keepsake.writes == 1
        assert json.loads((state / "addresses").read_text().partition("\n")[2])["at"] == NOW

    run(main)
    told = [record.message for record in caplog.records]
    assert len([each for each in told if "is ignored: not a directory" in each]) == 2
    assert len([each for each in told if "nothing can be kept" in each]) == 1 and len(told) == 3
