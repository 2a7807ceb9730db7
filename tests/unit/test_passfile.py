"""libpq's password file: each rule by an example, and all of them against libpq itself."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import pq

from pgambassador.credentials.passfile import find
from pgambassador.credentials.provider import Login

LOGIN = Login("db.example", 5432, "app", "shop")


@pytest.mark.parametrize(
    ("lines", "password"),
    [
        (b"db.example:5432:shop:app:secret", b"secret"),
        (b"*:*:*:*:secret\r\n", b"secret"),
        (b"#*:*:*:*:no\n\nother:*:*:*:no\n*:5432:*:app:secret\n*:*:*:*:late", b"secret"),
        (b" *:*:*:*:no\n*x:*:*:*:no", None),
        (b"db\\.example:5432:shop:a\\pp:s\\:e\\\\c\\ret", b"s:e\\cret"),
        (b"*:*:*:*:secret:and more", b"secret"),
        (b"*:*:*:*:secret\\", b"secret\\"),
        (b"*:*:*:app", None),
        (b"*:*:*:*:", b""),
        (b"db.example:5432:shop:appendix:no", None),
        (b"db.example:5432:shop\\:app:no", None),
        (b"", None),
    ],
)
def test_lines(lines: bytes, password: bytes | None) -> None:
    assert find(lines, LOGIN) == password


@pytest.mark.parametrize("host", ["/tmp", "/var/run/postgresql"])
def test_the_default_socket_is_localhost(host: str) -> None:
    assert find(b"localhost:*:*:*:secret", LOGIN._replace(host=host)) == b"secret"
    assert find(b"localhost:*:*:*:secret", LOGIN._replace(host="/elsewhere")) is None


PIECE = st.sampled_from(["*", ":", "\\", "a", "b", "#", "1", " ", "\r", "a:b", "\\:", "ü"])
FIELD = st.lists(PIECE, max_size=4).map("".join)
LINE = st.one_of(
    FIELD,
    st.tuples(*[st.one_of(st.just("*"), FIELD)] * 5).map(":".join),
    st.tuples(st.just("/h"), st.just("1"), FIELD, FIELD, FIELD).map(":".join),
)
NAME = st.sampled_from(["a", "b", "ab", "a:b", "\\", "*", "a\\", "ü", "a b"])


@given(lines=st.lists(LINE, max_size=4), database=NAME, user=NAME)
@example(lines=["/h:1:*:a:b:*"], database="a", user="a:b")
@example(lines=["*:*:a:\\a:b:c"], database="a", user="a")
@example(lines=["*:*:\\\\:a\\::x"], database="\\", user="a:")
def test_libpq_finds_the_same(lines: list[str], database: str, user: str) -> None:
    content = "\n".join(lines).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "passfile"
        path.write_bytes(content)
        path.chmod(0o600)
        theirs = libpq(path, database, user)
    # What libpq says of an empty password is the same as of none.
    assert (find(content, Login("/h", 1, user, database)) or b"") == theirs


def libpq(path: Path, database: str, user: str) -> bytes:
    """The password that libpq would use; there is no server, and no directory for its socket."""
    settings = {"host": "/h", "port": "1", "dbname": database, "user": user, "passfile": os.fspath(path)}
    quoted = {k: v.replace("\\", "\\\\").replace("'", "\\'") for k, v in settings.items()}
    connection = pq.PGconn.connect_start(" ".join(f"{k}='{v}'" for k, v in quoted.items()).encode())
    try:
        return connection.password
    finally:
        connection.finish()
