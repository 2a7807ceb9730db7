from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from pgambassador.cluster.uri import split_uri
from pgambassador.errors import ConfigError

HOST = {"host": "h"}


@pytest.mark.parametrize(
    ("uri", "settings"),
    [
        ("postgresql://h", HOST),
        ("postgres://h", HOST),
        ("postgresql://h/", HOST),
        ("postgresql://h?", HOST),
        ("postgresql://", {}),
        ("postgresql:///db", {"dbname": "db"}),
        ("postgresql://h:5433/db", {"host": "h", "port": "5433", "dbname": "db"}),
        ("postgresql://u@h", {"user": "u", "host": "h"}),
        ("postgresql://u:p@h/db", {"user": "u", "password": "p", "host": "h", "dbname": "db"}),
        ("postgresql://u:@h", {"user": "u", "host": "h"}),
        ("postgresql://:p@h", {"password": "p", "host": "h"}),
        ("postgresql://u:p:q?r#s@h", {"user": "u", "password": "p:q?r#s", "host": "h"}),
        ("postgresql://[::1]", {"host": "::1"}),
        (
            "postgresql://u@[fe80::1]:5433/db",
            {"user": "u", "host": "fe80::1", "port": "5433", "dbname": "db"},
        ),
        ("postgresql://a,b:1,[::1]:2/db", {"host": "a,b,::1", "port": ",1,2", "dbname": "db"}),
        ("postgresql://a:1,b/db", {"host": "a,b", "port": "1,", "dbname": "db"}),
        ("postgresql://a,b", {"host": "a,b", "port": ","}),
        ("postgresql://%2Fvar%2Frun:5433/db", {"host": "/var/run", "port": "5433", "dbname": "db"}),
        ("postgresql:///db?host=/tmp&port=5433", {"host": "/tmp", "port": "5433", "dbname": "db"}),
        ("postgresql://a/db?host=b", {"host": "b", "dbname": "db"}),
        ("postgresql://u@h/db?user=v&dbname=e", {"user": "v", "host": "h", "dbname": "e"}),
        ("postgresql://h?options=-c%20geqo%3Doff", HOST | {"options": "-c geqo=off"}),
        ("postgresql://h?application_name=a+b", HOST | {"application_name": "a+b"}),
        ("postgresql://h?ssl=true", HOST | {"sslmode": "require"}),
        ("postgresql://h/a%2Fb", HOST | {"dbname": "a/b"}),
        ("postgresql://h/a/b", HOST | {"dbname": "a/b"}),
        ("postgresql://%40abstract/db", {"host": "@abstract", "dbname": "db"}),
        ("postgresql://h?application_name=", HOST | {"application_name": ""}),
    ],
)
def test_what_libpq_reads(uri: str, settings: dict[str, str]) -> None:
    assert split_uri(uri) == settings


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("mysql://h", "does not begin with postgresql://"),
        ("host=h user=u", "does not begin with postgresql://"),
        ("", "does not begin with postgresql://"),
        ("postgresql://[::1", "never closes"),
        ("postgresql://[]", "no address between"),
        ("postgresql://[::1]x", "goes on after"),
        ("postgresql://u:s3@cret@h/db", "no @ can be"),
        ("postgresql://u:s3/cret@h/db", "no @ can be"),
        ("postgresql://u:s3%@h/db", "password has a %"),
        ("postgresql://u:s3%4@h/db", "password has a %"),
        ("postgresql://u:%ff@h/db", "password is not UTF-8"),
        ("postgresql://u:a%00b@h/db", "password is not UTF-8"),
        ("postgresql://h%zz/db", "host name has a %"),
        ("postgresql://h?sslmode", "not of the form key=value"),
        ("postgresql://h?password=s3&cret", "not of the form key=value"),
        ("postgresql://h?=x", "not of the form key=value"),
        ("postgresql://h?options=-c geqo=off", "second ="),
        ("postgresql://h?port=1&port=2", "twice"),
        ("postgresql://" + "h" * 70_000, "longer than"),
    ],
)
def test_what_is_refused(uri: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        split_uri(uri)
    assert sentence in raised.value.message
    assert raised.value.hint
    assert "s3" not in raised.value.sentence()
    assert "cret" not in raised.value.sentence()


PIECES = [
    "a",
    "b",
    "5",
    "@",
    ":",
    "/",
    "?",
    "&",
    "=",
    ",",
    "[",
    "]",
    "::1",
    "%2F",
    "%40",
    "%25",
    "port=",
    "user=",
    "host=",
]


@given(st.lists(st.sampled_from(PIECES), max_size=14))
def test_libpq_reads_the_same(pieces: list[str]) -> None:
    uri = "postgresql://" + "".join(pieces)
    try:
        ours = split_uri(uri)
    except ConfigError:
        return
    if any(name not in ("host", "port", "user", "password", "dbname") for name in ours):
        return  # libpq refuses unknown parameters here already
    theirs = {name: value for name, value in conninfo_to_dict(uri).items() if value}
    assert {name: value for name, value in ours.items() if value} == theirs


TEXT = st.text(
    st.characters(exclude_characters="\0\N{REPLACEMENT CHARACTER}", exclude_categories=["Cs"]), min_size=1
)


@given(user=TEXT, password=TEXT, database=TEXT, application=TEXT)
def test_percent_encoding_carries_anything(user: str, password: str, database: str, application: str) -> None:
    def encoded(text: str) -> str:
        return quote(text, safe="")

    uri = (
        f"postgresql://{encoded(user)}:{encoded(password)}@h/{encoded(database)}"
        f"?application_name={encoded(application)}"
    )
    expected = {"user": user, "password": password, "dbname": database, "application_name": application}
    assert split_uri(uri) == HOST | expected


@given(st.text(max_size=60))
def test_nothing_but_a_config_error(rest: str) -> None:
    try:
        split_uri("postgresql://" + rest)
    except ConfigError as error:
        assert error.hint
