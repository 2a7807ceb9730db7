"""What clients are told at once: the same as their logins would have told them, or nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth import client as methods
from pgambassador.auth import scram
from pgambassador.auth.verifier import Verifier, make_verifier, mock_verifier
from pgambassador.errors import Refused
from pgambassador.net.channel import Channel
from pgambassador.net.herald import Herald, Newcomer
from pgambassador.net.talk import Gone, Talk
from pgambassador.wire import build
from tests.loop import Loop

START = build.startup_message({"user": "app", "database": "shop"})
PLACE = "10.0.0.1:40000"
PASSWORD = b"secret"
KNOWN = make_verifier(PASSWORD, b"0123456789abcdef", 2)
UNKNOWN = mock_verifier("nobody", b"key", (2, 16))


class Hall:
    """A herald, and the logins of those who come."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.directory = SimpleNamespace(users={}, enquiry=None)
        self.herald = Herald(cast(Any, self.directory))
        self.socks: list[socket.socket] = []

    def comes(self, start: bytes = START, place: str = PLACE) -> Guest:
        return Guest(self, start, place)

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


class Guest:
    """A client that has said how it begins. Its login is made when a test says so."""

    def __init__(self, hall: Hall, start: bytes, place: str) -> None:
        self.hall = hall
        ours, self.sock = socket.socketpair()
        hall.socks += [ours, self.sock]
        for sock in (ours, self.sock):
            sock.setblocking(False)
        self.sock.send(start)
        loop = cast(Any, hall.loop)
        self.newcomer = Newcomer(loop, loop, hall.herald, ours, place)
        self.newcomer.look()
        self.talk: Talk | None = None
        self.task: asyncio.Task[Any] | None = None

    def logs_in(self, verifier: Verifier = KNOWN, doubt: str | None = None) -> asyncio.Task[Any]:
        async def login() -> object:
            assert await self.newcomer == START
            channel = Channel(cast(Any, self.hall.loop), self.newcomer.sock)
            talk = self.talk = Talk(cast(Any, self.hall.loop), channel, self.newcomer.early, self.newcomer)
            dialogue = methods.scram(
                "app", verifier, stand_in=lambda: UNKNOWN, doubt=doubt, nonce=self.newcomer.nonce
            )
            outcome: object = await talk.hold(dialogue, lambda now: 0.0)
            return outcome

        self.task = self.hall.loop.create_task(login())
        self.hall.loop.run()
        return self.task

    def says(self, data: bytes) -> None:
        self.sock.send(data)
        self.newcomer.look()
        self.hall.loop.run()

    def hears(self) -> bytes:
        try:
            return self.sock.recv(1 << 16)
        except BlockingIOError:
            return b""


@pytest.fixture
def hall() -> Iterator[Hall]:
    subject = Hall()
    yield subject
    subject.close()


def first(exchange: Any) -> bytes:
    return build.sasl_initial_response("SCRAM-SHA-256", next(exchange))


def whole(guest: Guest, password: bytes = PASSWORD, begin: Callable[[], object] = lambda: None) -> bytes:
    """The end of a login that was not told anything ahead, or was; `begin` is where it begins."""
    exchange = scram.client(password)
    request = guest.hears()
    if not request:
        begin()
        request = guest.hears()
    assert request == methods.OFFER
    guest.says(first(exchange))
    told = guest.hears()
    if guest.task is None:
        begin()
        assert guest.hears() == b"", "it is not told twice"
    final = exchange.send(told[9:])
    guest.says(build.sasl_response(final))
    assert guest.task is not None
    outcome: bytes = guest.task.result()
    return outcome


