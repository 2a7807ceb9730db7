"""One byte stream over a non-blocking socket, in plain text or TLS over memory, until the relay takes it.

1. The socket never belongs to an asyncio transport: the relay reads and writes it afterwards.
2. What is decrypted and not yet asked for is in `remainder`, once; what is not decrypted stays in `incoming`.
3. A failed handshake raises ssl.SSLError, after the alert that tells the peer why was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl

READ_SIZE = 65_536
UNSAID_MOST = READ_SIZE
"""So much may come of TLS without a word in it."""


class Stream:
    """`tls` with its two BIOs is there once the handshake is done."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.tls: ssl.SSLObject | None = None
        self.incoming: ssl.MemoryBIO | None = None
        self.outgoing: ssl.MemoryBIO | None = None
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        if self.tls is None:
            await self._send_raw(data)
            return
        self._encrypt(data)
        await self._flush()

    async def receive(self) -> bytes:
        """What the peer says next; b"" at its end."""
        if self.tls is None:
            return await self._receive_raw()
        unsaid = 0
        while unsaid <= UNSAID_MOST:
            try:
                return self.tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                await self._flush()
                unsaid += await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
        return b""  # records that say nothing, such as changes of keys, which are not cheap

    def remainder(self) -> bytes:
        """What is decrypted already; afterwards only an incomplete record may be left in `incoming`."""
        pieces = []
        try:
            while self.tls is not None and (piece := self.tls.read(READ_SIZE)):
                pieces.append(piece)
        except ssl.SSLError:
            pass  # Nothing more, or broken: the relay will find the same.
        return b"".join(pieces)

    async def handshake(self, tls: ssl.SSLObject) -> None:
        """`tls` is over `incoming` and `outgoing`."""
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush()
                await self._feed()
            except ssl.SSLError:
                with contextlib.suppress(Exception):
                    await self._flush()  # the reason, if the peer still listens
                raise
        self.tls = tls
        await self._flush()

    def close(self) -> None:
        self.sock.close()

    def _encrypt(self, data: bytes) -> None:
        # The BIO takes whatever it is given, so that a write never has to wait; but a write is one record.
        assert self.tls is not None
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                sent += self.tls.write(view[sent:])

    async def _feed(self) -> int:
        assert self.incoming is not None
        if data := await self._receive_raw():
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
        return len(data)

    async def _flush(self) -> None:
        assert self.outgoing is not None
        if data := self.outgoing.read():
            await self._send_raw(data)

    async def _send_raw(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def _receive_raw(self, most: int = READ_SIZE) -> bytes:
        return await self._loop.sock_recv(self.sock, most)
