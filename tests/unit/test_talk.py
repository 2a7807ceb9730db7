"""A dialogue that goes on where its client is heard."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pgambassador.errors import ProtocolViolation, Refused
from pgambassador.net.channel import Channel
from pgambassador.net.talk import Gone, Talk
from pgambassador.wire.frames import Dialogue, Frame
from tests.loop import Loop

LIMIT = 65535 + 4


def message(text: bytes, kind: bytes = b"p") -> bytes:
    return kind + (4 + len(text)).to_bytes(4, "big") + text


def three_questions() -> Dialogue[list[Frame]]:
    return [(yield b"one?"), (yield b"two?"), (yield b"three?")]


class Meeting:
    """A client at the other end of a socket, and the task that holds a dialogue with it."""

    def __init__(self, early: bytes = b"") -> None:
        self.loop = Loop()
        ours, self.client = socket.socketpair()
        ours.setblocking(False)
        self.client.setblocking(False)
        self.channel = Channel(cast(Any, self.loop), ours)
        self.talk = Talk(cast(Any, self.loop), self.channel, early)
        self.wait = 0.0
        self.asked: list[float] = []
        self.turns = 0
        self.task: asyncio.Task[Any] | None = None

    def delay(self, now: float) -> float:
        self.asked.append(now)
        return self.wait

    def hold(self, dialogue: Dialogue[Any]) -> None:
        async def hold() -> object:
            answer = self.talk.hold(dialogue, self.delay)
            self.turns += 1
            found: object = await answer
            self.turns += 1
            return found

        self.task = self.loop.create_task(hold())
        self.loop.run()

    def pause(self, seconds: float) -> None:
        async def pause() -> None:
            await self.talk.pause(seconds)

        self.task = self.loop.create_task(pause())
        self.loop.run()

    def hears(self) -> bytes:
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return b""

    def says(self, data: bytes) -> None:
        self.client.sendall(data)
        self.loop.run()

    def goes(self) -> None:
        self.client.close()
        self.loop.run()

    def listens(self) -> bool:
        return self.channel.reading

    def result(self) -> Any:
        assert self.task is not None
        assert self.task.done()
        return self.task.result()


@pytest.fixture
def meeting() -> Iterator[Meeting]:
    subject = Meeting()
    yield subject
    subject.channel.close()
    subject.client.close()


def test_it_goes_on_with_each_message_and_its_task_at_the_end(meeting: Meeting) -> None:
    meeting.hold(three_questions())
    assert meeting.hears() == b"one?"
    for text in (b"a", b"b"):
        meeting.says(message(text))
        assert meeting.turns == 1
        assert meeting.hears() == {b"a": b"two?", b"b": b"three?"}[text]
    meeting.says(message(b"", b"Q"))
    assert meeting.result() == [(ord("p"), b"a"), (ord("p"), b"b"), (ord("Q"), b"")]
    assert meeting.turns == 2
    assert meeting.asked == [1000.0] * 3
    assert repr(meeting.talk) == "<Talk idle>"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_messages_in_pieces(meeting: Meeting, size: int) -> None:
    said = message(b"a") + message(b"bb") + message(b"ccc") + b"the rest"
    meeting.hold(three_questions())
    for at in range(0, len(said), size):
        meeting.says(said[at : at + size])
    assert [text for _, text in meeting.result()] == [b"a", b"bb", b"ccc"]
    behind = meeting.talk.rest() + (meeting.channel.read() or b"")
    assert behind + b"the rest"[len(behind) :] == b"the rest"
    assert meeting.hears() == b"one?two?three?"


def test_messages_that_were_there_before() -> None:
    meeting = Meeting(message(b"a") + message(b"b") + message(b"c") + b"more")
    meeting.hold(three_questions())
    assert [text for _, text in meeting.result()] == [b"a", b"b", b"c"]
    assert meeting.talk.rest() == b"more"
    assert not meeting.listens(), "nobody waits for what it says now"
    meeting.channel.close()
    meeting.client.close()


def test_a_dialogue_that_needs_no_answer(meeting: Meeting) -> None:
    def silent() -> Dialogue[str]:
        yield from ()
        return "done"

    meeting.hold(silent())
    assert meeting.result() == "done"


def test_what_a_dialogue_raises_its_task_is_told(meeting: Meeting) -> None:
    def refuses() -> Dialogue[None]:
        yield b"who?"
        raise Refused("not you")

    meeting.hold(refuses())
    meeting.says(message(b"me"))
    with pytest.raises(Refused, match="not you"):
        meeting.result()


def test_a_message_is_judged_at_its_header(meeting: Meeting) -> None:
    meeting.hold(three_questions())
    meeting.says(message(bytes(LIMIT - 4))[:-1])
    assert meeting.hears() == b"one?"
    meeting.says(b"\0")
    assert meeting.hears() == b"two?"
    meeting.says(b"p" + (LIMIT + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match=f"claims a length of {LIMIT + 1}"):
        meeting.result()


@pytest.mark.parametrize("before", [b"", b"p\0\0"])
def test_who_goes(meeting: Meeting, before: bytes) -> None:
    meeting.hold(three_questions())
    meeting.says(before)
    meeting.goes()
    with pytest.raises(Gone):
        meeting.result()


def test_a_socket_that_breaks(meeting: Meeting) -> None:
    meeting.client.close()
    meeting.hold(three_questions())
    with pytest.raises(Gone):
        meeting.result()


def test_an_answer_waits_for_its_turn(meeting: Meeting) -> None:
    meeting.hold(three_questions())
    meeting.wait = 2.0
    meeting.says(message(b"a"))
    meeting.says(message(b"b"))
    assert meeting.hears() == b"one?"
    assert len(meeting.asked) == 1
    meeting.loop.pass_time(2.0)
    assert (meeting.hears(), len(meeting.asked)) == (b"one?"[4:], 2), "it is asked again, and waits again"
    meeting.wait = 0.0
    meeting.loop.pass_time(2.0)
    assert meeting.hears() == b"two?three?", "and what came meanwhile is looked at then"
    meeting.says(message(b"c"))
    assert [text for _, text in meeting.result()] == [b"a", b"b", b"c"]


def test_who_goes_before_its_turn_is_not_looked_at(meeting: Meeting) -> None:
    meeting.hold(three_questions())
    meeting.wait = 2.0
    meeting.says(message(b"a"))
    meeting.goes()
    with pytest.raises(Gone):
        meeting.result()
    meeting.loop.pass_time(10.0)
    assert len(meeting.asked) == 1


def test_what_is_said_before_its_turn_is_bounded(meeting: Meeting) -> None:
    meeting.hold(three_questions())
    meeting.wait = 2.0
    meeting.says(message(b"a"))
    for _ in range(100):
        try:
            meeting.client.send(bytes(10_000))
        except BlockingIOError:
            break
        meeting.loop.run()
    assert len(meeting.talk.rest()) < 2 * LIMIT
    assert not meeting.listens()


def test_a_pause(meeting: Meeting) -> None:
    meeting.pause(3.0)
    meeting.says(b"impatient")
    assert meeting.task is not None
    assert not meeting.task.done()
    meeting.loop.pass_time(3.0)
    assert meeting.result() is None
    assert meeting.talk.rest() == b"impatient"


def test_a_pause_that_nobody_waits_out(meeting: Meeting) -> None:
    meeting.pause(3.0)
    meeting.goes()
    with pytest.raises(Gone):
        meeting.result()


@pytest.mark.parametrize("pauses", [False, True])
def test_a_task_that_is_cancelled(meeting: Meeting, pauses: bool) -> None:
    if pauses:
        meeting.pause(3.0)
    else:
        meeting.hold(three_questions())
        meeting.wait = 3.0
        meeting.says(message(b"a"))
    assert meeting.task is not None
    meeting.loop.within(meeting.task.cancel)
    meeting.loop.run()
    assert meeting.task.cancelled()
    meeting.loop.pass_time(3.0)
    assert meeting.loop.problems == []
    assert len(meeting.asked) <= 1, "nothing is looked at for nobody"


def test_who_speaks_while_nobody_listens_costs_nothing(meeting: Meeting) -> None:
    meeting.hold(three_questions())
    meeting.says(message(b"a") + message(b"b") + message(b"c"))
    assert meeting.listens()
    meeting.says(b"more")
    assert not meeting.listens()
    assert meeting.channel.read() == b"more"


def test_it_may_be_followed_by_another(meeting: Meeting) -> None:
    for _ in range(2):
        meeting.hold(three_questions())
        meeting.says(message(b"a") + message(b"b") + message(b"c"))
        assert len(meeting.result()) == 3
    meeting.pause(1.0)
    meeting.loop.pass_time(1.0)
    assert meeting.result() is None
