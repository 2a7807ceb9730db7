"""Streams of messages with something wrong in them."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONG = int(os.environ.get("PGAMBASSADOR_LONG", "0") or "0")
"""How many examples, each run others; 0: the same few as always."""

LENGTHS = (0, 1, 3, 4, 5, 100, 0xFFFF, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def bounded(examples: int) -> settings:
    return settings(
        max_examples=LONG or examples,
        derandomize=not LONG,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def _length(message: bytes, length: int) -> bytes:
    return message[:1] + length.to_bytes(4, "big") + message[5:]


@st.composite
def _spoilt(draw: st.DrawFn, message: bytes) -> bytes:
    how = draw(st.integers(0, 6))
    if how == 0:
        return _length(message, draw(st.sampled_from(LENGTHS)))
    if how == 1:
        size = int.from_bytes(message[1:5], "big")
        return _length(message, max(size + draw(st.integers(-3, 3)), 0))
    if how == 2:
        return bytes([draw(st.integers(0, 255))]) + message[1:]
    if how == 3:
        return message[: draw(st.integers(0, len(message)))]
    if how == 4 and len(message) > 5:
        # The body alone: the frame still is one.
        noisy = bytearray(message[5:])
        for _ in range(draw(st.integers(1, 4))):
            noisy[draw(st.integers(0, len(noisy) - 1))] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF)))
        return message[:5] + bytes(noisy)
    if how == 5:
        body = message[5:][: draw(st.integers(0, len(message)))] + draw(st.binary(max_size=8))
        return _length(message[:5], len(body) + 4) + body
    return message[:1] + draw(st.binary(max_size=30))


@st.composite
def streams(draw: st.DrawFn, messages: tuple[bytes, ...]) -> bytes:
    """Good messages in any order, some of them spoilt, and garbage between."""
    one = st.sampled_from(messages)
    parts = st.lists(one | one | one | one.flatmap(_spoilt) | st.binary(max_size=20), max_size=10)
    return b"".join(draw(parts))
