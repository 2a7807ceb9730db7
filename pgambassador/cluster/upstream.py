"""How to reach one PostgreSQL cluster: its hosts, its TLS and its login, as a URL says it.

1. Names and meanings are libpq's ("Parameter Key Words" in the manual). What differs: `sslmode` is
   `verify-full` unless something else is asked for; `sslrootcert` is `system`, not a file in the home folder;
   `max_protocol_version` is `latest`, with a second attempt at 3.0;
   environment, passfile and service file are not read; keepalives begin after a minute, not after the
   system's two hours; with several hosts `target_session_attrs` is `read-write`.
2. As in libpq, a weaker mode than verify-full does not go together with CAs that vouch for strangers, and
   `require` with a CA file is `verify-ca`: whoever names a CA wants it used.
3. The password never appears in a repr or in an error.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from functools import lru_cache

from pgambassador.cluster.uri import split_uri
from pgambassador.errors import ConfigError

SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SSLNEGOTIATIONS = ("postgres", "direct")
TLS_VERSIONS = ("TLSv1.2", "TLSv1.3")
PROTOCOLS = ("3.0", "3.2", "latest")
CHANNEL_BINDINGS = ("disable", "prefer", "require")
SESSION_ATTRS = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
SYSTEM = "system"
RDS = "rds"
"""Amazon's CAs for RDS and Aurora, and the system's beside them, which RDS Proxy needs."""

DEFAULT_PORT = 5432
DEFAULT_CONNECT_TIMEOUT = 10
MOST_HOSTS = 64

# Startup parameters of the session ("StartupMessage"), which the server is simply told.
_SESSION = ("application_name", "options", "client_encoding")
_OURS = (
    *("host", "hostaddr", "port", "user", "password", "dbname"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslnegotiation", "sslsni", "ssl_min_protocol_version"),
    *(
        "channel_binding",
        "gssencmode",
        "connect_timeout",
        "target_session_attrs",
        "fallback_application_name",
        "max_protocol_version",
    ),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
)
KNOWN = frozenset((*_OURS, *_SESSION))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One host of a URL. A host that begins with / is a Unix socket's directory, with @ an abstract one.
    Port 0: the name of an instance that only its provider knows the way to."""

    host: str
    port: int = DEFAULT_PORT
    hostaddr: str = ""
    """Where to connect, if that is not found by looking up `host`, which the certificate must name."""

    @property
    def is_unix(self) -> bool:
        return self.host.startswith(("/", "@")) and not self.hostaddr

    @property
    def socket_path(self) -> str:
        return f"{self.host}/.s.PGSQL.{self.port}"

    def __str__(self) -> str:
        if not self.port:
            return self.host
        return self.socket_path if self.is_unix else host_port(self.host, self.port)


def host_port(host: str, port: int) -> str:
    """An address as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """Everything a URL says. Equal values mean the same connections, which is what a reload asks."""

    endpoints: tuple[Endpoint, ...]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: str | None = None
    sslmode: str = "verify-full"
    sslrootcert: str = SYSTEM
    rds_bundle: str | None = None
    """The file that `rds` stands for, where the configuration names one; no part of a URL."""
    sslcert: str | None = None
    sslkey: str | None = None
    sslnegotiation: str = "postgres"
    sslsni: bool = True
    ssl_min_protocol_version: str = "TLSv1.2"
    channel_binding: str = "prefer"
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    target_session_attrs: str = "any"
    learns_roles: bool = False
    """Whether it is for us to learn which of the hosts is the primary: the URL does not say what it wants."""
    max_protocol_version: str = "latest"
    keepalives: bool = True
    keepalives_idle: int = 60
    keepalives_interval: int = 10
    keepalives_count: int = 6
    tcp_user_timeout: int = 0
    params: dict[str, str] = field(default_factory=dict)

    @property
    def checks_certificate(self) -> bool:
        """Whether the server's certificate chain is verified, its name included or not."""
        return self.sslmode.startswith("verify") or self.sslrootcert != SYSTEM

    @property
    def checks_name(self) -> bool:
        return self.sslmode == "verify-full"

    @property
    def weakness(self) -> str | None:
        """One sentence about what an attacker on the network could do, or None."""
        if self.checks_name or all(endpoint.is_unix for endpoint in self.endpoints):
            return None
        if self.sslmode in ("disable", "allow", "prefer"):
            what = "the connection to the server may be in plain text"
        elif self.checks_certificate:
            what = "a certificate of the same CA for another host is accepted"
        else:
            what = "the server's certificate is not verified, so anyone on the way can pose as the server"
        return f"sslmode={self.sslmode}: {what}; use sslmode=verify-full."


