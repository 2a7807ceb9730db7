"""Networks of the kernel's own: namespaces without a name, and machines in them that one cable leads to each.

1. Nothing is made in the network that the tests run in. A namespace ends, with all that is in it, when nobody
   holds it and no process is left in it.
2. Who is inside is a thread, with the sockets, threads and processes that it makes there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import threading
import weakref
from collections.abc import Iterator
from typing import Self

from pgambassador.embedded import Workspace
from pgambassador.embedded.authority import LOOPBACK
from pgambassador.embedded.ports import HOST
from tests.harness.ledger import CREATE
from tests.harness.servers import HBA, USERS, populate
from tests.harness.waiting import wait_until

PREFIX = "10.77.0"
NOTICES = {"tcp_keepalives_idle": "1", "tcp_keepalives_interval": "1", "tcp_user_timeout": "1000"}
"""A server that is never told of a client's end keeps its transaction, and its locks, until it looks."""
_NEWNET = 0x40000000  # CLONE_NEWNET of linux/sched.h
_OURS = "/proc/thread-self/ns/net"
_ARP = 0x0806
_ESTABLISHED = "01"


def _called(function: str, *arguments: int) -> None:
    found = getattr(ctypes.CDLL(None, use_errno=True), function, None)
    if found is None:
        raise OSError(f"this system has no {function}")
    if found(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")


class Namespace:
    """With a loopback that is up. OSError where this user may have none, or cannot do something in it."""

    def __init__(self) -> None:
        made: list[int | OSError] = []

        def make() -> None:
            try:
                _called("unshare", _NEWNET)
                made.append(os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                made.append(error)

        thread = threading.Thread(target=make)  # which stays inside until it ends
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        self._held = made[0]
        self.close = weakref.finalize(self, os.close, self._held)
        self.run("ip", "link", "set", "lo", "up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._held}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        home = os.open(_OURS, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _called("setns", self._held, _NEWNET)
            try:
                yield
            finally:
                _called("setns", home, _NEWNET)
        finally:
            os.close(home)

    def run(self, *command: str) -> str:
        with self.inside():
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def connections(self) -> set[tuple[str, str]]:
        """Both ends of those that are established, as the kernel here knows them: this one, the other."""
        with self.inside(), open("/proc/thread-self/net/tcp") as table:
            lines = [line.split() for line in table][1:]
        return {(here, there) for _, here, there, state, *_ in lines if state == _ESTABLISHED}


class Machine:
    """A namespace at the end of a cable. Of whatever is sent to one that is unplugged nothing comes back."""

    def __init__(self, lan: Lan, number: int) -> None:
        self.space = Namespace()
        self.address = f"{PREFIX}.{number}"
        self._port = f"port{number}"
        self._lan = lan
        lan.space.run(*f"ip link add {self._port} type veth peer name eth0 netns {self.space.path}".split())
        lan.space.run(*f"ip link set {self._port} master lan up".split())
        self.plug()
        self.take(self.address)

    def plug(self) -> None:
        self.space.run("ip", "link", "set", "eth0", "up")

    def unplug(self) -> None:
        self.space.run("ip", "link", "set", "eth0", "down")

    def take(self, address: str) -> None:
        """And tell everybody, as who takes over an address does (RFC 5227, a gratuitous ARP)."""
        self.space.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
        ip = socket.inet_aton(address)
        with self.space.inside(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
            end.bind(("eth0", _ARP))
            mac = end.getsockname()[4]
            head = struct.pack("!6s6sHHHBBH", b"\xff" * 6, mac, _ARP, 1, 0x0800, 6, 4, 1)
            end.send(head + mac + ip + bytes(6) + ip)

    def drop(self, address: str) -> None:
        self.space.run("ip", "address", "del", f"{address}/24", "dev", "eth0")

    def slow(self, rate: str) -> None:
        """In both directions, with what a queue holds in 400 ms."""
        shape = f"root tbf rate {rate} burst 16kb latency 400ms"
        self.space.run(*f"tc qdisc replace dev eth0 {shape}".split())
        self._lan.space.run(*f"tc qdisc replace dev {self._port} {shape}".split())

    def fast(self) -> None:
        self.space.run("tc", "qdisc", "del", "dev", "eth0", "root")
        self._lan.space.run(*f"tc qdisc del dev {self._port} root".split())


class Lan:
    """`space` is a machine with a switch, and `machines` are plugged into it."""

    def __init__(self, machines: int) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undoing:
            self.space = Namespace()
            undoing.callback(self.space.close)
            self.space.run("ip", "link", "add", "lan", "type", "bridge")
            self.space.run(*f"ip address add {PREFIX}.1/24 dev lan".split())
            self.space.run("ip", "link", "set", "lan", "up")
            self.machines = []
            for number in range(machines):
                machine = Machine(self, 2 + number)
                undoing.callback(machine.space.close)
                self.machines.append(machine)
            self._stack = undoing.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def route(self, kind: str, address: str) -> None:
        """`unreachable`, `prohibit` or `blackhole`: what becomes of what is sent there from here."""
        self.space.run("ip", "route", "add", kind, address)

    def unroute(self, kind: str, address: str) -> None:
        self.space.run("ip", "route", "del", kind, address)


class Distant:
    """A primary and its standby, each on its machine, at the same port. What one streams to the other goes
    through a Unix socket, which no network parts."""

    def __init__(self, workspace: Workspace, lan: Lan) -> None:
        self.here, self.there = lan.machines
        name = f"namespaces-{len(workspace.servers)}"
        hosts = (*LOOPBACK, self.here.address, self.there.address)
        with self.here.space.inside():
            self.primary = workspace.primary(f"{name}-one", {"listen_addresses": "*", **NOTICES}, hba=HBA)
            self.primary.certify(hosts=hosts)
            self.primary.reload()
            populate(self.primary)
            self.standby = self.primary.replica(f"{name}-two")
            source = f"host={self.primary.socket_folder} port={self.primary.port} user=postgres"
            source += f" password={self.primary.password}"
            self.standby.sql(f"alter system set primary_conninfo = '{source}'")
            self.standby.stop()
        self.standby.certify(hosts=hosts)
        self.standby.port = self.primary.port
        self.standby.configure({"listen_addresses": "*"})
        with self.there.space.inside():
            self.standby.start()
        self.parted = False
        """It is no pair any more."""

    def stop(self) -> None:
        for server in (self.primary, self.standby):
            server.stop(immediate=True)

    def url(self, *machines: Machine, **parameters: str) -> str:
        url = self.primary.url("app", USERS["app"].password, "app", **parameters)
        hosts = ",".join(f"{machine.address}:{self.primary.port}" for machine in machines)
        return url.replace(f"{HOST}:{self.primary.port}", hosts)

    def fresh(self) -> None:
        careful = "set client_min_messages = error; set lock_timeout = '20s';"
        self.primary.sql(f"{careful} {CREATE}", database="app")
        at = self.primary.sql("select pg_current_wal_lsn()")
        there = f"select pg_last_wal_replay_lsn() >= '{at}'"
        wait_until(lambda: self.standby.sql(there) == "t", "the standby", deadline=30, poll=0.05)
