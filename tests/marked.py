"""Many clients in one event loop: each question carries a marker, and nothing but its answer may come.

A client asks again as soon as it is answered, so that where it shares few server connections with others
there is always somebody who waits. What is random follows a seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import uvloop

from pgambassador.embedded.ports import HOST
from pgambassador.wire import build
from tests.harness import Message
from tests.messages import (
    BIND_COMPLETE,
    IDLE,
    PARSE_COMPLETE,
    SYNC,
    TERMINATE,
    bind,
    columns,
    complete,
    describe_portal,
    execute,
    parse,
    query,
    row,
)

FATAL = {"57P01", "08006"}
"""How a client may learn that its server connection was killed."""
LOST = {*FATAL, "08007", "25P02"}
"""How one does whose session goes on."""
FATAL_AT_LOGIN = {*FATAL, "08001"}
CANCELED = "57014"
PATIENCE = 20.0
ZONES = {"UTC": "2020-01-01 00:00:00+00", "Asia/Tokyo": "2020-01-01 09:00:00+09"}
"""What some have set, and what time it was there when 2020 began."""

Question = tuple[bytes, bytes]
"""What is sent, and what must come to the last byte; nothing: an error that names the marker."""
_COLUMN = columns(b"marker")
_ONE = complete("SELECT 1") + IDLE
_TEXT = b"select $1::text as marker"
_OWN = b"own"


def simple(marker: str) -> Question:
    return query(f"select '{marker}' as marker"), _COLUMN + row(marker.encode()) + _ONE


def unnamed(marker: str) -> Question:
    value = marker.encode()
    asked = parse(b"", _TEXT) + bind(b"", value) + describe_portal() + execute() + SYNC
    return asked, PARSE_COMPLETE + BIND_COMPLETE + _COLUMN + row(value) + _ONE


def named(marker: str) -> Question:
    """By a name under which each client has prepared it."""
    value = marker.encode()
    return bind(_OWN, value) + execute() + SYNC, BIND_COMPLETE + row(value) + _ONE


def long(marker: str) -> Question:
    """Over the edges of reads, of the server's and of the client's."""
    value = f"{marker} " + "x" * (500 + sum(marker.encode()) * 97 % 20_000)
    return unnamed(value)


def rows(marker: str) -> Question:
    asked = query(f"select '{marker} ' || i as marker from generate_series(1, 10) i")
    found = b"".join(row(f"{marker} {number}".encode()) for number in range(1, 11))
    return asked, _COLUMN + found + complete("SELECT 10") + IDLE


def two(marker: str) -> Question:
    """In one write; the second comes behind the first."""
    (first, its), (second, other) = simple(f"{marker} first"), unnamed(f"{marker} second")
    return first + second, its + other


def _counting(marker: str, count: int) -> Question:
    asked = query(f"select '{marker}' as marker from generate_series(1, {count}) i where i = {count}")
    return asked, _COLUMN + row(marker.encode()) + _ONE


def counting(marker: str) -> Question:
    """As long as a queue needs to form behind it."""
    return _counting(marker, 2000)


def slow(marker: str) -> Question:
    """As any other of its shape, and takes tens of milliseconds: nobody can know that it is not brief."""
    return _counting(marker, 200_000)


def zone(marker: str, name: str) -> Question:
    """What is answered depends on what its client has set, so that it shares a write with like ones only."""
    asked = query(f"select '{marker} ' || ('2020-01-01 00:00+00'::timestamptz)::text as marker")
    return asked, _COLUMN + row(f"{marker} {ZONES[name]}".encode()) + _ONE


def refused(marker: str) -> Question:
    return query(f"select '{marker}'::int as marker"), b""


def refused_later(marker: str) -> Question:
    return parse(b"", b"select $1::text::int as marker") + bind(b"", marker.encode()) + execute() + SYNC, b""


def transaction(marker: str) -> Question:
    asked = query(f"begin; select '{marker}' as marker; commit")
    found = _COLUMN + row(marker.encode()) + complete("SELECT 1")
    return asked, complete("BEGIN") + found + complete("COMMIT") + IDLE


def _sleeping(marker: str, seconds: float) -> Question:
    asked = query(f"select '{marker}' as marker from pg_sleep({seconds})")
    return asked, _COLUMN + row(marker.encode()) + _ONE


def dozing(marker: str) -> Question:
    """Shares nothing with anybody: behind it others become many."""
    return _sleeping(marker, 0.001)


def sleeping(marker: str) -> Question:
    return _sleeping(marker, 0.01)


Kind = Callable[[str], Question]
SIMPLE: Sequence[Kind] = (simple, simple, simple, simple, rows, refused)
BRIEF: Sequence[Kind] = (simple, simple, simple, unnamed, unnamed, named, named, rows, two)
CALM: Sequence[Kind] = (counting, unnamed, unnamed, unnamed, refused_later, dozing)
"""Few new texts, and a queue that does not become empty."""
CANCELED_ONES: Sequence[Kind] = (simple, unnamed, counting, slow, sleeping)
RARE: Sequence[Kind] = (refused, refused_later, long, transaction, sleeping, slow)


class Crowd:
    """`checked` markers have come back to whom they belong; `wrong`: what must not have happened.

    `unruly`: some cancel, vanish, fail and are slow; `killed`: somebody ends server connections meanwhile."""

    def __init__(
        self,
        port: int,
        members: int,
        seed: int,
        *,
        database: str = "app",
        start: Mapping[str, str] | None = None,
        kinds: Sequence[Kind] = BRIEF,
        unruly: bool = False,
        killed: bool = False,
    ) -> None:
        self.port, self.members, self.seed = port, members, seed
        self.start = {"user": "app", "database": database, **(start or {})}
        self.kinds, self.unruly, self.killed = kinds, unruly, killed
        self.checked = 0
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self.over = False

    def __repr__(self) -> str:
        return (
            f"<Crowd of {self.members}, seed {self.seed}: {self.checked} markers checked, {dict(self.done)}>"
        )

    def stop(self) -> None:
        """Everybody leaves when they have their answers. From any thread."""
        self.over = True

    def complain(self, what: str) -> None:
        self.wrong.append(what)
        self.over = self.over or len(self.wrong) >= 20

    def run(self, seconds: float) -> None:
        """In the calling thread."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run(seconds))

    async def _run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ending = loop.call_later(seconds, self.stop)
        members = [Member(self, number) for number in range(self.members)]
        tasks = [loop.create_task(member.live()) for member in members]
        _, late = await asyncio.wait(tasks, timeout=seconds + PATIENCE)
        ending.cancel()
        for task in tasks:
            if task in late:
                self.complain(f"no answer, or no end: {members[tasks.index(task)]!r}")
                task.cancel()
            elif (error := task.exception()) is not None:
                self.complain(f"{members[tasks.index(task)]!r}: {error!r}")
        await asyncio.gather(*late, return_exceptions=True)


