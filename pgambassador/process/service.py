"""One process of pgambassador: builds everything, listens, and ends in order.

1. Nothing is served before every address is bound; one that cannot be bound ends the start.
2. TERM: accept nobody, let open work finish for `drain_timeout`, then close. INT: the same, but only for
   `FAST_DRAIN`. A second signal ends at once.
3. HUP: read everything again; see `reload`.
4. /readyz says no as soon as draining begins, and while no cluster can be used; while some can, it says which
   ones cannot. It also says if the configuration is not the one in the file.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import time
from collections.abc import Callable
from functools import partial

from pgambassador import __version__
from pgambassador.auth.expiry import Reminder, day
from pgambassador.config import Config, warnings
from pgambassador.errors import AmbassadorError, ConfigError
from pgambassador.net import tls
from pgambassador.net.channel import lingering, sweep
from pgambassador.net.directory import listed
from pgambassador.net.gate import Gate
from pgambassador.net.hearsay import Hearsay
from pgambassador.net.house import House
from pgambassador.net.keeper import Keeper
from pgambassador.net.listener import Listener, bind
from pgambassador.net.login import welcome
from pgambassador.net.names import NAMES
from pgambassador.net.reception import Reception
from pgambassador.net.redis import RedisStore
from pgambassador.net.tasks import spawn
from pgambassador.observe import log as logs
from pgambassador.observe.http import HttpServer
from pgambassador.observe.metrics import Metrics
from pgambassador.observe.querylog import QueryLog
from pgambassador.observe.sink import Sink
from pgambassador.process.fallback import Fallback
from pgambassador.process.keepsake import Keepsake
from pgambassador.process.reload import Reload, what_to_log
from pgambassador.process.rounds import Rounds
from pgambassador.process.store import Store

log = logging.getLogger("pgambassador")

TICK = 0.25
LOOK = 600.0  # how often files of certificates are looked at, if nobody else has a use for them
FAST_DRAIN = 1.0
CANCEL_PATIENCE = 5.0


class Service:
    """`run` returns the exit code. `again` reads the configuration once more; `fallback` knows whether it is
    the one in the file."""

    def __init__(
        self,
        config: Config,
        again: Callable[[], Config] | None = None,
        fallback: Fallback | None = None,
    ) -> None:
        self.config = config
        self.query_log = _query_log(config)
        self.house = House(config, listed(config.auth), self.query_log)
        self.listeners: list[Listener] = []
        self._reception = Reception(partial(welcome, self.house))
        self.http: HttpServer | None = None
        self.started = False
        self._reminder = Reminder()
        self._fallback = fallback
        self.keepsake = self._keepsake(config)
        self.hearsay = self._hearsay(config)
        accepted = fallback.accepted if fallback is not None else lambda: None
        self._reload = Reload(self.house, self.query_log, again, accepted)
        self.house.reread = self._reload.ask
        self._stop = asyncio.Event()
        self._signals = 0
        self._empty = asyncio.Event()

    def _keepsake(self, config: Config) -> Keepsake | None:
        if config.state is None:
            return None
        return Keepsake(Store(config.state), NAMES, self.house.watches(), self._fallback, self.house.memoirs)

    def _hearsay(self, config: Config) -> Hearsay | None:
        url = config.breaker.store
        return None if url is None else Hearsay(RedisStore(url), self.house.approaches)

    async def run(self) -> int:
        self._check_upstreams()
        self._check_gate()
        loop = asyncio.get_running_loop()
        if self._caveat:
            log.error("%s", self._caveat)
        if self._fallback is not None and self._fallback.secrets:
            log.info(
                "the configuration is not kept for a start without it: there are secrets in the file (%s)",
                ", ".join(self._fallback.secrets),
            )
        if self.keepsake is not None:
            await self.keepsake.recall()
        try:
            self._bind()
            await self._serve_http()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal, number)
            if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
                loop.add_signal_handler(signal.SIGHUP, lambda: spawn(self._reload.run(), "reload"))
            self.query_log.start()
            for listener in self.listeners:
                listener.start()
            self.started = True
            self.house.memory.start()
            where = ", ".join(str(listener.address) for listener in self.listeners)
            log.info("pgambassador %s listens on %s", __version__, where)
            ticking = spawn(self._tick(), "tick")
            if self.hearsay is not None:
                self.hearsay.start()
            self._try_upstreams()
            await self._stop.wait()
            ticking.cancel()
            return 0
        finally:
            await self._close()

    def _check_upstreams(self) -> None:
        """What is wrong with a URL or a CA file is said now, not at the first client."""
        for name, cluster in self.config.clusters.items():
            upstream = cluster.upstream()
            tls.context(upstream)
            if upstream.weakness:
                log.warning("cluster %s: %s", name, upstream.weakness)
        for each in warnings(self.config):
            log.warning(each)

    def _check_gate(self) -> None:
        gate = self.house.gate
        if not gate.offers:
            return
        ours = gate.armour().ours
        if ours is not None and ours.not_before > time.time():
            log.warning(
                "the certificate in the file of tls.certificate is not valid before %s", day(ours.not_before)
            )

    def _remind(self) -> None:
        for sentence in self._reminder.due(self.house.endings(), time.time()):
            log.warning("%s", sentence)

    def _bind(self) -> None:
        for address in self.config.addresses():
            for sock in bind(address):
                listener = Listener(
                    sock, address, self._reception.take, self.house.sockets, self.house.herald
                )
                self.listeners.append(listener)

    async def _serve_http(self) -> None:
        address = self.config.http_address()
        if address is None:
            return
        metrics = Metrics(self.house, self.query_log, keepsake=self.keepsake, hearsay=self.hearsay)
        self.http = HttpServer(metrics.render, ready=self.ready, started=lambda: self.started)
        try:
            await self.http.start(address.host, address.port)
        except OSError as error:
            raise ConfigError(
                f"cannot serve HTTP on {address}: {error.strerror or error}.",
                hint="Choose another address with --http, or --http off.",
            ) from None

    def _try_upstreams(self) -> None:
        """One connection to each cluster whose URL says as whom and to what, so that trouble shows early."""
        for name, cluster in self.config.clusters.items():
            upstream = cluster.upstream()
            if upstream.user is None or upstream.database is None:
                continue
            served = [
                database
                for database in (*self.config.databases, upstream.database)
                if (target := self.config.target(database)) is not None
                and target.cluster == name
                and target.database == upstream.database
            ]
            if served:
                keeper = self.house.keeper(served[0], upstream.user)
                keeper.essential = True
                spawn(self._try(keeper), "first connection")

    async def _try(self, keeper: Keeper) -> None:
        try:
            await keeper.greeting.reached()
        except AmbassadorError as error:
            log.error("cluster %s cannot be used yet: %s", keeper.cluster, error.sentence())

    @property
    def _caveat(self) -> str:
        return self._fallback.why if self._fallback is not None else ""

    def ready(self) -> tuple[bool, str]:
        """Whether clients should be sent here, and why (not)."""
        ready, why = self._ready()
        return ready, f"{why}; {self._caveat}" if self._caveat else why

    def _ready(self) -> tuple[bool, str]:
        if not self.started:
            return False, "starting"
        if self.house.draining:
            return False, "shutting down"
        trouble = self.house.trouble()
        notes = [*filter(None, (self.house.tolls.trouble, self.house.pausing.note()))]
        if not trouble:
            return True, "; ".join(("ready", *notes))
        why = "; ".join((*trouble.values(), *notes))
        return (False, why) if len(trouble) == len(self.config.clusters) else (True, f"ready, except {why}")

    async def _tick(self) -> None:
        looked = -LOOK
        house, rounds = self.house, Rounds()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            if now - looked >= LOOK:
                looked = now
                rounds.do(self._remind)
            for keeper in list(house.every()):
                rounds.do(keeper.tick, now)
            for keyring in list(house.ways.keyrings.values()):
                rounds.do(keyring.tick)
            if self.keepsake is not None:
                rounds.do(self.keepsake.tick, now)
            for each in (house.limits, house.tolls, house.memory):
                rounds.do(each.tick, now)
            rounds.do(house.prune)
            await rounds.wait_for(house.porter.tick, asyncio.get_running_loop().time())
            rounds.do(sweep)

    def _on_signal(self, number: int) -> None:
        self._signals += 1
        if self._signals > 1:
            log.warning("stopping at once")
            self._stop.set()
            return
        patience = self.house.config.drain_timeout if number == signal.SIGTERM else FAST_DRAIN
        log.info("shutting down; %d clients have up to %g s", self.house.clients, patience)
        spawn(self._drain(patience), "drain")

    async def _drain(self, patience: float) -> None:
        house = self.house
        for listener in self.listeners:
            listener.close()
        house.on_empty = self._empty.set
        house.drain()
        if house.clients:
            try:
                async with asyncio.timeout(patience):
                    await self._empty.wait()
            except TimeoutError:
                log.warning("%d clients are cut off", house.clients)
        rounds = int(patience / TICK)
        while lingering and rounds > 0:
            rounds -= 1
            await asyncio.sleep(TICK)
        self._stop.set()

    async def _close(self) -> None:
        for listener in self.listeners:
            listener.close()
        for keeper in self.house.every():
            keeper.stop()
        for branches in self.house.branches.values():
            branches.stop()
        for tunnel in list(self.house.tunnels):
            tunnel.close()
        for keeper in self.house.every():
            await keeper.stopped(CANCEL_PATIENCE if self._signals < 2 else 0)
        for keyring in self.house.ways.keyrings.values():
            keyring.close()
        if self.http is not None:
            await self.http.close()
        if self.hearsay is not None:
            await self.hearsay.close()
        if self.keepsake is not None and self._signals < 2:
            await self.keepsake.close()
        self.house.porter.close()
        self.query_log.close()


def _query_log(config: Config) -> QueryLog:
    return QueryLog(Sink(config.query_log.file), **what_to_log(config.query_log))


def _raise_file_limit() -> None:
    """Every client is a file descriptor; the soft limit of many systems is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            log.warning("the limit of open files stays at %d; it bounds the number of clients", soft)


def prove(config: Config) -> None:
    """Raises ConfigError for files that the configuration names and that are of no use."""
    for cluster in config.clusters.values():
        tls.context(cluster.upstream())
    gate = Gate(config.tls)
    if gate.offers:
        gate.armour()


async def serve(
    config: Config, again: Callable[[], Config] | None = None, fallback: Fallback | None = None
) -> int:
    """Run until a signal ends it; the exit code. `again` reads the configuration once more, for SIGHUP."""
    logs.set_up(config.log.level)
    _raise_file_limit()
    return await Service(config, again, fallback).run()
