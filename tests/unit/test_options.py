import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.errors import Refused
from pgambassador.protocol.options import read_options, split_words, truth


@pytest.mark.parametrize(
    "options, settings",
    [
        ("", {}),
        ("   ", {}),
        ("-c statement_timeout=1234", {"statement_timeout": "1234"}),
        ("-cstatement_timeout=1234", {"statement_timeout": "1234"}),
        ("--statement_timeout=1234", {"statement_timeout": "1234"}),
        ("--statement-timeout=1234", {"statement_timeout": "1234"}),
        ("-c statement-timeout=1-2", {"statement_timeout": "1-2"}),
        (
            r"-c statement_timeout=1234 -c search_path=a\ b",
            {"statement_timeout": "1234", "search_path": "a b"},
        ),
        (r"-c search_path=\"a\",\ b\\c", {"search_path": '"a", b\\c'}),
        ("-c a=1 -c a=2", {"a": "2"}),
        ("-c a=b=c", {"a": "b=c"}),
        ("-c a=", {"a": ""}),
        ("\t-c\n a=1\v--b=2\f\r", {"a": "1", "b": "2"}),
        ("-c my.setting=x", {"my.setting": "x"}),
        ("-c a=ä", {"a": "ä"}),
    ],
)
def test_settings(options: str, settings: dict[str, str]) -> None:
    assert read_options(options) == (settings, [])


@pytest.mark.parametrize(
    "options, settings, unparsed",
    [
        ("-f s -c a=1", {"a": "1"}, ["-f", "s"]),
        ("-c", {}, ["-c"]),
        ("-c =1", {}, ["-c", "=1"]),
        ("--", {}, ["--"]),
        ("--=1", {}, ["--=1"]),
        ("a=1", {}, ["a=1"]),
        ("-e -S 512", {}, ["-e", "-S", "512"]),
    ],
)
def test_the_rest_is_for_the_caller(options: str, settings: dict[str, str], unparsed: list[str]) -> None:
    assert read_options(options) == (settings, unparsed)


@pytest.mark.parametrize(
    ("options", "said"), [("-c a", "-c a requires"), ("-ca", "-c a requires"), ("-c x=1 --a", "--a requires")]
)
def test_a_setting_without_a_value_is_refused(options: str, said: str) -> None:
    with pytest.raises(Refused, match=said) as raised:
        read_options(options)
    assert raised.value.sqlstate == "42601"


@pytest.mark.parametrize(
    "options, words",
    [
        (r"a\ b c", ["a b", "c"]),
        (r"\\", ["\\"]),
        ("\\", [""]),
        (r"\a\b", ["ab"]),
        (r"a\ ", ["a "]),
        ("a\u00a0b", ["a\u00a0b"]),
    ],
)
def test_words(options: str, words: list[str]) -> None:
    assert split_words(options) == words


@given(st.lists(st.text(min_size=1, max_size=10), max_size=5))
def test_escaped_words_come_out_again(words: list[str]) -> None:
    escaped = ["".join("\\" + each if each in " \t\n\v\f\r\\" else each for each in word) for word in words]
    assert split_words("  ".join(escaped)) == words


@given(st.text(alphabet="-c =a\\ \n", max_size=40))
def test_nothing_is_lost(options: str) -> None:
    try:
        settings, unparsed = read_options(options)
    except Refused:
        return
    assert all(settings) and len(settings) + len(unparsed) <= len(split_words(options))


@pytest.mark.parametrize(
    ("meaning", "words"),
    [(True, "on ON t tR yes y 1 true"), (False, "off of f no n 0 False"), (None, "o 2 ontrue 01 yess -")],
)
def test_truth(meaning: bool | None, words: str) -> None:
    assert {truth(word) for word in words.split()} == {meaning}
    assert truth("") is truth(" on") is None
