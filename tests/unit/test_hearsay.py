"""What a fleet tells one another of servers, over one store in memory and clocks that are told the time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import pytest

from pgambassador.cluster.upstream import Endpoint
from pgambassador.config.failover import Breaker, Failover
from pgambassador.errors import AmbassadorError, Unreachable
from pgambassador.net.approach import Approach, Approaches
from pgambassador.net.hearsay import AGAIN, MOST, Hearsay, Word, key_of
from tests.loop import Loop

SERVER = Endpoint("db.example")
AWAY = Unreachable("connection refused by postgresql://app:hunter2@db.example", passing=True)
KEY = key_of("main", SERVER)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """A store whose values end; `trouble` is raised instead of any answer."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self.wall = wall
        self.values: dict[str, tuple[bytes, float]] = {}
        self.trouble: Exception | None = None
        self.questions = 0

    def _asked(self) -> None:
        self.questions += 1
        if self.trouble is not None:
            raise self.trouble

    async def read(self, keys: Sequence[str]) -> list[bytes]:
        self._asked()
        return [self._value(key) for key in keys]

    def _value(self, key: str) -> bytes:
        value, end = self.values.get(key, (b"", 0.0))
        return value if self.wall() < end else b""

    async def write(self, key: str, value: bytes, seconds: float) -> None:
        self._asked()
        assert len(value) <= MOST
        assert 0 < seconds <= 30
        self.values[key] = value, self.wall() + seconds

    async def erase(self, key: str, value: bytes) -> None:
        self._asked()
        if self._value(key) == value:
            del self.values[key]

    async def close(self) -> None:
        pass


class Road:
    """The way of one ambassador to the server."""

    def __init__(self) -> None:
        self.error: AmbassadorError | None = None
        self.calls = 0

    async def call(self, server: Endpoint, seconds: int) -> AmbassadorError | None:
        self.calls += 1
        return self.error


