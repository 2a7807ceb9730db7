"""What is remembered of statements: by shape, by text where literals matter, and how long they take."""

from __future__ import annotations

import pytest

from pgambassador.net.verdicts import Verdict, Verdicts
from pgambassador.routing.decision import Decision

READ = Decision("read", "replica", "reads", batchable=True)


def judges(decision: Decision) -> tuple[Verdicts, list[bytes]]:
    asked: list[bytes] = []

    def judge(text: bytes) -> Verdict:
        asked.append(text)
        return Verdict(decision)

    return Verdicts(judge), asked


def test_statements_that_differ_in_literals_share_a_verdict() -> None:
    verdicts, asked = judges(READ)
    assert verdicts.of(b"select 1") is verdicts.of(b"select 2")
    assert asked == [b"select 1"] and verdicts.misses == 1 and len(verdicts) == 1
    assert verdicts.of(b"select a") is not verdicts.of(b"select 1")


def test_where_literals_matter_each_text_has_its_own() -> None:
    verdicts, asked = judges(Decision("write", "primary", "calls it", literal=True))
    first = verdicts.of(b"select f('a')")
    assert verdicts.of(b"select f('b')") is not first
    assert verdicts.of(b"select f('a')") is first
    assert asked == [b"select f('a')", b"select f('b')"]


def test_what_has_no_shape_is_found_by_its_text() -> None:
    verdicts, asked = judges(READ)
    assert verdicts.of(b"select 'open") is verdicts.of(b"select 'open")
    assert len(asked) == 1


def test_a_long_text_is_not_looked_into() -> None:
    verdicts, asked = judges(READ)
    assert not verdicts.of(b"select " + b"1" * 20_000).read
    assert not asked


def test_what_is_remembered_is_bounded() -> None:
    verdicts, _ = judges(READ)
    first = verdicts.of(b"select 1")
    for number in range(300):
        verdicts.of(b"select c%d as " % number + b"x" * 10_000)
    assert len(verdicts) < 300 and verdicts.generation > 1
    assert verdicts.of(b"select 1") is not first


def test_all_is_forgotten_at_once() -> None:
    verdicts, _ = judges(READ)
    generation = verdicts.generation
    first = verdicts.of(b"select 1")
    verdicts.clear()
    assert verdicts.generation == generation + 1 and len(verdicts) == 0
    assert verdicts.of(b"select 1") is not first


def test_an_error_of_the_judge_is_not_remembered() -> None:
    def judge(text: bytes) -> Verdict:
        raise KeyError(text)

    verdicts = Verdicts(judge)
    with pytest.raises(KeyError):
        verdicts.of(b"select 1")
    assert len(verdicts) == 0


@pytest.mark.parametrize(
    ("decision", "read", "harmless"),
    [
        (READ, True, True),
        (Decision("read", "any", "reads"), True, True),
        (Decision("read", "primary", "reads what tells servers apart"), False, True),
        (Decision("unknown", "replica", "a rule says so"), True, False),
        (Decision("write", "primary", "writes"), False, False),
        (Decision("session", "any", "sets"), False, False),
        (Decision("transaction", "replica", "begins", begins="read only"), False, False),
        (Decision("transaction", "any", "ends", ends=True), False, False),
        (None, False, False),
    ],
)
def test_what_a_decision_means(decision: Decision | None, read: bool, harmless: bool) -> None:
    verdict = Verdict(decision)
    assert (verdict.read, verdict.harmless) == (read, harmless)
    assert verdict.ends == (decision is not None and decision.ends)


def test_what_a_standby_has_refused_goes_to_the_primary() -> None:
    verdict = Verdict(READ)
    verdict.refuted()
    assert not (verdict.read or verdict.harmless or verdict.batchable)
