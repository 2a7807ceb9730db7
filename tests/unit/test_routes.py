"""What a pool knows of statements, and when it asks for more."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from pgambassador.config.routing import Functions, RouteRule, Routing
from pgambassador.net.greeting import BASE
from pgambassador.net.routes import AGAIN, TOGETHER, Routes
from pgambassador.protocol.settings import Settings
from pgambassador.protocol.suspects import Suspects
from pgambassador.routing.catalog import QUERY
from tests.keeping import Keeping
from tests.messages import IDLE, complete, error, query, row
from tests.playbook import Client, Server


@pytest.fixture
def play() -> Iterator[Keeping]:
    keeping = Keeping(idle_timeout=1e5)
    yield keeping
    keeping.end()


def routes(play: Keeping, **options: object) -> Routes:
    made = Routes(play.lane, Routing(**options))  # type: ignore[arg-type]
    play.keeper.routes = made
    return made


def test_rules_are_for_users_databases_and_applications(play: Keeping) -> None:
    rules = (
        RouteRule(user=("reports",), route="replica"),
        RouteRule(database=("shop",), application_name=("etl",), route="primary"),
    )
    known = routes(play, rules=rules)
    plain = known.circle_of("app", "shop", "web", None)
    assert plain is known.circle_of("other", "shop", "", None)
    assert plain.overrides.rules == ()
    assert [route for _, route in known.circle_of("reports", "x", "", None).overrides.rules] == ["replica"]
    assert [r for _, r in known.circle_of("reports", "shop", "etl", None).overrides.rules] == [
        "replica",
        "primary",
    ]


def test_what_a_session_has_set_for_itself_comes_first(play: Keeping) -> None:
    known = routes(play, rules=(RouteRule(route="replica"),))
    own = known.circle_of("app", "shop", "", "primary")
    assert [route for _, route in own.overrides.rules] == ["primary", "replica"]
    assert known.circle_of("app", "shop", "", "nonsense") is known.circle_of("app", "shop", "", None)


@pytest.mark.parametrize(
    ("values", "route"),
    [
        ({}, None),
        ({"pgambassador.route": "PRIMARY"}, "primary"),
        ({"pgambassador.route": "replica", "default_transaction_isolation": "serializable"}, "primary"),
    ],
)
def test_a_session_belongs_to_the_circle_of_its_settings(
    play: Keeping, values: dict[str, str], route: str | None
) -> None:
    known = routes(play)
    client = play.client(Settings.of(values) if values else BASE)
    assert known.circle(client.session).route == route


def test_the_number_of_circles_is_bounded(play: Keeping) -> None:
    rules = tuple(RouteRule(application_name=(f"a{n}",), route="primary") for n in range(250))
    known = routes(play, rules=rules)
    first = known.circle_of("app", "shop", "a0", None)
    for number in range(250):
        known.circle_of("app", "shop", f"a{number}", None)
    assert len(known._circles) <= 100
    assert known.circle_of("app", "shop", "a0", None) is not first


def test_before_the_catalog_is_known_nothing_is_taken_for_a_read(play: Keeping) -> None:
    verdicts = routes(play).circle_of("app", "shop", "", None).verdicts
    for text in (b"select 1", b"select * from t", b"select f()"):
        assert not verdicts.of(text).read


def test_what_may_change_its_session_goes_to_the_primary(play: Keeping) -> None:
    known = routes(play, functions=Functions(read=("tenant",)))
    circle = known.circle_of("app", "shop", "", "replica")
    before = circle.verdicts.of(b"select tenant()")
    known.heed(Suspects(("tenant",), frozenset()))
    after = circle.verdicts.of(b"select tenant()")
    assert after is not before and after.decision is not None
    assert (after.decision.kind, after.decision.target) == ("session", "primary")


def opened(play: Keeping) -> Server:
    client = play.client()
    client.sends(query("x"))
    server = play.opens()
    server.answers(query("x"), complete("X"), IDLE)
    client.gets(complete("X"), IDLE)
    return server


def crowd(play: Keeping, server: Server) -> Client:
    """Two ask at once."""
    first, second = play.client(), play.client()
    first.sends(query("x"))
    second.sends(query("x"))
    for client in (first, second):
        server.answers(query("x"), complete("X"), IDLE)
        client.gets(complete("X"), IDLE)
    assert play.lane.crowded
    return first


def test_when_functions_have_changed_the_catalog_is_read_at_once(play: Keeping) -> None:
    """Also if it is just being read: what is said of it then may be of the time before."""
    known = routes(play)
    server = opened(play)
    crowd(play, server)
    play.does(lambda: known.heed(Suspects((), frozenset(), fingerprint=b"1")))
    server.gets(QUERY)
    play.does(lambda: known.heed(Suspects((), frozenset(), fingerprint=b"2")))
    server.sends(row(b"isolation", b"serializable", b""), complete("SELECT 1"), IDLE)
    assert play.lane.together == TOGETHER
    server.answers(QUERY, row(b"isolation", b"serializable", b""), complete("SELECT 1"), IDLE)
    assert play.lane.together == 0
    server.gets_nothing()


def test_the_catalog_is_asked_for_when_clients_wait_and_again_later(play: Keeping) -> None:
    known = routes(play)
    server = opened(play)
    now = time.monotonic()
    known.tick(now)
    server.gets_nothing()
    first = crowd(play, server)
    play.does(lambda: known.tick(now))
    server.answers(QUERY, row(b"isolation", b"serializable", b""), complete("SELECT 1"), IDLE)
    assert play.lane.together == 0
    play.does(lambda: known.tick(now + 1))
    server.gets_nothing()
    known.changed()
    play.does(lambda: known.tick(now + 2))
    server.answers(QUERY, error("42501"), IDLE)
    play.does(lambda: known.tick(now + 3 + AGAIN))
    server.gets_nothing()
    first.sends(query("x"))
    server.answers(query("x"), complete("X"), IDLE)
    first.gets(complete("X"), IDLE)
    play.does(lambda: known.tick(now + 4 + AGAIN))
    server.answers(QUERY, row(b"isolation", b"read committed", b""), complete("SELECT 1"), IDLE)
    assert play.lane.together == TOGETHER
    known.changed()
    play.does(lambda: known.tick(now + 5 + AGAIN))
    server.gets(QUERY)
    server.leaves()
    assert known._changed and not known._asking