class Fleet:
    """Each of its ambassadors goes its own road."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.loop = Loop()
        self.store = Memory(lambda: 1e9 + self.clock.now)
        monkeypatch.setattr("pgambassador.net.approach.time.monotonic", self.clock)

    def ambassador(self, breaker: Breaker = Breaker(failures=3, share=1.0, first_pause=10.0)) -> Ambassador:  # noqa: B008
        return Ambassador(self, breaker)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


class Ambassador:
    def __init__(self, fleet: Fleet, breaker: Breaker) -> None:
        self.fleet = fleet
        self.road = Road()
        self.approaches = Approaches("main", Failover(), breaker, lambda: None)
        self.hearsay = Hearsay(
            fleet.store,
            lambda: [self.approaches],
            clock=fleet.clock,
            wall=lambda: 1e9 + fleet.clock.now,
        )

    @property
    def server(self) -> Approach:
        return self.approaches.at(SERVER)

    @property
    def state(self) -> str:
        return self.server.breaker.state

    def use(self) -> None:
        """A client of it wants a connection."""
        self.fleet.loop.within(lambda: self.server.vigil.wanted(self.road, self.fleet.clock.now))

    def fail(self, times: int = 3) -> None:
        for _ in range(times):
            self.server.unwell(AWAY.message)

    def round(self) -> None:
        self.fleet.loop.complete(self.hearsay.once())
        self.fleet.loop.run()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(monkeypatch)


def test_a_server_that_is_away_for_all_opens_everywhere_by_one_failure(fleet: Fleet) -> None:
    one, other = fleet.ambassador(), fleet.ambassador()
    other.use()
    other.road.error = AWAY
    one.fail()
    one.round()
    assert (one.state, one.hearsay.told) == ("open", 1)
    other.round()
    assert (other.state, other.hearsay.heard, other.road.calls) == ("open", 1, 1)


def test_one_whose_own_network_is_broken_takes_nobody_down(fleet: Fleet) -> None:
    sick, well = fleet.ambassador(), fleet.ambassador()
    well.use()
    for _ in range(20):
        sick.fail()
        sick.round()
        well.round()
        assert well.state == "closed"
        well.server.unwell("by chance")  # the answer that it had has ended the suspicion
        assert well.state == "closed"
        well.server._went(None, 0.0)
        fleet.pass_time(1.0)
    assert 1 <= well.road.calls <= 20 / AGAIN + 1, "it asks now and then at most"


def test_who_has_not_wanted_anything_yet_asks_nobody_and_needs_one_failure(fleet: Fleet) -> None:
    """As after a start."""
    one, late = fleet.ambassador(), fleet.ambassador()
    one.fail()
    one.round()
    assert late.server.breaker.state == "closed"
    late.round()
    assert (late.state, late.road.calls) == ("closed", 0)
    late.fail(1)
    assert late.state == "open"


def test_what_was_heard_is_not_told_on(fleet: Fleet) -> None:
    one, other, third = (fleet.ambassador() for _ in range(3))
    one.fail()
    one.round()
    other.server.vigil.wanted(other.road, 0.0)
    other.road.error = AWAY
    other.round()
    assert other.state == "open"
    fleet.store.values.clear()
    other.round()
    assert (other.hearsay.told, fleet.store.values) == (0, {})
    other.fail(2)
    other.round()
    assert other.hearsay.told == 1, "now it has found out by itself"
    third.round()
    assert third.hearsay.heard == 0


@pytest.mark.parametrize("mode", ["open", "closed", "dry"])
def test_what_is_set_by_hand_is_neither_told_nor_changed(mode: str, fleet: Fleet) -> None:
    hand, other = fleet.ambassador(), fleet.ambassador()
    hand.server.breaker.mode = mode  # type: ignore[assignment]
    hand.fail()
    hand.round()
    assert hand.hearsay.told == 0
    other.fail()
    other.round()
    hand.use()
    hand.round()
    assert hand.road.calls == 0


def test_a_word_is_taken_back_when_the_server_answers(fleet: Fleet) -> None:
    one, other = fleet.ambassador(), fleet.ambassador()
    one.fail()
    one.round()
    one.server._went(None, 0.0)
    assert one.state == "half-open"
    one.round()
    assert fleet.store.values == {}
    assert other.server.breaker.hinted == 0
    other.round()
    assert other.hearsay.heard == 0


def test_somebody_elses_word_is_left_alone(fleet: Fleet) -> None:
    one, other = fleet.ambassador(), fleet.ambassador()
    one.fail()
    one.round()
    other.fail()
    other.round()
    others = fleet.store.values[KEY]
    one.server._went(None, 0.0)
    one.round()
    assert fleet.store.values == {KEY: others}


def test_a_word_ends_with_its_pause(fleet: Fleet) -> None:
    one, late = fleet.ambassador(), fleet.ambassador()
    one.fail()
    one.round()
    left = one.server.breaker.until
    assert 5 <= left <= 10
    late.server.vigil.wanted(late.road, 0.0)
    late.road.error = Unreachable("no password")  # says nothing about the server
    late.round()
    assert late.server.breaker.hinted == pytest.approx(left)
    fleet.pass_time(left + 1)
    late.fail(1)
    assert late.state == "closed"
    late.round()
    assert late.hearsay.heard == 1


@pytest.mark.parametrize("shift", [-1e6, 1e6])
def test_clocks_that_disagree_do_little(shift: float, fleet: Fleet) -> None:
    """A word from the past is none; one from the far future is believed for the longest pause."""
    fleet.store.wall = lambda: 0.0
    fleet.store.values[KEY] = msgspec.json.encode(Word("x", 1e9 + shift, "away")), 1.0
    one = fleet.ambassador()
    assert one.server.breaker.hinted == 0
    one.round()
    assert one.server.breaker.hinted == (0.0 if shift < 0 else 30.0)


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\x00",
        b"{}",
        b"[1]",
        b'{"by": "x", "until": "soon"}',
        b'{"by": "x", "until": NaN}',
        b'{"by": "", "until": 2e9}',
        b'{"by": "x", "until": 2e9, "why": "%s"}' % (b"y" * 300),
        b'{"by": "%s", "until": 2e9}' % (b"x" * 2000),
        b"[" * MOST,
    ],
)
def test_what_is_no_word_does_nothing_and_is_said_once(
    value: bytes, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.store.values[KEY] = value, 2e9
    one = fleet.ambassador()
    one.use()
    for _ in range(3):
        one.round()
    assert (one.hearsay.heard, one.server.breaker.hinted, one.road.calls) == (0, 0.0, 0)
    assert (one.hearsay.failures, one.hearsay.up) == (3, True)
    assert [each.message for each in caplog.records] == [
        f"the store of breaker.store has something else than a word of ours at {KEY}"
    ]


def test_a_store_that_is_away_changes_nothing_and_is_said_once(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgambassador.net.hearsay")
    one = fleet.ambassador()
    one.use()
    one.round()
    assert one.hearsay.up
    fleet.store.trouble = Unreachable("the store is of no use")
    for _ in range(3):
        one.round()
    assert (one.hearsay.up, one.hearsay.failures, one.state) == (False, 3, "closed")
    one.fail()
    one.round()
    assert (one.state, one.hearsay.told) == ("open", 0)
    fleet.store.trouble = None
    one.round()
    assert (one.hearsay.up, one.hearsay.told) == (True, 1), "what could not be told before"
    assert [each.message for each in caplog.records if each.name.endswith("hearsay")] == [
        "the store is of no use.",
        "the store of breaker.store is of use again",
    ]


def test_a_mistake_ends_nothing(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    one = fleet.ambassador()
    one.use()
    fleet.store.trouble = RuntimeError("of a library")
    found = []
    for trouble in (fleet.store.trouble, None):
        fleet.store.trouble = trouble
        one.round()
        found.append(one.hearsay.up)
    assert found == [False, True]
    assert "cannot be heard" in caplog.text


def test_no_secret_is_told_and_what_is_heard_is_shown_harmlessly(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgambassador.net.hearsay")
    one, other = fleet.ambassador(), fleet.ambassador()
    one.fail()
    one.round()
    assert b"hunter2" not in fleet.store.values[KEY][0] and b"refused" in fleet.store.values[KEY][0]
    fleet.store.values[KEY] = msgspec.json.encode(Word("x", 2e9, "a\x1b[2J\nb password=hunter2")), 2e9
    assert other.server is not None
    other.round()
    (line,) = (each.message for each in caplog.records if "another" in each.message)
    assert line == f"another pgambassador says that {SERVER} is away: a [2J b password=***"


def test_it_asks_the_store_now_and_then_and_less_often_while_that_is_of_no_use(fleet: Fleet) -> None:
    one = fleet.ambassador()
    assert one.server is not None
    fleet.loop.within(one.hearsay.start)
    fleet.loop.pass_time(10.0)
    assert fleet.store.questions == 11
    fleet.store.trouble = Unreachable("away")
    fleet.loop.pass_time(600.0)
    asked = fleet.store.questions - 11
    assert 600 / 31 - 1 <= asked < 300
    fleet.store.trouble = None
    fleet.loop.pass_time(31.0)
    assert one.hearsay.up
    fleet.loop.complete(one.hearsay.close())
    before = fleet.store.questions
    fleet.loop.pass_time(60.0)
    assert fleet.store.questions == before


def test_what_is_not_known_any_more_is_forgotten(fleet: Fleet) -> None:
    one, other = fleet.ambassador(), fleet.ambassador()
    one.fail()
    other.use()
    for each in (one, other):
        each.round()
        each.approaches._known.clear()
        each.round()
        assert not each.hearsay._said and not each.hearsay._asked
