from __future__ import annotations

import pytest

from pgambassador.errors import (
    AmbassadorError,
    ConfigError,
    ProtocolViolation,
    Refused,
    ServerRefused,
    Unreachable,
)


@pytest.mark.parametrize(
    ("kind", "sqlstate"),
    [
        (AmbassadorError, "XX000"),
        (ProtocolViolation, "08P01"),
        (Refused, "28000"),
        (Unreachable, "08001"),
        (ConfigError, "F0000"),
    ],
)
def test_each_kind_has_its_sqlstate(kind: type[AmbassadorError], sqlstate: str) -> None:
    assert (kind("x").sqlstate, kind("x").severity) == (sqlstate, "FATAL")
    special = kind("x", sqlstate="57P01", severity="ERROR")
    assert (special.sqlstate, special.severity, kind.sqlstate) == ("57P01", "ERROR", sqlstate)


def test_a_sentence_for_a_terminal() -> None:
    error = AmbassadorError("It broke.", hint="Mend it.", detail="Twice.")
    assert error.sentence() == "It broke. Twice. Mend it."
    assert AmbassadorError("It broke.").sentence() == str(error) == "It broke."


def test_a_server_is_quoted() -> None:
    fields = {"S": "FATAL", "C": "28P01", "M": "no", "D": "why", "H": "how", "F": "auth.c"}
    error = ServerRefused(fields)
    assert error.fields == fields
    assert (error.sqlstate, error.message, error.detail, error.hint) == ("28P01", "no", "why", "how")


def test_a_server_that_does_not_say_why() -> None:
    assert ServerRefused({}).sqlstate == "08004"
    assert "without saying why" in ServerRefused({}).message
