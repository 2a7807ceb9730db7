"""Keys for SCRAM, derived in threads: a peer chooses how many iterations that takes, and everybody's
statements go over the event loop meanwhile.

1. One at a time for each `Deriver`, so that whoever can cause derivations delays only who shares it.
   A bound for all of them together is the number of threads.
2. What is derived is remembered by the one that derived it, and nowhere else.
3. Who stops waiting before its turn costs nothing; what has begun is finished and remembered.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from pgambassador.auth import scram
from pgambassador.auth.server import Secret
from pgambassador.auth.verifier import KeyCache, Keys, derive
from pgambassador.net.flights import Flights
from pgambassador.wire import parse
from pgambassador.wire.frames import Authentication, Backend, Frame

THREADS = 8
REMEMBERED = 16
"""A pool has one password, or two while they change, at a few hosts."""

_threads = ThreadPoolExecutor(THREADS, "keys")


class Deriver:
    """`size` keys are remembered. `turn` where several take turns with one another."""

    def __init__(self, size: int = REMEMBERED, *, turn: asyncio.Lock | None = None) -> None:
        self.turn = turn or asyncio.Lock()
        self._cache = KeyCache(size)
        self._flights: Flights[Keys] = Flights("key derivation")

    def known(self, password: bytes, salt: bytes, iterations: int) -> Keys | None:
        """What is remembered."""
        return self._cache.known(password, salt, iterations)

    async def keys(self, password: bytes, salt: bytes, iterations: int) -> Keys:
        known = self._cache.known(password, salt, iterations)
        if known is not None:
            return known
        async with self.turn:
            # Who came before may have asked for the same.
            known = self._cache.known(password, salt, iterations)
            if known is not None:
                return known

            async def work() -> Keys:
                loop = asyncio.get_running_loop()
                keys = await loop.run_in_executor(_threads, derive, password, salt, iterations)
                self._cache.keep(password, salt, iterations, keys)
                return keys

            return await self._flights.join((password, salt, iterations), work)

    def __repr__(self) -> str:
        return f"<Deriver with {self._cache!r}>"


class Prepared:
    """The keys that one login asks for: derived when the challenge comes, before its dialogue sees it."""

    def __init__(self, deriver: Deriver, secret: Secret | None) -> None:
        self._deriver = deriver
        self._secret = secret
        self._keys: Keys | None = None

    async def ahead(self, frame: Frame) -> None:
        """Raises ProtocolViolation, as the dialogue would."""
        kind, payload = frame
        if kind != Backend.AUTHENTICATION or not isinstance(self._secret, bytes):
            return
        step, data = parse.authentication(payload)
        if step == Authentication.SASL_CONTINUE:
            _, salt, iterations = scram.challenge(data)
            self._keys = await self._deriver.keys(self._secret, salt, iterations)

    def derive(self, password: bytes, salt: bytes, iterations: int) -> Keys:
        """As `verifier.derive`, of what came in the challenge."""
        assert self._keys is not None and password == self._secret
        return self._keys
