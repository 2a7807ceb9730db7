"""Thousands of clients that log in (trust), run one statement and then say nothing."""

from __future__ import annotations

import asyncio
import struct
from typing import TYPE_CHECKING

from benchmarks.local import BenchmarkError
from benchmarks.postgres import DATABASE
from pgambassador.embedded.ports import HOST

if TYPE_CHECKING:
    from types import TracebackType

_AT_ONCE = 50


def _startup(user: str) -> bytes:
    parameters = f"user\0{user}\0database\0{DATABASE}\0application_name\0idle\0\0".encode()
    return struct.pack("!II", 8 + len(parameters), 196608) + parameters


_QUERY = b"Q" + struct.pack("!I", 4 + len(b"SELECT 1\0")) + b"SELECT 1\0"


class IdleClients:
    """A context manager: inside the block the clients are connected and quiet."""

    def __init__(self, port: int, user: str, count: int) -> None:
        self._port, self._user, self._count = port, user, count
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []

    def __enter__(self) -> None:
        self._loop.run_until_complete(self._open())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for writer in self._writers:
            writer.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _open(self) -> None:
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> None:
            async with gate:
                reader, writer = await asyncio.open_connection(HOST, self._port)
                self._writers.append(writer)
                for message in (_startup(self._user), _QUERY):
                    writer.write(message)
                    await asyncio.wait_for(_until_ready(reader), 30)

        await asyncio.gather(*(one() for _ in range(self._count)))


async def _until_ready(reader: asyncio.StreamReader) -> None:
    while True:
        kind, length = struct.unpack("!cI", await reader.readexactly(5))
        payload = await reader.readexactly(length - 4)
        if kind == b"E":
            raise BenchmarkError(f"An idle client was refused: {payload!r}")
        if kind == b"Z":
            return
