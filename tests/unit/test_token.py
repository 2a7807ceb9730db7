import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgambassador.auth.token import LONGEST, SHORT, Accepted, token_end

NOW = 1_767_225_600.0  # 2026-01-01
RDS = (
    "db.example:5432/?Action=connect&DBUser=app&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x"
    "&X-Amz-Date=20260101T000000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=00"
)


def web_token(claims: Any) -> bytes:
    parts = (json.dumps({"alg": "none"}), json.dumps(claims), "signature")
    return b".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=") for part in parts)


@pytest.mark.parametrize(
    ("password", "end"),
    [
        (RDS.encode(), NOW + 900),
        (web_token({"exp": NOW + 60}), NOW + 60),
        (web_token({"exp": str(int(NOW))}), NOW),
        (b"secret", None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"a.b.c", None),
        (web_token({}), None),
        (web_token([1]), None),
        (web_token({"exp": None}), None),
        (web_token({"exp": "soon"}), None),
        (RDS.replace("20260101T000000Z", "yesterday").encode(), None),
        (RDS.replace("=900", "=").encode(), None),
        (RDS.replace("=900", "=" + "9" * 400).encode(), None),
        (b"X-Amz-Expires=", None),
        (b"?" + b"&".join(b"X-Amz-Expires=9" for _ in range(60)), None),
    ],
)
def test_the_end_of_a_token(password: bytes, end: float | None) -> None:
    assert token_end(password) == end


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.builds(
        web_token,
        st.recursive(
            st.none() | st.floats() | st.text(),
            lambda each: st.lists(each) | st.dictionaries(st.just("exp"), each),
        ),
    )
)
def test_garbage_has_no_end(password: bytes) -> None:
    found = token_end(password)
    assert found is None or isinstance(found, float)
    accepted = Accepted()
    name = accepted.name(password, "x")
    accepted.add(name, "shop", password, NOW)
    assert not accepted.holds(name, "shop", NOW + LONGEST)


@pytest.mark.parametrize(
    ("password", "seconds"),
    [
        (b"secret", SHORT),
        (RDS.encode(), 900),
        (web_token({"exp": NOW + 5}), 5),
        (web_token({"exp": NOW * 2}), LONGEST),
    ],
)
def test_how_long_a_password_is_believed(password: bytes, seconds: float) -> None:
    accepted = Accepted()
    name = accepted.name(password, "main", "shop", "app")
    assert not accepted.holds(name, "shop", NOW)
    accepted.add(name, "shop", password, NOW)
    assert accepted.holds(name, "shop", NOW)
    assert accepted.holds(name, "shop", NOW + seconds - 0.1)
    assert not accepted.holds(name, "shop", NOW + seconds)
    assert not accepted.holds(name, "shop", NOW - LONGEST - 1)  # the clock was set back


def test_a_password_is_good_for_what_it_opened_only() -> None:
    accepted = Accepted()
    names = {
        accepted.name(password, *where)
        for password in (b"secret", b"secre", b"")
        for where in (("main", "shop", "app"), ("main", "sho", "papp"), ("main", "shop", ""), ("shop", "app"))
    }
    assert len(names) == 12
    assert Accepted().name(b"secret", "main") != accepted.name(b"secret", "main")
    assert not any(b"secret" in name for name in names)


def test_it_is_bounded_and_keeps_no_password() -> None:
    accepted = Accepted(size=2)
    names = [accepted.name(b"secret", str(number)) for number in range(3)]
    for name in names:
        accepted.add(name, "shop", b"secret", NOW)
    assert [accepted.holds(name, "shop", NOW) for name in names] == [False, True, True]
    assert repr(accepted) == "<Accepted 2 of 2>"
    assert "secret" not in str(vars(accepted))


def test_what_was_refused_is_good_for_nothing() -> None:
    accepted = Accepted()
    old, new = accepted.name(b"old", "main", "app"), accepted.name(b"new", "main", "app")
    for name in (old, new):
        for database in ("shop", "stock"):
            accepted.add(name, database, b"secret", NOW)
    accepted.drop(old)
    assert [accepted.holds(old, each, NOW) for each in ("shop", "stock")] == [False, False]
    assert [accepted.holds(new, each, NOW) for each in ("shop", "stock")] == [True, True]
    assert not accepted.holds(new, "other", NOW)
