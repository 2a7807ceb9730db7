"""All sources into one checked Config: flag over environment over file over default."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec.inspect as mi

from pgambassador.config.build import Given, build
from pgambassador.config.checks import check
from pgambassador.config.environment import overlay
from pgambassador.config.file import read_file
from pgambassador.config.structs import Config
from pgambassador.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAIN = "main"  # the name of the cluster that a URL alone makes
_URL = re.compile(r"(?P<scheme>[a-z]+)://(?:(?P<user>[^/?#]*)@)?(?P<hosts>[^/?#]*)(?P<rest>.*)", re.DOTALL)


def load(
    *,
    path: str | None = None,
    url: str | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    read: Callable[[str], dict[str, Any]] = read_file,
) -> Config:
    """`flags` maps paths ("pool.size") to values; `environ` is the whole environment or a part of it; `read`
    gives what is in the file."""
    environ = environ or {}
    path = path or environ.get("PGAMBASSADOR_CONFIG") or None
    tree: dict[str, Any] = read(path) if path else {}
    tree = overlay(tree, environ)
    if url is None:
        tree = _short_names(tree, environ)
    else:
        tree = _with_url(tree, url)
    tree = _tls_enabled(tree, environ)
    for option, value in (flags or {}).items():
        *levels, name = option.split(".")
        section = tree
        for level in levels:
            inner = section.get(level)
            section[level] = dict(inner) if isinstance(inner, dict) else {}
            section = section[level]
        section[name] = value
    _rules(tree)
    config: Config = build(mi.type_info(Config), tree, "")
    check(config)
    return config


def _rules(tree: dict[str, Any]) -> None:
    """A list of nothing, or whose lines are all commented out, must not be taken for no list."""
    auth = tree.get("auth")
    if isinstance(auth, dict) and "rules" in auth and not auth["rules"]:
        raise ConfigError(
            "auth.rules is empty, so that nobody could log in.",
            hint="Write a rule, or leave out auth.rules.",
        )


def _with_url(tree: dict[str, Any], url: str) -> dict[str, Any]:
    clusters = tree.get("clusters") or {}
    if not isinstance(clusters, dict):
        return tree
    if len(clusters) > 1:
        raise ConfigError(
            f"A URL on the command line cannot be told to one of {len(clusters)} clusters.",
            hint="Leave it out, or configure one cluster.",
        )
    name = next(iter(clusters), MAIN)
    return {**tree, "clusters": {name: {**(clusters.get(name) or {}), "url": url}}}


def _short_names(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """UPSTREAM_HOST and UPSTREAM_PORT: the address of the only cluster."""
    host, port = environ.get("UPSTREAM_HOST"), environ.get("UPSTREAM_PORT")
    if not host and not port:
        return tree
    if port and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ConfigError(f"UPSTREAM_PORT must be a port number from 1 to 65535, not {port!r}.")
    clusters = tree.get("clusters") or {}
    if not isinstance(clusters, dict):
        return tree
    if len(clusters) > 1:
        raise ConfigError(
            f"UPSTREAM_HOST and UPSTREAM_PORT cannot be told to one of {len(clusters)} clusters.",
            hint="Use PGAMBASSADOR_CLUSTERS__NAME__URL.",
        )
    name = next(iter(clusters), MAIN)
    cluster = clusters.get(name) or {}
    url = cluster.get("url") if isinstance(cluster, dict) else None
    if url is None and not host:
        raise ConfigError(
            "UPSTREAM_PORT is set, but no host.", hint="Set UPSTREAM_HOST as well, or give a URL."
        )
    if not isinstance(cluster, dict) or not isinstance(url, str | None):
        return tree
    return _with_url(tree, Given(_with_address(url or "postgresql:///", host, port), "UPSTREAM_HOST"))


def _tls_enabled(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """TLS_ENABLED is what `ssl` is in postgresql.conf: false turns TLS off, true is any mode but off."""
    word = environ.get("TLS_ENABLED")
    if not word:
        return tree
    enabled = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}.get(
        word.lower()
    )
    if enabled is None:
        raise ConfigError(f"TLS_ENABLED must be true or false, not {word[:60]!r}.")
    section = tree.get("tls") or {}
    if not isinstance(section, dict):
        return tree  # a wrong type in the file, which `build` will report
    if not enabled:
        return {**tree, "tls": {**section, "mode": "off"}}
    if not section.get("certificate"):
        raise ConfigError(
            "TLS_ENABLED is true, but there is no certificate.",
            hint="Name it with PGAMBASSADOR_TLS__CERTIFICATE (and PGAMBASSADOR_TLS__KEY) or in the file.",
        )
    stands = section.get("mode") not in (None, "off", False)
    return tree if stands else {**tree, "tls": {**section, "mode": "allow"}}


def _with_address(url: str, host: str | None, port: str | None) -> str:
    """The URL with another host, another port, or both; a host may carry its own port."""
    match = _URL.fullmatch(url)
    if match is None:
        return url  # not a URL at all, which the URL's own parser will say
    hosts = []
    for old in (host or match["hosts"]).split(","):
        name, own = _split_port(old)
        hosts.append(f"{name}:{port or own}" if port or own else name)
    rest = re.sub(r"(?<=[?&])(?:host|hostaddr|port)=[^&]*&?", "", match["rest"]) if host else match["rest"]
    user = f"{match['user']}@" if match["user"] is not None else ""
    return f"{match['scheme']}://{user}{','.join(hosts)}{rest.rstrip('?&')}"


def _split_port(host: str) -> tuple[str, str]:
    host = host.strip()
    if host.startswith("["):
        name, _, port = host.partition("]")
        return name + "]", port.removeprefix(":")
    if host.startswith("/"):
        return host.replace("/", "%2F"), ""
    if host.count(":") > 1:
        return f"[{host}]", ""
    name, _, port = host.partition(":")
    return name, port