class Member:
    """One client after another, of which each lives until it leaves, vanishes or is cut off."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self.crowd, self.number = crowd, number
        self.random = random.Random(f"{crowd.seed} {number}")
        self.serial = 0
        self.client: Client | None = None

    def __repr__(self) -> str:
        return f"<Member {self.number} {self.client!r}>"

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.crowd.over:
            _, self.client = await loop.create_connection(lambda: Client(self), HOST, self.crowd.port)
            await self.client.ended
            await asyncio.gather(*self.client.cancels)


class Client(asyncio.Protocol):
    """From its login to its end."""

    def __init__(self, member: Member) -> None:
        self.member, self.crowd, self.random = member, member.crowd, member.random
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.cancels: list[asyncio.Task[None]] = []
        self.zone = list(ZONES)[member.number % 8 == 7]
        self._key = (0, b"")
        self._expected = self._held = self._asked = b""
        self._marker = ""
        self._phase = "login"
        self._answers = 0
        self._prepared = named not in self.crowd.kinds

    def __repr__(self) -> str:
        return f"<Client, {self._phase}: {self._asked[:200]!r} {self._held[-500:]!r}>"

    # Asking.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        own = {"timezone": self.zone} if self.crowd.unruly else {}
        self._asked = build.startup_message({**self.crowd.start, **own})
        self.transport.write(self._asked)

    def _next(self) -> None:
        if self.crowd.over:
            self._phase, self._expected = "leaving", b""
            self.transport.write(TERMINATE)
            return
        member, crowd = self.member, self.crowd
        member.serial += 1
        self._marker = marker = f"{member.number}-{member.serial}"
        if not self._prepared:
            self._prepared = True
            self._ask("prepare", (parse(_OWN, _TEXT) + SYNC, PARSE_COMPLETE + IDLE), 0)
            return
        chance = self.random.random() if crowd.unruly else 1.0
        if chance < 0.002:
            self._vanish(simple(marker))
        elif chance < 0.006:
            self._ask("cancel", self.random.choice(CANCELED_ONES)(marker))
            self.cancels = [each for each in self.cancels if not each.done()]
            self.cancels.append(asyncio.get_running_loop().create_task(self._cancel()))
        elif chance < 0.010:
            rare = self.random.choice(RARE)
            self._ask(rare.__name__, rare(marker))
        elif chance < 0.04:
            self._ask("zone", zone(marker, self.zone))
        else:
            usual = self.random.choice(crowd.kinds)
            self._ask(usual.__name__, usual(marker), 2 if usual is two else 1)

    def _ask(self, phase: str, question: Question, answers: int = 1) -> None:
        self._phase, self._answers = phase, answers
        self._asked, self._expected = question
        self.transport.write(self._asked)

    async def _cancel(self) -> None:
        # Where it hits is left to chance.
        await asyncio.sleep(self.random.random() * self.random.choice((0, 0.001, 0.01)))
        reader, writer = await asyncio.open_connection(HOST, self.crowd.port)
        writer.write(build.cancel_request(*self._key))
        await reader.read()
        writer.close()
        if self._phase == "canceled":
            self._next()
        elif self._phase == "cancel":
            self._phase = "cancel sent"

    def _vanish(self, question: Question) -> None:
        asked = question[0]
        self._phase = "vanished"
        self.crowd.done["vanish"] += 1
        self.transport.write(asked[: self.random.choice((len(asked), self.random.randrange(1, len(asked))))])
        if self.random.random() < 0.5:
            self.transport.abort()
        else:
            self.transport.close()

    # Being answered.

    def data_received(self, data: bytes) -> None:
        held = self._held = self._held + data if self._held else data
        if held == self._expected and held:
            self._answered()
        elif not self._expected.startswith(held):
            self._look(held)

    def _answered(self) -> None:
        self._held = b""
        crowd = self.crowd
        crowd.checked += self._answers
        crowd.done[self._phase] += 1
        if self._phase == "cancel":
            self._phase, self._expected = (
                "canceled",
                b"",
            )  # the next question waits for the end of the request
        else:
            self._next()

    def _look(self, held: bytes) -> None:
        """What is not known to the byte, or not what was expected."""
        messages = _messages(held)
        if not messages or messages[-1].kind != "Z" or self._phase == "vanished":
            return  # more of it comes, or the end
        kinds = "".join(each.kind for each in messages)
        error = next((each.fields for each in messages if each.kind == "E"), {"C": "", "M": ""})
        if self._phase == "login" and not error["C"]:
            (key,) = (each.payload for each in messages if each.kind == "K")
            self._key = int.from_bytes(key[:4], "big"), key[4:]
            self._answers = 0
            self._answered()
        elif kinds.endswith("EZ") and kinds.count("E") == 1 and self._may_be(error, kinds):
            self._answered()
        else:
            if self._lost(messages):
                self.crowd.done["kept"] += 1  # its session goes on; it need not
            else:
                self.crowd.complain(f"{self!r} expected {self._expected[:500]!r}")
            self._phase = "wronged"
            self.transport.abort()

    def _lost(self, messages: Sequence[Message]) -> bool:
        """Whether it is told that its server connection was killed, and nothing that is another's."""
        codes = {each.fields["C"] for each in messages if each.kind == "E"}
        rows = [each.payload for each in messages if each.kind == "D"]
        own = all(self._marker.encode() in payload for payload in rows)
        return self.crowd.killed > 0 and bool(codes) and codes <= LOST and own

    def _may_be(self, error: Mapping[str, str], kinds: str) -> bool:
        if self._phase not in ("cancel", "cancel sent"):
            own = error["C"] == "22P02" and f'"{self._marker}"' in error["M"]
            own = own and error.get("P", "8") == "8"  # where it is in its own text
            return own and not self._expected and kinds.lstrip("12T") == "EZ"
        if error["C"] != CANCELED or ("D" in kinds and row(self._marker.encode()) not in self._held):
            return False
        self.crowd.done["canceled"] += 1
        self._answers = 0
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if self._phase not in ("leaving", "vanished", "wronged"):
            fatal = [each.fields for each in _messages(self._held) if each.kind == "E"]
            allowed = FATAL_AT_LOGIN if self._phase == "login" else FATAL
            told = len(fatal) == 1 and fatal[0]["S"] == "FATAL" and fatal[0]["C"] in allowed
            if not (self.crowd.killed and told):
                self.crowd.complain(f"an unexpected end: {self!r} {error!r} {fatal}")
            self.crowd.done["cut off"] += 1
            self._phase = "lost"
        elif self._phase == "leaving" and self._held:
            self.crowd.complain(f"an answer that nobody asked for: {self!r}")
        self.ended.set_result(None)


def _messages(stream: bytes) -> list[Message]:
    """Those that are there as a whole; none if the last one is not."""
    found, at = [], 0
    while at < len(stream):
        size = 1 + int.from_bytes(stream[at + 1 : at + 5], "big")
        if len(stream) - at < max(size, 5):
            return []
        found.append(Message(chr(stream[at]), stream[at + 5 : at + size]))
        at += size
    return found
