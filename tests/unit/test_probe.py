"""The two questions and what is read from their answers, frame by frame."""

from __future__ import annotations

from typing import TypeVar

import pytest

from pgambassador.cluster.probe import Abilities, Probe, Report, abilities, identity
from pgambassador.errors import AmbassadorError, ProtocolViolation, ServerRefused
from pgambassador.wire.frames import Dialogue, Frame
from tests.messages import error, fatal, row

T = TypeVar("T")
DONE = [(ord("C"), b"SELECT 1\0"), (ord("Z"), b"I")]
ALL = Abilities(8192, 16 << 20, True, True, True, True, False)
AURORA = Abilities(8192, 16 << 20, True, True, True, True, True)


def rows(*found: tuple[bytes | None, ...]) -> list[Frame]:
    return [*((ord("D"), row(*each)[5:]) for each in found), *DONE]


def told(dialogue: Dialogue[T], frames: list[Frame]) -> tuple[bytes, T]:
    """What was asked, and what came of the answer."""
    asked = next(dialogue)
    with pytest.raises(StopIteration) as stop:
        for frame in frames:
            assert dialogue.send(frame) == b""
    return asked, stop.value.value


def failure(dialogue: Dialogue[T], frames: list[Frame]) -> AmbassadorError:
    next(dialogue)
    with pytest.raises(AmbassadorError) as raised:
        for frame in frames:
            dialogue.send(frame)
    return raised.value


def test_abilities() -> None:
    _, found = told(abilities(), rows((b"8192", b"16777216", b"t", b"f", b"t", b"t", b"f")))
    assert found == Abilities(8192, 16777216, True, False, True, True, False)


def test_a_primary() -> None:
    answer = (b"f", b"17", b"1/A0", b"1/98", b"7000", b"3", b"00000004", b"", b"", b"")
    asked, found = told(Probe(ALL).report(), rows(answer))
    assert found == Report(
        standby=False, life=17, position=(1 << 32) + 0xA0, durable=(1 << 32) + 0x98, system="7000", timeline=4
    )
    assert asked.startswith(b"P") and b"pg_control_system" in asked and asked.endswith(b"S\0\0\0\4")


def test_a_standby_is_on_the_timeline_that_is_proven() -> None:
    answer = (b"t", b"17", b"1/A0", None, b"7000", b"3", None, b"", b"", b"")
    _, found = told(Probe(ALL).report(), rows(answer))
    assert found == Report(standby=True, life=17, position=(1 << 32) + 0xA0, system="7000", timeline=3)


def test_the_question_is_prepared_once() -> None:
    probe = Probe(ALL)
    answer = rows((b"t", b"17", b"1/A0", None, b"7000", b"3", None, b"", b"", b""))
    first, _ = told(probe.report(), answer)
    again, _ = told(probe.report(), answer)
    assert len(again) < 60 and first.endswith(again) and len(first) > 500


def test_what_cannot_be_asked_is_not_asked() -> None:
    nothing = Abilities(8192, 16 << 20, False, False, False, False, False)
    answer = (b"f", b"17", None, None, b"", b"0", b"", b"", b"", b"")
    asked, found = told(Probe(nothing).report(), rows(answer))
    assert found == Report(standby=False, life=17)
    for name in (b"lsn()", b"pg_control", b"walfile", b"receiver", b"aurora"):
        assert name not in asked


def test_aurora() -> None:
    common = (b"f", b"17", None, None, b"", b"0", b"", b"one")
    asked, found = told(
        Probe(AURORA).report(),
        rows((*common, b"one", None), (*common, b"two", b"0.25"), (*common, b"three", None)),
    )
    assert found == Report(
        standby=False, life=17, instance="one", lags={"two": 0.25}, members=("one", "two", "three")
    )
    for name in (b"lsn()", b"pg_control", b"walfile", b"receiver"):
        assert name not in asked


def test_identity() -> None:
    assert identity([row(b"1795302118621020", b"t")]) == (1795302118621020, True)
    with pytest.raises(ProtocolViolation):
        identity([])


@pytest.mark.parametrize(
    "answer",
    [
        (),
        ((b"t",),),
        ((b"t", b"x", None, None, b"", b"0", b"", b"", b"", b""),),
        ((b"t", b"1", b"7", None, b"", b"0", b"", b"", b"", b""),),
        ((b"t", b"1", b"x/1", None, b"", b"0", b"", b"", b"", b""),),
        ((b"t", b"1", None, None, b"", b"0", b"", b"", b"a", b"soon"),),
        ((b"t", b"1", None, None, b"", b"0", b"", b"", b"a", b"-1"),),
        ((b"t", b"1", None, None, b"", b"0", b"", b"", b"a", b"nan"),),
        tuple((b"t", b"1", None, None, b"", b"0", b"", b"", b"", b"") for _ in range(65)),
    ],
)
def test_answers_that_make_no_sense(answer: tuple[tuple[bytes | None, ...], ...]) -> None:
    assert isinstance(failure(Probe(ALL).report(), rows(*answer)), ProtocolViolation)


def test_an_endless_answer() -> None:
    notices = [(ord("N"), b"\0")] * 1000
    assert isinstance(failure(Probe(ALL).report(), notices), ProtocolViolation)


def test_errors() -> None:
    refused = failure(Probe(ALL).report(), [(ord("E"), error("42501")[5:]), (ord("Z"), b"I")])
    assert isinstance(refused, ServerRefused) and refused.sqlstate == "42501"
    ended = failure(Probe(ALL).report(), [(ord("E"), fatal("57P01")[5:])])
    assert isinstance(ended, ServerRefused) and ended.sqlstate == "57P01"
