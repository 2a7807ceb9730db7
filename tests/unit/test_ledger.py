from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pgambassador.protocol.ledger import Ledger, broken, fake, forward, swallow, unowed
from tests import oracle

A, B = "a", "b"

kinds = st.sampled_from(b"PBDCESQFcqp")
actions = st.sampled_from([forward, swallow, fake])
owners = st.sampled_from([A, B, None])


class AgainstTheOracle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.subject = Ledger()
        self.oracle = oracle.Ledger()

    @rule(
        kind=kinds, action=actions, owner=owners, note=st.none() | st.integers(), name=st.binary(max_size=2)
    )
    def asked(self, kind: int, action: int, owner: str | None, note: object, name: bytes) -> None:
        self.subject.push(kind, action, owner, note, name)
        self.oracle.push(kind, action, owner, note, name)

    @rule(kind=st.sampled_from(b"123ACDEGHINSTVZcdnst"))
    def answered(self, kind: int) -> None:
        assert self.subject.receive(kind) == self.oracle.receive(kind)

    @rule()
    def answered_as_expected(self) -> None:
        """So that runs get far: the message that completes the head."""
        if self.oracle.owed and self.oracle.owed[0][1] != fake:
            kind = ord(oracle.ANSWERS[chr(self.oracle.owed[0][0])][1][0])
            assert self.subject.receive(kind) == self.oracle.receive(kind) in (forward, swallow)

    @rule()
    def paid(self) -> None:
        assert self.subject.due() == self.oracle.due()

    @rule()
    def failed(self) -> None:
        assert self.subject.fail() == self.oracle.fail()

    @rule()
    def copies_in(self) -> None:
        assert self.subject.copy_in() == self.oracle.copy_in()

    @invariant()
    def owes_the_same(self) -> None:
        assert self.subject.entries() == self.oracle.entries()
        assert self.subject.count == len(self.oracle.owed)
        assert self.subject.skipping == self.oracle.skipping


AgainstTheOracle.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_against_the_oracle = AgainstTheOracle.TestCase


def owing(kinds: str, action: int = forward, owner: object = A) -> Ledger:
    ledger = Ledger()
    for kind in kinds:
        ledger.push(ord(kind), action, owner)
    return ledger


def answers(ledger: Ledger, messages: str) -> list[int]:
    return [ledger.receive(ord(kind)) for kind in messages]


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("Q", "TDDCZ"),
        ("Q", "IZ"),
        ("Q", "TDCTDDCNZ"),
        ("F", "VZ"),
        ("PBDES", "12TDCZ"),
        ("PBDES", "12nCZ"),
        ("PDS", "1tTZ"),
        ("BES", "2sZ"),
        ("BES", "2IZ"),
        ("CS", "3Z"),
        ("BEBES", "2C2CZ"),
        ("Q", "GCZ"),
        ("Q", "HddcCZ"),
    ],
)
def test_conversations(asked: str, answered: str) -> None:
    ledger = owing(asked)
    assert set(answers(ledger, answered)) == {forward}
    assert ledger.count == 0


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("P", "2"),
        ("P", "Z"),
        ("B", "1"),
        ("E", "Z"),
        ("C", "1"),
        ("Q", "1"),
        ("Q", "s"),
        ("S", "C"),
        ("D", "C"),
        ("F", "C"),
    ],
)
def test_what_cannot_be_an_answer_is_broken(asked: str, answer: str) -> None:
    ledger = owing(asked)
    assert answers(ledger, answer) == [broken]
    assert ledger.count == 1


def test_nothing_is_owed_unasked() -> None:
    assert answers(Ledger(), "ZNSDC") == [unowed] * 5


def test_each_owner_has_their_own() -> None:
    ledger = Ledger()
    ledger.push(ord("Q"), swallow, None)
    ledger.push(ord("P"), fake, A)
    ledger.push(ord("Q"), forward, B)
    assert ledger.due() is None
    assert answers(ledger, "CZ") == [swallow, swallow]
    assert ledger.due() == (ord("P"), A)
    assert ledger.due() is None
    assert answers(ledger, "CZ") == [forward, forward]


def test_an_error_drops_what_is_skipped_up_to_the_sync() -> None:
    ledger = owing("PBES" + "PS")
    assert [chr(entry[0]) for entry in ledger.fail()] == ["P", "B", "E"]
    assert not ledger.skipping
    assert answers(ledger, "Z1Z") == [forward] * 3


def test_an_error_before_the_sync_was_sent() -> None:
    ledger = owing("PB")
    assert len(ledger.fail()) == 2
    assert ledger.skipping
    ledger.push(ord("E"), forward, A)
    ledger.push(ord("Q"), forward, A)  # "skips everything up to the next Sync": a simple query too
    assert ledger.count == 0
    ledger.push(ord("S"), forward, A)
    assert repr(ledger) == "<Ledger S>"
    assert answers(ledger, "Z") == [forward]


@pytest.mark.parametrize("kind", ["Q", "F", "S"])
def test_an_error_that_ends_only_itself(kind: str) -> None:
    ledger = owing(kind + "P")
    assert ledger.fail() == []
    assert not ledger.skipping
    assert answers(ledger, "Z1") == [forward, forward]


def test_an_error_gives_back_the_notes() -> None:
    ledger = Ledger()
    ledger.push(ord("P"), fake, A, "note", b"name", 1.5)
    assert ledger.fail() == [(ord("P"), fake, A, "note", b"name")]


def test_copy_in_drops_the_syncs_that_the_server_will_ignore() -> None:
    ledger = owing("ESS")
    assert ledger.copy_in() is False
    assert ledger.entries() == [(ord("E"), forward, A)]
    ledger = owing("ESB")
    assert ledger.copy_in() is False
    assert ledger.entries() == [(ord("E"), forward, A), (ord("B"), forward, A)]


def test_a_copy_that_was_ended_before_its_response_was_seen() -> None:
    ledger = owing("EScSQ")
    assert ledger.copy_in() is True
    assert [chr(kind) for kind, _, _ in ledger.entries()] == ["E", "S", "Q"]


def test_an_end_without_a_copy_is_dropped_when_its_turn_comes() -> None:
    ledger = owing("cQccQ")
    assert [chr(kind) for kind, _, _ in ledger.entries()] == ["Q", "c", "c", "Q"]
    assert answers(ledger, "CZ") == [forward, forward]
    assert [chr(kind) for kind, _, _ in ledger.entries()] == ["Q"]
    ledger = owing("PcS")
    assert [chr(entry[0]) for entry in ledger.fail()] == ["P"]


def test_it_grows_and_wraps() -> None:
    ledger = Ledger()
    expected = []
    for i in range(1000):
        ledger.push(ord("P"), forward, i)
        expected.append(i)
        if i % 3 == 0:
            assert ledger.entries()[0][2] == expected.pop(0)
            ledger.receive(ord("1"))
    assert [owner for _, _, owner in ledger.entries()] == expected


def test_it_keeps_nothing_alive_that_it_does_not_owe() -> None:
    class Owner:
        pass

    owner = Owner()
    seen = weakref.ref(owner)
    ledger = owing("PQ", owner=owner)
    del owner
    gc.collect()
    assert seen() is not None
    ledger.receive(ord("1"))
    ledger.receive(ord("Z"))
    gc.collect()
    assert seen() is None


def test_repr_says_what_is_owed() -> None:
    ledger = owing("P")
    ledger.push(ord("P"), swallow, A)
    ledger.push(ord("C"), fake, A)
    assert repr(ledger) == "<Ledger P swallow:P fake:C>"
    ledger.fail()
    assert repr(ledger) == "<Ledger  skipping>"