@lru_cache(maxsize=64)
def parse_url(url: str, *, instance: str | None = None, found: bool = False) -> Upstream:
    """What a URL says, or a ConfigError that says what is wrong with it. `instance` stands in for its host,
    and for all that it may say about TLS. `found`: it has more servers than it names, which are found."""
    settings = split_uri(url)
    for name in settings:
        if name not in KNOWN:
            raise _unknown(name)
    # Neither has a meaning here: there is no GSS encryption, and libpq's defaults of both ask for none.
    _choice(settings, "gssencmode", ("prefer", "disable"), "prefer")
    if instance is None:
        endpoints = _endpoints(settings)
    else:
        _check_hostless(settings)
        endpoints = (Endpoint(instance, 0),)
    several = found or len(endpoints) > 1
    params = {name: settings[name] for name in _SESSION if settings.get(name)}
    if fallback := settings.get("fallback_application_name"):
        params.setdefault("application_name", fallback)
    upstream = Upstream(
        endpoints=endpoints,
        user=settings.get("user") or None,
        password=settings.get("password") or None,
        database=settings.get("dbname") or None,
        sslmode=_choice(settings, "sslmode", SSLMODES, "verify-full"),
        sslrootcert=settings.get("sslrootcert") or SYSTEM,
        sslcert=settings.get("sslcert") or None,
        sslkey=settings.get("sslkey") or None,
        sslnegotiation=_choice(settings, "sslnegotiation", SSLNEGOTIATIONS, "postgres"),
        sslsni=_flag(settings, "sslsni"),
        ssl_min_protocol_version=_choice(settings, "ssl_min_protocol_version", TLS_VERSIONS, "TLSv1.2"),
        channel_binding=_choice(settings, "channel_binding", CHANNEL_BINDINGS, "prefer"),
        connect_timeout=_whole(settings, "connect_timeout", DEFAULT_CONNECT_TIMEOUT, 1, 3600),
        learns_roles=several and not settings.get("target_session_attrs"),
        target_session_attrs=_choice(
            settings, "target_session_attrs", SESSION_ATTRS, "read-write" if several else "any"
        ),
        max_protocol_version=_choice(settings, "max_protocol_version", PROTOCOLS, "latest"),
        keepalives=_flag(settings, "keepalives"),
        # 32767 and 127 are the kernel's own limits; 0 means the system's default.
        keepalives_idle=_whole(settings, "keepalives_idle", 60, 0, 32_767),
        keepalives_interval=_whole(settings, "keepalives_interval", 10, 0, 32_767),
        keepalives_count=_whole(settings, "keepalives_count", 6, 0, 127),
        tcp_user_timeout=_whole(settings, "tcp_user_timeout", 0, 0, 86_400_000),
        params=params,
    )
    _check_tls(upstream, explicit=bool(settings.get("sslrootcert")))
    return upstream


def _check_hostless(settings: dict[str, str]) -> None:
    """A URL for which a provider knows host, TLS and identity of the server."""
    for name in ("host", "hostaddr", "port"):
        if settings.get(name):
            raise ConfigError(
                f"The URL has a {name}, and credentials.instance says where to connect.",
                hint="Write postgresql://USER@/DATABASE, or leave out credentials.instance.",
            )
    for name in settings:
        harmless = (name, settings[name]) in (("sslmode", "verify-full"), ("channel_binding", "disable"))
        if name.startswith(("ssl", "channel_binding")) and not harmless:
            raise ConfigError(
                f"The URL's {name} has no meaning with credentials.instance: TLS is always verified there,"
                " by a certificate that the provider knows.",
                hint="Leave it out.",
            )


