"""A TCP relay between two parties that can stall, cut and refuse: the network on a bad day."""

from __future__ import annotations

import queue
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from pgambassador.embedded.ports import HOST, free_port

CHUNK = 65536
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Link:
    """Listens on `port` and passes everything on to the target, until told otherwise.

    1. What is stalled is delayed, never lost: `resume` delivers it in order.
    2. `cut` resets the connections that exist and takes new ones; `refuse` does the opposite.
    3. Each of them is done when it returns. One thread owns the sockets.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        self.target = (host, port)
        self.port = free_port()
        self.accepted = 0
        self._flowing = True
        self._pairs: set[_Pair] = set()
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
            for key, mask in self._selector.select():
                if key.fd in self._selector.get_map():  # not dropped by one before it
                    key.data(mask)
        self._selector.close()

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
            self._listener = socket.create_server((HOST, self.port), backlog=128)
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
            _reset(client)
            return
        pair = _Pair(client, server)
        self._pairs.add(pair)
        self._watch(pair)

    def _let_flow(self, flowing: bool) -> None:
        self._flowing = flowing
        for pair in self._pairs:
            self._watch(pair)

    def _cut(self) -> None:
        for pair in list(self._pairs):
            self._drop(pair, _reset)

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
            finished = pair.serve(end, mask)
        except BlockingIOError:
            return
        except OSError:  # one side was reset, so the other is
            self._drop(pair, _reset)
            return
        if finished:
            self._drop(pair, socket.socket.close)
        else:
            self._watch(pair)

    def _drop(self, pair: _Pair, close: Callable[[socket.socket], None]) -> None:
        self._pairs.discard(pair)
        for end in pair.pending:
            if end in self._selector.get_map():
                self._selector.unregister(end)
            close(end)


class _Pair:
    """A connection: two ends, and for each the bytes that have yet to reach it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.pending = {client: bytearray(), server: bytearray()}
        self._other = {client: server, server: client}
        self._ended: set[socket.socket] = set()  # will send no more
        for end in self.pending:
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def interest(self, end: socket.socket) -> int:
        reads = end not in self._ended and len(self.pending[self._other[end]]) < CHUNK
        return (READ if reads else 0) | (WRITE if self.pending[end] else 0)

    def serve(self, end: socket.socket, mask: int) -> bool:
        """True when both have said everything and it has arrived."""
        if mask & READ:
            data = end.recv(CHUNK)
            self.pending[self._other[end]] += data
            if not data:
                self._ended.add(end)
        if mask & WRITE:
            del self.pending[end][: end.send(self.pending[end])]
        for each, waiting in self.pending.items():
            if self._other[each] in self._ended and not waiting:
                each.shutdown(socket.SHUT_WR)  # harmless the second time
        return len(self._ended) == 2 and not any(self.pending.values())


def _reset(end: socket.socket) -> None:
    """Close with RST in place of FIN."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
