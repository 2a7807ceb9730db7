"""What is said of a statement and of the servers that might take it."""

from __future__ import annotations

from typing import Any

import pytest

from pgambassador.cluster.topology import Server, Topology
from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.routing import Routing
from pgambassador.net.choice import Choice
from pgambassador.net.lane import Lane
from pgambassador.routing.decision import Decision, decide
from pgambassador.routing.explanation import Explanation, Standing, standings
from pgambassador.routing.freshness import NEVER
from pgambassador.routing.offline import OFFLINE
from pgambassador.routing.reading import fingerprint

A, B, C = (Endpoint(name) for name in "abc")
READ = decide("select 1", OFFLINE)
WRITE = decide("insert into t values (1)", OFFLINE)
NOW = 1000.0


def picture(*standbys: Server, **primary: Any) -> Topology:
    return Topology((Server(A, "primary", **({"well": True} | primary)), *standbys), A)


def standing(
    decision: Decision, *standbys: Server, fresh: float = NOW - 1, written_at: float = NEVER, **routing: Any
) -> list[tuple[bool, str]]:
    found = standings(
        decision,
        picture(*standbys),
        lambda _: fresh,
        Routing(**routing),
        now=NOW,
        written_at=written_at,
    )
    return [(each.takes, each.why) for each in found]


def test_a_read_is_for_every_standby_that_is_well_and_fresh() -> None:
    found = standing(READ, Server(B, "standby", True), Server(C, "standby", False, objection="it is down"))
    assert found == [(False, "reads go to replicas"), (True, ""), (False, "it is down")]


def test_a_write_is_for_the_primary() -> None:
    found = standing(WRITE, Server(B, "standby", True))
    assert found == [(True, ""), (False, "the statement is not for replicas")]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"fresh": NOW - 11}, "at most 10 s are allowed"),
        ({"fresh": NEVER}, "it has not replayed yet what the primary had when it was first asked"),
        ({"fresh": NOW - 1, "written_at": NOW - 0.5}, "it may not show yet what was written last"),
    ],
)
def test_why_not(more: dict[str, Any], why: str) -> None:
    assert standing(READ, Server(B, "standby", True), **more) == [(True, ""), (False, why)]


def test_a_weight_of_nothing() -> None:
    assert standing(READ, Server(B, "standby", True, weight=0))[1] == (False, "its weight is 0")


def test_without_the_primary_instead() -> None:
    found = standing(READ, Server(B, "standby", False, objection="it is down"), without_replica="error")
    assert found[0] == (False, "reads never go there (routing.without_replica)")


def test_a_primary_that_is_silent_and_servers_of_no_role() -> None:
    found = standings(
        WRITE,
        Topology(
            (
                Server(A, "primary", objection="it is down"),
                Server(B),
                Server(C, "primary", objection="not it"),
            ),
            A,
        ),
        lambda _: NEVER,
        Routing(),
        now=NOW,
    )
    assert [each.why for each in found] == ["it is down", "it is not known what it is", "not it"]


@pytest.mark.parametrize("level", ["session", "global", "bounded", "eventual"])
@pytest.mark.parametrize("fresh", [NOW, NOW - 5, NOW - 9, NOW - 11, NEVER])
@pytest.mark.parametrize("written_at", [NEVER, NOW - 7, NOW - 5])
@pytest.mark.parametrize("hint", ["", "replica", "max_lag=6s"])
def test_it_is_what_the_relay_would_do(level: str, fresh: float, written_at: float, hint: str) -> None:
    class Policy:
        def fresher_wanted(self, now: float) -> None: ...

    decision = decide(f"/* pgambassador: {hint} */ select 1", OFFLINE)
    lane = Lane(Policy(), (1.0,), 1, False, 1)  # type: ignore[arg-type]
    lane.fresh_until = fresh
    choice = Choice(Policy(), max_lag=10, everybody=False, eventual=level in ("eventual", "bounded"))
    choice.lanes = (lane,)
    lag = -1 if decision.max_lag is None else decision.max_lag
    relay = choice.which(written_at, NOW, lag) is lane
    found = standing(
        decision, Server(B, "standby", True), fresh=fresh, written_at=written_at, consistency=level
    )
    assert found[1][0] == relay


@pytest.mark.parametrize(
    ("text", "servers", "goes"),
    [
        ("select 1", (), "to a replica that is fresh enough"),
        ("select 1", (Standing("b", "standby", 0.1, True),), "to b"),
        (
            "select 1",
            (Standing("b", "standby", 0.1, True), Standing("c", "standby", 0.1, True)),
            "to one of b, c",
        ),
        ("select 1", (Standing("a", "primary", None, True),), "to the primary, since no replica will do"),
        ("select 1", (Standing("a", "primary", None, False, "x"),), "nowhere, since no replica will do"),
        ("delete from t", (), "to the primary"),
        ("begin read only", (), "to a replica that is fresh enough"),
        ("begin", (), "to a replica if SET TRANSACTION READ ONLY comes next, else to the primary"),
        ("commit", (), "to where its transaction is, else to the primary"),
    ],
)
def test_where_it_goes(text: str, servers: tuple[Standing, ...], goes: str) -> None:
    assert Explanation(decide(text, OFFLINE), "", servers).destination == goes


def test_rows_and_values_say_the_same() -> None:
    text = "/* pgambassador: max_lag=2s, cache=5s, replica */ select n from t"
    made = Explanation(decide(text, OFFLINE), "f00", (Standing("b", "standby", 0.25, True),), note="so")
    rows, values = dict(made.rows()), made.values()
    assert rows["max_lag"] == "2 s" and values["max_lag_seconds"] == 2
    assert rows["cache"] == "5 s" and values["cache_seconds"] == 5
    assert rows["server"] == "b, standby, shows all that is older than 0.2 s: yes"
    assert values["servers"] == [
        {"server": "b", "role": "standby", "lag_seconds": 0.25, "takes": True, "why": None}
    ]
    assert (rows["rule"], values["rule"]) == ("hint replica", "hint replica")
    assert (rows["note"], values["note"], values["fingerprint"]) == ("so", "so", "f00")


@pytest.mark.parametrize(
    ("text", "said"),
    [("selekt 1", "none: it does not parse"), ("select " + "1+" * 9000 + "1", "none: it is not looked at")],
    ids=["wrong", "long"],
)
def test_why_there_is_no_fingerprint(text: str, said: str) -> None:
    rows = dict(Explanation(decide(text, OFFLINE), fingerprint(text)).rows())
    assert rows["fingerprint"] == said
