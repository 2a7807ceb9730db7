"""Listening sockets in an event loop: bound together or not at all, and accepting under pressure."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from pgambassador.config.address import Address
from pgambassador.embedded.ports import HOST, free_port
from pgambassador.errors import ConfigError
from pgambassador.net.herald import Newcomer
from pgambassador.net.listener import Listener, bind
from tests.newcomers import herald

DEADLINE = 10.0


class Door:
    """A listener, and what it has let in."""

    def __init__(self, address: Address) -> None:
        (sock,) = bind(address)
        self.listener = Listener(sock, address, self._accepted, asyncio.get_running_loop(), herald())
        self.socks: list[socket.socket] = []
        self.names: list[str] = []
        self._came = asyncio.Event()
        self.listener.start()

    def _accepted(self, newcomer: Newcomer) -> None:
        self.socks.append(newcomer.sock)
        self.names.append(newcomer.address)
        self._came.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.socks) < count:
                self._came.clear()
                await self._came.wait()

    def close(self) -> None:
        self.listener.close()
        self.listener.close()
        for each in self.socks:
            each.close()


def test_tcp() -> None:
    async def run() -> None:
        address = Address(HOST, free_port())
        door = Door(address)
        with socket.create_connection((HOST, address.port)) as client:
            await door.has(1)
            port = client.getsockname()[1]
        (sock,) = door.socks
        assert door.names == [f"{HOST}:{port}"]
        assert not sock.getblocking()
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert repr(door.listener) == f"<Listener {HOST}:{address.port}>"
        door.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, address.port))

    asyncio.run(run())


def test_unix(tmp_path: Path) -> None:
    async def run() -> None:
        address = Address(str(tmp_path / "new"), 5432)
        door = Door(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)
            await door.has(1)
        assert door.names == ["unix"]
        assert stat.S_ISSOCK(os.stat(address.path).st_mode)
        door.close()
        assert os.listdir(address.host) == []

    asyncio.run(run())


def test_a_socket_file_that_somebody_has_removed(tmp_path: Path) -> None:
    async def run() -> None:
        address = Address(str(tmp_path), 5432)
        door = Door(address)
        os.unlink(address.path)
        door.close()

    asyncio.run(run())


def test_a_crowd_at_once() -> None:
    async def run() -> None:
        address = Address(HOST, free_port())
        door = Door(address)
        count = 200
        clients = [socket.create_connection((HOST, address.port)) for _ in range(count)]
        await door.has(count)
        for each in clients:
            each.close()
        door.close()

    asyncio.run(run())


def test_out_of_file_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not spin, and goes on when there are some again."""

    class Short:
        """Fails once, as accept does when the process has too many open files."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock, self.asked = sock, 0

        def accept(self) -> Any:
            self.asked += 1
            if self.asked == 1:
                raise OSError(errno.EMFILE, "Too many open files")
            return self.sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

    async def run() -> None:
        address = Address(HOST, free_port())
        door = Door(address)
        short = Short(door.listener.sock)
        monkeypatch.setattr(door.listener, "sock", short)
        with socket.create_connection((HOST, address.port)):
            await door.has(1)
        assert short.asked <= 4
        door.close()

    asyncio.run(run())


def test_a_busy_port_is_one_sentence() -> None:
    with socket.create_server((HOST, 0)) as taken, pytest.raises(ConfigError) as refused:
        bind(Address(HOST, taken.getsockname()[1]))
    assert refused.value.message.startswith(f"cannot listen on {HOST}:")
    assert "Another program listens there" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        (Address("192.0.2.1", 5432), "No interface of this machine has that address."),
        (Address("no-such-host.invalid", 5432), "Check listen."),
        (Address("/dev/null/x", 5432), "Check listen."),
    ],
)
def test_an_address_that_cannot_be_used(address: Address, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        bind(address)
    assert refused.value.message.startswith(f"cannot listen on {address}: ")
    assert refused.value.hint == hint


def test_a_name_that_stands_for_several_addresses_is_bound_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    where = [(HOST, port), ("192.0.2.1", port)]
    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", each) for each in where]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ConfigError):
        bind(Address("both.example", port))
    with socket.create_server((HOST, port)):
        pass  # it is free


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    address = Address(str(tmp_path), 5432)
    for _ in range(2):
        (sock,) = bind(address)
        sock.close()  # and the file stays, as after a crash


def test_a_living_socket_is_not(tmp_path: Path) -> None:
    address = Address(str(tmp_path), 5432)
    (sock,) = bind(address)
    with pytest.raises(ConfigError, match="cannot listen"):
        bind(address)
    sock.close()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    address = Address(str(tmp_path), 5432)
    Path(address.path).write_text("mine")
    with pytest.raises(ConfigError, match="cannot listen"):
        bind(address)
    assert Path(address.path).read_text() == "mine"
