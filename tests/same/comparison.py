"""What may differ between two runs of a conversation, and nothing more.

1. BackendKeyData, the process id of a notification, and the order in which a login reports parameters.
2. Numbers that the server gives to new tables and types (from 16384 on): two runs make them twice. The first
   that one run mentions is the first of the other.
3. Where connections change hands: the order of parameters that one statement reports, as RESET ALL does. A
   server reports them in the order in which they were set, and who brings settings to another connection has
   an order of its own.
4. Where a script says so: the fields of an error that say where in the server's source it was raised (F, L,
   R). They change with each version of a server, and no client can rely on them.
"""

from __future__ import annotations

import difflib
from itertools import groupby
from struct import pack, unpack_from

from tests.harness import Message
from tests.messages import show
from tests.same.conversation import OVERDUE, Transcript

FIRST_OWN = 16384


class _Numbers:
    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def same(self, number: int) -> int:
        if number < FIRST_OWN:
            return number
        return self._known.setdefault(number, FIRST_OWN + len(self._known))


def comparable(transcript: Transcript, without: str = "", *, shared: bool = False) -> dict[str, list[str]]:
    """One line for each step and message, the whole body in it; equal lines are equal messages."""
    numbers = _Numbers()
    return {
        client: [
            _line(_less(each, without), numbers)
            for each in (_sorted(_ordered(heard)) if shared else _ordered(heard))
        ]
        for client, heard in transcript.items()
    }


def _sorted(heard: list[str | Message]) -> list[str | Message]:
    """With what is reported in a row by its names."""
    runs = groupby(heard, lambda each: isinstance(each, Message) and each.kind == "S")
    return [each for reports, run in runs for each in (sorted(run, key=repr) if reports else run)]


def _less(each: str | Message, without: str) -> str | Message:
    """Without these fields of an error."""
    if isinstance(each, str) or each.kind != "E" or not without:
        return each
    kept = (part for part in each.payload.split(b"\0") if part[:1].decode() not in without or not part)
    return Message("E", b"\0".join(kept))


def _ordered(heard: list[str | Message]) -> list[str | Message]:
    """The parameters of the login by their names: what is said first is the login's answer."""
    end = 0
    while end < len(heard) and not isinstance(heard[end], str):
        end += 1
    login = [each for each in heard[:end] if isinstance(each, Message)]
    reported = sorted(each.payload for each in login if each.kind == "S")
    return [
        *(Message("S", reported.pop(0)) if each.kind == "S" else each for each in login),
        *heard[end:],
    ]


def _line(each: str | Message, numbers: _Numbers) -> str:
    if isinstance(each, str):
        return each
    payload = each.payload
    if each.kind == "K":
        payload = b""
    elif each.kind == "A":
        payload = payload[4:]
    elif each.kind == "T":
        payload = _columns(payload, numbers)
    elif each.kind == "t":
        count = len(payload) // 4
        oids = (numbers.same(oid) for oid in unpack_from(f"!{count}I", payload, 2))
        payload = payload[:2] + pack(f"!{count}I", *oids)
    return f"{each.kind} {payload!r}"


def _columns(payload: bytes, numbers: _Numbers) -> bytes:
    out = payload[:2]
    position = 2
    for _ in range(int.from_bytes(payload[:2], "big")):
        end = payload.index(b"\0", position) + 1
        table, column, kind, size, modifier, form = unpack_from("!IhIhih", payload, end)
        out += payload[position:end] + pack(
            "!IhIhih", numbers.same(table), column, numbers.same(kind), size, modifier, form
        )
        position = end + 18
    return out + payload[position:]


def differences(direct: Transcript, through: Transcript, without: str = "", *, shared: bool = False) -> str:
    """For readers; empty if there are none."""
    lines: list[str] = []
    expected, found = (comparable(each, without, shared=shared) for each in (direct, through))
    for client in expected:
        if expected[client] == found.get(client):
            continue
        lines += difflib.unified_diff(
            [_shown(line) for line in expected[client]],
            [_shown(line) for line in found.get(client, [])],
            f"{client} direct",
            f"{client} through pgambassador",
            lineterm="",
            n=4,
        )
        lines.append("")
    assert bool(lines) == (expected != found), "unlike only beyond what is shown"
    return "\n".join(lines)


def _shown(line: str) -> str:
    return line if len(line) <= 300 else f"{line[:250]}... ({len(line)}, {hash(line):x})"


def in_time(transcript: Transcript) -> bool:
    """Whatever was waited for has come."""
    return not any(OVERDUE in heard for heard in transcript.values())


def readable(transcript: Transcript) -> str:
    lines = []
    for client, heard in transcript.items():
        for each in heard:
            if isinstance(each, Message):
                (shown,) = show(_framed(each), of_server=True)
                lines.append(f"{client}:     {shown}")
            else:
                lines.append(f"{client}: {each}")
    return "\n".join(lines)


def _framed(message: Message) -> bytes:
    return message.kind.encode() + pack("!i", len(message.payload) + 4) + message.payload
