"""Very many clients at once, in one thread: each asks, and says how long it took and what came."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pgambassador.embedded.ports import HOST
from pgambassador.wire import build, parse

NO_ANSWER = "no answer"
ENDED = "the end"


@dataclass(frozen=True)
class Reply:
    seconds: float
    sqlstate: str
    """Empty if there was no error."""


@dataclass(frozen=True)
class Round:
    replies: Sequence[Reply]

    @property
    def slowest(self) -> float:
        return max(reply.seconds for reply in self.replies)

    @property
    def kinds(self) -> Counter[str]:
        return Counter(reply.sqlstate or "answered" for reply in self.replies)


class Crowd:
    def __init__(self, port: int, size: int) -> None:
        self._port, self._size = port, size
        self._ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Self:
        """Everybody is logged in. Some at a time: there is a queue at the door."""
        door = asyncio.Semaphore(50)

        async def come() -> None:
            async with door:
                reader, writer = await asyncio.open_connection(HOST, self._port)
                self._ends.append((reader, writer))
                writer.write(build.startup_message({"user": "app", "database": "app"}))
                assert await _answer(reader) == "", "a login failed"

        await asyncio.gather(*(come() for _ in range(self._size)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._ends:
            writer.write(build.TERMINATE)
            writer.close()
        await asyncio.gather(
            *(writer.wait_closed() for _reader, writer in self._ends), return_exceptions=True
        )

    async def ask(self, sql: str, patience: float = 60.0) -> Round:
        """Everybody at the same time."""

        async def one(end: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> Reply:
            reader, writer = end
            began = time.monotonic()
            if writer.is_closing() or reader.at_eof():
                return Reply(0.0, ENDED)
            writer.write(build.query(sql))
            try:
                sqlstate = await asyncio.wait_for(_answer(reader), patience)
            except TimeoutError:
                sqlstate = NO_ANSWER
            except (OSError, asyncio.IncompleteReadError):
                sqlstate = ENDED
            return Reply(time.monotonic() - began, sqlstate)

        return Round(await asyncio.gather(*map(one, self._ends)))


async def _answer(reader: asyncio.StreamReader) -> str:
    """Up to ReadyForQuery: the SQLSTATE of an error, if there was one."""
    found = ""
    while True:
        head = await reader.readexactly(5)
        payload = await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
        if head[:1] == b"E":
            found = parse.fields(payload)["C"]
        elif head[:1] == b"Z":
            return found
