"""Who may come from where, and how it has to show who it is: a list of which the first match counts.

1. Deciding is a function of the rules, the connection, and the names that its start packet gives.
2. What no rule matches is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, TypeAlias

from pgambassador.auth.peer import Peer
from pgambassador.errors import ConfigError, Refused

Network: TypeAlias = IPv4Network | IPv6Network

ALL: Final = "all"
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_ANYWHERE: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class Places:
    """Where a client may come from: networks, and `unix` for Unix sockets."""

    networks: tuple[Network, ...] = _ANYWHERE
    unix: bool = True

    def holds(self, peer: Peer) -> bool:
        if peer.host is None:
            return self.unix
        return any(peer.host in network for network in self.networks)

    def covers(self, other: Places) -> bool:
        return (self.unix or not other.unix) and all(_within(each, self.networks) for each in other.networks)

    @property
    def remote(self) -> bool:
        """Whether other machines are among them."""
        return any(not _within(each, _LOOPBACK) for each in self.networks)


@dataclass(frozen=True, slots=True)
class Rule:
    """`databases` and `users` None: all of them. `tls`: only connections with TLS."""

    method: str
    places: Places = Places()
    databases: frozenset[str] | None = None
    users: frozenset[str] | None = None
    tls: bool = False

    def matches(self, peer: Peer, database: str, user: str) -> bool:
        return (
            (peer.tls or not self.tls)
            and self.places.holds(peer)
            and (self.databases is None or database in self.databases)
            and (self.users is None or user in self.users)
        )

    def covers(self, other: Rule) -> bool:
        """Whether it matches all that the other does."""
        return (
            (other.tls or not self.tls)
            and self.places.covers(other.places)
            and _includes(self.databases, other.databases)
            and _includes(self.users, other.users)
        )


def first_match(rules: Sequence[Rule], peer: Peer, database: str, user: str) -> Rule | None:
    return next((rule for rule in rules if rule.matches(peer, database, user)), None)


def shadowed(rules: Sequence[Rule]) -> Iterator[tuple[int, int]]:
    """Rules that never match because of one before them: their index, and that of the earlier one."""
    for late, rule in enumerate(rules):
        for early in range(late):
            if rules[early].covers(rule):
                yield late, early
                break


def refusal(rule: Rule | None, peer: Peer, database: str, user: str) -> Refused:
    """PostgreSQL's sentence for a client that no rule lets in, or that one keeps out."""
    what = "no entry in auth.rules" if rule is None else "auth.rules rejects connection"
    encryption = "SSL encryption" if peer.tls else "no encryption"
    return Refused(
        f'{what} for host "{peer.name}", user "{user[:64]}", database "{database[:64]}", {encryption}',
        hint="Ask whoever runs pgambassador."
        if rule is not None
        else "Add a rule to auth.rules that lets it in.",
    )


def read_places(texts: Sequence[str], path: str) -> Places:
    """`local`, `loopback`, `all`, addresses and networks; ConfigError names the path of what is none."""
    networks: dict[Network, None] = {}
    unix = False
    for index, text in enumerate(texts):
        match text:
            case "all":
                networks |= dict.fromkeys(_ANYWHERE)
                unix = True
            case "local":
                unix = True
            case "loopback":
                networks |= dict.fromkeys(_LOOPBACK)
            case _:
                networks[_network(text, f"{path}[{index}]")] = None
    return Places(tuple(networks), unix)


def read_names(names: Sequence[str]) -> frozenset[str] | None:
    return None if ALL in names else frozenset(names)


def _network(text: str, path: str) -> Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(
            f"{path} must be an address, a network, local, loopback or all, not {text[:60]!r}.",
            hint="A network is written as 10.0.0.0/8 or fd00::/8.",
        ) from None
    address = text.partition("/")[0]
    if str(network.network_address) != str(ip_network(address).network_address):
        raise ConfigError(
            f"{path} is {text[:60]!r}, an address inside a network.", hint=f"Write {network} or {address}."
        )
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        inner = network.network_address.ipv4_mapped
        assert inner is not None
        return IPv4Network((inner, network.prefixlen - _MAPPED.prefixlen))
    return network


def _within(network: Network, others: Sequence[Network]) -> bool:
    return any(_subnet(network, other) for other in others)


def _subnet(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def _includes(ours: frozenset[str] | None, theirs: frozenset[str] | None) -> bool:
    return ours is None or (theirs is not None and theirs <= ours)
