"""What SIGHUP does: all that is in files is read again, and what may change while clients work is changed.

1. All that can fail comes before anything changes; if it fails, everything stays as it was, and the log says
   why.
2. Reading is done in threads: a file may be on a network, and everybody's statements go over the event loop.
3. Signals that come meanwhile are one more reading behind this one. Who asks hears of one that has begun
   after that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from pgambassador.config import Config, compare, warnings
from pgambassador.config import QueryLog as Options
from pgambassador.credentials import blocking
from pgambassador.errors import AmbassadorError
from pgambassador.net import tls
from pgambassador.net.directory import listed
from pgambassador.net.gate import Gate
from pgambassador.net.house import House
from pgambassador.net.levers import Outcome
from pgambassador.net.tasks import spawn
from pgambassador.observe import log as logs
from pgambassador.observe.querylog import QueryLog

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = 30.0
HINT = "Check the file systems that they are on."


class Reload:
    """`again` reads the configuration from where it came at the start; None: from nowhere. `accepted` is
    called when what it gave is in use."""

    def __init__(
        self,
        house: House,
        query_log: QueryLog,
        again: Callable[[], Config] | None,
        accepted: Callable[[], None] = lambda: None,
    ) -> None:
        self._house = house
        self._query_log = query_log
        self._again = again
        self._accepted = accepted
        self._busy = False
        self._asked = self._done = 0

    def ask(self) -> Callable[[], Outcome | None]:
        """Read everything again. What it gives tells how that ended, None until it has."""
        number = self._asked + 1
        spawn(self.run(), "reload")
        return lambda: self._house.reloaded if self._done >= number else None

    async def run(self) -> None:
        """Once for all who ask while it is under way, and once more for them."""
        self._asked += 1
        if self._busy:
            return
        self._busy = True
        try:
            while self._done < self._asked and not self._house.draining:
                number = self._asked
                try:
                    self._house.reloaded = await self._once()
                except Exception:
                    log.exception("the reload has failed")
                    broken = AmbassadorError(
                        "internal error of pgambassador", hint="Report what its log says."
                    )
                    self._house.reloaded = Outcome(time.time(), broken)
                self._done = number
        finally:
            self._busy = False

    async def _once(self) -> Outcome:
        house = self._house
        try:
            new = house.config if self._again is None else await _read(self._again)
            change = compare(house.config, new)
            change.check()
            users = await _read(partial(listed, change.config.auth))
            gate = Gate(change.config.tls)
            if gate.offers:
                gate.armour()
        except AmbassadorError as error:
            log.error("the configuration stays as it was: %s", error.sentence())
            return Outcome(time.time(), error)
        house.reload(change.config, users, gate)
        self._accepted()
        self._query_log.configure(**what_to_log(change.config.query_log))
        logs.set_level(change.config.log.level)
        for name, cluster in change.config.clusters.items():
            try:
                tls.reread(cluster.upstream())
            except AmbassadorError as error:
                log.warning("cluster %s: %s", name, error.sentence())
        for keyring in house.ways.keyrings.values():
            keyring.renew()
        for each in warnings(change.config) if change.live else ():
            log.warning(each)
        applied = f"; applied: {', '.join(change.live)}" if change.live else ""
        log.info("configuration, certificates, users and credentials are read again%s", applied)
        if change.restart:
            log.warning("only a restart will apply the changes of %s", ", ".join(change.restart))
        return Outcome(time.time(), None, tuple(change.live), tuple(change.restart))

    def __repr__(self) -> str:
        return f"<Reload{' under way' if self._busy else ''}>"


def what_to_log(options: Options) -> dict[str, Any]:
    """As QueryLog takes it."""
    return {name: getattr(options, name) for name in ("slow", "sample", "errors", "literals")}


async def _read(question: Callable[[], T]) -> T:
    return await blocking.ask(question, seconds=PATIENCE, whom="the configuration's files", hint=HINT)
