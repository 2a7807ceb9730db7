"""As whom a pool logs in, and with what."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from pgambassador.cluster.upstream import Endpoint, Upstream, parse_url
from pgambassador.config.failover import Breaker, Failover
from pgambassador.credentials.provider import Way
from pgambassador.errors import ServerRefused, Unreachable
from pgambassador.net.approach import Approaches
from pgambassador.net.connector import Keys
from pgambassador.net.link import Link
from pgambassador.net.origin import Origin
from tests.loop import Loop

URL = "postgresql://app@db.example/shop?connect_timeout=7&application_name=proxy"
LINK: Any = SimpleNamespace(instance=None)


class Ring:
    """A keyring whose attempts are what they are for."""

    remedy: str | None = None

    def attempt(self, user: str, database: str) -> Any:
        return user, database


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the connector was asked for."""
    asked: list[dict[str, Any]] = []

    async def connect(upstream: Upstream, keys: Keys, **how: Any) -> Link:
        asked.append({"upstream": upstream, "keys": keys, **how})
        return LINK

    async def send_cancel(upstream: Upstream, link: Link, *, road: Way | None) -> None:
        assert road is None
        asked.append({"upstream": upstream, "cancel": link})

    monkeypatch.setattr("pgambassador.net.connector.connect", connect)
    monkeypatch.setattr("pgambassador.net.connector.send_cancel", send_cancel)
    return asked


def origin(url: str = URL) -> Origin:
    return Origin(parse_url(url), Ring(), database="shop", user="app")


def test_the_url_says_how(logins: list[dict[str, Any]]) -> None:
    assert Loop().complete(origin().open()) is LINK
    (login,) = logins
    assert (login["user"], login["database"]) == ("app", "shop")
    assert login["timeout"] == 7
    assert login["params"] == {"application_name": "proxy"}


def test_each_connection_is_an_attempt_of_its_own(logins: list[dict[str, Any]]) -> None:
    Loop().complete(origin().open())
    assert logins[0]["keys"] == ("app", "shop")


def test_a_cancel_takes_the_same_way(logins: list[dict[str, Any]]) -> None:
    subject = origin()
    Loop().complete(subject.cancel(LINK))
    assert logins == [{"upstream": subject.upstream, "cancel": LINK}]


def test_the_breaker_of_the_primary_counts_for_all_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby that answers is no primary, and an error that speaks of it alone would mislead."""

    async def connect(upstream: Upstream, keys: Keys, **how: Any) -> Link:
        raise Unreachable("the session is read-only", passing=True)

    monkeypatch.setattr("pgambassador.net.connector.connect", connect)
    known = Approaches("main", Failover(), Breaker(failures=1, first_pause=1e6), lambda: None)
    url = "postgresql://app@one,two/shop"
    subject = Origin(parse_url(url), Ring(), database="shop", user="app", approaches=known)
    known.at(Endpoint("one")).unwell("it is gone")
    now = time.monotonic()
    assert subject.shut(now) is None and subject.sick_since() is None
    with pytest.raises(Unreachable, match="read-only"):
        Loop().complete(subject.open())
    subject.prefer(Endpoint("one"))
    subject.prefer(None)
    told = subject.shut(now)
    assert told is not None and "one:5432" in told.message and "it is gone" in (told.detail or "")
    assert subject.sick_since() is not None
    with pytest.raises(Unreachable, match="its breaker is open"):
        Loop().complete(subject.open())
    assert subject.at(Endpoint("two")).shut(now) is None
    subject.prefer(Endpoint("two"))
    assert subject.shut(now) is None and subject.sick_since() is None


@pytest.mark.parametrize(
    ("sqlstate", "remedy", "said"),
    [
        ("28000", "Look there.", True),
        ("28P01", "Look there.", True),
        ("28P01", None, False),
        ("53300", "x", False),
    ],
)
def test_a_provider_knows_what_a_refusal_means(
    sqlstate: str, remedy: str | None, said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In our sentences only: the server's fields stay as they came."""
    refusal = ServerRefused({"C": sqlstate, "M": "PAM authentication failed"})
    usual = refusal.sentence()

    async def connect(upstream: Upstream, keys: Keys, **how: Any) -> Link:
        raise refusal

    monkeypatch.setattr("pgambassador.net.connector.connect", connect)
    subject = origin()
    monkeypatch.setattr(subject.keyring, "remedy", remedy)
    with pytest.raises(ServerRefused):
        Loop().complete(subject.open())
    assert refusal.sentence() == ("PAM authentication failed. Look there." if said else usual)
    assert refusal.fields == {"C": sqlstate, "M": "PAM authentication failed"}
