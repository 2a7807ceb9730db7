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
from pgambassador.config import Cluster, Secret
from pgambassador.config.discovery import PatroniDiscovery
from pgambassador.errors import Unreachable
from pgambassador.net.discovery.lasting import Lasting
from pgambassador.net.discovery.source import Found
from pgambassador.net.memoirs import Memoir, Memoirs
from pgambassador.net.names import Names
from pgambassador.net.transport import Address, numeric
from pgambassador.process.keepsake import PACE, REFRESH, SOON, Keepsake
from pgambassador.process.store import Kept, Store
from pgambassador.protocol.settings import Settings

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
        clusters = {"main": Cluster(url=Secret(URL))}
        self.memoirs = Memoirs(clusters, {}, True, lambda: NOW)
        self.keepsake = Keepsake(
            Store(str(folder), lambda: NOW), self.names, [watch], fallback, self.memoirs, lambda: NOW
        )

    def of(self, database: str = "shop") -> Memoir:
        memoir = self.memoirs.of("main", database, "app")
        assert memoir is not None
        return memoir

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
        one.of().learn({"server_version": "18.0"})
        await one.keepsake.write()
        assert one.kept() == ["addresses", "parameters", "servers"]
        two = Process(state)
        await two.keepsake.recall()
        assert two.names.memory() == {"db.example": [["10.0.0.1"], NOW]}
        assert two.of().told(Settings.of({})) == {"server_version": "18.0"}
        assert two.lasting.before() == (Found(Endpoint("a.example")), Found(DB))
        assert two.keepsake.in_use == {
            "addresses": 0,
            "servers": 1,
            "parameters": 0,
            "configuration": 0,
        }

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
        for kind in ("addresses", "servers", "parameters"):
            Store(str(state), lambda: NOW).write(kind, Kept(NOW, body))
        await process.keepsake.recall()
        assert process.names.memory() == {} and process.lasting.memory() is None
        assert await process.names.resolve(DB)

    run(main)
    assert len(caplog.records) in (2, 3)
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
    assert len([each for each in told if "is ignored: not a directory" in each]) == 3
    assert len([each for each in told if "nothing can be kept" in each]) == 1 and len(told) == 4


def test_what_servers_have_said_is_written_at_longer_intervals(state: Path) -> None:
    """Clients can make something else of it with each login."""

    async def main() -> None:
        process = Process(state)

        async def at(now: float) -> int:
            process.keepsake.tick(now)
            await settled()
            return process.keepsake.writes

        begin = REFRESH + 10.0
        assert await at(begin) == 0
        process.of().learn({"TimeZone": "UTC"})
        assert await at(begin + SOON) == 1
        process.of().learn({"TimeZone": "CET"})
        assert await at(begin + 2 * SOON) == 1
        assert await at(begin + PACE) == 1
        assert await at(begin + PACE + SOON) == 2
        assert await at(begin + 2 * PACE + 2 * SOON) == 2
        process.of("other").learn({"TimeZone": "CET"})
        process.of("third").learn({"TimeZone": "CET"})
        assert await at(begin + 2 * PACE + 3 * SOON) == 3
        process.of().learn({"TimeZone": "UTC"})
        await process.keepsake.close()
        assert process.keepsake.writes == 4
        after = Process(state)
        await after.keepsake.recall()
        assert after.of().told(Settings.of({})) == {"TimeZone": "UTC"}
        # What is still true is written now and then.
        assert await at(begin + 2 * REFRESH) == 5

    run(main)


def test_nor_is_it_written_or_read_where_nobody_wants_it(state: Path) -> None:
    async def main() -> None:
        process = Process(state)
        process.of().learn({"TimeZone": "UTC"})
        process.memoirs.on = False
        await process.keepsake.write()
        assert process.kept() == []
        process.memoirs.on = True
        await process.keepsake.write()
        assert process.kept() == ["parameters"]
        after = Process(state)
        after.memoirs.on = False
        await after.keepsake.recall()
        after.memoirs.on = True
        assert after.of().told(Settings.of({})) is None

    run(main)


def test_who_shares_the_directory_keeps_what_others_know(state: Path) -> None:
    async def main() -> None:
        one, two = Process(state), Process(state)
        for process, database in ((one, "shop"), (two, "other"), (one, "shop"), (two, "third")):
            process.of(database).learn({"TimeZone": database})
            await process.keepsake.write()
        after = Process(state)
        await after.keepsake.recall()
        for database in ("shop", "other", "third"):
            assert after.of(database).told(Settings.of({})) == {"TimeZone": database}
        # A file that is of no use is written anew.
        (state / "parameters").write_text("x")
        one.of("shop").learn({"TimeZone": "new"})
        await one.keepsake.close()
        after = Process(state)
        await after.keepsake.recall()
        assert after.of("shop").told(Settings.of({})) == {"TimeZone": "new"}

    run(main)


def test_while_nothing_is_known_the_disk_is_not_asked_again_and_again(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of other clusters may be there, and large."""
    reads: list[str] = []
    read = Store.read

    def reading(store: Store, kind: str) -> Kept | None:
        reads.append(kind)
        return read(store, kind)

    monkeypatch.setattr(Store, "read", reading)

    async def main() -> None:
        process = Process(state)
        for tick in range(10):
            process.keepsake.tick(REFRESH + tick * SOON)
            await settled()
        assert reads == ["parameters"]
        process.of().learn({"TimeZone": "UTC"})
        process.keepsake.tick(REFRESH + 10 * SOON)
        await settled()
        assert process.kept() == ["parameters"]
        process.keepsake.tick(2 * REFRESH + 10 * SOON)
        await settled()
        assert reads == ["parameters"] * 3

    run(main)