def _endpoints(settings: dict[str, str]) -> tuple[Endpoint, ...]:
    hosts = settings.get("host", "").split(",")
    addresses = settings.get("hostaddr", "").split(",")
    ports = settings.get("port", "").split(",")
    count = len(addresses) if settings.get("hostaddr") else len(hosts)
    if count > MOST_HOSTS:
        raise ConfigError(f"The URL names {count} hosts; {MOST_HOSTS} are allowed.", hint="Name fewer.")
    if settings.get("hostaddr") and settings.get("host") and len(hosts) != len(addresses):
        raise ConfigError(
            f"The URL has {len(hosts)} hosts but {len(addresses)} values in hostaddr.",
            hint="Give one for each.",
        )
    if len(ports) not in (1, count):
        raise ConfigError(
            f"The URL has {len(ports)} ports for {count} hosts.", hint="Give one port, or one for each host."
        )
    found = []
    for index in range(count):
        host = hosts[index] if index < len(hosts) else ""
        hostaddr = addresses[index] if index < len(addresses) else ""
        if not host and not hostaddr:
            raise ConfigError(
                "The URL names no host."
                if count == 1
                else f"Host {index + 1} of {count} in the URL is empty.",
                hint="Write postgresql://USER@HOST:PORT/DATABASE, or ?host=/directory for a Unix socket.",
            )
        port = ports[index] if len(ports) > 1 else ports[0]
        found.append(Endpoint(host or hostaddr, _port(port), hostaddr))
    return tuple(found)


def _port(text: str) -> int:
    if not text.strip():
        return DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", text.strip()) or not 1 <= int(text) <= 65_535:
        raise ConfigError(
            "A port in the URL is not a number from 1 to 65535.",
            hint="If it is a piece of the password, write / as %2F and : as %3A there.",
        )
    return int(text)


_FOR_ALL = {
    SYSTEM: "the system's CAs: they vouch for anyone who owns a domain",
    RDS: "Amazon's CAs: they vouch for anyone who has a database there",
}


def _check_tls(upstream: Upstream, *, explicit: bool) -> None:
    mode = upstream.sslmode
    if mode != "verify-full" and upstream.sslrootcert in _FOR_ALL and (explicit or mode == "verify-ca"):
        raise ConfigError(
            f"sslmode={mode} is too weak for {_FOR_ALL[upstream.sslrootcert]}.",
            hint="Use sslmode=verify-full, or name the CA of your database with sslrootcert=FILE.",
        )
    if upstream.sslnegotiation == "direct" and mode in ("disable", "allow", "prefer"):
        raise ConfigError(
            f"sslmode={mode} does not go together with sslnegotiation=direct.",
            hint="Use sslmode=verify-full, or leave out sslnegotiation.",
        )
    if upstream.sslkey and not upstream.sslcert:
        raise ConfigError(
            "The URL has an sslkey without an sslcert.", hint="Name the certificate with sslcert=FILE."
        )
    if upstream.checks_name and not upstream.sslsni:
        raise ConfigError(
            "sslsni=0 does not go together with sslmode=verify-full: the name that is checked is also sent.",
            hint="Leave out sslsni, or use sslmode=verify-ca.",
        )
    if upstream.channel_binding == "require" and mode == "disable":
        raise ConfigError(
            "channel_binding=require needs TLS, and sslmode=disable turns it off.",
            hint="Use sslmode=verify-full.",
        )


def _choice(settings: dict[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    value = settings.get(name) or default
    if value in allowed:
        return value
    close = difflib.get_close_matches(value, allowed, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Use one of: {', '.join(allowed)}."
    raise ConfigError(f"The URL's {name} cannot be {value!r}.", hint=hint)


def _flag(settings: dict[str, str], name: str) -> bool:
    return _choice(settings, name, ("0", "1"), "1") == "1"


def _whole(settings: dict[str, str], name: str, default: int, least: int, most: int) -> int:
    text = settings.get(name, "").strip()
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise ConfigError(
            f"The URL's {name} is not a whole number from {least} to {most}.", hint="Correct it."
        )
    return int(text)


def _unknown(name: str) -> ConfigError:
    shown = name if re.fullmatch(r"[\w.-]{1,64}", name) else "with a strange name"
    close = difflib.get_close_matches(name.lower(), KNOWN, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"These are known: {', '.join(sorted(KNOWN))}."
    return ConfigError(f"The URL's parameter {shown} is not known here.", hint=hint)
