"""Who may come from where, and how it has to show who it is: a list of which the first match counts.

1. Deciding is a function of the rules, the connection, and the names that its start packet gives.
2. What no rule matches is refused.
3. As in pg_hba.conf `all` databases are not physical replication, which has none: only `replication` matches
   that, and no session. Logical replication names a database, and matches by it.
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
REPLICATION: Final = "replication"

SESSION: Final = ""
LOGICAL: Final = "logical"
PHYSICAL: Final = "physical"
"""Kinds of connections: both latter are for replication."""

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
        return self.networks is _ANYWHERE or any(peer.host in network for network in self.networks)

    def covers(self, other: Places) -> bool:
        return (self.unix or not other.unix) and all(_within(each, self.networks) for each in other.networks)

    @property
    def remote(self) -> bool:
        """Whether other machines are among them."""
        return any(not _within(each, _LOOPBACK) for each in self.networks)


HERE: Final = Places(_LOOPBACK)
"""On this machine."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`databases` and `users` None: all of them. `tls`: only connections with TLS. `physical`, `logical`:
    whether connections for replication are matched too, the latter by their database."""

    method: str
    places: Places = Places()
    databases: frozenset[str] | None = None
    users: frozenset[str] | None = None
    tls: bool = False
    physical: bool = False
    logical: bool = True

    def matches(self, peer: Peer, database: str, user: str, kind: str = SESSION) -> bool:
        return (
            (peer.tls or not self.tls)
            and self.places.holds(peer)
            and (self._serves(database, kind) if kind else self._names(database))
            and (self.users is None or user in self.users)
        )

    def _names(self, database: str) -> bool:
        return self.databases is None or database in self.databases

    def _serves(self, database: str, kind: str) -> bool:
        return self.physical if kind == PHYSICAL else self.logical and self._names(database)

    def covers(self, other: Rule) -> bool:
        """Whether it matches all that the other does."""
        return (
            (other.tls or not self.tls)
            and self.places.covers(other.places)
            and (self.physical or not other.physical)
            and (self.logical or not other.logical)
            and _includes(self.databases, other.databases)
            and _includes(self.users, other.users)
        )


def for_all(method: str) -> tuple[Rule, ...]:
    """Where no rules are written. Replication, a copy of everything, is for this machine then."""
    return Rule(method, logical=False), Rule(method, HERE, physical=True)


def first_match(
    rules: Sequence[Rule], peer: Peer, database: str, user: str, kind: str = SESSION
) -> Rule | None:
    for rule in rules:
        if rule.matches(peer, database, user, kind):
            return rule
    return None


def shadowed(rules: Sequence[Rule]) -> Iterator[tuple[int, int]]:
    """Rules that never match because of one before them: their index, and that of the earlier one."""
    for late, rule in enumerate(rules):
        for early in range(late):
            if rules[early].covers(rule):
                yield late, early
                break


def refusal(rule: Rule | None, peer: Peer, database: str, user: str, kind: str = SESSION) -> Refused:
    """PostgreSQL's sentence for a client that no rule lets in, or that one keeps out."""
    what = "no entry in auth.rules for" if rule is None else "auth.rules rejects connection for"
    whither = f', database "{database[:64]}"'
    if kind:
        what = (
            f"{'no entry in auth.rules for' if rule is None else 'auth.rules rejects'} replication connection"
        )
        what += " from" if rule is None else " for"
        whither = "" if kind == PHYSICAL else whither
    encryption = "SSL encryption" if peer.tls else "no encryption"
    remedy = "Add a rule to auth.rules that lets it in."
    if kind == PHYSICAL:
        remedy = "Add a rule with database: replication to auth.rules that lets it in."
    return Refused(
        f'{what} host "{peer.name}", user "{user[:64]}"{whither}, {encryption}',
        hint=remedy if rule is None else "Ask whoever runs pgambassador.",
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
    return Places(_ANYWHERE if tuple(networks) == _ANYWHERE else tuple(networks), unix)


def read_names(names: Sequence[str]) -> frozenset[str] | None:
    return None if ALL in names else frozenset(names)


def read_databases(names: Sequence[str]) -> tuple[frozenset[str] | None, bool]:
    """The databases, and whether physical replication is among them."""
    return read_names([name for name in names if name != REPLICATION]), REPLICATION in names


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
