"""The addresses of hosts by their names, and those that were known last while nobody tells them.

1. A name is looked up anew for each connection, as ever. Only if that fails are addresses used that were
   found before: for `AGE` seconds since then, and for `GONE` if the answer is that there is no such name.
2. One name is looked up once at a time. One whose last look-up has failed keeps nobody waiting: what is known
   is used at once, and the question goes on beside it.
3. That an address is the right one is shown by the server's certificate, as ever.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from pgambassador.auth.expiry import day
from pgambassador.cluster.upstream import Endpoint
from pgambassador.net import transport
from pgambassador.net.tasks import spawn
from pgambassador.net.transport import Address, Unresolved, numeric

log = logging.getLogger(__name__)

AGE: Final = 86_400.0
GONE: Final = 3_600.0
PATIENCE: Final = 1.0
"""Seconds for which a look-up may stay unanswered before what is known is used."""
ANEW: Final = 600.0
"""Seconds after which a name that nobody has asked for is looked up all the same,"""
AGAIN: Final = 5.0
"""and one whose look-up has failed."""
MOST_NAMES: Final = 256
MOST_ADDRESSES: Final = 32


class Known(NamedTuple):
    """`at`: when it was answered, in Unix time."""

    addresses: tuple[str, ...]
    at: float


class Names:
    """Remembers nothing unless `keeping` says so. `changes` counts how often something else was found."""

    def __init__(
        self,
        ask: Callable[[Endpoint], Awaitable[list[Address]]] = transport.resolve,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.keeping = False
        self.changes = 0
        self.known: dict[str, Known] = {}
        self._ask = ask
        self._clock = clock
        self._asking: dict[str, asyncio.Task[list[Address] | Unresolved]] = {}
        self._asked: dict[str, float] = {}
        self._failing: dict[str, Unresolved] = {}
        self._wanted: set[str] = set()
        self._used: set[str] = set()

    @property
    def in_use(self) -> int:
        """Names whose addresses are used as they were known last."""
        return len(self._used)

    async def resolve(self, endpoint: Endpoint) -> list[Address]:
        """In the resolver's order; raises Unreachable."""
        name = _name(endpoint) if self.keeping else None
        if name is None:
            return await self._ask(endpoint)
        question = self._asking.get(name) or self._begin(endpoint, name)
        if name in self.known:
            self._wanted.add(name)
            # Whoever asks may give up sooner, and then the next one goes on waiting.
            patience = self._asked[name] + PATIENCE - asyncio.get_running_loop().time()
            await asyncio.wait({question}, timeout=0 if name in self._failing else max(0.0, patience))
            if not question.done() and name in self.known:
                self._failing.setdefault(name, Unresolved("nobody answers", hint="Check the DNS."))
            if (known := self._usable(name)) is not None:
                return [numeric(endpoint, text) for text in known.addresses]
        answer = await asyncio.shield(question)
        if isinstance(answer, Unresolved):
            raise Unresolved(answer.message, hint=answer.hint, gone=answer.gone)
        return [_of(endpoint, address) for address in answer]

    def tick(self) -> None:
        """What is of use is kept young, also if no connection needs to be opened."""
        now = asyncio.get_running_loop().time()
        for name in list(self._wanted):
            failure = self._failing.get(name)
            if failure is not None and self._expired(name, failure):
                continue
            since = now - self._asked.get(name, -math.inf)
            if name not in self._asking and since >= (ANEW if failure is None else AGAIN):
                self._begin(Endpoint(name), name)

    def recall(self, kept: Mapping[str, Any]) -> None:
        """What an earlier process has known, as `memory` has told it; raises ValueError for anything else."""
        now = self._clock()
        for name, (texts, at) in list(kept.items())[:MOST_NAMES]:
            addresses = tuple(str(ipaddress.ip_address(text)) for text in texts[:MOST_ADDRESSES])
            if not (isinstance(at, int | float) and math.isfinite(at) and addresses):
                raise ValueError
            if name not in self.known and now - at <= AGE:
                self.known[name] = Known(addresses, min(at, now))

    def memory(self) -> dict[str, Any]:
        return {name: [list(known.addresses), known.at] for name, known in self.known.items()}

    def _begin(self, endpoint: Endpoint, name: str) -> asyncio.Task[list[Address] | Unresolved]:
        self._asked[name] = asyncio.get_running_loop().time()
        task = self._asking[name] = spawn(self._look_up(endpoint, name), f"address of {name}")
        return task

    async def _look_up(self, endpoint: Endpoint, name: str) -> list[Address] | Unresolved:
        try:
            found = await self._ask(endpoint)
        except Unresolved as failure:
            if name in self.known:
                self._failing[name] = failure
            else:
                self._asked.pop(name, None)
            return failure
        finally:
            del self._asking[name]
        self._failing.pop(name, None)
        if name in self._used:
            self._used.discard(name)
            log.info("the addresses of %s are told again", name)
        self._learn(name, found)
        return found

    def _learn(self, name: str, found: list[Address]) -> None:
        texts = tuple(filter(None, map(_text, found)))[:MOST_ADDRESSES]
        before = self.known.pop(name, None)
        self.known[name] = Known(texts, self._clock())  # the last of them
        self._wanted.add(name)
        if not texts:
            self._forget(name)
        elif before is None or texts != before.addresses:
            self.changes += 1
        while len(self.known) > MOST_NAMES:
            self._forget(next(iter(self.known)))

    def _forget(self, name: str) -> None:
        del self.known[name]
        self._failing.pop(name, None)
        self._asked.pop(name, None)
        self._used.discard(name)
        self._wanted.discard(name)
        self.changes += 1

    def _expired(self, name: str, failure: Unresolved) -> bool:
        """Whether it is too long ago that its addresses were told."""
        at = self.known[name].at
        if self._clock() - at <= (GONE if failure.gone else AGE):
            return False
        log.error("the addresses of %s have not been told since %s: they are given up", name, day(at))
        self._forget(name)
        return True

    def _usable(self, name: str) -> Known | None:
        """What is known of a name whose look-up has failed."""
        known, failure = self.known.get(name), self._failing.get(name)
        if known is None or failure is None or self._expired(name, failure):
            return None
        if name not in self._used:
            self._used.add(name)
            log.warning(
                "the addresses of %s cannot be looked up (%s); those of %s are used",
                name,
                failure.message,
                day(known.at),
            )
        return known

    def __repr__(self) -> str:
        return f"<Names {len(self.known)} known, {len(self._asking)} asked, {len(self._failing)} failing>"


def _name(endpoint: Endpoint) -> str | None:
    """What has to be looked up."""
    if endpoint.is_unix or endpoint.hostaddr:
        return None
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        return endpoint.host.lower()
    return None


def _text(address: Address) -> str | None:
    """None where it is more than an address: of one link of this machine."""
    if isinstance(address.sockaddr, str) or any(address.sockaddr[3:]):
        return None
    return str(address.sockaddr[0])


def _of(endpoint: Endpoint, address: Address) -> Address:
    """The same address for another port."""
    assert not isinstance(address.sockaddr, str)
    ip, _, *rest = address.sockaddr
    return replace(address, endpoint=endpoint, sockaddr=(ip, endpoint.port, *rest))


NAMES: Final = Names()
"""Those of this process."""
resolve: Final = NAMES.resolve
