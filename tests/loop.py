"""An event loop without a clock: sockets are looked at when `run` is called, time is what a test says it is.

It has what the package uses of an event loop, and enough for tasks, futures and asyncio.timeout.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Timer:
    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """`running` it is until nothing more happens; `pass_time` lets timers fire."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}
        self.writers: dict[int, Callable[[], object]] = {}
        self.now = 1000.0
        self.problems: list[dict[str, Any]] = []
        self._soon: list[Callable[[], object]] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()

    # What the package calls.

    def add_reader(self, fd: int, call: Callable[..., object], *args: object) -> None:
        self.readers[fd] = lambda: call(*args)

    def remove_reader(self, fd: int) -> bool:
        return self.readers.pop(fd, None) is not None

    def add_writer(self, fd: int, call: Callable[..., object], *args: object) -> None:
        self.writers[fd] = lambda: call(*args)

    def remove_writer(self, fd: int) -> bool:
        return self.writers.pop(fd, None) is not None

    def call_soon(
        self,
        call: Callable[..., object],
        *args: object,
        context: contextvars.Context | None = None,
    ) -> Timer:
        handle = Timer(
            self.now,
            lambda: call(*args) if context is None else context.run(call, *args),
        )
        self._soon.append(lambda: None if handle.cancelled else handle.call())
        return handle

    def call_at(
        self,
        when: float,
        call: Callable[..., object],
        *args: object,
        context: object = None,
    ) -> Timer:
        timer = Timer(when, lambda: call(*args))
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(self, delay: float, call: Callable[..., object], *args: object) -> Timer:
        return self.call_at(self.now + delay, call, *args)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: object, work: Callable[..., T], *args: object) -> asyncio.Future[T]:
        """Done at once: there are no threads."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(work(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.problems.append(context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def create_task(self, work: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        return asyncio.Task(work, loop=self, name=name)  # type: ignore[arg-type]

    async def sock_recv(self, sock: socket.socket, most: int) -> bytes:
        while True:
            try:
                return sock.recv(most)
            except BlockingIOError:
                await self._readable(sock.fileno())

    async def _readable(self, fd: int) -> None:
        readable = self.create_future()
        self.add_reader(fd, lambda: None if readable.done() else readable.set_result(None))
        try:
            await readable
        finally:
            self.remove_reader(fd)

    async def sock_sendall(self, sock: socket.socket, data: bytes) -> None:
        assert sock.send(data) == len(data)

    # What a test calls.

    def run(self) -> None:
        """Until nothing is ready any more."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            for _ in range(10_000):
                if not self._turn():
                    return
            raise AssertionError("the loop never comes to rest")
        finally:
            asyncio._set_running_loop(None)

    def pass_time(self, seconds: float) -> None:
        """Timers fire in their order, each at its own time."""
        end = self.now + seconds
        self.run()
        while self._timers and self._timers[0][0] <= end:
            when, _, timer = heapq.heappop(self._timers)
            self.now = max(self.now, when)
            if not timer.cancelled:
                self.call_soon(timer.call)
            self.run()
        self.now = end

    def within(self, call: Callable[[], T]) -> T:
        """Called as by the loop itself."""
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            return call()
        finally:
            asyncio._set_running_loop(None)

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of what must not have to wait for anything outside."""
        task = self.create_task(work)
        self.run()
        assert task.done(), f"{task!r} waits"
        return task.result()

    def _turn(self) -> bool:
        soon, self._soon = self._soon, []
        for call in soon:
            call()
        readable, writable, _ = select.select(list(self.readers), list(self.writers), [], 0)
        for fd in readable:
            if (reader := self.readers.get(fd)) is not None:
                reader()
        for fd in writable:
            if (writer := self.writers.get(fd)) is not None:
                writer()
        return bool(soon or readable or writable)
