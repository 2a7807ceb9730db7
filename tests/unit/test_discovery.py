"""Where servers are found: names, SRV records, Aurora's list and Patroni's, with what was found before."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pgambassador.cluster.probe import Report
from pgambassador.cluster.upstream import Endpoint, parse_url
from pgambassador.config.discovery import (
    AuroraDiscovery,
    DnsDiscovery,
    HostsDiscovery,
    PatroniDiscovery,
)
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable
from pgambassador.net.discovery.aurora import Aurora
from pgambassador.net.discovery.dns import Dns, Service
from pgambassador.net.discovery.hosts import Hosts
from pgambassador.net.discovery.patroni import Patroni, members
from pgambassador.net.discovery.source import MOST_SERVERS, Found, source_of

T = TypeVar("T")
URL = "postgresql://app@one.example:5433,two.example/shop"
ONE, TWO = Endpoint("one.example", 5433), Endpoint("two.example", 5432)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


# --- the URL's hosts ----------------------------------------------------------------------------------------


def test_hosts() -> None:
    source = source_of(
        HostsDiscovery(), parse_url(URL.replace("two.example", "two.example,one.example:5433"))
    )
    assert isinstance(source, Hosts) and source.every is None
    assert run(source.find({})) == (Found(ONE), Found(TWO))


# --- DNS ----------------------------------------------------------------------------------------------------


class Names:
    """A resolver, and a clock."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.known: dict[str, list[str]] = {}
        self.lines: list[Service] = []
        self.asked: list[str] = []
        url = options.pop("url", URL)
        self.dns = Dns(
            DnsDiscovery(**options),
            parse_url(url),
            lookup=self.lookup,
            services=self.services,
            clock=lambda: self.now,
        )

    async def lookup(self, endpoint: Endpoint) -> list[str]:
        self.asked.append(endpoint.host)
        if endpoint.host not in self.known:
            raise Unreachable("the host name was not found")
        return self.known[endpoint.host]

    async def services(self, name: str) -> list[Service]:
        self.asked.append(name)
        return self.lines

    def find(self) -> list[tuple[str, str]]:
        return [(each.endpoint.host, each.endpoint.hostaddr) for each in run(self.dns.find({}))]


def test_each_address_is_a_server() -> None:
    names = Names()
    names.known = {"one.example": ["10.0.0.1"], "two.example": ["10.0.0.2", "fd00::2"]}
    assert names.find() == [
        ("one.example", "10.0.0.1"),
        ("two.example", "10.0.0.2"),
        ("two.example", "fd00::2"),
    ]
    assert names.asked == ["one.example", "two.example"]


