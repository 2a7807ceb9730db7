"""One server under watch: a connection of its own, over which it is asked what it is and how far it has got.

1. A question has to be answered within `patience`, logging in counted. What fails costs the connection and is
   told; the next attempt is a matter of pace. Nothing that goes wrong here ends the watching.
   A connection that had been resting may have been ended by anybody: then a new one is tried before that.
   Nor does it count if it was this process that stood still.
2. The time that counts for an answer is read before its question is sent.
3. A connection is closed by the task that uses it, and by nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from pgambassador.cluster.probe import Probe, Report, abilities
from pgambassador.cluster.upstream import Endpoint
from pgambassador.errors import AmbassadorError
from pgambassador.net.conversation import Conversation, HungUp
from pgambassador.net.link import Link
from pgambassador.net.tasks import spawn
from pgambassador.net.transport import Transport
from pgambassador.routing.pace import Pace
from pgambassador.wire import build

log = logging.getLogger(__name__)

STANDSTILL = 0.5
"""A timeout that is noticed so much too late says nothing about the server."""

TICK = 0.001
"""The event loop's clock is no finer: what is due sooner would be looked at again and again until then."""

Open = Callable[[Endpoint], Awaitable[Link]]


class Listener(Protocol):
    """Who is told; `presses`: whether somebody waits for this server's answer."""

    def heard(self, prober: Prober, report: Report, asked: float, heard: float) -> None: ...
    def silent(self, prober: Prober) -> None: ...
    def presses(self, prober: Prober) -> bool: ...


class Prober:
    """`report` is the last answer; `trouble` why there is none now, as a part of a sentence. `probes` and
    `failures` count, `seconds` is how long the last answer took."""

    def __init__(
        self,
        endpoint: Endpoint,
        open: Open,
        listener: Listener,
        pace: Pace,
        patience: float,
        clock: Callable[[], float],
    ) -> None:
        self.endpoint = endpoint
        self.report: Report | None = None
        self.trouble = "it has not answered yet"
        self.probes = 0
        self.failures = 0
        self.seconds = 0.0
        self.pace = pace
        self._open = open
        self._listener = listener
        self._patience = patience
        self._clock = clock
        self._woken = asyncio.Event()
        self._link: Link | None = None
        self._conversation: Conversation | None = None
        self._probe: Probe | None = None
        self._task: asyncio.Task[None] | None = None
        self._doubted = False
        self._rested = False

    @property
    def answering(self) -> bool:
        return self.report is not None and not self.trouble

    def start(self) -> None:
        self._task = spawn(self._run(), f"watching {self.endpoint}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def wake(self) -> None:
        """See anew when to ask."""
        self._woken.set()

    def at_once(self, *, anew: bool) -> None:
        """Ask now; `anew`: over a new connection, and what comes over this one counts no more."""
        self._doubted = self._doubted or anew
        self.pace.sent = float("-inf")
        self._woken.set()

    def _hang_up(self) -> None:
        link, self._link, self._conversation, self._probe = self._link, None, None, None
        if link is not None:
            with contextlib.suppress(OSError, ssl.SSLError):
                data = build.TERMINATE
                if link.tls is not None and link.outgoing is not None:
                    link.tls.write(data)
                    data = link.outgoing.read()
                link.sock.send(data)
            link.close()

    async def _run(self) -> None:
        try:
            await self._watch()
        finally:
            self._hang_up()

    async def _watch(self) -> None:
        while True:
            pressing = self._listener.presses(self)
            left = self.pace.due(pressing=pressing) - self._clock()
            if left > 0:
                self._woken.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(left, TICK)):
                        await self._woken.wait()
                continue
            self.pace.asks(self._clock(), pressing=pressing)
            try:
                await self._once()
            except Exception:  # a mistake of those who are told
                log.exception("watching %s failed", self.endpoint)

    async def _once(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(self._patience):
                try:
                    report, asked, heard = await self._ask()
                except (AmbassadorError, OSError, ssl.SSLError):
                    if not self._rested:
                        raise
                    self._hang_up()
                    report, asked, heard = await self._ask()
        except TimeoutError:
            if self._clock() - began > self._patience + STANDSTILL:
                self._hang_up()
                self.pace.sent = float("-inf")
                return
            self._fail(f"it has not answered within {self._patience:g} s")
        except HungUp:
            self._fail("it has closed the connection")
        except AmbassadorError as error:
            self._fail(error.message)
        except (OSError, ssl.SSLError):
            self._fail("the connection broke")
        except Exception:
            log.exception("watching %s failed", self.endpoint)
            self._fail("it could not be asked")
        else:
            if self._doubted:
                return  # it may be the answer of another server than it should be
            self.probes += 1
            self.seconds = heard - asked
            self.report, self.trouble = report, ""
            self.pace.answered()
            self._listener.heard(self, report, asked, heard)

    async def _ask(self) -> tuple[Report, float, float]:
        if self._doubted:
            self._doubted = False
            self._hang_up()
        self._rested = self._conversation is not None
        if self._conversation is None or self._probe is None:
            self._link = link = await self._open(self.endpoint)
            transport = Transport(link.sock, link.peer, link.tls, link.incoming, link.outgoing)
            self._conversation = Conversation(transport, link.leftover)
            self._probe = Probe(await self._conversation.hold(abilities()))
        asked = self._clock()
        report = await self._conversation.hold(self._probe.report())
        heard = self._clock()
        old = self.report
        if old is not None and old.standby and report.standby and old.life == report.life:
            # What was proven once stays so: a standby never returns to an older timeline.
            report = replace(report, timeline=max(report.timeline, old.timeline))
        return report, asked, heard

    def _fail(self, why: str) -> None:
        self._hang_up()
        self.failures += 1
        self.trouble = why
        self.pace.failed()
        self._listener.silent(self)

    def __repr__(self) -> str:
        return f"<Prober {self.endpoint} {self.trouble or 'answers'} probes={self.probes}>"