def test_who_begins_like_another_is_told_at_once_what_that_one_was_told(hall: Hall) -> None:
    one = hall.comes()
    assert one.hears() == b""
    assert whole(one, begin=one.logs_in).endswith(build.authentication_ok())
    assert repr(hall.herald) == "<Herald 1>"
    two = hall.comes()
    assert two.hears() == methods.OFFER
    exchange = scram.client(PASSWORD)
    two.says(first(exchange))
    challenge = two.hears()
    assert challenge[9:].endswith(KNOWN.shown)
    task = two.logs_in()
    assert two.hears() == b""
    two.says(build.sasl_response(exchange.send(challenge[9:])))
    assert task.result().endswith(build.authentication_ok())
    three = hall.comes()
    assert whole(three, begin=three.logs_in).endswith(build.authentication_ok())
    assert one.newcomer.nonce is None
    assert two.newcomer.nonce != three.newcomer.nonce


def test_a_wrong_password_and_a_wrong_name_are_found_out_all_the_same(hall: Hall) -> None:
    for verifier, password in ((UNKNOWN, b"any"), (KNOWN, b"wrong"), (KNOWN, b"wrong")):
        hall.herald.clear()
        for _ in range(2):
            guest = hall.comes()
            with pytest.raises(Refused, match="password authentication failed"):
                whole(guest, password, begin=lambda v=verifier, g=guest: g.logs_in(v))  # type: ignore[misc]
        assert guest.newcomer.nonce is not None, "names that are not known are learnt in the same way"


def test_what_is_not_so_any_more_is_a_login_that_fails(hall: Hall) -> None:
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    guest = hall.comes()
    guest.says(first(scram.client(PASSWORD)))
    task = guest.logs_in(UNKNOWN)
    with pytest.raises(Refused, match="has been changed just now") as caught:
        task.result()
    assert caught.value.sqlstate == "57P03"
    with pytest.raises(Refused):
        guest.newcomer.check()


def test_what_follows_from_the_lists_is_forgotten_with_them(hall: Hall) -> None:
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    hall.directory.users = {}
    assert hall.comes().hears() == b""
    assert len(hall.herald) == 0
    hall.directory.enquiry = object()
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    assert len(hall.herald) == 0, "a server may say something else at any time"


BARE = b"n,,n=,r=abcdefgh"
MESSAGES = st.one_of(
    st.binary(max_size=40).map(lambda tail: b"n,,n=" + tail),
    st.text("nyp=,rm\0ab \x7f!", max_size=20).map(lambda text: text.encode()),
    st.tuples(
        st.sampled_from([b"n,,", b"y,,", b"n,a=x,", b"p=tls-server-end-point,,"]), st.binary(max_size=8)
    ).map(lambda parts: parts[0] + b"n=" + parts[1] + b",r=abc"),
    st.sampled_from(
        [BARE, BARE + b",x=1", b"n,,n=app,r=" + b"r" * 1024, b"n,,n=,r=" + b"r" * 1025, b"n,,m=1,n=,r=a"]
    ),
)


def framed(mechanism: bytes, message: bytes, extra: int) -> bytes:
    payload = mechanism + b"\0" + len(message).to_bytes(4, "big") + message
    return b"p" + (len(payload) + 4 + extra).to_bytes(4, "big") + payload


def outcome(hall: Hall, data: bytes) -> tuple[bytes, str]:
    """What a client hears that answers the request so, but for our nonce, and how its login fails."""
    guest = hall.comes()
    if not (request := guest.hears()):
        guest.logs_in()
        request = guest.hears()
    assert request == methods.OFFER
    guest.says(data)
    if guest.task is None:
        guest.logs_in()
    told = guest.hears()
    task = guest.task
    assert task is not None
    if not task.done():
        hall.loop.within(task.cancel)
        hall.loop.run()
        if told:
            length = len(told) - len(KNOWN.shown)
            assert told.endswith(KNOWN.shown)
            return told[: length - scram.NONCE_SIZE], ""
        return b"", "it waits"
    error = task.exception()
    return told, f"{type(error).__name__}: {error}"


