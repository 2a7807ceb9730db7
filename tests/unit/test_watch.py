"""What a watch makes of what it hears, without servers or a loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgambassador.cluster.probe import Report
from pgambassador.cluster.topology import Server, Topology
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.routing import Routing
from pgambassador.config.secret import Secret
from pgambassador.config.structs import Cluster
from pgambassador.net.discovery.source import Found
from pgambassador.net.prober import Prober
from pgambassador.net.watch import Watch
from pgambassador.routing.freshness import NEVER
from pgambassador.routing.pace import Pace

A, B, C = (Endpoint(name) for name in "abc")


def primary(life: int = 1, position: int = 1000, timeline: int = 1) -> Report:
    return Report(
        standby=False, life=life, position=position, durable=position, system="x", timeline=timeline
    )


def standby(life: int = 2, position: int = 1000, timeline: int = 1) -> Report:
    return replace(primary(life, position, timeline), standby=True)


async def _never(endpoint: Endpoint) -> Any:
    raise AssertionError


class Heard:
    """Three servers, none of which has been asked yet."""

    def __init__(self, **routing: Any) -> None:
        self.now = 10.0
        self.pictures: list[Topology] = []
        self.moves: list[tuple[Endpoint, float]] = []
        cluster = Cluster(url=Secret("postgresql://u@a,b,c/d"), routing=Routing(**routing))
        self.watch = Watch(
            "main",
            cluster,
            _never,
            self.pictures.append,
            lambda at, fresh: self.moves.append((at, fresh)),
            clock=lambda: self.now,
        )
        for at in (A, B, C):
            self.watch._found[at] = Found(at)
            self.watch.probers[at] = Prober(at, _never, self.watch, Pace(1.0), 1.0, lambda: self.now)

    def says(self, at: Endpoint, report: Report) -> None:
        """At once."""
        self.now += 1.0
        prober = self.watch.probers[at]
        prober.report, prober.trouble = report, ""
        prober.probes += 1
        self.watch.heard(prober, report, self.now, self.now + 0.01)

    def is_silent(self, at: Endpoint) -> None:
        prober = self.watch.probers[at]
        prober.trouble = "it is silent"
        prober.failures += 1
        self.watch.silent(prober)

    def server(self, at: Endpoint) -> Server:
        found = self.watch.topology.at(at)
        assert found is not None
        return found

    def fresh(self, at: Endpoint) -> float:
        return self.watch.freshness.fresh_until(at)


def settled(**routing: Any) -> Heard:
    heard = Heard(**routing)
    for at, report in ((A, primary()), (B, standby(2)), (C, standby(3)), (A, primary())):
        heard.says(at, report)
    assert heard.fresh(B) == heard.fresh(C) == heard.now
    return heard


def test_the_first_in_the_url_is_waited_for() -> None:
    """Whoever answers sooner might be a logical replica."""
    heard = Heard()
    heard.says(B, replace(primary(5), system="y"))
    assert heard.pictures[-1].leader is None
    heard.says(A, primary())
    assert heard.watch.topology.leader == A
    other = Heard()
    other.says(B, primary(5))
    other.is_silent(A)
    assert other.watch.topology.leader == B


def test_the_picture_changes_only_when_something_does() -> None:
    heard = settled()
    before = len(heard.pictures)
    for position in (2000, 3000):
        heard.says(A, primary(position=position))
        heard.says(B, standby(2, position))
    assert len(heard.pictures) == before
    assert heard.fresh(B) == heard.now - 1
    heard.is_silent(B)
    heard.is_silent(B)
    assert len(heard.pictures) == before + 1


def test_a_silent_primary_keeps_its_place() -> None:
    heard = settled()
    fresh = heard.fresh(B)
    heard.is_silent(A)
    heard.says(B, standby(2))
    assert heard.watch.topology.leader == A and not heard.server(A).well
    assert heard.server(B).well and heard.fresh(B) == fresh


def test_two_primaries_on_one_timeline_make_nobody_fresh() -> None:
    heard = settled()
    heard.says(B, primary(2))
    assert heard.watch.topology.leader == A
    assert heard.fresh(C) == NEVER and "two primaries" in heard.server(C).objection
    heard.says(A, primary())
    heard.says(C, standby(3))
    assert heard.fresh(C) == NEVER
    heard.is_silent(B)
    heard.says(C, standby(3))
    heard.says(A, primary())
    assert heard.server(C).well and heard.fresh(C) > NEVER


def test_a_lag() -> None:
    heard = settled(max_lag=3.0)
    far = 1_000_000
    for _ in range(3):
        far += 1_000_000
        heard.says(A, primary(position=far))
    assert heard.server(B).well
    heard.says(A, primary(position=far + 8))
    assert heard.server(B).objection == "it lags more than 3 s"
    heard.says(B, standby(2, far + 8))
    assert heard.server(B).well


def test_weights_and_zones_of_the_configuration_win() -> None:
    heard = Heard(weights={"b:5432": 0.5}, zones={"b:5432": "here"})
    heard.watch._found[B] = Found(B, zone="there", weight=3.0)
    heard.watch._found[C] = Found(C, zone="there", weight=3.0)
    heard.says(A, primary())
    assert (heard.server(B).weight, heard.server(B).zone) == (0.5, "here")
    assert (heard.server(C).weight, heard.server(C).zone) == (3.0, "there")
    heard.watch.weigh("c:5432", 0.0)
    assert heard.pictures[-1].at(C) == heard.server(C) and heard.server(C).weight == 0.0


def test_who_is_asked_at_once() -> None:
    heard = settled()
    watch = heard.watch
    assert not any(watch.presses(prober) for prober in watch.probers.values())
    watch.wanted(heard.now + 5)
    assert [at for at, prober in watch.probers.items() if watch.presses(prober)] == [A]
    heard.now += 10
    heard.says(A, primary(position=5000))
    assert [at for at, prober in watch.probers.items() if watch.presses(prober)] == [B, C]
    heard.says(B, standby(2, 5000))
    assert [at for at, prober in watch.probers.items() if watch.presses(prober)] == [C]


def test_a_primary_that_is_another_than_the_one_under_watch() -> None:
    heard = settled()
    assert heard.watch.recognises(A, 1)
    assert not heard.watch.recognises(A, 9)
    assert heard.fresh(B) == heard.fresh(C) == NEVER
    # What is under way is an answer of the old one: its prober drops it.
    assert heard.watch.probers[A]._doubted
    assert heard.watch.recognises(B, 2) and not heard.watch.recognises(B, 9)
    assert not heard.watch.probers[B]._doubted


def test_while_the_primary_is_silent_standbys_are_asked_more_often() -> None:
    heard = settled()
    standby_of = heard.watch.probers[B]
    assert not heard.watch.presses(standby_of)
    heard.is_silent(A)
    assert heard.watch.presses(standby_of)
    standby_of.pace.asks(heard.now, pressing=True)
    for _ in range(20):
        now = standby_of.pace.due(pressing=True)
        standby_of.pace.asks(now, pressing=True)
    assert 0 < standby_of.pace.due(pressing=True) - now < 0.11
    heard.says(B, primary(2, 5000, timeline=2))
    assert heard.watch.topology.leader == B
    assert not heard.watch.presses(heard.watch.probers[C]) or heard.watch.freshness.fresh_until(C) == NEVER


def test_an_alarm_makes_all_be_asked_at_once() -> None:
    heard = settled()
    for prober in heard.watch.probers.values():
        prober.pace.asks(heard.now, pressing=False)
    heard.watch.alarm()
    assert all(each.pace.due(pressing=False) < heard.now for each in heard.watch.probers.values())
    for prober in heard.watch.probers.values():
        prober.pace.asks(heard.now, pressing=False)
    heard.watch.alarm()  # by another pool
    assert all(each.pace.due(pressing=False) > heard.now for each in heard.watch.probers.values())
