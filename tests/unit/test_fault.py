"""FAULT, as somebody types it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.admin.command import Command, Token, read
from pgambassador.admin.fault import Order
from pgambassador.config.limits import What
from pgambassador.errors import Refused


def order(kind: Any, **more: Any) -> Order:
    usual = {
        "delay": 0.0,
        "sqlstate": "58000",
        "after": False,
        "percent": 100.0,
        "lasts": 300.0,
        "whom": What(),
    }
    return Order(kind, **{**usual, **more})


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("fault add delay 200ms", order("delay", delay=0.2)),
        ("FAULT ADD DELAY '1.5s' 10%", order("delay", delay=1.5, percent=10.0)),
        ("fault add delay 2 10% for 30", order("delay", delay=2.0, percent=10.0, lasts=30.0)),
        ("fault add error", order("error")),
        ("fault add error 40001", order("error", sqlstate="40001")),
        ("fault add error '57p01' 5 percent", order("error", sqlstate="57P01", percent=5.0)),
        ("fault add error 57P01 for 1min", order("error", sqlstate="57P01", lasts=60.0)),
        ("fault add error XX000", order("error", sqlstate="XX000")),
        ("fault add error 12.5%", order("error", percent=12.5)),
        ("fault add error 10 for 5min", order("error", percent=10.0, lasts=300.0)),
        ("fault add error for user=app", order("error", whom=What(user=("app",)))),
        ("fault add cut", order("cut")),
        ("fault add cut before", order("cut")),
        ("fault add cut after 1%", order("cut", after=True, percent=1.0)),
        (
            """fault add cut for user = "Big App", database=shop, application_name='a b' for 10min""",
            order(
                "cut",
                whom=What(user=("Big App",), database=("shop",), application_name=("a b",)),
                lasts=600.0,
            ),
        ),
        (
            "fault add cut for fingerprint=50fde20626009aba for 5s",
            order("cut", whom=What(fingerprint=("50fde20626009aba",)), lasts=5.0),
        ),
        ("fault add cut for fingerprint=7", order("cut", whom=What(fingerprint=("7",)))),
    ],
)
def test_what_is_understood(said: str, meant: Order) -> None:
    (command,) = read(said, ())
    assert (command.verb, command.tag) == ("inject", "FAULT")
    assert Order.heard(command.filled(())) == meant


@pytest.mark.parametrize(
    ("said", "command"),
    [
        ("fault list", Command("faults")),
        ("fault clear", Command("clear", "FAULT")),
        ("fault clear 7", Command("clear", "FAULT", (Token("number", "7"),))),
    ],
)
def test_the_others(said: str, command: Command) -> None:
    assert read(said, ()) == [command]


@pytest.mark.parametrize(
    "said",
    [
        "fault",
        "fault add",
        "fault add fire",
        "fault add delay",
        "fault add delay soon",
        "fault add delay 200ms sometimes",
        "fault add error 123456",
        "fault add error ABC",
        "fault add error 00000",
        "fault add error 01000",
        "fault add cut for",
        "fault add cut for nobody",
        "fault add cut for user",
        "fault add cut for user=",
        "fault add cut for user=a,",
        "fault add cut for pid=7",
        "fault clear everything",
        "fault clear 1 2",
        "fault list all",
    ],
)
def test_what_is_not(said: str) -> None:
    with pytest.raises(Refused) as caught:
        read(said, ())
    assert caught.value.sqlstate == "42601"
    assert caught.value.hint


@given(st.text(alphabet=" 'delayrocutfmsn%=,0159.ABPX\"", max_size=40))
def test_nothing_else_is_raised(said: str) -> None:
    try:
        read("fault add " + said, ())
    except Refused:
        pass
