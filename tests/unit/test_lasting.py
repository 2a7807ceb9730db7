"""The servers that were found last: used while none are found, and never after that."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.cluster.upstream import Endpoint, parse_url
from pgambassador.config.discovery import AuroraDiscovery, HostsDiscovery, PatroniDiscovery
from pgambassador.errors import Unreachable
from pgambassador.net.discovery.lasting import Lasting
from pgambassador.net.discovery.source import Found
from pgambassador.net.names import AGE

URL = "postgresql://app:hunter2@db.example/shop"
NAMED = Found(Endpoint("db.example"))
A, B = Found(Endpoint("a.example", 5433), "eu", 0.5), Found(Endpoint("b.example", 5432, "10.0.0.2"))
PATRONI = PatroniDiscovery(urls=("http://a.example:8008",))


class Source:
    """Says what it is told to; nothing is a failure."""

    every = 5.0

    def __init__(self) -> None:
        self.says: tuple[Found, ...] = ()
        self.sure = True

    async def find(self, reports: Any) -> tuple[Found, ...]:
        if not self.says:
            raise Unreachable("nobody answers")
        return self.says


class Scene:
    def __init__(self, options: Any = PATRONI, url: str = URL) -> None:
        self.now = 1_700_000_000.0
        self.source = Source()
        self.lasting = Lasting(self.source, parse_url(url), options, lambda: self.now)

    def find(self) -> tuple[Found, ...]:
        return asyncio.run(self.lasting.find({}))

    def told(self, *found: Found) -> Any:
        """Its memory when these were found, as it comes back from a file."""
        self.source.says = found
        assert self.find() == found
        return json.loads(json.dumps(self.lasting.memory()))


def test_what_was_found_is_known_to_the_next() -> None:
    kept = Scene().told(A, B)
    scene = Scene()
    scene.lasting.recall(kept)
    assert scene.lasting.before() == (A, B, NAMED)
    assert scene.lasting.in_use
    with pytest.raises(Unreachable):
        scene.find()
    assert scene.lasting.memory() == kept, "a process that finds nothing keeps what there was"
    scene.source.says = (B,)
    assert scene.find() == (B,)
    assert (scene.lasting.in_use, scene.lasting.changes) == (False, 1)
    assert scene.lasting.before() == (B, NAMED)
    assert "hunter2" not in json.dumps(kept)


def test_without_a_memory_the_hosts_of_the_url_count() -> None:
    scene = Scene()
    assert scene.lasting.before() == (NAMED,)
    assert not scene.lasting.in_use and scene.lasting.memory() is None


def test_a_source_that_is_not_sure_is_helped() -> None:
    """Aurora's, before the writer has listed its instances."""
    scene = Scene()
    scene.lasting.recall(Scene().told(A, B))
    scene.source.sure, scene.source.says = False, (NAMED,)
    assert scene.find() == (NAMED, A, B)
    assert scene.lasting.in_use
    scene.source.sure, scene.source.says = True, (A,)
    assert scene.find() == (A,)
    assert not scene.lasting.in_use


def test_what_a_source_does_not_find_out_is_not_kept() -> None:
    scene = Scene(HostsDiscovery())
    scene.source.sure, scene.source.says = False, (NAMED,)
    assert scene.find() == (NAMED,)
    assert scene.lasting.memory() is None and scene.lasting.changes == 0


@pytest.mark.parametrize(
    "other",
    [
        Scene(PatroniDiscovery(urls=("http://b.example:8008",))),
        Scene(AuroraDiscovery(instances="?.example")),
        Scene(url=URL.replace("db.", "other.")),
    ],
    ids=["urls", "way", "hosts"],
)
def test_only_of_the_same_cluster(other: Scene) -> None:
    scene = Scene()
    scene.lasting.recall(other.told(A))
    assert scene.lasting.before() == (NAMED,)


def test_only_for_a_while() -> None:
    kept = Scene().told(A)
    for late, servers in ((AGE, (A, NAMED)), (AGE + 1, (NAMED,))):
        scene = Scene()
        scene.now += late
        scene.lasting.recall(kept)
        assert scene.lasting.before() == servers


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(at=JSON, found=JSON | st.lists(st.tuples(st.text(), st.integers(), st.text(), st.text(), JSON)))
def test_anything_else_is_refused(at: Any, found: Any) -> None:
    scene = Scene()
    try:
        scene.lasting.recall({"of": scene.lasting.of, "at": at, "found": found})
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError):
        assert scene.lasting.before() == (NAMED,)
    for each in scene.lasting.before():
        assert 0 <= each.endpoint.port <= 65_535 and each.weight >= 0 and "\0" not in each.endpoint.host
