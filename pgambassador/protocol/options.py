"""The `options` of a startup message: command-line switches for a server process, read as settings.

`-c name=value`, `-cname=value` and `--name=value` are settings; a dash in the name stands for an underscore.
Words are divided by blanks, and a backslash takes the character behind it literally.
"""

from __future__ import annotations

from pgambassador.errors import Refused

# What isspace() says in the C locale.
_BLANKS = frozenset(" \t\n\v\f\r")
_FALSE = frozenset({"f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"})
_TRUE = frozenset({"t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"})


def truth(value: str) -> bool | None:
    """What PostgreSQL's parse_bool makes of it; None if that is nothing."""
    word = value.lower()
    return True if word in _TRUE else False if word in _FALSE else None


def read_options(options: str) -> tuple[dict[str, str], list[str]]:
    """The settings, of which a later one wins, and the words that are none, for the caller to judge.

    A setting without a value is Refused, as by PostgreSQL.
    """
    settings: dict[str, str] = {}
    unparsed: list[str] = []
    words = iter(split_words(options))
    for word in words:
        if word == "-c":
            switch, assignment = [word], next(words, None)
            if assignment is not None:
                switch.append(assignment)
        else:
            switch = [word]
            assignment = word[2:] if word.startswith(("-c", "--")) else None
        name, equals, value = (assignment or "").partition("=")
        if name and equals:
            settings[name.replace("-", "_")] = value
        elif name:
            raise Refused(f"{word[:2]}{' ' * (word[:2] == '-c')}{name} requires a value", sqlstate="42601")
        else:
            unparsed.extend(switch)
    return settings, unparsed


def split_words(options: str) -> list[str]:
    """As PostgreSQL's pg_split_opts does it."""
    words: list[str] = []
    word: list[str] | None = None
    characters = iter(options)
    for character in characters:
        if character in _BLANKS:
            if word is not None:
                words.append("".join(word))
                word = None
            continue
        if character == "\\":
            character = next(characters, "")
        word = word or []
        word.append(character)
    if word is not None:
        words.append("".join(word))
    return words
