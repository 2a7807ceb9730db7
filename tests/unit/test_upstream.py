import pytest

from pgambassador.cluster.upstream import KNOWN, Endpoint, Upstream, parse_url
from pgambassador.errors import ConfigError


def test_a_url_alone_is_verified_in_full() -> None:
    upstream = parse_url("postgresql://app:secret@db.example/shop")
    assert upstream == Upstream(
        endpoints=(Endpoint("db.example", 5432),), user="app", password="secret", database="shop"
    )
    assert upstream.sslmode == "verify-full"
    assert upstream.sslrootcert == "system"
    assert upstream.ssl_min_protocol_version == "TLSv1.2"
    assert upstream.sslsni
    assert upstream.target_session_attrs == "any"
    assert upstream.keepalives
    assert upstream.weakness is None


def test_everything_said() -> None:
    upstream = parse_url(
        "postgresql://app@db.example:6543/shop?sslmode=verify-ca&sslrootcert=/ca.pem&sslcert=/c.pem&sslkey=/k.pem"
        "&sslnegotiation=direct&sslsni=0&ssl_min_protocol_version=TLSv1.3&channel_binding=require&connect_timeout=3"
        "&target_session_attrs=standby&keepalives=0&keepalives_idle=1&keepalives_interval=2&keepalives_count=3"
        "&tcp_user_timeout=4000&max_protocol_version=3.2&application_name=x&options=-c%20geqo%3Doff&client_encoding=UTF8&gssencmode=disable"
    )
    assert upstream == Upstream(
        endpoints=(Endpoint("db.example", 6543),),
        user="app",
        database="shop",
        sslmode="verify-ca",
        sslrootcert="/ca.pem",
        sslcert="/c.pem",
        sslkey="/k.pem",
        sslnegotiation="direct",
        sslsni=False,
        ssl_min_protocol_version="TLSv1.3",
        channel_binding="require",
        connect_timeout=3,
        target_session_attrs="standby",
        keepalives=False,
        keepalives_idle=1,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=4000,
        max_protocol_version="3.2",
        params={"application_name": "x", "options": "-c geqo=off", "client_encoding": "UTF8"},
    )


@pytest.mark.parametrize(
    ("url", "endpoints"),
    [
        ("postgresql://a,b", (Endpoint("a"), Endpoint("b"))),
        ("postgresql://a:1,b:2", (Endpoint("a", 1), Endpoint("b", 2))),
        ("postgresql://a,b:2", (Endpoint("a"), Endpoint("b", 2))),
        ("postgresql://a,b?port=7", (Endpoint("a", 7), Endpoint("b", 7))),
        ("postgresql://[::1]:7", (Endpoint("::1", 7),)),
        ("postgresql://%2Ftmp", (Endpoint("/tmp"),)),
        ("postgresql://?host=/tmp,a&port=1,2", (Endpoint("/tmp", 1), Endpoint("a", 2))),
        ("postgresql://db.example?hostaddr=10.0.0.1", (Endpoint("db.example", 5432, "10.0.0.1"),)),
        ("postgresql://?hostaddr=10.0.0.1", (Endpoint("10.0.0.1", 5432, "10.0.0.1"),)),
    ],
)
def test_hosts(url: str, endpoints: tuple[Endpoint, ...]) -> None:
    assert parse_url(url).endpoints == endpoints


def test_several_hosts_mean_the_one_that_can_write() -> None:
    assert parse_url("postgresql://a,b").target_session_attrs == "read-write"
    assert parse_url("postgresql://a,b?target_session_attrs=any").target_session_attrs == "any"
    assert parse_url("postgresql://a").target_session_attrs == "any"


def test_so_does_one_host_if_others_are_found() -> None:
    found = parse_url("postgresql://a", found=True)
    assert (found.target_session_attrs, found.learns_roles) == ("read-write", True)
    said = parse_url("postgresql://a?target_session_attrs=any", found=True)
    assert (said.target_session_attrs, said.learns_roles) == ("any", False)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint("db.example"), "db.example:5432"),
        (Endpoint("::1", 7), "[::1]:7"),
        (Endpoint("/tmp", 7), "/tmp/.s.PGSQL.7"),
        (Endpoint("@abstract"), "@abstract/.s.PGSQL.5432"),
    ],
)
def test_an_endpoint_is_written_as_people_write_it(endpoint: Endpoint, text: str) -> None:
    assert str(endpoint) == text


def test_the_password_is_in_no_repr() -> None:
    upstream = parse_url("postgresql://app:s3cret@db.example/shop")
    assert "s3cret" not in repr(upstream)
    assert "s3cret" not in str(upstream)
    assert upstream.password == "s3cret"


def test_equality_sees_every_setting() -> None:
    url = "postgresql://app:a@db.example/shop"
    assert parse_url(url) == parse_url(url)
    assert parse_url(url) != parse_url(url.replace(":a@", ":b@"))
    assert parse_url(url) != parse_url(url + "?application_name=x")


def test_a_fallback_name_is_used_where_there_is_no_other() -> None:
    assert parse_url("postgresql://h?fallback_application_name=x").params == {"application_name": "x"}
    both = "postgresql://h?fallback_application_name=x&application_name=y"
    assert parse_url(both).params == {"application_name": "y"}


