"""AlloyDB's metadata exchange: what is said inside TLS before the start packet, and its answer.

1. Both are a four-byte length, big-endian, and a protobuf message (MetadataExchangeRequest and
   MetadataExchangeResponse of google.cloud.alloydb.connectors.v1).
2. The answer is the server's: its size is bounded, fields that we do not know are passed over.
"""

from __future__ import annotations

import re

from pgambassador.errors import ProtocolViolation, ServerRefused

DB_NATIVE, AUTO_IAM = 1, 2
LIMIT = 16_384
_OK = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# A text for people has no such words; if it has, they may be a secret.
_LONG_WORD = re.compile(r"\S{60,}")


def request(token: str, *, iam: bool, user_agent: str) -> bytes:
    """Who we are."""
    message = (
        _text(1, user_agent) + bytes((2 << 3 | _VARINT, AUTO_IAM if iam else DB_NATIVE)) + _text(3, token)
    )
    return len(message).to_bytes(4, "big") + message


def understand(data: bytes) -> int | None:
    """How many bytes the answer took, None if it is not complete; ServerRefused if it is not OK."""
    if len(data) < 4:
        return None
    size = int.from_bytes(data[:4], "big")
    if size > LIMIT:
        raise ProtocolViolation(
            f"the answer to the metadata exchange has {size} bytes, more than any AlloyDB sends",
            hint="Check what stands between here and the instance.",
        )
    if len(data) < 4 + size:
        return None
    code, error = _response(data[4 : 4 + size])
    if code != _OK:
        words = _LONG_WORD.sub("…", " ".join(error.split()))[:300]
        hint = "Grant roles/alloydb.databaseUser and roles/serviceusage.serviceUsageConsumer to the account,"
        message = f"AlloyDB refuses the login: {words or 'it does not say why'}"
        fields = {"S": "FATAL", "V": "FATAL", "C": "28000", "M": message}
        raise ServerRefused({**fields, "H": f"{hint} and create its database user."})
    return 4 + size


def _text(field: int, text: str) -> bytes:
    data = text.encode()
    return bytes((field << 3 | _BYTES,)) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _response(message: bytes) -> tuple[int, str]:
    """response_code and error."""
    code, error, at = 0, "", 0
    try:
        while at < len(message):
            key, at = _number(message, at)
            field, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, at = _number(message, at)
                code = value if field == 1 else code
            elif kind == _BYTES:
                size, at = _number(message, at)
                if size > len(message) - at:
                    raise IndexError
                error = message[at : at + size].decode("utf-8", "replace") if field == 2 else error
                at += size
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise IndexError
        if at > len(message):
            raise IndexError
    except IndexError:
        raise ProtocolViolation(
            "the answer to the metadata exchange is not understood",
            hint="Check that credentials.instance is an AlloyDB instance.",
        ) from None
    return code, error


def _number(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError
