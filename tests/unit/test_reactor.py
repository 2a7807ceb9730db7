"""Many sockets behind one watch of the event loop."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from pgambassador.net.reactor import Reactor, later, reactor
from tests.loop import Loop

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has no epoll")


class Watched:
    """A loop, its reactor, and sockets in it."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.reactor = Reactor(cast(Any, self.loop))
        self.socks: list[socket.socket] = []
        self.heard: list[str] = []

    def pair(
        self, name: str, then: Callable[[], object] = lambda: None
    ) -> tuple[socket.socket, socket.socket]:
        """Ours is watched: what is written to theirs is heard."""
        ours, theirs = socket.socketpair()
        self.socks += [ours, theirs]

        def callback() -> None:
            self.heard.append(f"{name} {ours.recv(100).decode()}")
            then()

        self.reactor.add_reader(ours.fileno(), callback)
        return ours, theirs


@pytest.fixture
def watched() -> Iterator[Watched]:
    subject = Watched()
    yield subject
    subject.reactor.close()
    for each in subject.socks:
        each.close()


def test_who_is_readable_is_called(watched: Watched) -> None:
    _, a = watched.pair("a")
    _, b = watched.pair("b")
    a.send(b"1")
    watched.loop.run()
    b.send(b"2")
    a.send(b"3")
    watched.loop.run()
    assert watched.heard[0] == "a 1"
    assert sorted(watched.heard[1:]) == ["a 3", "b 2"]
    assert len(watched.loop.readers) == 1


def test_who_was_removed_is_not(watched: Watched) -> None:
    ours, theirs = watched.pair("a")
    watched.reactor.remove_reader(ours.fileno())
    watched.reactor.remove_reader(ours.fileno())
    watched.reactor.remove_reader(10_000)
    theirs.send(b"1")
    watched.loop.run()
    assert watched.heard == []
    assert repr(watched.reactor) == "<Reactor 0 sockets>"


def test_nor_if_it_was_removed_in_the_same_turn(watched: Watched) -> None:
    first: list[socket.socket] = []

    def remove_the_other() -> None:
        for each in first:
            watched.reactor.remove_reader(each.fileno())

    a, to_a = watched.pair("a", remove_the_other)
    b, to_b = watched.pair("b", remove_the_other)
    first += [a, b]
    to_a.send(b"1")
    to_b.send(b"2")
    watched.loop.run()
    assert len(watched.heard) == 1


def test_a_number_that_was_given_away(watched: Watched) -> None:
    """A callback closes a socket that is readable too, and its number is somebody else's at once."""
    doomed: list[socket.socket] = []

    def replace() -> None:
        if not doomed:
            return
        old = doomed.pop()
        number = old.fileno()
        watched.reactor.remove_reader(number)
        ours, theirs = socket.socketpair()
        watched.socks += [ours, theirs]
        os.dup2(ours.fileno(), number)
        watched.reactor.add_reader(number, lambda: watched.heard.append("nothing was sent to it"))

    a, to_a = watched.pair("a", replace)
    b, to_b = watched.pair("b", replace)
    to_a.send(b"1")
    to_b.send(b"2")
    # Whichever comes first replaces the other.
    order = [b] if next(iter(select.select([a, b], [], [], 0)[0])) is a else [a]
    doomed += order
    watched.loop.run()
    assert "nothing was sent to it" not in watched.heard


def test_a_callback_that_fails_is_reported_and_keeps_nobody_from_being_called(watched: Watched) -> None:
    def fail() -> None:
        raise KeyError("mine")

    _, a = watched.pair("a", fail)
    _, b = watched.pair("b", fail)
    a.send(b"1")
    b.send(b"2")
    watched.loop.run()
    assert sorted(watched.heard) == ["a 1", "b 2"]
    assert [type(each["exception"]) for each in watched.loop.problems] == [KeyError, KeyError]


def test_more_than_one_turn_takes_all(watched: Watched) -> None:
    ends = [watched.pair(str(i))[1] for i in range(100)]
    for each in ends:
        each.send(b"x")
    watched.loop.run()
    assert sorted(watched.heard) == sorted(f"{i} x" for i in range(100))


def test_what_comes_meanwhile_is_heard_in_the_same_turn(watched: Watched) -> None:
    _, b = watched.pair("b")
    _, a = watched.pair("a", lambda: b.send(b"2"))
    a.send(b"1")
    watched.reactor.turn()
    assert watched.heard == ["a 1", "b 2"]


def test_a_turn_ends_though_more_comes_all_the_time(watched: Watched) -> None:
    """Timers, and whatever else the loop has to do, are not kept waiting."""
    _, a = watched.pair("a", lambda: a.send(b"x"))
    a.send(b"x")
    watched.reactor.turn()
    assert 1 < len(watched.heard) < 20


def test_who_comes_before_is_called_first(watched: Watched) -> None:
    behind = Reactor(cast(Any, watched.loop), watched.reactor)
    ours, theirs = socket.socketpair()
    watched.socks += [ours, theirs]
    behind.add_reader(ours.fileno(), lambda: watched.heard.append(f"b {ours.recv(100).decode()}"))
    _, a = watched.pair("a")
    for end in (theirs, a):
        end.send(b"1")
    behind.turn()
    assert watched.heard == ["a 1", "b 1"]
    behind.close()


def test_what_is_put_off_is_done_when_all_have_been_heard(watched: Watched) -> None:
    later(lambda: watched.heard.append("at once"))
    assert watched.heard == ["at once"]

    def parts() -> None:
        later(lambda: watched.heard.append("late"))
        later(lambda: 1 // 0)
        b.send(b"2")

    _, a = watched.pair("a", parts)
    _, b = watched.pair("b")
    a.send(b"1")
    watched.loop.run()
    assert watched.heard == ["at once", "a 1", "b 2", "late"]
    (problem,) = watched.loop.problems
    assert isinstance(problem["exception"], ZeroDivisionError)


def test_another_callback_for_what_is_watched(watched: Watched) -> None:
    ours, theirs = watched.pair("a")
    theirs.send(b"1")
    watched.loop.run()
    watched.reactor.add_reader(ours.fileno(), lambda: watched.heard.append(f"b {ours.recv(100).decode()}"))
    theirs.send(b"2")
    watched.loop.run()
    assert watched.heard == ["a 1", "b 2"]


def test_watching_what_cannot_be_watched(watched: Watched) -> None:
    with pytest.raises(OSError, match="cannot be watched"):
        watched.reactor.add_reader(10_000, lambda: None)
    assert repr(watched.reactor) == "<Reactor 0 sockets>"


def test_the_rest_is_the_loops(watched: Watched) -> None:
    called = []
    watched.reactor.call_soon(lambda: called.append(1))
    watched.loop.run()
    assert called == [1]
    ours, _ = watched.pair("a")
    watched.reactor.add_writer(ours.fileno(), lambda: None)
    assert watched.reactor.remove_writer(ours.fileno())


def test_close(watched: Watched) -> None:
    watched.pair("a")
    watched.reactor.close()
    watched.reactor.close()
    assert watched.loop.readers == {}


def test_without_epoll_it_is_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Loop):
        def add_reader(self, *_: object) -> None:
            raise OSError

    loop = Refusing()
    assert reactor(cast(Any, loop)) is loop
