"""Both ends of a TLS connection in memory, their handshake done."""

from __future__ import annotations

import ssl
from functools import cache
from typing import Any, NamedTuple

import trustme


class End(NamedTuple):
    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO


class Plainly:
    """An SSLObject behind its public methods: nothing can be borrowed from it."""

    def __init__(self, tls: ssl.SSLObject) -> None:
        self._tls = tls

    def read(self, *arguments: Any) -> Any:
        return self._tls.read(*arguments)

    def write(self, data: bytes) -> int:
        return self._tls.write(data)

    def unwrap(self) -> None:
        self._tls.unwrap()


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("db.example").configure_cert(theirs)
    return ours, theirs


def ends(*, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[End, End]:
    """The client's and the server's."""
    client_context, server_context = _contexts()
    client_context.maximum_version = newest
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    client = End(client_context.wrap_bio(a, b, server_hostname="db.example"), a, b)
    server = End(server_context.wrap_bio(c, d, server_side=True), c, d)
    waiting = [client, server]
    while waiting:
        for each, other in ((client, server), (server, client)):
            try:
                each.tls.do_handshake()
                if each in waiting:
                    waiting.remove(each)
            except ssl.SSLWantReadError:
                pass
            other.incoming.write(each.outgoing.read())
    return client, server
