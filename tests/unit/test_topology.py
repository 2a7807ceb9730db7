"""Pictures and what changes between them, and who is the primary."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.cluster.probe import Report
from pgambassador.cluster.topology import Change, Election, Server, Topology, objection
from pgambassador.cluster.upstream import Endpoint

A, B, C = Endpoint("a"), Endpoint("b"), Endpoint("c")


def primary(timeline: int = 1, system: str = "x", life: int = 1) -> Report:
    return Report(standby=False, life=life, timeline=timeline, system=system)


def standby(timeline: int = 1, system: str = "x", life: int = 2) -> Report:
    return Report(standby=True, life=life, timeline=timeline, system=system)


# --- pictures -----------------------------------------------------------------------------------------------


def test_a_picture() -> None:
    servers = (Server(A, "primary", True), Server(B, "standby", True), Server(C))
    picture = Topology(servers, A)
    assert picture.primary == servers[0]
    assert picture.standbys == (servers[1],)
    assert picture.at(C) == servers[2] and picture.at(Endpoint("d")) is None
    assert Topology().primary is None and Topology().standbys == ()


def test_what_changed() -> None:
    a, b, c = Server(A, "primary", True, life=1), Server(B, "standby", True, life=2), Server(C, life=3)
    before = Topology((a, b, c), A)
    assert before.changed(before) == Change()
    assert before.changed(Topology()) == Change(new=(a, b, c), promoted=(a,), well=(a, b))
    silent, promoted = replace(a, well=False, objection="gone"), replace(b, role="primary")
    after = Topology((silent, promoted), B)
    assert after.changed(before) == Change(
        gone=(c,), promoted=(promoted,), demoted=(silent,), unwell=(silent,)
    )
    moved = replace(b, life=9)
    assert Topology((a, moved, c), A).changed(before) == Change(replaced=(moved,))


# --- elections ----------------------------------------------------------------------------------------------


def test_who_says_so_is_the_primary_and_stays_it() -> None:
    election = Election()
    assert election.hold({A: None, B: None}) is None
    assert election.hold({A: standby(), B: primary()}) == B
    assert election.hold({A: standby(), B: None}) == B
    assert election.hold({A: primary(), B: primary()}) == B
    assert election.hold({A: None, B: None}) == B


def test_a_newer_timeline_wins_for_good() -> None:
    election = Election()
    assert election.hold({A: primary(1), B: standby(1)}) == A
    assert election.hold({A: primary(1), B: primary(2)}) == B
    assert election.hold({A: primary(1), B: None}) == B
    assert election.hold({A: primary(1), B: standby(2)}) is None
    assert election.hold({A: primary(1), B: None}) is None
    assert election.hold({A: primary(3), B: standby(2)}) == A


def test_a_primary_that_became_a_standby() -> None:
    election = Election()
    assert election.hold({A: primary(), B: standby()}) == A
    assert election.hold({A: standby(), B: standby()}) is None
    assert election.hold({A: standby(), B: primary(2)}) == B


def test_without_timelines_the_one_that_is_it_stays() -> None:
    election = Election()
    assert election.hold({A: primary(0, ""), B: standby(0, "")}) == A
    assert election.hold({A: primary(0, ""), B: primary(0, "")}) == A
    assert election.hold({A: None, B: primary(0, "")}) == B
    assert election.hold({A: primary(0, ""), B: primary(0, "")}) == B


def test_strangers_do_not_take_over() -> None:
    """A logical replica accepts writes, and is not the primary."""
    election = Election()
    assert election.hold({A: primary(), B: primary(5, "y"), C: standby()}) == A
    assert election.hold({A: None, B: primary(5, "y"), C: standby()}) == A
    assert election.hold({A: standby(), B: primary(5, "y"), C: standby()}) is None
    assert election.hold({A: None, B: primary(5, "y"), C: None}) is None
    assert election.hold({A: None, B: primary(5, "y"), C: primary(2)}) == C


def test_another_cluster_at_the_same_address() -> None:
    """As after an upgrade by a copy, or a restore."""
    election = Election()
    assert election.hold({A: primary(7), B: standby(7)}) == A
    assert election.hold({A: primary(1, "y"), B: standby(7)}) == A
    assert election.system == "y" and election.timeline == 1
    assert election.hold({A: primary(1, "y"), B: primary(9)}) == A


def test_all_servers_are_others_now() -> None:
    election = Election()
    assert election.hold({A: primary(7)}) == A
    assert election.hold({B: primary(1, "y")}) == B


REPORTS = st.one_of(
    st.none(),
    st.builds(
        Report,
        standby=st.booleans(),
        life=st.integers(1, 9),
        timeline=st.integers(0, 3),
        system=st.sampled_from(["", "x", "y"]),
    ),
)


@given(st.lists(st.dictionaries(st.sampled_from([A, B, C]), REPORTS), max_size=8))
def test_the_primary_is_one_that_says_so_or_is_silent(rounds: list[dict[Endpoint, Report | None]]) -> None:
    election = Election()
    for reports in rounds:
        leader = election.hold(reports)
        if leader is not None:
            report = reports[leader]
            assert report is None or not report.standby


# --- objections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "more", "words"),
    [
        (standby(), {}, ""),
        (standby(system="y"), {}, "another cluster"),
        (standby(timeline=0, system=""), {}, ""),
        (standby(timeline=2), {}, "timeline 2, and the primary is on 1"),
        (standby(), {"ahead": True}, "ahead of the primary"),
        (standby(), {"lag": 3.0, "most": 3.0}, ""),
        (standby(), {"lag": 3.1, "most": 3.0}, "lags more than 3 s"),
        (standby(), {"lag": float("inf"), "most": 3.0}, "has yet to reach"),
    ],
)
def test_what_speaks_against_a_standby(report: Report, more: dict[str, float], words: str) -> None:
    found = objection(report, primary(), **more)  # type: ignore[arg-type]
    assert found == words if not words else words in found


def test_one_that_may_not_follow_yet() -> None:
    assert "timeline 2" in objection(standby(1), primary(2))
    assert objection(standby(1), None) == ""


def test_two_primaries_on_one_timeline() -> None:
    assert primary(life=1).contradicts(primary(life=2))
    assert not primary(life=1).contradicts(primary(life=1)), "one under two names"
    assert not primary(1, life=1).contradicts(primary(2, life=2))
    assert not primary(life=1).contradicts(standby(life=2))
    assert not primary(life=1).contradicts(primary(life=2, system="y"))
    assert not primary(0, life=1).contradicts(primary(0, life=2)), "nothing is known"
