"""As whom a pool logs in, and with what."""

from __future__ import annotations

from typing import Any

import pytest

from pgambassador.cluster.upstream import Upstream, parse_url
from pgambassador.config import Credentials, ExecCredentials, Secret, StaticCredentials
from pgambassador.net.connector import Link
from pgambassador.net.origin import Origin
from tests.loop import Loop

URL = "postgresql://app@db.example/shop?connect_timeout=7&application_name=proxy"
LINK: Any = object()


@pytest.fixture
def logins(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the connector was asked for."""
    asked: list[dict[str, Any]] = []

    async def connect(upstream: Upstream, secret: bytes | None, **how: Any) -> Link:
        asked.append({"upstream": upstream, "secret": secret, **how})
        return LINK

    async def send_cancel(upstream: Upstream, link: Link) -> None:
        asked.append({"upstream": upstream, "cancel": link})

    monkeypatch.setattr("pgambassador.net.connector.connect", connect)
    monkeypatch.setattr("pgambassador.net.connector.send_cancel", send_cancel)
    return asked


def origin(url: str = URL, credentials: Credentials | None = None, fallback: bytes | None = None) -> Origin:
    return Origin(parse_url(url), credentials, database="shop", user="app", fallback=fallback)


def opened(subject: Origin, logins: list[dict[str, Any]]) -> dict[str, Any]:
    assert Loop().complete(subject.open()) is LINK
    return logins.pop()


def test_the_url_says_how(logins: list[dict[str, Any]]) -> None:
    login = opened(origin(), logins)
    assert (login["user"], login["database"], login["secret"]) == ("app", "shop", None)
    assert login["timeout"] == 7
    assert login["params"] == {"application_name": "proxy"}


def test_the_password_of_the_url(logins: list[dict[str, Any]]) -> None:
    subject = origin("postgresql://app:secret@db.example/shop", fallback=b"other")
    assert opened(subject, logins)["secret"] == b"secret"


def test_the_password_of_the_client_if_there_is_no_other(logins: list[dict[str, Any]]) -> None:
    assert opened(origin(fallback=b"theirs"), logins)["secret"] == b"theirs"


def test_credentials_win(logins: list[dict[str, Any]]) -> None:
    credentials = StaticCredentials(password=Secret("written"))
    subject = origin("postgresql://app:secret@db.example/shop", credentials, fallback=b"other")
    assert opened(subject, logins)["secret"] == b"written"


def test_a_command_may_name_another_user(
    logins: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgambassador.net import credentials

    async def run(self: object) -> credentials.Secret:
        return credentials.Secret("token_user", b"token", None)

    monkeypatch.setattr(credentials.Exec, "_run", run)
    login = opened(origin(credentials=ExecCredentials(command=("token",))), logins)
    assert (login["user"], login["secret"]) == ("token_user", b"token")


def test_a_cancel_takes_the_same_way(logins: list[dict[str, Any]]) -> None:
    subject = origin()
    Loop().complete(subject.cancel(LINK))
    assert logins == [{"upstream": subject.upstream, "cancel": LINK}]
