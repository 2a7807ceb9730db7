"""libpq's password file ("The Password File" in the manual): lines host:port:database:user:password.

1. The first line that fits wins. A field that is `*` fits anything; a backslash takes the next character
   as it is, in all five fields.
2. A line that begins with # is a comment. Line ends may be those of Windows.
3. What follows a colon behind the password is not part of it.
"""

from __future__ import annotations

from pgambassador.credentials.provider import Login

_LOCAL = ("/tmp", "/var/run/postgresql")  # where libpqs look for the server's socket by default
_BACKSLASH, _COLON = ord("\\"), ord(":")


def find(content: bytes, login: Login) -> bytes | None:
    """The password for a login, None if no line fits."""
    host = "localhost" if login.host in _LOCAL else login.host
    wanted = [text.encode() for text in (host, str(login.port), login.database, login.user)]
    for line in content.split(b"\n"):
        if line.startswith(b"#"):
            continue
        rest: bytes | None = line.rstrip(b"\r")
        for value in wanted:
            if rest is None:
                break
            rest = _behind(rest, value)
        if rest is not None:
            return _field(rest)
    return None


def _behind(line: bytes, value: bytes) -> bytes | None:
    """What comes after the line's first field, None if that does not fit."""
    if line.startswith(b"*:"):
        return line[2:]
    position = 0
    for byte in value:  # in which a colon fits one without a backslash, too
        if line[position : position + 1] == b"\\":
            position += 1
        if line[position : position + 1] != bytes((byte,)):
            return None
        position += 1
    return line[position + 1 :] if line[position : position + 1] == b":" else None


def _field(line: bytes) -> bytes:
    """What the first field says."""
    found = bytearray()
    position = 0
    while position < len(line) and line[position] != _COLON:
        if line[position] == _BACKSLASH and position + 1 < len(line):
            position += 1
        found.append(line[position])
        position += 1
    return bytes(found)
