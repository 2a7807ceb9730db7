"""Addresses of names that nobody tells any more: for how long, and what whoever waits notices of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.cluster.upstream import Endpoint
from pgambassador.errors import Unreachable
from pgambassador.net import names as module
from pgambassador.net.names import AGE, GONE, MOST_NAMES, Names
from pgambassador.net.tasks import spawn
from pgambassador.net.transport import Address, Unresolved, numeric

DB = Endpoint("db.example", 5433)
BUSY = Unresolved("nobody knows", hint="Wait.")
NONE = Unresolved("there is none", gone=True)


class Resolver:
    """What it says to every question, and how long it takes: `says` is raised if it is an error."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0
        self.says: list[str] | Unresolved = ["10.0.0.1", "fd00::1"]
        self.asked: list[str] = []
        self.silent: asyncio.Event | None = None
        self.names = Names(self.ask, lambda: self.now)
        self.names.keeping = True

    async def ask(self, endpoint: Endpoint) -> list[Address]:
        self.asked.append(endpoint.host)
        if self.silent is not None:
            await self.silent.wait()
        if isinstance(self.says, Unresolved):
            raise self.says
        return [numeric(endpoint, text) for text in self.says]

    async def found(self, endpoint: Endpoint = DB) -> list[str]:
        addresses = await self.names.resolve(endpoint)
        assert all(each.endpoint == endpoint and each.sockaddr[1] == endpoint.port for each in addresses)
        return [str(each.sockaddr[0]) for each in addresses]