@pytest.mark.parametrize(
    ("mode", "root", "checks", "name"),
    [
        ("disable", None, False, False),
        ("allow", None, False, False),
        ("prefer", None, False, False),
        ("require", None, False, False),
        ("require", "/ca.pem", True, False),
        ("verify-ca", "/ca.pem", True, False),
        ("verify-full", "/ca.pem", True, True),
        ("verify-full", None, True, True),
        ("verify-full", "system", True, True),
    ],
)
def test_what_a_mode_checks(mode: str, root: str | None, checks: bool, name: bool) -> None:
    upstream = parse_url(f"postgresql://h?sslmode={mode}" + (f"&sslrootcert={root}" if root else ""))
    assert upstream.checks_certificate is checks
    assert upstream.checks_name is name
    assert (upstream.weakness is None) is name
    if upstream.weakness:
        assert mode in upstream.weakness
        assert "verify-full" in upstream.weakness


def test_a_unix_socket_is_not_weak() -> None:
    assert parse_url("postgresql:///db?host=/tmp&sslmode=disable").weakness is None


@pytest.mark.parametrize(
    ("url", "message", "hint"),
    [
        ("postgresql://", "names no host", "postgresql://USER"),
        ("postgresql:///db", "names no host", "postgresql://USER"),
        ("postgresql://a,,b", "Host 2 of 3", "postgresql://USER"),
        ("postgresql://a?port=1,2", "2 ports for 1 hosts", "one port"),
        ("postgresql://a,b?hostaddr=1.2.3.4", "2 hosts but 1 values in hostaddr", "one for each"),
        ("postgresql://a:0", "from 1 to 65535", "%2F"),
        ("postgresql://a:65536", "from 1 to 65535", "%2F"),
        ("postgresql://a:+5", "from 1 to 65535", "%2F"),
        ("postgresql://u:s3/cret", "from 1 to 65535", "%2F"),
        ("postgresql://a?sslmod=require", "sslmod is not known", "Did you mean sslmode?"),
        ("postgresql://a?SSLMODE=require", "SSLMODE is not known", "Did you mean sslmode?"),
        ("postgresql://a?zzz=1", "zzz is not known", "application_name"),
        ("postgresql://a?passfile=/x", "passfile is not known", ""),
        (
            "postgresql://a?sslmode=verify_full",
            "sslmode cannot be 'verify_full'",
            "Did you mean verify-full?",
        ),
        ("postgresql://a?sslmode=yes!", "sslmode cannot be", "disable, allow"),
        ("postgresql://a?target_session_attrs=master", "target_session_attrs cannot be", ""),
        ("postgresql://a?ssl_min_protocol_version=TLSv1.1", "cannot be 'TLSv1.1'", "TLSv1."),
        ("postgresql://a?gssencmode=require", "gssencmode cannot be", "disable"),
        ("postgresql://a?keepalives=yes", "keepalives cannot be", "0, 1"),
        ("postgresql://a?connect_timeout=0", "connect_timeout is not a whole number from 1", ""),
        ("postgresql://a?connect_timeout=1.5", "connect_timeout is not a whole number", ""),
        ("postgresql://a?connect_timeout=-1", "connect_timeout is not a whole number", ""),
        ("postgresql://a?keepalives_count=128", "from 0 to 127", ""),
        ("postgresql://a?sslmode=verify-ca", "too weak for the system's CAs", "sslrootcert=FILE"),
        ("postgresql://a?sslmode=require&sslrootcert=system", "too weak for the system's CAs", "verify-full"),
        ("postgresql://a?sslmode=require&sslrootcert=rds", "too weak for Amazon's CAs", "verify-full"),
        ("postgresql://a?sslmode=verify-ca&sslrootcert=rds", "too weak for Amazon's CAs", "verify-full"),
        ("postgresql://a?sslmode=disable&sslrootcert=rds", "too weak for Amazon's CAs", "verify-full"),
        ("postgresql://a?sslmode=prefer&sslnegotiation=direct", "sslnegotiation=direct", "verify-full"),
        ("postgresql://a?sslkey=/k", "sslkey without an sslcert", "sslcert=FILE"),
        ("postgresql://a?sslsni=0", "sslsni=0", "verify-ca"),
        ("postgresql://a?sslmode=disable&channel_binding=require", "needs TLS", "verify-full"),
    ],
)
def test_what_is_refused(url: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url(url)
    assert message in raised.value.message
    assert raised.value.hint
    assert hint in raised.value.hint
    assert "s3" not in raised.value.sentence()


def test_too_many_hosts() -> None:
    with pytest.raises(ConfigError, match="65 hosts"):
        parse_url("postgresql://" + ",".join("h" * 65))


def test_a_parameter_with_a_strange_name_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url("postgresql://a?x%0Ay=1")
    assert "\n" not in raised.value.sentence()


def test_every_known_parameter_is_read() -> None:
    values = {
        "host": "h",
        "hostaddr": "10.0.0.1",
        "port": "1",
        "sslmode": "require",
        "sslrootcert": "/ca",
        "sslnegotiation": "direct",
        "ssl_min_protocol_version": "TLSv1.3",
        "channel_binding": "disable",
        "gssencmode": "disable",
        "target_session_attrs": "standby",
        "sslsni": "0",
        "keepalives": "0",
        "max_protocol_version": "3.0",
    }
    numbers = {name for name in KNOWN if name.startswith("keepalives_") or name.endswith("timeout")}
    query = "&".join(f"{name}={values.get(name, '7' if name in numbers else 'x')}" for name in sorted(KNOWN))
    default = parse_url("postgresql://h?sslmode=require&sslrootcert=/ca")
    said = parse_url("postgresql://?" + query)
    same = {
        field for field in Upstream.__dataclass_fields__ if getattr(said, field) == getattr(default, field)
    }
    assert same == {"sslmode", "sslrootcert", "learns_roles", "rds_bundle"}
