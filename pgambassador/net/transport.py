"""The byte stream to a server: how it is opened, and how TLS is asked for.

1. Nothing the server sends in clear text after it has agreed to TLS is ever taken for its words
   ("SSL Session Encryption" in the manual, CVE-2021-23222).
2. Every failure is an Unreachable that tells the cause; the address is put in front of it by the connector.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgambassador.cluster.upstream import Endpoint, Upstream, host_port
from pgambassador.credentials import blocking
from pgambassador.errors import Unreachable
from pgambassador.net import tls
from pgambassador.net.stream import READ_SIZE, Stream
from pgambassador.wire.build import SSL_REQUEST

_HINTS = {
    errno.ECONNREFUSED: "Check host and port, and that the server runs and listens there.",
    errno.ENOENT: "Check the directory and the port, and that the server runs.",
    errno.EACCES: "Give this process access: to the socket, or through the routes and the firewall here.",
    errno.EINVAL: "Check the routes on this machine: one of them may lead nowhere (blackhole).",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
}
_NO_SUCH_NAME = frozenset((socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)))


@dataclass(frozen=True, slots=True)
class Address:
    """One address of a host, as the kernel takes it."""

    endpoint: Endpoint
    family: int
    sockaddr: tuple[Any, ...] | str

    def __str__(self) -> str:
        if isinstance(self.sockaddr, str):
            return self.endpoint.socket_path
        return host_port(str(self.sockaddr[0]), int(self.sockaddr[1]))

    @property
    def named(self) -> str:
        """The address with the name that led to it."""
        host = self.endpoint.host
        if isinstance(self.sockaddr, str) or host == self.sockaddr[0]:
            return str(self)
        return f"{self.endpoint} ({self.sockaddr[0]})"


class Unresolved(Unreachable):
    """No address was found. `gone`: the answer was that there is no such host, and not that nobody knows."""

    def __init__(self, message: str, *, hint: str | None = None, gone: bool = False) -> None:
        super().__init__(message, hint=hint, passing=True)
        self.gone = gone


def numeric(endpoint: Endpoint, address: str) -> Address:
    """One that is known already."""
    if ipaddress.ip_address(address).version == 4:
        return Address(endpoint, socket.AF_INET, (address, endpoint.port))
    return Address(endpoint, socket.AF_INET6, (address, endpoint.port, 0, 0))


async def resolve(endpoint: Endpoint) -> list[Address]:
    """The addresses of a host, in the order the resolver prefers; raises Unresolved. See `names`.

    A resolver that hangs must not keep this process from ending, as it does in a thread of the event loop.
    """
    if endpoint.is_unix:
        path = endpoint.socket_path
        return [Address(endpoint, socket.AF_UNIX, "\0" + path[1:] if path.startswith("@") else path)]
    host = endpoint.hostaddr or endpoint.host
    if _is_address(host):
        return [numeric(endpoint, host)]
    look_up = partial(socket.getaddrinfo, host, endpoint.port, type=socket.SOCK_STREAM)
    try:
        found = await blocking.run(look_up, "the resolver")
    except socket.gaierror as error:
        raise Unresolved(
            f"the host name was not found ({(error.strerror or 'unknown error').lower()})",
            hint="Check the host name, and the DNS of this machine.",
            gone=error.errno in _NO_SUCH_NAME,
        ) from None
    except (UnicodeError, OSError):
        raise Unresolved("this is not a host name", hint="Correct the host in the URL.", gone=True) from None
    unique = dict.fromkeys((int(family), sockaddr) for family, _, _, _, sockaddr in found)
    return [Address(endpoint, family, sockaddr) for family, sockaddr in unique]


def _is_address(host: str) -> bool:
    """Of one link it is more than an address."""
    try:
        return "%" not in str(ipaddress.ip_address(host))
    except ValueError:
        return False


class Transport(Stream):
    """An open connection. Its parts are the relay's from the moment the login is done."""

    def __init__(
        self,
        sock: socket.socket,
        address: Address,
        tls: ssl.SSLObject | None = None,
        incoming: ssl.MemoryBIO | None = None,
        outgoing: ssl.MemoryBIO | None = None,
    ) -> None:
        super().__init__(sock)
        self.address = address
        self.tls, self.incoming, self.outgoing = tls, incoming, outgoing

    async def send(self, data: bytes) -> None:
        try:
            await super().send(data)
        except Unreachable:
            if self.tls is not None:
                self._hear_last_words()
            raise

    async def start_tls(self, upstream: Upstream, *, check_name: bool = True) -> None:
        """The handshake. A failed one raises ssl.SSLError, so that the caller can ask for the reasons."""
        made = tls.context(upstream, check_name=check_name)
        handshake = await self.secure(made, tls.server_name(upstream, self.address.endpoint))
        chosen = handshake.selected_alpn_protocol()
        if upstream.sslnegotiation == "direct" and chosen != tls.ALPN:
            raise Unreachable(
                f"it speaks TLS but did not agree to the ALPN protocol {tls.ALPN}",
                hint="Direct TLS needs PostgreSQL 17 or newer; leave out sslnegotiation=direct.",
            )

    async def secure(self, made: ssl.SSLContext, name: str | None) -> ssl.SSLObject:
        """TLS by this context, for this name; a failed one raises ssl.SSLError."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            handshake = made.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        except ValueError:
            raise Unreachable(
                "its name cannot be one in a certificate", hint="Correct the host in the URL."
            ) from None
        await self.handshake(handshake)
        return handshake

    async def request_tls(self) -> bool:
        """Ask by SSLRequest; whether the server agrees. The answer is exactly one byte."""
        await self._send_raw(SSL_REQUEST)
        answer = await self._receive_raw(2)
        if len(answer) > 1:
            raise Unreachable(
                "it answered the request for TLS with more than one byte, as only an attacker would",
                hint="Do not trust the network between here and there.",
                strange=True,
            )
        if answer in (b"S", b"N"):
            return answer == b"S"
        if answer == b"":
            raise Unreachable(
                "it closed the connection when asked for TLS",
                hint="Check that a PostgreSQL server listens there.",
                passing=True,
            )
        if answer == b"E":
            # Not shown: without TLS nobody knows whose words they are (CVE-2024-10977).
            raise Unreachable(
                "it answered the request for TLS with an error",
                hint="Look into the server's log.",
                strange=True,
            )
        raise Unreachable(
            "it does not speak the PostgreSQL protocol",
            hint="Check that a PostgreSQL server listens there.",
            strange=True,
        )

    def _hear_last_words(self) -> None:
        """With TLS 1.3 a server refuses our certificate after the handshake, by an alert and a reset at once:
        the reset is noticed first, but the alert has arrived. It is raised as ssl.SSLError."""
        assert self.tls is not None and self.incoming is not None
        try:
            self.incoming.write(self.sock.recv(READ_SIZE))
        except OSError:
            return
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            self.tls.read(READ_SIZE)

    async def _send_raw(self, data: bytes) -> None:
        try:
            await super()._send_raw(data)
        except OSError as error:
            raise _broken(error) from None

    async def _receive_raw(self, most: int = READ_SIZE) -> bytes:
        try:
            return await super()._receive_raw(most)
        except OSError as error:
            raise _broken(error) from None


async def open_transport(upstream: Upstream, address: Address) -> Transport:
    """A connected socket, nothing said on it yet."""
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        raise _unreachable(error) from None
    try:
        sock.setblocking(False)
        if address.family != socket.AF_UNIX:
            _set_options(sock, upstream)
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except OSError as error:
        sock.close()
        raise _unreachable(error) from None
    except BaseException:
        sock.close()
        raise
    return Transport(sock, address)


def _set_options(sock: socket.socket, upstream: Upstream) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if upstream.keepalives:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _set(
            sock,
            "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE",
            upstream.keepalives_idle,
        )
        _set(sock, "TCP_KEEPINTVL", upstream.keepalives_interval)
        _set(sock, "TCP_KEEPCNT", upstream.keepalives_count)
    _set(sock, "TCP_USER_TIMEOUT", upstream.tcp_user_timeout)


def _set(sock: socket.socket, name: str, value: int) -> None:
    """Set a TCP option unless 0 leaves it to the system; one that the system lacks is passed over."""
    option = getattr(socket, name, None)
    if value and option is not None:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _unreachable(error: OSError) -> Unreachable:
    hint = _HINTS.get(error.errno or 0, "Check the network on the way there.")
    return Unreachable(_reason(error), hint=hint, passing=True)


def _broken(error: OSError) -> Unreachable:
    hint = "Look into the server's log."
    return Unreachable(f"the connection broke ({_reason(error)})", hint=hint, passing=True)


def _reason(error: OSError) -> str:
    # uvloop's errors carry its own text; the system's is what people know.
    return os.strerror(error.errno).lower() if error.errno else "unknown error"
