"""Whose keys are derived when, and that the loop is not what derives them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from pgambassador.auth import scram
from pgambassador.auth.verifier import Borrowed, Keys, derive, make_verifier
from pgambassador.errors import ProtocolViolation
from pgambassador.net import derivation
from pgambassador.net.derivation import Deriver, Prepared
from pgambassador.wire import build
from pgambassador.wire.frames import Frame
from tests.loop import Loop

SALT = b"0123456789abcdef"
KEYS = Keys(b"c" * 32, b"s" * 32)


class Bench:
    """Derivations that end when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = Loop()
        self.begun: list[bytes] = []
        self._open: list[asyncio.Future[Keys]] = []
        monkeypatch.setattr(self.loop, "run_in_executor", self._run)

    def _run(self, executor: object, work: Callable[..., Keys], password: bytes, *rest: object) -> object:
        assert executor is derivation._threads and work is derive
        self.begun.append(password)
        self._open.append(self.loop.create_future())
        return self._open[-1]

    def ends(self) -> None:
        self._open.pop(0).set_result(KEYS)
        self.loop.run()

    def asks(self, deriver: Deriver, password: bytes) -> asyncio.Task[Keys]:
        task = self.loop.create_task(deriver.keys(password, SALT, 600_000))
        self.loop.run()
        return task


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_one_at_a_time_and_the_same_once(bench: Bench) -> None:
    deriver = Deriver()
    tasks = [bench.asks(deriver, password) for password in (b"a", b"a", b"b", b"a")]
    assert bench.begun == [b"a"]
    bench.ends()
    assert bench.begun == [b"a", b"b"]
    bench.ends()
    assert all(task.result() is KEYS for task in tasks)
    assert bench.asks(deriver, b"a").result() is KEYS
    assert bench.begun == [b"a", b"b"]


def test_who_stops_waiting(bench: Bench) -> None:
    """Before its turn it costs nothing; what has begun is remembered."""
    deriver = Deriver()
    first, second, third = (bench.asks(deriver, password) for password in (b"a", b"b", b"c"))
    second.cancel()
    bench.ends()
    assert bench.begun == [b"a", b"c"]
    third.cancel()
    bench.loop.run()
    bench.ends()
    assert bench.asks(deriver, b"c").result() is KEYS
    assert first.result() is KEYS


def test_others_go_on(bench: Bench) -> None:
    one, other = Deriver(), Deriver()
    bench.asks(one, b"a")
    bench.asks(other, b"b")
    assert bench.begun == [b"a", b"b"]
    bench.ends()
    bench.ends()
    decoys = Deriver(turn=one.turn)
    bench.asks(one, b"c")
    bench.asks(decoys, b"d")
    assert bench.begun == [b"a", b"b", b"c"]
    bench.ends()
    assert bench.begun[-1] == b"d"
    bench.ends()


def test_guesses_are_not_remembered(bench: Bench) -> None:
    deriver = Deriver(0)
    for _ in range(2):
        task = bench.asks(deriver, b"guess")
        bench.ends()
        assert task.result() is KEYS
    assert bench.begun == [b"guess"] * 2
    assert repr(deriver) == "<Deriver with <KeyCache 0 of 0>>"


def challenge(text: bytes) -> Frame:
    return ord("R"), build.authentication_sasl_continue(text)[5:]


def test_a_login_finds_its_keys_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another thread than the loop's."""
    threads: list[threading.Thread] = []

    def watched(password: bytes, salt: bytes, iterations: int) -> Keys:
        threads.append(threading.current_thread())
        return derive(password, salt, iterations)

    monkeypatch.setattr(derivation, "derive", watched)

    async def log_in() -> None:
        verifier = make_verifier(b"secret", SALT, 4096)
        prepared = Prepared(Deriver(), b"secret")
        ours = scram.client(b"secret", derive=prepared.derive)
        theirs = scram.server(next(ours), verifier)
        first = next(theirs)
        await prepared.ahead((ord("R"), build.authentication_sasl(["SCRAM-SHA-256"])[5:]))
        assert threads == []
        await prepared.ahead(challenge(first))
        assert len(threads) == 1
        assert scram.finish(theirs, ours.send(first)) is not None

    asyncio.run(log_in())
    assert threads[0] is not threading.main_thread() and len(threads) == 1


@pytest.mark.parametrize("text", [b"", b"r=abc,s=MDEy,i=1000001", b"r=abc,s=MDEy,i=0", b"r=abc,s=,i=4096"])
def test_what_is_beyond_the_bounds_is_not_derived(bench: Bench, text: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        bench.loop.complete(Prepared(Deriver(), b"secret").ahead(challenge(text)))
    assert bench.begun == []


@pytest.mark.parametrize("secret", [None, Borrowed(KEYS, SALT, 4096)])
def test_where_there_is_no_password_nothing_is_derived(bench: Bench, secret: Borrowed | None) -> None:
    bench.loop.complete(Prepared(Deriver(), secret).ahead(challenge(b"r=abc,s=MDEy,i=4096")))
    assert bench.begun == []
