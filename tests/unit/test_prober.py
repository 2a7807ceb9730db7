"""Asking a server again and again, without one: how often it is looked whether it is time."""

from __future__ import annotations

import asyncio
import time

import uvloop

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint
from pgambassador.errors import Unreachable
from pgambassador.net.link import Link
from pgambassador.net.prober import Prober
from pgambassador.routing.pace import Pace

ASKED = 40


class Ear:
    """Counts how often a prober thinks of asking, until it has asked often enough."""

    def __init__(self) -> None:
        self.thoughts = self.answers = 0
        self.enough = asyncio.Event()

    def presses(self, prober: Prober) -> bool:
        self.thoughts += 1
        return False

    def heard(self, prober: Prober, report: Report, asked: float, heard: float) -> None:
        raise AssertionError

    def silent(self, prober: Prober) -> None:
        self.answers += 1
        if self.answers == ASKED:
            self.enough.set()


async def _nobody(endpoint: Endpoint) -> Link:
    raise Unreachable("nobody is there")


def test_it_is_not_looked_at_again_and_again_shortly_before_it_is_time() -> None:
    """The event loop counts in whole milliseconds: what is due sooner is due at once to it."""

    async def ask() -> Ear:
        ear = Ear()
        prober = Prober(Endpoint("a"), _nobody, ear, Pace(0.0044), 1.0, time.monotonic)
        prober.start()
        try:
            async with asyncio.timeout(20):
                await ear.enough.wait()
        finally:
            prober.stop()
        return ear

    ear = uvloop.run(ask())
    assert ear.thoughts <= 4 * ASKED
