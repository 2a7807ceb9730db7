"""Rules against a table, and against a plain reading of what they say."""

import ipaddress
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth.peer import Peer
from pgambassador.auth.rules import (
    LOGICAL,
    PHYSICAL,
    SESSION,
    Places,
    Rule,
    first_match,
    for_all,
    read_databases,
    read_names,
    read_places,
    refusal,
    shadowed,
)
from pgambassador.errors import ConfigError


def rule(
    method: str = "trust", address: Any = ("all",), database: Any = None, user: Any = None, tls: bool = False
) -> Rule:
    places = read_places([address] if isinstance(address, str) else address, "x")
    names = [None if each is None else frozenset(each.split()) for each in (database, user)]
    return Rule(method, places, names[0], names[1], tls)


def peer(address: str, *, tls: bool = False) -> Peer:
    if address == "unix":
        return Peer.at("unix", 1000)
    found = Peer.at(f"[{address}]:1" if ":" in address else f"{address}:1")
    return Peer(found.host, tls=tls)


@pytest.mark.parametrize(
    ("one", "matches", "does_not"),
    [
        (rule(), ["unix", "127.0.0.1", "::1", "10.0.0.1", "2001:db8::1"], []),
        (rule(address="local"), ["unix"], ["127.0.0.1", "::1", "10.0.0.1"]),
        (rule(address="loopback"), ["127.0.0.1", "127.9.9.9", "::1"], ["unix", "128.0.0.1", "::2"]),
        (rule(address="10.0.0.0/8"), ["10.0.0.1", "10.255.0.1", "::ffff:10.0.0.1"], ["11.0.0.1", "unix"]),
        (rule(address="10.0.0.1"), ["10.0.0.1", "::ffff:a00:1"], ["10.0.0.2"]),
        (rule(address="::ffff:10.0.0.0/104"), ["10.0.0.1", "::ffff:10.0.0.1"], ["11.0.0.1"]),
        (rule(address="::/0"), ["::1", "2001:db8::1"], ["10.0.0.1", "::ffff:10.0.0.1", "unix"]),
        (rule(address="0.0.0.0/0"), ["10.0.0.1", "::ffff:10.0.0.1"], ["::1", "unix"]),
        (rule(address=["local", "fd00::/8"]), ["unix", "fd00::1"], ["fe80::1", "10.0.0.1"]),
    ],
)
def test_where_from(one: Rule, matches: list[str], does_not: list[str]) -> None:
    assert all(one.matches(peer(each), "shop", "app") for each in matches)
    assert not any(one.matches(peer(each), "shop", "app") for each in does_not)


def test_the_first_match_counts() -> None:
    rules = (
        rule("peer", "local"),
        rule("cert", "10.0.0.0/8", tls=True, user="robot"),
        rule("reject", "10.6.6.6"),
        rule("scram-sha-256", "10.0.0.0/8", "shop stock", "alice robot"),
        rule("md5", "10.0.0.0/8", "old"),
    )

    def method(where: Peer, database: str, user: str) -> str | None:
        found = first_match(rules, where, database, user)
        return None if found is None else found.method

    assert method(peer("unix"), "any", "any") == "peer"
    assert method(peer("10.0.0.1", tls=True), "shop", "robot") == "cert"
    assert method(peer("10.0.0.1"), "shop", "robot") == "scram-sha-256"
    assert method(peer("10.0.0.1"), "shop", "ALICE") is None
    assert method(peer("10.0.0.1"), "old", "anybody") == "md5"
    assert method(peer("10.6.6.6"), "shop", "alice") == "reject"
    assert method(peer("10.0.0.1"), "Shop", "alice") is None
    assert method(peer("127.0.0.1"), "shop", "alice") is None


def test_nothing_matches_where_there_is_no_rule() -> None:
    assert first_match((), peer("unix"), "shop", "app") is None


