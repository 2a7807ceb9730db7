"""Clients as they come, over sockets that a test has made."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any, cast

from pgambassador.net.herald import Herald, Newcomer
from pgambassador.net.sockets import Sockets


def herald() -> Herald:
    """One who knows of lists that nobody is on."""
    return Herald(cast(Any, SimpleNamespace(users={}, enquiry=None)))


def newcomer(
    sock: socket.socket, address: str, sockets: Sockets | None = None, by: Herald | None = None
) -> Newcomer:
    loop = asyncio.get_running_loop()
    return Newcomer(loop, sockets or loop, herald() if by is None else by, sock, address)
