"""The little of DER (X.690) that certificates need: one element after the other, and object identifiers.

Whatever does not fit raises ValueError or IndexError; nothing is read beyond an element's own length.
"""

from __future__ import annotations

from collections.abc import Iterator

SEQUENCE, OID = 0x30, 0x06


def take(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The content of the element in front, which must have this tag, and what follows it."""
    if data[0] != tag:
        raise ValueError("another element")
    _, content, rest = element(data)
    return content, rest


def element(data: bytes) -> tuple[int, bytes, bytes]:
    """The tag and the content of the element in front, and what follows it."""
    tag, length, start = data[0], data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start], "big")
    if start + length > len(data):
        raise ValueError("cut short")
    return tag, data[start : start + length], data[start + length :]


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tags and contents of all elements in a row."""
    while data:
        tag, content, data = element(data)
        yield tag, content


def dotted(oid: bytes) -> str:
    """The content of an OID as in "2.5.4.3"."""
    numbers, value = [], 0
    for byte in oid:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            numbers.append(value)
            value = 0
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))
