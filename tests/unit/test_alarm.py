"""What has to be known of a server's data is said, and not all the time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgambassador.net import alarm
from pgambassador.net.alarm import EVERY, heed


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    alarm._told.clear()
    yield
    alarm._told.clear()


def test_each_server_is_spoken_of_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("pgambassador.net.alarm.time.monotonic", lambda: now)
    for server in ("a", "a", "b"):
        heed("XX001", server)
    heed("XX002", "c")
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "a says that some of its data are damaged",
        "b says that some of its data are damaged",
        "c says that some of its indexes are damaged",
    ]
    now += EVERY
    heed("XX002", "a")
    assert len(caplog.records) == 4


@pytest.mark.parametrize("sqlstate", ["", "XX000", "58030", "53100", "22012"])
def test_what_is_none(sqlstate: str, caplog: pytest.LogCaptureFixture) -> None:
    heed(sqlstate, "a")
    assert not caplog.records


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarm, "_MOST", 3)
    for number in range(10):
        heed("XX001", str(number))
    assert len(alarm._told) <= 3
