import pytest

from pgambassador.auth.saslprep import saslprep


@pytest.mark.parametrize(
    "password, prepared",
    [
        ("pencil", "pencil"),
        ("", ""),
        ("\x07 bell", "\x07 bell"),  # ASCII is never touched
        ("I\u00adX", "IX"),  # the examples of RFC 4013, section 3
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("a\u3000b", "a b"),
        ("ä\u200b", "ä "),  # a blank before it is "mapped to nothing", as in PostgreSQL
        ("\u0627\u0628", "\u0627\u0628"),
        ("ﬁle", "file"),
        ("A\u0308", "Ä"),
        # What is prohibited is used as it is.
        ("ä\x07", "ä\x07"),
        ("\u06271", "\u06271"),
        ("\u0627a\u0628", "\u0627a\u0628"),
        ("\u00ad", "\u00ad"),
        ("ä\ue000", "ä\ue000"),
        ("ä\u0221", "ä\u0221"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_prepared(password: str, prepared: str) -> None:
    assert saslprep(password.encode()) == prepared.encode()


def test_bytes_that_are_not_utf_8_stay() -> None:
    assert saslprep(b"\xe4\xff") == b"\xe4\xff"