def test_what_is_not_named_any_more_lingers() -> None:
    names = Names(linger=30.0)
    names.known = {"one.example": ["10.0.0.1"], "two.example": ["10.0.0.2"]}
    names.find()
    names.known["two.example"] = ["10.0.0.3"]
    names.now = 30.0
    assert [address for _, address in names.find()] == ["10.0.0.1", "10.0.0.3", "10.0.0.2"]
    names.now = 31.0
    assert [address for _, address in names.find()] == ["10.0.0.1", "10.0.0.3"]
    # One that shows a single address at a time comes to all of them.
    names.known["two.example"] = ["10.0.0.2"]
    assert {address for _, address in names.find()} == {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_a_resolver_that_fails() -> None:
    names = Names(linger=30.0)
    with pytest.raises(AmbassadorError, match=r"two\.example:5432: the host name was not found"):
        names.find()
    names.known = {"one.example": ["10.0.0.1"], "two.example": ["10.0.0.2"]}
    names.find()
    del names.known["two.example"]
    assert len(names.find()) == 2
    names.known.clear()
    names.now = 1000.0
    with pytest.raises(AmbassadorError):
        names.find()


def test_what_needs_no_resolver() -> None:
    names = Names(url="postgresql://app@/shop?host=/run/pg,one.example&hostaddr=,10.0.0.9")
    assert names.find() == [("/run/pg", ""), ("one.example", "10.0.0.9")]
    assert names.asked == []


def test_a_service() -> None:
    names = Names(srv="_postgresql._tcp.db.example.com")
    names.known = {"a.example.com": ["10.0.0.1"], "b.example.com": ["10.0.0.2"]}
    names.lines = [Service("b.example.com", 5433, 2, 10), Service("a.example.com", 5432, 1, 30)]
    found = run(names.dns.find({}))
    assert found == (
        Found(Endpoint("a.example.com", 5432, "10.0.0.1"), weight=30.0),
        Found(Endpoint("b.example.com", 5433, "10.0.0.2"), weight=10.0),
    )
    names.lines = [Service("a.example.com", 5432, 0, 0)]
    assert run(names.dns.find({}))[0].weight == 1.0


@pytest.mark.parametrize("host", ["evil.test", "notexample.com", "example.com.evil.test", "com"])
def test_a_service_of_somebody_else(host: str) -> None:
    names = Names(srv="_postgresql._tcp.db.example.com")
    names.lines = [Service(host, 5432, 0, 0)]
    with pytest.raises(AmbassadorError, match=r"outside of example\.com"):
        names.find()


def test_a_service_without_a_domain() -> None:
    names = Names(srv="_postgresql._tcp.db")
    names.lines = [Service("db", 5432, 0, 0)]
    with pytest.raises(ConfigError, match="srv"):
        names.find()


def test_too_many() -> None:
    names = Names()
    names.known = {"one.example": [f"10.0.{n}.1" for n in range(200)], "two.example": ["10.9.9.9"]}
    assert len(names.find()) == MOST_SERVERS


# --- Aurora -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "instance"),
    [
        ("shop.cluster-c1abc2.eu-west-1.rds.amazonaws.com", "i-1.c1abc2.eu-west-1.rds.amazonaws.com"),
        ("shop.cluster-ro-c1abc2.eu-west-1.rds.amazonaws.com", "i-1.c1abc2.eu-west-1.rds.amazonaws.com"),
        ("some.cluster-custom-c1abc2.eu-west-1.rds.amazonaws.com", "i-1.c1abc2.eu-west-1.rds.amazonaws.com"),
        ("i-9.c1abc2.eu-west-1.rds.amazonaws.com", "i-1.c1abc2.eu-west-1.rds.amazonaws.com"),
        ("shop.cluster-c1abc2.rds.cn-north-1.amazonaws.com.cn", "i-1.c1abc2.rds.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_instances_of_aurora(host: str, instance: str) -> None:
    source = Aurora(AuroraDiscovery(), parse_url(f"postgresql://app@{host}:5433/shop"))
    seed = Endpoint(host, 5433)
    assert run(source.find({})) == (Found(seed),)
    reader = Report(standby=True, life=1, instance="i-2")
    assert run(source.find({seed: reader})) == (Found(seed),)
    assert not source.sure, "nothing but what the URL says"
    writer = Report(standby=False, life=2, instance="i-1", members=("i-2", "i-1", "../x"))
    found = run(source.find({seed: writer}))
    assert [each.endpoint for each in found] == [
        Endpoint(instance, 5433),
        Endpoint(instance.replace("i-1", "i-2"), 5433),
    ]
    assert run(source.find({})) == found
    assert source.sure


def test_instances_by_other_names() -> None:
    with pytest.raises(ConfigError, match="instances"):
        Aurora(AuroraDiscovery(), parse_url("postgresql://app@db.example/shop"))
    for wrong in ("", "internal.example", "?", "?.a.?", "?@evil.test", "x?.internal.example"):
        with pytest.raises(ConfigError, match="instances"):
            Aurora(AuroraDiscovery(instances=wrong), parse_url("postgresql://app@db.example/shop"))
    source = Aurora(
        AuroraDiscovery(instances="?.internal.example"), parse_url("postgresql://app@db.example/shop")
    )
    writer = Report(standby=False, life=2, instance="i-1", members=("i-1",))
    assert run(source.find({ONE: writer})) == (Found(Endpoint("i-1.internal.example")),)


# --- Patroni ------------------------------------------------------------------------------------------------


def member(**said: Any) -> dict[str, Any]:
    return {"name": "m", "role": "replica", "state": "streaming", "host": "10.0.0.1", "port": 5432, **said}


def listed(*said: dict[str, Any]) -> tuple[Found, ...]:
    return members(json.dumps({"members": said, "scope": "demo"}).encode())


def test_members_of_patroni() -> None:
    assert listed(
        member(role="sync_standby", tags={"noloadbalance": True}),
        member(host="10.0.0.2", port=5433, tags={"zone": "b", "nofailover": True}),
        member(host="10.0.0.3", role="leader", tags={"zone": 7}),
        {"name": "starting", "role": "replica", "state": "starting"},
    ) == (
        Found(Endpoint("10.0.0.3")),
        Found(Endpoint("10.0.0.1"), weight=0.0),
        Found(Endpoint("10.0.0.2", 5433), zone="b"),
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[1]",
        b'{"members": 1}',
        b'{"members": [1]}',
        b'{"members": [{"host": "/tmp"}]}',
        b'{"members": [{"host": "a", "port": "x"}]}',
        b'{"members": [{"host": "a", "port": 70000}]}',
        b'{"members": [{"host": 5}]}',
        b'{"members": [{"host": "a", "tags": 5}]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_no_list_of_members(data: bytes) -> None:
    with pytest.raises(AmbassadorError, match="not a list of members"):
        members(data)


@pytest.mark.parametrize(
    "url", ["ftp://h", "http://", "h:8008", "http://u:secret@h:8008", "http://h:99999", "http://h/?q=1"]
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="urls") as raised:
        Patroni(PatroniDiscovery(urls=(url,)), parse_url(URL + "?sslrootcert=/ca.pem"))
    assert "secret" not in raised.value.sentence()


def test_whoever_answers_http_must_not_name_servers_that_anybody_vouches_for() -> None:
    with pytest.raises(ConfigError, match="http://"):
        Patroni(PatroniDiscovery(urls=("http://h:8008",)), parse_url(URL))
    Patroni(PatroniDiscovery(urls=("http://h:8008",)), parse_url(URL + "?sslrootcert=/ca.pem"))


def test_a_ca_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca"):
        Patroni(PatroniDiscovery(urls=("https://h:8008",), ca="/nowhere.pem"), parse_url(URL))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"discovery\.ca"):
        Patroni(PatroniDiscovery(urls=("https://h:8008",), ca=str(tmp_path / "pipe")), parse_url(URL))
