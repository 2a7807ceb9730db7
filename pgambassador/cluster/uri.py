"""A libpq connection URI cut into its settings, as text: `postgresql://user:secret@host:5432,host/db?key=value`.

1. The rules are libpq's ("Connection URIs" in the manual), so a URI means here what it means to psql.
2. A sentence about a mistake never quotes what may be a piece of the password.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from pgambassador.errors import ConfigError

SCHEMES = ("postgresql://", "postgres://")
MOST_BYTES = 65_536

_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST_END = re.compile(r"[:/?,]")
_PORT_END = re.compile(r"[/?,]")


def split_uri(uri: str) -> dict[str, str]:
    """The settings of a URI under libpq's parameter names; `host` and `port` are lists joined by commas."""
    scheme = next((scheme for scheme in SCHEMES if uri.startswith(scheme)), None)
    if scheme is None:
        raise ConfigError(
            "The URL does not begin with postgresql:// or postgres://.",
            hint="Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE.",
        )
    if len(uri) > MOST_BYTES:
        raise ConfigError(f"The URL is longer than {MOST_BYTES} bytes.", hint="Shorten it.")
    settings: dict[str, str] = {}
    rest = _user(uri[len(scheme) :], settings)
    rest = _hosts(rest, settings)
    database, _, query = rest.partition("?")
    if database[1:]:
        settings["dbname"] = _decode(database[1:], "database name")
    _parameters(query, settings)
    return settings


def _user(rest: str, settings: dict[str, str]) -> str:
    """Take `user:password@` off the front. Like libpq, it is there only if an @ comes before any slash."""
    userinfo, at, after = rest.partition("@")
    if not at or "/" in userinfo:
        return rest
    user, colon, password = userinfo.partition(":")
    if user:
        settings["user"] = _decode(user, "user name")
    if colon and password:
        settings["password"] = _decode(password, "password")
    return after


def _hosts(rest: str, settings: dict[str, str]) -> str:
    """Take `host:port,host:port` off the front."""
    hosts: list[str] = []
    ports: list[str] = []
    while True:
        host, rest = _host(rest)
        port = ""
        if rest.startswith(":"):
            port, rest = _until(_PORT_END, rest[1:])
        hosts.append(host)
        ports.append(port)
        if not rest.startswith(","):
            break
        rest = rest[1:]
    if "@" in rest.partition("?")[0] or any("@" in text for text in hosts + ports):
        raise ConfigError(
            "The URL has an @ where no @ can be.",
            hint="In a user name, a password or a database name write @ as %40, / as %2F and : as %3A.",
        )
    if names := ",".join(hosts):
        settings["host"] = _decode(names, "host name")
    if numbers := ",".join(ports):
        settings["port"] = _decode(numbers, "port")
    return rest


def _host(rest: str) -> tuple[str, str]:
    if not rest.startswith("["):
        return _until(_HOST_END, rest)
    host, bracket, rest = rest[1:].partition("]")
    if not bracket:
        raise ConfigError("The URL opens an IPv6 address with [ and never closes it.", hint="Add the ].")
    if not host:
        raise ConfigError("The URL has no address between [ and ].", hint="Write an IPv6 address there.")
    if rest and rest[0] not in ":/?,":
        raise ConfigError(
            "The URL goes on after an IPv6 address in a way that has no meaning.",
            hint="After the ] may come a colon, a slash, a question mark or a comma.",
        )
    return host, rest


def _until(end: re.Pattern[str], text: str) -> tuple[str, str]:
    found = end.search(text)
    at = found.start() if found else len(text)
    return text[:at], text[at:]


def _parameters(query: str, settings: dict[str, str]) -> None:
    """Take `key=value&key=value`; what stands here wins over what stood before the question mark."""
    seen: set[str] = set()
    for pair in query.split("&") if query else ():
        key, equals, value = pair.partition("=")
        name = _decode(key, "parameter name")
        if not equals or not name:
            raise ConfigError(
                "A parameter after the ? of the URL is not of the form key=value.",
                hint="In a value write & as %26.",
            )
        if "=" in value:
            raise ConfigError(
                f"The URL's parameter {name} has a second = in its value.", hint="In a value write = as %3D."
            )
        # JDBC's spelling, which libpq accepts as well.
        if (name, value) == ("ssl", "true"):
            name, value = "sslmode", "require"
        if name in seen:
            raise ConfigError(f"The URL has the parameter {name} twice.", hint="Leave one of them out.")
        seen.add(name)
        settings[name] = _decode(value, f"parameter {name}")


def _decode(text: str, what: str) -> str:
    if _BAD_PERCENT.search(text):
        raise ConfigError(
            f"The URL's {what} has a % that is not followed by two hexadecimal digits.",
            hint="Write a percent sign as %25.",
        )
    decoded = unquote_to_bytes(text).decode("utf-8", "replace")
    if "\N{REPLACEMENT CHARACTER}" in decoded or "\0" in decoded:
        raise ConfigError(
            f"The URL's {what} is not UTF-8 text without zero bytes.", hint="Correct the % codes."
        )
    return decoded