def test_replication_as_in_pg_hba() -> None:
    """A copy of the whole server is no database, not even of `all`; what is decoded is of one."""

    def found(databases: str, database: str, kind: str) -> bool:
        names, physical = read_databases(databases.split())
        rule = Rule("trust", databases=names, physical=physical)
        return first_match((rule,), peer("10.0.0.1"), database, "app", kind) is not None

    for database in ("shop", "replication", "all", ""):
        assert not found("all", database, PHYSICAL)
        assert not found("shop", database, PHYSICAL)
        assert found("replication", database, PHYSICAL)
        assert found("shop replication", database, PHYSICAL)
        assert not found("replication", database, SESSION)
        assert not found("replication", database, LOGICAL)
        assert found("all", database, LOGICAL)
    assert found("shop", "shop", LOGICAL)
    assert not found("shop", "stock", LOGICAL)


def test_without_rules_replication_is_for_this_machine() -> None:
    table = for_all("scram-sha-256")
    for address in ADDRESSES:
        where = peer(address)
        assert first_match(table, where, "shop", "app") is not None
        for kind in (LOGICAL, PHYSICAL):
            assert (first_match(table, where, "shop", "app", kind) is not None) == where.local
    assert list(shadowed(table)) == []


# --- against an oracle

ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.1.0.1", "127.0.0.1", "::1", "fd00::1", "fd00:1::1", "unix"]
PLACES = [
    "all",
    "local",
    "loopback",
    "10.0.0.0/8",
    "10.0.0.0/31",
    "10.0.0.1",
    "fd00::/16",
    "fd00::/32",
    "::/0",
]
NAMES = ["a", "b", "c"]
KINDS = [SESSION, LOGICAL, PHYSICAL]

written = st.fixed_dictionaries(
    {
        "address": st.lists(st.sampled_from(PLACES), min_size=1, max_size=3),
        "database": st.lists(st.sampled_from([*NAMES, "all", "replication"]), min_size=1, max_size=3),
        "user": st.lists(st.sampled_from([*NAMES, "all"]), min_size=1, max_size=3),
        "tls": st.booleans(),
    }
)


def compiled(one: dict[str, Any]) -> Rule:
    places = read_places(one["address"], "x")
    databases, physical = read_databases(one["database"])
    return Rule("trust", places, databases, read_names(one["user"]), one["tls"], physical)


def plainly(one: dict[str, Any], address: str, tls: bool, database: str, user: str, kind: str) -> bool:
    """As the documentation says it, bit by bit."""
    wanted = {"replication"} if kind == PHYSICAL else {"all", database}

    def holds(place: str) -> bool:
        if place == "all":
            return True
        if place == "local" or address == "unix":
            return place == "local" and address == "unix"
        host = ipaddress.ip_address(address)
        if place == "loopback":
            return host.is_loopback
        head, _, bits = place.partition("/")
        base = ipaddress.ip_address(head)
        drop = base.max_prefixlen - int(bits or base.max_prefixlen)
        return base.version == host.version and int(host) >> drop == int(base) >> drop

    return (
        any(map(holds, one["address"]))
        and (tls or not one["tls"])
        and bool(wanted & set(one["database"]))
        and bool({"all", user} & set(one["user"]))
    )


@given(
    st.lists(written, max_size=5),
    st.sampled_from(ADDRESSES),
    st.booleans(),
    *[st.sampled_from(NAMES)] * 2,
    st.sampled_from(KINDS),
)
def test_as_it_is_written(
    rules: list[dict[str, Any]], address: str, tls: bool, database: str, user: str, kind: str
) -> None:
    table = [compiled(each) for each in rules]
    tls = tls and address != "unix"
    found = first_match(table, peer(address, tls=tls), database, user, kind)
    expected = next(
        (n for n, each in enumerate(rules) if plainly(each, address, tls, database, user, kind)), None
    )
    assert found is (None if expected is None else table[expected])


