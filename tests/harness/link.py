"""A TCP relay between two parties that can stall, cut, delay, garble and refuse: the network on a bad day."""

from __future__ import annotations

import queue
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Self

from pgambassador.embedded.ports import HOST, free_port

CHUNK = 65536
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Link:
    """Listens on `port` and passes everything on to the target, until told otherwise.

    1. What is stalled or delayed is never lost: it is delivered in order.
    2. `cut` resets the connections that exist and takes new ones; `refuse` does the opposite.
    3. Each of them is done when it returns. One thread owns the sockets.

    `where` is an address to listen at, if not a free port on loopback will do.
    """

    def __init__(self, port: int, host: str = HOST, *, where: tuple[str, int] | None = None) -> None:
        self.target = (host, port)
        self.address, self.port = where or (HOST, free_port())
        self.accepted = 0
        self._flowing = True
        self._latency = 0.0
        self._pairs: set[_Pair] = set()
        self._silent: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._bell, ringing = socket.socketpair()
        self._selector.register(ringing, READ, lambda _: self._obey(ringing))
        self._running = True
        self._thread = threading.Thread(target=self._run, name=f"link {self.port}", daemon=True)
        self._thread.start()
        self.allow()

    def __repr__(self) -> str:
        state = "flowing" if self._flowing else "stalled"
        return f"<Link {self.port} to {self.target[1]} {state}, {len(self._pairs)} connections>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        return len(self._pairs)

    def stall(self) -> None:
        """Nothing passes any more, in either direction; the connections stay."""
        self._order(lambda: self._let_flow(False))

    def resume(self) -> None:
        self._order(lambda: self._let_flow(True))

    def cut(self) -> None:
        """Both ends of every connection are reset (RST)."""
        self._order(self._cut)

    def delay(self, seconds: float) -> None:
        """Everything takes so long from here on, in each direction; 0 ends it."""
        self._order(lambda: self._set_latency(seconds))

    def half_open(self) -> None:
        """The server's end of every connection is reset, and the client is never told, until `cut`."""
        self._order(self._half_open)

    def garble(self, data: bytes) -> None:
        """Every client gets these bytes in between."""
        self._order(lambda: self._garble(data))

    def refuse(self) -> None:
        self._order(self._refuse)

    def allow(self) -> None:
        self._order(self._allow)

    def close(self) -> None:
        if self._running:
            self._order(self._close)
            self._thread.join()
            self._bell.close()

    # on the thread

    def _run(self) -> None:
        while self._running:
            for key, mask in self._selector.select(self._until_due()):
                # Not dropped by one before it, nor its number another's now.
                if self._selector.get_map().get(key.fd) is key:
                    key.data(mask)
            if self._flowing:
                now = time.monotonic()
                for pair in [pair for pair in self._pairs if pair.late and pair.late[0][0] <= now]:
                    self._deliver(pair)
        self._selector.close()

    def _until_due(self) -> float | None:
        """Seconds until something that was delayed has arrived."""
        due = [pair.late[0][0] for pair in self._pairs if pair.late] if self._flowing else []
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _order(self, action: Callable[[], None]) -> None:
        done = threading.Event()

        def order() -> None:
            action()
            done.set()

        self._orders.put(order)
        self._bell.send(b"!")
        assert done.wait(10), f"{self!r} does not answer"

    def _obey(self, ringing: socket.socket) -> None:
        ringing.recv(CHUNK)
        while self._running and not self._orders.empty():
            self._orders.get()()
        if not self._running:
            ringing.close()

    def _allow(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self.address, self.port), backlog=128)
            self.port = self._listener.getsockname()[1]
            self._selector.register(self._listener, READ, lambda _: self._accept())

    def _refuse(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        self.accepted += 1
        try:
            server = socket.create_connection(self.target, timeout=5)
        except OSError:
            reset(client)
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        self._watch(pair)

    def _let_flow(self, flowing: bool) -> None:
        self._flowing = flowing
        for pair in self._pairs:
            self._watch(pair)

    def _set_latency(self, seconds: float) -> None:
        self._latency = seconds

    def _half_open(self) -> None:
        for pair in list(self._pairs):
            self._pairs.discard(pair)
            self._forget(pair)
            reset(pair.server)
            self._silent.append(pair.client)

    def _garble(self, data: bytes) -> None:
        for pair in self._pairs:
            pair.pending[pair.client] += data
            self._watch(pair)

    def _cut(self) -> None:
        for pair in list(self._pairs):
            self._drop(pair, reset)
        while self._silent:
            reset(self._silent.pop())

    def _close(self) -> None:
        self._refuse()
        self._cut()
        self._running = False

    def _watch(self, pair: _Pair) -> None:
        for end in pair.pending:
            mask = pair.interest(end) if self._flowing else 0
            if end in self._selector.get_map():
                self._selector.unregister(end)
            if mask:
                self._selector.register(end, mask, lambda mask, end=end: self._serve(pair, end, mask))

    def _serve(self, pair: _Pair, end: socket.socket, mask: int) -> None:
        try:
            pair.serve(end, mask, self._latency)
        except BlockingIOError:
            return
        except OSError:  # one side was reset, so the other is
            self._drop(pair, reset)
            return
        self._deliver(pair)

    def _deliver(self, pair: _Pair) -> None:
        try:
            finished = pair.deliver(time.monotonic())
        except OSError:
            self._drop(pair, reset)
            return
        if finished:
            self._drop(pair, socket.socket.close)
        else:
            self._watch(pair)

    def _drop(self, pair: _Pair, close: Callable[[socket.socket], None]) -> None:
        self._pairs.discard(pair)
        self._forget(pair)
        for end in pair.pending:
            close(end)

    def _forget(self, pair: _Pair) -> None:
        for end in pair.pending:
            if end in self._selector.get_map():
                self._selector.unregister(end)


class _Pair:
    """A connection: two ends, and for each the bytes that have yet to reach it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.pending = {client: bytearray(), server: bytearray()}
        self.late: deque[tuple[float, socket.socket, bytes]] = deque()
        """When which end shall have what; no bytes: that nothing more comes."""
        self._other = {client: server, server: client}
        self._heard: set[socket.socket] = set()  # has said everything
        self._ended: set[socket.socket] = set()  # and all of it has arrived
        self._told: set[socket.socket] = set()  # that nothing more comes
        for end in self.pending:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def interest(self, end: socket.socket) -> int:
        other = self._other[end]
        waiting = len(self.pending[other]) + sum(len(data) for _, whose, data in self.late if whose is other)
        reads = end not in self._heard and waiting < CHUNK
        return (READ if reads else 0) | (WRITE if self.pending[end] else 0)

    def serve(self, end: socket.socket, mask: int, latency: float) -> None:
        if mask & READ:
            data = end.recv(CHUNK)
            if not data:
                self._heard.add(end)
            self.late.append((time.monotonic() + latency, self._other[end], data))
        if mask & WRITE:
            del self.pending[end][: end.send(self.pending[end])]

    def deliver(self, now: float) -> bool:
        """What has been under way for long enough. True when both have said everything and it has arrived."""
        while self.late and self.late[0][0] <= now:
            _, end, data = self.late.popleft()
            self.pending[end] += data
            if not data:
                self._ended.add(self._other[end])
        for each, waiting in self.pending.items():
            if self._other[each] in self._ended and not waiting and each not in self._told:
                self._told.add(each)
                each.shutdown(socket.SHUT_WR)
        return len(self._ended) == 2 and not any(self.pending.values())


def reset(end: socket.socket) -> None:
    """Close with RST in place of FIN."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
