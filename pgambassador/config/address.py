"""Where to listen: HOST:PORT, [IPv6]:PORT or unix:/directory."""

from __future__ import annotations

import ipaddress
import re

import msgspec

from pgambassador.errors import ConfigError

_TCP = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:\[\]/*]+)):(?P<port>[0-9]{1,5})")
_SOCKET_PATH_LIMIT = 103  # sun_path holds 104 bytes on macOS and 108 on Linux, the NUL included

DEFAULT_PORT = 5432


class Address(msgspec.Struct, frozen=True):
    """`host` is a name, an IP address, or (beginning with "/") the directory of a Unix socket."""

    host: str
    port: int

    @property
    def is_unix(self) -> bool:
        return self.host.startswith("/")

    @property
    def path(self) -> str:
        """The socket file, named as libpq expects it."""
        return f"{self.host.rstrip('/')}/.s.PGSQL.{self.port}"

    @property
    def is_local(self) -> bool:
        """Only this machine can reach it."""
        if self.is_unix or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.is_unix:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_tcp(text: str, where: str) -> Address:
    match = _TCP.fullmatch(text.strip())
    if match is None or int(match["port"]) > 65535:
        hint = None
        if text.strip().startswith("*") or (text.strip().startswith(":") and text.count(":") == 1):
            hint = "For every interface write 0.0.0.0:5432 or [::]:5432."
        elif text.count(":") > 1:
            hint = "An IPv6 address goes into brackets: [::1]:5432."
        raise ConfigError(f"{where} must be HOST:PORT, not {text!r}.", hint=hint)
    return Address(match["v6"] or match["host"], int(match["port"]))


def parse_listen(texts: tuple[str, ...], where: str = "listen") -> tuple[Address, ...]:
    """Unix sockets take the port of the first TCP address, so that one port number serves both."""
    tcp = [parse_tcp(text, where) for text in texts if not text.strip().startswith("unix:")]
    port = tcp[0].port if tcp else DEFAULT_PORT
    found: list[Address] = []
    for text in texts:
        text = text.strip()
        if text.startswith("unix:"):
            address = _unix(text.removeprefix("unix:"), port, where)
        else:
            address = parse_tcp(text, where)
        if address in found and address.port:
            raise ConfigError(f"{where} names {address} twice; remove one.")
        found.append(address)
    if not found:
        raise ConfigError(f"{where} is empty; name at least one address, such as 127.0.0.1:5432.")
    return tuple(found)


def _unix(directory: str, port: int, where: str) -> Address:
    if not directory.startswith("/"):
        raise ConfigError(f"{where} must be unix: and an absolute directory, not 'unix:{directory}'.")
    address = Address(directory.rstrip("/") or "/", port)
    if len(address.path.encode()) > _SOCKET_PATH_LIMIT:
        raise ConfigError(
            f"{where} makes a socket path that is too long for the operating system: {address.path!r}.",
            hint="Choose a shorter directory.",
        )
    return address
