"""Ports on loopback that nobody uses."""

from __future__ import annotations

import random
import socket

from pgambassador.errors import AmbassadorError

HOST = "127.0.0.1"
# Below the ranges from which kernels take the ports of outgoing connections (32768 on Linux, 49152 on macOS):
# a server that is down for a moment must find its port free when it comes back.
LOWEST, HIGHEST = 20_000, 32_000
_given: set[int] = set()


def free_port() -> int:
    """One that this process has not been given before: its taker may not have bound it yet, or be down."""
    left = sorted(set(range(LOWEST, HIGHEST)) - _given)
    for port in random.sample(left, min(len(left), 200)):
        if is_free(port):
            _given.add(port)
            return port
    raise AmbassadorError(f"No free port was found on {HOST} between {LOWEST} and {HIGHEST}.")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one in TIME_WAIT counts as free
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