@given(
    mechanism=st.sampled_from([b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-25"]),
    message=MESSAGES,
    extra=st.sampled_from([0, 0, 0, 1, -1]),
    behind=st.sampled_from([b"", b"", b"x"]),
)
def test_whatever_a_client_answers_it_hears_what_it_would_have_heard(
    mechanism: bytes, message: bytes, extra: int, behind: bytes
) -> None:
    """The login's own way is the oracle."""
    data = framed(mechanism, message, extra) + behind
    hall = Hall()
    try:
        plain = outcome(hall, data)
        hall.herald.clear()
        guest = hall.comes()
        whole(guest, begin=guest.logs_in)
        assert hall.comes().hears() == methods.OFFER
        assert outcome(hall, data) == plain
    finally:
        hall.close()


@pytest.mark.parametrize("how", ["lists", "rules"])
def test_what_a_login_says_that_began_before_a_change_is_not_learnt(hall: Hall, how: str) -> None:
    guest = hall.comes()
    guest.logs_in()
    assert guest.hears() == methods.OFFER
    if how == "lists":
        hall.directory.users = {}
        hall.comes(place="10.0.0.2:40000")
    else:
        hall.herald.clear()
    guest.says(first(scram.client(PASSWORD)))
    assert guest.hears()[:1] == b"R"
    assert len(hall.herald) == 0


def test_what_was_wrong_once_is_not_said_again(hall: Hall) -> None:
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    guest = hall.comes()
    guest.says(first(scram.client(PASSWORD)))
    with pytest.raises(Refused):
        guest.logs_in(UNKNOWN).result()
    assert len(hall.herald) == 0
    guest = hall.comes()
    with pytest.raises(Refused, match="password authentication failed"):
        whole(guest, begin=lambda: guest.logs_in(UNKNOWN))


@pytest.mark.parametrize("size", [1, 7, len(START) - 1])
def test_who_begins_in_pieces_is_told_nothing_ahead(hall: Hall, size: int) -> None:
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    assert hall.comes(START[:size]).hears() == b""
    assert hall.comes(START, "10.0.0.2:40000").hears() == b"", "nor who comes from elsewhere"
    assert hall.comes(START, "unix").hears() == b""
    assert hall.comes(b"1" + START, PLACE.replace("10.0.0.1:", "10.0.0.:")).hears() == b""
    assert hall.comes(START).hears() == methods.OFFER


def test_what_is_remembered_is_bounded(hall: Hall) -> None:
    for number in range(1100):
        guest = hall.comes(place=f"10.0.{number // 200}.{number % 200}:40000")
        whole(guest, begin=guest.logs_in)
        hall.loop.readers.clear()
        while hall.socks:
            hall.socks.pop().close()
        assert 1 <= len(hall.herald) <= 1000


def test_a_client_that_goes(hall: Hall) -> None:
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    guest = hall.comes()
    guest.sock.close()
    with pytest.raises(Gone):
        guest.logs_in().result()
    silent = Guest(hall, b" ", PLACE)
    assert not silent.newcomer.watched


def test_it_is_watched_until_somebody_takes_it_over(hall: Hall) -> None:
    """Who has been told the request, and whose login waits for its answer."""
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    guest = hall.comes()
    before = guest.newcomer.watched
    task = guest.logs_in()
    assert (before, guest.newcomer.watched) == (False, True)
    guest.sock.send(first(scram.client(PASSWORD)))
    hall.loop.run()
    assert not task.done()
    assert guest.hears()[:1] == b"R"
    guest = hall.comes()
    task = guest.logs_in()
    hall.loop.within(task.cancel)
    hall.loop.run()
    assert task.cancelled()
    assert repr(guest.newcomer) == "<Newcomer 10.0.0.1:40000>"


def test_who_asks_for_tls_where_there_is_none_is_told_so_at_once(hall: Hall) -> None:
    guest = hall.comes()
    whole(guest, begin=guest.logs_in)
    guest = hall.comes(build.SSL_REQUEST)
    assert guest.hears() == b"N"
    guest.says(START)
    assert guest.hears() == methods.OFFER
    assert guest.newcomer.asked == build.SSL_REQUEST
    assert guest.newcomer.says(b"N")
    with pytest.raises(Refused, match="has been changed"):
        guest.newcomer.says(b"N")
    hall.herald.clear(offers=True)
    assert hall.comes(build.SSL_REQUEST).hears() == b""
    assert hall.comes(build.SSL_REQUEST, "unix").hears() == b""