async def settled() -> None:
    """All that can go on has done so."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(work: Callable[[Resolver], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work(Resolver()))


def test_what_fails_is_as_it_was_before() -> None:
    async def main(resolver: Resolver) -> None:
        assert await resolver.found() == ["10.0.0.1", "fd00::1"]
        for failure in (BUSY, NONE):
            resolver.says = failure
            assert await resolver.found() == ["10.0.0.1", "fd00::1"]
            assert await resolver.found(Endpoint("DB.example", 7)) == ["10.0.0.1", "fd00::1"]
        assert resolver.names.in_use == 1
        resolver.says = ["10.0.0.2"]
        await resolver.found()
        assert await resolver.found() == ["10.0.0.2"]
        assert resolver.names.in_use == 0

    run(main)


def test_without_a_memory_every_failure_counts() -> None:
    async def main(resolver: Resolver) -> None:
        resolver.names.keeping = False
        await resolver.found()
        resolver.says = BUSY
        with pytest.raises(Unreachable, match="nobody knows"):
            await resolver.found()
        assert resolver.names.memory() == {}

    run(main)


def test_what_was_never_known_fails() -> None:
    async def main(resolver: Resolver) -> None:
        resolver.says = NONE
        for _ in range(2):
            with pytest.raises(Unresolved, match="there is none") as caught:
                await resolver.found()
            assert caught.value.gone
        assert repr(resolver.names) == "<Names 0 known, 0 asked, 0 failing>"

    run(main)


@pytest.mark.parametrize(("failure", "most"), [(BUSY, AGE), (NONE, GONE)])
def test_not_for_ever(failure: Unresolved, most: float, caplog: pytest.LogCaptureFixture) -> None:
    async def main(resolver: Resolver) -> None:
        await resolver.found()
        resolver.says = failure
        resolver.now += most
        assert await resolver.found()
        resolver.now += 1
        with pytest.raises(Unresolved):
            await resolver.found()
        assert resolver.names.memory() == {} and resolver.names.in_use == 0
        resolver.says = BUSY  # what was given up does not come back by another failure
        with pytest.raises(Unresolved):
            await resolver.found()

    with caplog.at_level(logging.INFO):
        run(main)
    told = [record.levelname for record in caplog.records]
    assert told == ["WARNING", "ERROR"]
    assert "db.example" in caplog.text and "2023-11-14" in caplog.text


def test_a_failing_name_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)

    async def main(resolver: Resolver) -> None:
        await resolver.found()
        resolver.silent = asyncio.Event()
        before = len(resolver.asked)
        for _ in range(5):
            assert await resolver.found() == ["10.0.0.1", "fd00::1"]
        assert len(resolver.asked) == before + 1, "one question at a time"
        resolver.says = ["10.0.0.9"]
        resolver.silent.set()
        resolver.silent = None
        await settled()
        assert await resolver.found() == ["10.0.0.9"]

    run(main)


def test_who_gives_up_does_not_end_the_question() -> None:
    async def main(resolver: Resolver) -> None:
        resolver.silent = asyncio.Event()
        impatient = spawn(resolver.found(), "a connection")
        patient = spawn(resolver.found(), "a connection")
        await settled()
        impatient.cancel()
        resolver.silent.set()
        assert await patient == ["10.0.0.1", "fd00::1"]
        assert resolver.asked == ["db.example"]

    run(main)


def test_what_needs_no_look_up_is_not_remembered() -> None:
    async def main(resolver: Resolver) -> None:
        resolver.says = ["10.0.0.1"]
        for endpoint in (Endpoint("10.0.0.1"), Endpoint("fd00::1"), Endpoint("db.example", 1, "10.0.0.1")):
            await resolver.found(endpoint)
        assert resolver.names.memory() == {}

    run(main)


def test_an_address_of_one_link_is_not_remembered() -> None:
    async def main(resolver: Resolver) -> None:
        local = Address(DB, socket.AF_INET6, ("fe80::1", DB.port, 0, 3))

        async def ask(endpoint: Endpoint) -> list[Address]:
            return [local]

        names = Names(ask)
        names.keeping = True
        assert await names.resolve(DB) == [local]
        assert names.memory() == {}

    run(main)


def test_the_next_process_knows() -> None:
    async def main(resolver: Resolver) -> None:
        await resolver.found()
        assert resolver.names.changes == 1
        other = Resolver()
        other.says = BUSY
        other.now += AGE
        other.names.recall(resolver.names.memory())
        assert await other.found() == ["10.0.0.1", "fd00::1"]
        assert other.names.memory() == resolver.names.memory(), "its age is that of the answer"
        late = Resolver()
        late.now += AGE + 1
        late.names.recall(resolver.names.memory())
        assert late.names.memory() == {}

    run(main)


def test_what_is_of_use_is_kept_young(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(resolver: Resolver) -> None:
        kept = {"db.example": [["10.0.0.1"], resolver.now - 60], "old.example": [["10.0.0.2"], resolver.now]}
        resolver.names.recall(kept)
        resolver.names.tick()
        await settled()
        assert resolver.asked == [], "nobody has a use for them yet"
        await resolver.found()
        resolver.now += 60
        resolver.names.tick()
        await settled()
        assert resolver.asked == ["db.example"], "not before its time"
        monkeypatch.setattr(module, "ANEW", 0.0)
        resolver.names.tick()
        resolver.names.tick()
        await settled()
        assert resolver.asked == ["db.example", "db.example"]
        assert resolver.names.known["db.example"].at == resolver.now

    run(main)


def test_a_name_that_is_gone_is_forgotten_although_nobody_asks() -> None:
    async def main(resolver: Resolver) -> None:
        await resolver.found()
        resolver.says = NONE
        await resolver.found()
        resolver.now += GONE + 1
        resolver.names.tick()
        assert resolver.names.memory() == {}
        assert repr(resolver.names) == "<Names 0 known, 0 asked, 0 failing>"

    run(main)


def test_what_is_given_up_while_somebody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 1000.0)

    async def main(resolver: Resolver) -> None:
        await resolver.found()
        resolver.silent = asyncio.Event()
        waiting = spawn(resolver.found(), "a connection")
        await settled()
        resolver.names._forget("db.example")
        resolver.says = NONE
        resolver.silent.set()
        with pytest.raises(Unresolved, match="there is none"):
            await waiting
        assert repr(resolver.names) == "<Names 0 known, 0 asked, 0 failing>"

    run(main)


def test_not_too_many() -> None:
    async def main(resolver: Resolver) -> None:
        for number in range(MOST_NAMES + 10):
            await resolver.found(Endpoint(f"db{number}"))
        assert len(resolver.names.memory()) == MOST_NAMES
        assert "db0" not in resolver.names.known
        resolver.says = [f"10.0.0.{number}" for number in range(200)]
        assert len(await resolver.found()) == 200
        assert len(resolver.names.known["db.example"].addresses) == module.MOST_ADDRESSES

    run(main)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(body=JSON | st.dictionaries(st.text(), st.tuples(st.lists(st.text()), JSON)))
def test_anything_else_is_refused(body: Any) -> None:
    resolver = Resolver()
    try:
        resolver.names.recall(body)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        return
    assert resolver.names.memory() == {} or isinstance(body, dict)
