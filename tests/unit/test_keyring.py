"""The keyring: one question at a time, renewals that nobody waits for, what follows a refusal."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import pytest

from pgambassador.credentials import keyring as module
from pgambassador.credentials.keyring import APART, AT_ONCE, FORGET, GRACE, Attempt, Issued, Keyring
from pgambassador.credentials.provider import Login, Secret
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable
from tests.loop import Loop

NOW = 1_000_000_000.0
LIFE = 900.0
HIDDEN = "hunter2"


class Source:
    """A provider whose answers a test gives."""

    def __init__(self, *, per_host: bool = False, window: float = 0.0) -> None:
        self.per_host, self.window = per_host, window
        self.asked: list[Login] = []
        self.open: list[asyncio.Future[Secret]] = []

    async def fetch(self, login: Login) -> Secret:
        self.asked.append(login)
        self.open.append(asyncio.get_running_loop().create_future())
        return await self.open[-1]


class Place:
    """A keyring with its source, its loop and its clock."""

    def __init__(self, *, per_host: bool = False, window: float = 0.0, **options: Any) -> None:
        self.loop = Loop()
        self.wall = NOW
        self.source = Source(per_host=per_host, window=window)
        self.ring = Keyring(
            "main", "fake", self.source, spawn=self.spawn, timeout=10.0, clock=lambda: self.wall, **options
        )
        self.count = 0

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return self.loop.create_task(work, name=name)

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        self.loop.run()
        return task

    def begin(
        self, attempt: Attempt | None = None, host: str = "a", user: str = "app", database: str = "shop"
    ) -> asyncio.Task[Issued]:
        return self.start((attempt or self.ring.attempt(user, database)).issued(host, 5432))

    def answer(self, life: float | None = LIFE, password: str | None = None) -> Secret:
        """To the one question that is open."""
        self.count += 1
        text = f"{HIDDEN}-{self.count}" if password is None else password
        secret = Secret(None, text.encode(), None if life is None else self.wall + life)
        (question,) = self.source.open
        self.source.open.clear()
        question.set_result(secret)
        self.loop.run()
        return secret

    def fail(self, error: Exception) -> None:
        (question,) = self.source.open
        self.source.open.clear()
        question.set_exception(error)
        self.loop.run()

    def get(self, life: float | None = LIFE) -> tuple[Attempt, Secret]:
        """An attempt whose secret had to be asked for."""
        attempt = self.ring.attempt("app", "shop")
        task = self.begin(attempt)
        secret = self.answer(life)
        assert task.result().secret == secret
        return attempt, secret

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """For both clocks, with ticks."""
        end = self.wall + seconds
        while self.wall < end:
            self.wall += step
            self.loop.now += step
            self.tick()

    def tick(self) -> None:
        self.loop.within(self.ring.tick)
        self.loop.run()

    def questions(self) -> int:
        return len(self.source.asked)


GONE = Unreachable("the source is away", hint="Wait.")


# One question at a time.


def test_a_thousand_ask_and_the_source_is_asked_once() -> None:
    place = Place()
    tasks = [place.begin() for _ in range(1000)]
    secret = place.answer()
    assert [task.result().secret for task in tasks] == [secret] * 1000
    # And again when it has expired.
    place.wall += LIFE
    tasks = [place.begin() for _ in range(1000)]
    second = place.answer()
    assert second != secret
    assert [task.result().secret for task in tasks] == [second] * 1000
    assert place.questions() == place.ring.refreshes == 2


def test_who_stops_waiting_does_not_stop_the_question() -> None:
    place = Place()
    first, second = place.begin(), place.begin()
    first.cancel()
    place.loop.run()
    assert first.cancelled()
    secret = place.answer()
    assert second.result().secret == secret
    assert place.questions() == 1


def test_even_if_nobody_waits_any_more() -> None:
    place = Place()
    place.begin().cancel()
    place.loop.run()
    secret = place.answer()
    assert place.begin().result().secret == secret


def test_a_failure_is_for_all_who_wait_and_is_not_kept() -> None:
    place = Place()
    tasks = [place.begin() for _ in range(3)]
    place.fail(GONE)
    for task in tasks:
        with pytest.raises(Unreachable, match="the source is away"):
            task.result()
    place.get()
    assert (place.ring.refreshes, place.ring.refresh_failures) == (1, 1)


def test_without_an_end_each_connection_asks_anew() -> None:
    place = Place()
    _, first = place.get(None)
    tasks = [place.begin() for _ in range(5)]
    second = place.answer(None)
    assert [task.result().secret for task in tasks] == [second] * 5
    assert first != second
    assert place.questions() == 2


def test_one_secret_for_each_user() -> None:
    place = Place()
    place.get()
    other = place.begin(user="b")
    place.answer()
    assert other.done()
    assert place.begin(host="b", database="stock").done()
    assert [login.user for login in place.source.asked] == ["app", "b"]


def test_one_secret_for_each_host_if_the_provider_says_so() -> None:
    place = Place(per_host=True)
    attempt = place.ring.attempt("app", "shop")
    for host in ("a", "b"):
        place.begin(attempt, host)
        place.answer()
    assert [login.host for login in place.source.asked] == ["a", "b"]
    assert place.begin(host="a", database="stock").done()


def test_an_attempt_keeps_its_secret_for_all_its_hosts() -> None:
    place = Place()
    attempt, secret = place.get(None)
    assert place.begin(attempt, "b").result().secret == secret
    assert place.questions() == 1


# Time.


def test_it_is_renewed_while_nobody_waits() -> None:
    place = Place()
    _, first = place.get()
    place.pass_time(0.49 * LIFE)
    assert place.questions() == 1
    place.pass_time(0.32 * LIFE)
    assert place.questions() == 2
    assert place.begin().result().secret == first, "the old one is good, so nobody waits"
    second = place.answer()
    assert place.begin().result().secret == second


def test_a_lazy_keyring_waits_until_it_is_asked() -> None:
    place = Place(lazy=True)
    place.get()
    place.pass_time(2 * LIFE)
    assert place.questions() == 1
    place.get()


def test_after_sleep_an_expired_secret_is_not_used() -> None:
    """The clock of timers has stood still; no tick came before the question."""
    place = Place()
    place.get()
    place.wall += 86400
    task = place.begin()
    assert not task.done()
    assert task.get_name()
    secret = place.answer()
    assert task.result().secret == secret


def test_a_failed_renewal_keeps_the_secret(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    _, secret = place.get()
    place.pass_time(0.81 * LIFE)
    with caplog.at_level(logging.DEBUG):
        place.fail(GONE)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "the secret for cluster main could not be renewed and is still used: the source is away. Wait."
    )
    assert place.begin().result().secret == secret
    assert (place.ring.failing, place.ring.refresh_failures) == (1, 1)
    place.pass_time(1.0)
    assert place.questions() == 3
    place.answer()
    assert place.ring.failing == 0


def test_in_its_last_seconds_it_is_used_if_there_is_no_other() -> None:
    place = Place(lazy=True)
    _, secret = place.get()
    place.wall += LIFE - 10
    task = place.begin()
    assert not task.done()
    place.fail(GONE)
    assert task.result().secret == secret
    place.wall += 10
    task = place.begin()
    place.fail(GONE)
    assert isinstance(task.exception(), Unreachable)


def test_what_nobody_asks_for_is_forgotten() -> None:
    place = Place()
    place.get(None)
    place.wall += FORGET
    place.tick()
    assert "1 kept" in repr(place.ring)
    place.wall += 1
    place.tick()
    assert "0 kept" in repr(place.ring)
    assert (place.ring.age, place.ring.expires, place.ring.failing) == (None, None, 0)


def test_a_clock_set_back_does_not_keep_it_for_ever() -> None:
    place = Place()
    place.get(None)
    place.wall -= 1e6
    place.tick()
    place.wall += FORGET + 1
    place.tick()
    assert "0 kept" in repr(place.ring)


def test_their_number_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    place = Place()
    waiting = place.begin(user="waiting")
    question = place.source.open.pop()
    for name in ("a", "b", "c", "a", "d"):
        task = place.begin(user=name)
        if not task.done():
            place.answer()
    assert "3 kept" in repr(place.ring)
    assert place.begin(user="a").done()
    assert place.begin(user="d").done()
    question.set_result(Secret(None, b"x"))
    place.loop.run()
    assert waiting.result().secret == Secret(None, b"x")


# What the source does wrong.


def test_a_source_that_does_not_answer() -> None:
    place = Place()
    task = place.begin()
    place.loop.pass_time(10 + GRACE)
    with pytest.raises(Unreachable, match="the credentials provider fake gave no answer within 10 s"):
        task.result()
    assert place.source.open[0].cancelled()


def test_an_unknown_exception_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    task = place.begin()
    with caplog.at_level(logging.DEBUG):
        place.fail(ValueError(HIDDEN))
    error = task.exception()
    assert isinstance(error, Unreachable)
    assert error.message == "the credentials provider fake failed (ValueError)"
    assert error.__cause__ is None
    assert error.__context__ is None
    assert HIDDEN not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        None,
        (None, HIDDEN.encode(), None),
        Secret(None, HIDDEN),  # type: ignore[arg-type]
        Secret(b"app", HIDDEN.encode()),  # type: ignore[arg-type]
        Secret(None, HIDDEN.encode(), f"{HIDDEN} o'clock"),  # type: ignore[arg-type]
        Secret(None, HIDDEN.encode(), datetime(2030, 1, 1, tzinfo=UTC)),  # type: ignore[arg-type]
    ],
)
def test_an_answer_that_is_no_secret(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    task = place.begin()
    (question,) = place.source.open
    with caplog.at_level(logging.DEBUG):
        question.set_result(answer)
        place.loop.run()
    error = task.exception()
    assert isinstance(error, Unreachable)
    assert error.message == "the credentials provider fake gave something that is not a secret"
    assert place.ring.refresh_failures == 1
    assert HIDDEN not in caplog.text + error.sentence()


def test_a_mistake_in_the_configuration_is_passed_on() -> None:
    place = Place()
    task = place.begin()
    place.fail(ConfigError("no variable", hint="Set it."))
    assert isinstance(task.exception(), ConfigError)


def test_a_secret_that_comes_too_late_is_tried_by_those_who_waited() -> None:
    place = Place()
    _, secret = place.get(-5.0)
    assert place.ring.expires == secret.not_after
    assert not place.begin().done()


@pytest.mark.parametrize(("themselves", "said"), [(True, 1), (False, 0)])
def test_clients_who_are_not_themselves(
    caplog: pytest.LogCaptureFixture, themselves: bool, said: int
) -> None:
    place = Place(themselves=themselves)
    for user in ("alice", "boss", "carol"):
        place.begin(user=user)
        (question,) = place.source.open
        place.source.open.clear()
        question.set_result(Secret("boss", HIDDEN.encode()))
        place.loop.run()
    lines = [line for line in caplog.messages if "whom all of them log in as" in line]
    assert len(lines) == said
    assert all("'boss'" in line and "cluster main" in line for line in lines)
    assert HIDDEN not in caplog.text


def test_all_are_renewed_at_once_and_stay_until_there_are_others() -> None:
    place = Place()
    _, first = place.get()
    place.loop.within(place.ring.renew)
    place.loop.within(place.ring.renew)
    place.loop.run()
    assert place.questions() == 2
    assert held(place, used(place)) == first
    second = place.answer()
    assert held(place, used(place)) == second
    place.loop.within(place.ring.renew)
    place.loop.run()
    place.fail(GONE)
    assert held(place, used(place)) == second


def test_many_are_renewed_one_after_the_other() -> None:
    """There may be one for each client, and a process for each question."""
    place = Place()
    for number in range(40):
        place.begin(user=f"user{number}")
        place.answer()
    before = place.questions()
    place.loop.within(place.ring.renew)
    place.loop.run()
    assert place.questions() == before + AT_ONCE
    assert {login.user for login in place.source.asked[before:]} == {f"user{n}" for n in range(32, 40)}
    for question in place.source.open:
        question.set_result(Secret(None, b"new", place.wall + LIFE))
    place.source.open.clear()
    seen = [place.questions()]
    for _ in range(100):
        place.pass_time(APART, step=APART)
        for question in place.source.open:
            question.set_result(Secret(None, b"new", place.wall + LIFE))
        place.source.open.clear()
        place.loop.run()
        seen.append(place.questions())
    assert seen[-1] == before + 40
    assert max(late - early for early, late in itertools.pairwise(seen)) <= 2


def test_what_is_not_kept_is_not_renewed() -> None:
    place = Place()
    place.get(None)
    place.loop.within(place.ring.renew)
    place.ring.close()
    place.loop.run()
    assert place.questions() == 1


def test_a_provider_that_keeps_something_itself_is_told() -> None:
    place = Place()
    told = []
    place.source.forget = lambda: told.append(1)  # type: ignore[attr-defined]
    place.ring.renew()
    assert told == [1]


@pytest.mark.parametrize("user", ["", "app\0database\0secrets"])
def test_a_name_that_no_user_can_have(user: str) -> None:
    """Whatever the source, it would break the start packet."""
    place = Place()
    task = place.begin()
    (question,) = place.source.open
    question.set_result(Secret(user, HIDDEN.encode()))
    place.loop.run()
    with pytest.raises(Unreachable, match="gave a name that no user can have") as caught:
        task.result()
    assert HIDDEN not in caught.value.sentence()


# Refusals.


def refuse(place: Place, attempt: Attempt) -> asyncio.Task[bool]:
    return place.start(attempt.refused("a", 5432))


def held(place: Place, attempt: Attempt) -> Secret:
    return place.begin(attempt).result().secret


def used(place: Place) -> Attempt:
    """One whose secret was kept."""
    attempt = place.ring.attempt("app", "shop")
    assert place.begin(attempt).done()
    return attempt


def test_a_refused_secret_is_asked_for_once_more() -> None:
    place = Place()
    place.get()
    place.wall += 60
    attempt = used(place)
    task = refuse(place, attempt)
    secret = place.answer()
    assert task.result() is True
    assert held(place, attempt) == secret
    assert refuse(place, attempt).result() is False
    assert place.questions() == 2
    assert held(place, used(place)) == secret, "all others have it too"


@pytest.mark.parametrize("life", [LIFE, None])
def test_not_if_it_came_for_this_very_attempt(life: float | None) -> None:
    place = Place()
    attempt, _ = place.get(life)
    assert refuse(place, attempt).result() is False
    assert place.questions() == 1


def test_not_if_it_came_just_now() -> None:
    place = Place()
    place.get()
    place.wall += 5
    assert refuse(place, used(place)).result() is False


def test_but_if_it_has_ended_while_the_login_was_under_way() -> None:
    """A clock that jumps over its end does that, too."""
    place = Place()
    attempt, _ = place.get()
    place.wall += 2 * LIFE
    asked = refuse(place, attempt)
    second = place.answer()
    assert asked.result() is True
    assert held(place, attempt) == second


def test_another_that_has_ended_as_well_is_not_tried() -> None:
    """A login took long: meanwhile there was a renewal, and the clock jumped over its end, too."""
    place = Place()
    attempt, _ = place.get()
    place.pass_time(0.8 * LIFE)
    place.answer()
    place.wall += 2 * LIFE
    asked = refuse(place, attempt)
    third = place.answer()
    assert asked.result() is True
    assert held(place, attempt) == third


def test_not_if_the_source_says_the_same() -> None:
    place = Place()
    _, secret = place.get()
    place.wall += 60
    task = refuse(place, used(place))
    assert isinstance(secret.password, bytes)
    place.answer(LIFE - 60, secret.password.decode())
    assert task.result() is False


def test_many_refusals_are_one_question() -> None:
    place = Place()
    place.get()
    place.wall += 60
    attempts = [used(place) for _ in range(100)]
    tasks = [refuse(place, attempt) for attempt in attempts[:99]]
    secret = place.answer()
    assert all(task.result() for task in tasks)
    # This one heard of it when the new secret was there.
    assert refuse(place, attempts[99]).result() is True
    assert {held(place, attempt) for attempt in attempts} == {secret}
    assert place.questions() == 2


def test_the_source_fails_after_a_refusal(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    _, secret = place.get()
    place.wall += 60
    attempt = used(place)
    task = refuse(place, attempt)
    place.fail(GONE)
    assert task.result() is False
    assert held(place, attempt) == secret
    assert "the source is away" in caplog.text


def test_a_gap_in_a_rotation_is_waited_for() -> None:
    place = Place(window=30)
    attempt, first = place.get(None)
    task = refuse(place, attempt)
    assert place.questions() == 1, "it has just been asked"
    place.loop.pass_time(0.5)
    assert isinstance(first.password, bytes)
    place.answer(None, first.password.decode())
    assert task.result() is True, "the server may be late as well"
    task = refuse(place, attempt)
    place.loop.pass_time(1.0)
    second = place.answer(None)
    assert task.result() is True
    assert held(place, attempt) == second


def test_not_longer_than_the_window() -> None:
    place = Place(window=5)
    attempt, _ = place.get(None)
    tries = 0
    while True:
        task = refuse(place, attempt)
        place.loop.pass_time(4.0)
        if place.source.open:
            place.answer(None)
        tries += 1
        if not task.result():
            break
    assert tries == 3


# Connections that end with their secret.


def test_connections_stay_when_their_secret_expires() -> None:
    assert Place().get()[0] is not None
    place = Place()
    place.get()
    assert place.begin().result().retire_at is None


def test_unless_they_are_to_end_with_it() -> None:
    place = Place(reconnect=True)
    _, secret = place.get()
    retire_at = place.begin().result().retire_at
    assert retire_at is not None
    assert secret.not_after is not None
    assert secret.not_after - 60 <= retire_at <= secret.not_after - 30
    for life in (None, -5.0):
        place = Place(reconnect=True)
        attempt, _ = place.get(life)
        assert place.begin(attempt).result().retire_at is None


# The end, and what is shown.


def test_the_end() -> None:
    place = Place()
    task = place.begin()
    place.loop.within(place.ring.close)
    place.loop.run()
    with pytest.raises(AmbassadorError, match="shutting down"):
        task.result()
    assert place.source.open[0].cancelled()


def test_nothing_is_begun_after_the_end() -> None:
    place = Place()
    place.get()
    place.ring.close()
    place.pass_time(0.9 * LIFE, step=10)
    assert place.questions() == 1


def test_numbers() -> None:
    place = Place(per_host=True)
    assert (place.ring.age, place.ring.expires, place.ring.failing) == (None, None, 0)
    place.begin(host="a")
    place.answer()
    place.wall += 10
    place.begin(host="b")
    place.answer()
    assert place.ring.age == 10
    assert place.ring.expires == NOW + LIFE
    assert (place.ring.cluster, place.ring.provider) == ("main", "fake")


def test_no_repr_shows_it() -> None:
    place = Place()
    attempt, _ = place.get()
    issued = place.begin(attempt).result()
    for each in (place.ring, attempt, issued, list(place.ring._kept.values())):
        assert HIDDEN not in repr(each)


# What was refused.


@pytest.mark.parametrize("another", [True, False])
def test_the_provider_is_told_what_was_refused(another: bool) -> None:
    place = Place()
    told: list[tuple[Login, Secret]] = []
    place.source.refused = lambda login, secret: told.append((login, secret))  # type: ignore[attr-defined]
    _, secret = place.get()
    place.wall += 60
    attempt = place.ring.attempt("app", "shop")
    assert place.begin(attempt).result().secret is secret
    task = place.start(attempt.refused("a", 5432))
    assert told == []
    place.answer(LIFE - 60, "another" if another else f"{HIDDEN}-1")
    assert task.result() is another
    assert told == [(Login("a", 5432, "app", "shop"), secret)]


def test_what_a_provider_does_when_it_is_told_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()

    def fail(*what: object) -> None:
        raise ValueError(HIDDEN)

    place.source.refused = fail  # type: ignore[attr-defined]
    place.source.forget = fail  # type: ignore[attr-defined]
    place.get()
    place.wall += 60
    attempt = used(place)
    task = refuse(place, attempt)
    place.answer(LIFE, "another")
    assert task.result() is True
    place.loop.within(place.ring.renew)
    place.loop.run()
    assert place.answer(LIFE, "a third") == held(place, used(place))
    assert [line.partition(" when ")[0] for line in caplog.messages if "failed" in line] == [
        "the credentials provider fake failed (ValueError)"
    ] * 2
    assert HIDDEN not in caplog.text
