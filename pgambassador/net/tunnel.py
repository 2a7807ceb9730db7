"""A connection passed through as it is, for what cannot be shared: replication.

1. Its server connection is its own, opened with the client's own start packet, and ends with the client.
2. Bytes go through in both directions as they are. Who reads slowly slows the other side: above
   `buffer` bytes that one side has not taken, the other is not read.
3. The end of one side is the end of the other, behind what was still on its way.
"""

from __future__ import annotations

from collections.abc import Callable

from pgambassador.net.channel import Channel
from pgambassador.net.link import Link
from pgambassador.net.origin import Origin
from pgambassador.net.sockets import Sockets
from pgambassador.pool.census import Stay

_ROUNDS = 4


class Tunnel:
    """`ended(tunnel)` is called once, when both sides are closed."""

    def __init__(
        self,
        sockets: Sockets,
        client: Channel,
        link: Link,
        origin: Origin,
        *,
        buffer: int,
        stay: Stay,
        ended: Callable[[Tunnel], None],
    ) -> None:
        self.link = link
        self.stay = stay
        self.pid = 0
        self.closed = False
        self._sockets = sockets
        self._client = client
        self._server = Channel(sockets, link.sock, link.tls, link.incoming, link.outgoing)
        self._origin = origin
        self._buffer = buffer
        self._ended = ended

    def start(self, greeting: bytes, early: bytes) -> None:
        """Begin: `greeting` is for the client, `early` is what it has sent behind its login."""
        client, server = self._client, self._server
        self._join(client, server)
        self._join(server, client)
        client.write(greeting + self.link.leftover)
        if early:
            server.write(early)
        client.resume_reading()
        server.resume_reading()

    async def cancel(self) -> None:
        """Ask the server to cancel what it is doing on this connection."""
        await self._origin.cancel(self.link)

    def close(self) -> None:
        """End both sides."""
        if self.closed:
            return
        self.closed = True
        self._client.close(linger=True)
        self._server.close(linger=True)
        self._ended(self)

    def _join(self, here: Channel, there: Channel) -> None:
        """What comes from here goes there."""

        def carry() -> None:
            for _ in range(_ROUNDS):
                try:
                    data = here.read()
                except ConnectionError:
                    data = b""
                if data is None or self.closed:
                    return
                if not data:
                    self.close()
                    return
                there.write(data)
                if there.pending > self._buffer:
                    here.pause_reading()
                    return
            self._sockets.call_soon(carry)

        here.on_readable = carry
        there.on_drained = here.resume_reading

    def __repr__(self) -> str:
        return f"<Tunnel to {self.link.address}{' closed' if self.closed else ''}>"