@given(st.lists(written, max_size=5))
def test_a_rule_that_is_said_to_be_shadowed_never_matches(rules: list[dict[str, Any]]) -> None:
    table = [compiled(each) for each in rules]
    for late, early in shadowed(table):
        assert early < late
        for address in ADDRESSES:
            for tls in (False, True) if address != "unix" else (False,):
                for database, user, kind in itertools.product(NAMES, NAMES, KINDS):
                    found = first_match(table, peer(address, tls=tls), database, user, kind)
                    assert found is not table[late] or table[late] in table[:late]


@pytest.mark.parametrize(
    ("early", "late", "is_shadowed"),
    [
        (rule(), rule(address="local", user="a", tls=True), True),
        (rule(address="10.0.0.0/8"), rule(address="10.1.0.0/16"), True),
        (rule(address="10.1.0.0/16"), rule(address="10.0.0.0/8"), False),
        (rule(address="10.0.0.0/8"), rule(address=["10.1.0.0/16", "local"]), False),
        (rule(tls=True), rule(), False),
        (rule(), rule(tls=True), True),
        (rule(user="a b"), rule(user="a"), True),
        (rule(user="a"), rule(user="a b"), False),
        (rule(user="a"), rule(), False),
        (rule(database="x"), rule(database="y"), False),
        (rule(address="0.0.0.0/0"), rule(address="::1"), False),
        (rule(address="0.0.0.0/0"), rule(address="::ffff:10.0.0.1"), True),
    ],
)
def test_what_shadows_what(early: Rule, late: Rule, is_shadowed: bool) -> None:
    assert list(shadowed((early, late))) == ([(1, 0)] if is_shadowed else [])


# --- mistakes and refusals


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.0.0.1/8", "Write 10.0.0.0/8 or 10.0.0.1."),
        ("fd00::1/64", "Write fd00::/64 or fd00::1."),
        ("10.0.0.0/33", "must be an address"),
        ("10.0.0", "must be an address"),
        ("10.0.0.0/255.0.0.0/8", "must be an address"),
        ("example.com", "must be an address"),
        ("Local", "must be an address"),
        ("", "must be an address"),
        ("*", "must be an address"),
    ],
)
def test_what_is_no_address(address: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_places(["all", address], "auth.rules[3].address")
    assert caught.value.sentence().startswith("auth.rules[3].address[1] ")
    assert said in caught.value.sentence()


@given(st.text(max_size=30))
def test_garbage_is_an_address_or_a_sentence(text: str) -> None:
    try:
        assert isinstance(read_places([text], "x"), Places)
    except ConfigError as error:
        assert error.message.startswith("x[0] ")


def test_remote_places() -> None:
    assert not read_places(["local", "loopback", "127.0.0.0/16", "::1"], "x").remote
    assert read_places(["all"], "x").remote
    assert read_places(["local", "10.0.0.1"], "x").remote


def test_postgresqls_sentences() -> None:
    error = refusal(None, peer("::ffff:10.0.0.1"), "shop", "alice")
    assert (error.sqlstate, error.message) == (
        "28000",
        'no entry in auth.rules for host "10.0.0.1", user "alice", database "shop", no encryption',
    )
    error = refusal(rule("reject"), peer("10.0.0.1", tls=True), "x" * 10_000, "y" * 10_000)
    assert error.message.startswith('auth.rules rejects connection for host "10.0.0.1", user "yyy')
    assert error.message.endswith('", SSL encryption')
    assert len(error.message) < 300
    assert 'host "[local]"' in refusal(None, peer("unix"), "shop", "alice").message
    error = refusal(None, peer("10.0.0.1"), "shop", "alice", PHYSICAL)
    assert error.message == (
        'no entry in auth.rules for replication connection from host "10.0.0.1", user "alice", no encryption'
    )
    assert error.hint is not None
    assert "database: replication" in error.hint
    error = refusal(rule("reject"), peer("10.0.0.1"), "shop", "alice", PHYSICAL)
    assert error.message.startswith('auth.rules rejects replication connection for host "10.0.0.1"')
