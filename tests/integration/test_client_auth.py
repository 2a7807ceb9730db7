"""Clients that must show who they are: SCRAM-SHA-256 and md5 with a list of users."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import sys
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from struct import pack

import asyncpg
import psycopg
import pytest

from pgambassador.auth import scram
from pgambassador.embedded import Postgres
from pgambassador.wire import build, parse
from tests.harness import USERS, Ambassador, Answer, Message, Wire, psql

LONG = "a long password, " * 700  # 12 kB
PASSWORDS = {
    "alice": "alice-secret",
    "Bob O'Neil": 'spaces, "quotes" and \\',
    "long": LONG,
    "ünï": "Grüße\u00a0und\u00admehr",
    "hashed": "hashed-secret",
    "filed": "filed-secret",
}
LISTED = {name: password for name, password in PASSWORDS.items() if name != "filed"}


# Everything in 127.0.0.0/8 is this machine where there is a Linux.
_HOSTS = range(2, 1 << 16) if sys.platform == "linux" else repeat(1)
SOURCES = (f"127.0.{number >> 8}.{number & 255}" for number in _HOSTS)


def verifier(password: str) -> str:
    salt, iterations = b"0123456789abcdef", 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)

    def key(name: bytes) -> bytes:
        return hmac.digest(salted, name, "sha256")

    stored, server = hashlib.sha256(key(b"Client Key")).digest(), key(b"Server Key")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def md5_hash(user: str, password: str) -> str:
    return "md5" + hashlib.md5((password + user).encode()).hexdigest()


@pytest.fixture(scope="module")
def users_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("users") / "userlist.txt"
    file.write_text(f'; a comment\n"filed" "{PASSWORDS["filed"]}"\n')
    return file


@pytest.fixture(scope="module")
def scram_proxy(primary: Postgres, ambassadors: Callable[..., Ambassador], users_file: Path) -> Ambassador:
    hashed = verifier(PASSWORDS["hashed"])
    return ambassadors(
        primary.url("app", USERS["app"].password, "app"),
        auth={
            "method": "scram-sha-256",
            "users": {**LISTED, "hashed": hashed},
            "users_file": str(users_file),
        },
        clients={"max": 20},
    )


@pytest.fixture(scope="module")
def md5_proxy(primary: Postgres, ambassadors: Callable[..., Ambassador], users_file: Path) -> Ambassador:
    hashed = md5_hash("hashed", PASSWORDS["hashed"])
    return ambassadors(
        primary.url("app", USERS["app"].password, "app"),
        auth={"method": "md5", "users": {**LISTED, "hashed": hashed}, "users_file": str(users_file)},
        clients={"max": 20},
    )


@pytest.fixture(params=["scram", "md5"])
def proxy(request: pytest.FixtureRequest) -> Ambassador:
    chosen: Ambassador = request.getfixturevalue(f"{request.param}_proxy")
    return chosen


def attempt(proxy: Ambassador, user: str, password: str, database: str = "app") -> Answer:
    """All that is heard by a client that does what it is asked for; each comes from an address of its own,
    since who has failed before is answered later."""
    heard = Answer()
    with Wire(proxy.port, source=next(SOURCES)) as wire:
        wire.start(user=user, database=database)
        exchange = scram.client(password.encode())
        while True:
            heard.append(wire.receive())
            if heard[-1].kind != "R":
                return heard
            kind, data = parse.authentication(heard[-1].payload)
            if kind == 5:
                inner = hashlib.md5((password + user).encode()).hexdigest().encode()
                secret = b"md5" + hashlib.md5(inner + data).hexdigest().encode()
                wire.send(build.password_message(secret))
            elif kind == 10:
                assert parse.sasl_mechanisms(data) == ["SCRAM-SHA-256"]
                wire.send(build.sasl_initial_response("SCRAM-SHA-256", next(exchange)))
            elif kind == 11:
                wire.send(build.sasl_response(exchange.send(data)))
            else:
                return heard


@pytest.mark.parametrize("user", PASSWORDS)
def test_the_right_password_opens(proxy: Ambassador, user: str) -> None:
    """Written down, hashed, in a file, long, with odd letters: as long as it is the one of the list."""
    dsn = proxy.dsn(user, password=PASSWORDS[user])
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select current_user").fetchone() == ("app",)
    assert psql(dsn, "select 'psql'") == "psql"


def test_asyncpg_logs_in(proxy: Ambassador) -> None:
    async def main() -> object:
        connection = await asyncpg.connect(proxy.dsn("alice", password=PASSWORDS["alice"]))
        try:
            return await connection.fetchval("select 7")
        finally:
            await connection.close()

    assert asyncio.run(main()) == 7


@pytest.mark.parametrize(
    "password", ["", "wrong", "alice-secret ", "ALICE-SECRET", LONG], ids=lambda text: text[:10]
)
def test_a_wrong_password_does_not(proxy: Ambassador, password: str) -> None:
    error = attempt(proxy, "alice", password or " ").error
    assert error.fields["S"] == "FATAL"
    assert error.sqlstate == "28P01"
    assert error.fields["M"] == 'password authentication failed for user "alice"'


@pytest.mark.parametrize("known", ["alice", "hashed", "filed"])
def test_an_unknown_user_cannot_be_told_from_a_wrong_password(proxy: Ambassador, known: str) -> None:
    """The same messages of the same shape; twice, since what changes between two tries tells too."""

    def shape(user: str) -> list[object]:
        return [shape_of(message, user) for _ in range(2) for message in attempt(proxy, user, "wrong")]

    expected = shape(known)
    assert len(expected) in (4, 6)  # md5, SCRAM
    for stranger in ("mallory", "postgres", "ALICE", "alice ", "x" * 5000):
        assert shape(stranger) == expected


def test_nor_where_the_list_was_hashed_by_more_iterations(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    hashed = verifier(PASSWORDS["hashed"]).replace("$4096:", "$20000:")
    process = ambassador(
        primary.url("app", USERS["app"].password, "app"),
        auth={"method": "scram-sha-256", "users": {"hashed": hashed}},
    )
    known, *strangers = (
        [shape_of(message, user) for message in attempt(process, user, "wrong")]
        for user in ("hashed", "stranger", "x" * 70)
    )
    assert strangers == [known, known]


def shape_of(message: Message, user: str) -> object:
    """All that is not random, and the length of what is; names are cut off at a bound."""
    if message.kind == "E":
        fields = message.fields
        assert fields["M"].endswith(f'"{user[:63]}"') or fields["M"].endswith(f'"{user[:64]}"')
        return {**fields, "M": fields["M"].partition('"')[0]}
    kind, data = parse.authentication(message.payload)
    return kind, len(data), re.sub(rb"(?<=[rs]=)[^,]*", b"", data) if kind == 11 else b""


def test_the_salt_of_a_user_stays_the_same_whether_the_user_exists_or_not(scram_proxy: Ambassador) -> None:
    def salt(user: str) -> bytes:
        found: list[bytes] = re.findall(rb",s=([^,]*)", attempt(scram_proxy, user, "wrong")[1].payload)
        return found[0]

    for user in ("alice", "hashed", "mallory"):
        assert salt(user) == salt(user)
    assert len({salt(user) for user in ("alice", "hashed", "mallory", "eve")}) == 4


def test_who_has_not_logged_in_learns_no_name_of_a_database(proxy: Ambassador) -> None:
    seen = {attempt(proxy, "alice", "wrong", database).error.payload for database in ("app", "no_such")}
    assert len(seen) == 1


def test_a_user_who_has_logged_in_hears_what_the_server_says_of_a_database(proxy: Ambassador) -> None:
    dsn = proxy.dsn("alice", "no_such", password=PASSWORDS["alice"])
    with pytest.raises(psycopg.OperationalError, match=r'no pg_hba.conf entry .* database "no_such"'):
        psycopg.connect(dsn)


@pytest.mark.parametrize(
    "response",
    [
        b"p" + pack("!I", 0),
        b"p" + pack("!I", 3),
        b"p" + pack("!I", 70_000),
        b"p" + pack("!I", 0x7FFFFFFF),
        b"p" + pack("!I", 0xFFFFFFFF),
        b"p" + pack("!I", 4),
        b"p" + pack("!I", 5) + b"x",
        build.query("select 1"),
        build.TERMINATE,
        build.sasl_initial_response("PLAIN", b"x"),
        build.sasl_initial_response("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=,r=abc"),
        build.sasl_initial_response("SCRAM-SHA-256", b""),
        build.sasl_initial_response("SCRAM-SHA-256", b"n,,"),
        build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r="),
        build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=alice"),
        build.sasl_initial_response("SCRAM-SHA-256", b"p=tls-unique,,n=,r=abcdef"),
        build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=" + b"x" * 60_000),
        build.password_message(b"md5" + b"x" * 60_000),
    ],
)
def test_a_malformed_response_is_refused_and_hurts_nobody(proxy: Ambassador, response: bytes) -> None:
    with Wire(proxy.port) as wire:
        wire.start(user="alice", database="app")
        assert wire.receive().kind == "R"
        wire.send(response)
        answer = wire.rest()
        # Terminate is no breach, only the end.
        if response != build.TERMINATE or answer:
            assert answer.kinds == "E"
            assert answer.error.fields["S"] == "FATAL"
            assert answer.error.sqlstate in ("08P01", "28P01")
    assert attempt(proxy, "alice", PASSWORDS["alice"])[-1].kind == "R"


@pytest.mark.parametrize("final", [b"", b"c=biws", b"c=biws,r=x", b"c=biws,r=x,p=", b"x" * 9000])
def test_a_final_message_without_its_attributes_is_refused(scram_proxy: Ambassador, final: bytes) -> None:
    with Wire(scram_proxy.port) as wire:
        wire.start(user="alice", database="app")
        wire.receive()
        wire.send(build.sasl_initial_response("SCRAM-SHA-256", b"n,,n=,r=abcdefghijkl"))
        wire.receive()
        wire.send(build.sasl_response(final))
        answer = wire.rest()
        assert answer.kinds == "E"
        assert answer.error.sqlstate in ("08P01", "28P01")


def test_a_response_in_single_bytes(proxy: Ambassador) -> None:
    with Wire(proxy.port) as wire:
        wire.start(user="alice", database="app")
        kind, data = parse.authentication(wire.receive().payload)
        if kind == 5:
            inner = hashlib.md5(b"alice-secretalice").hexdigest().encode()
            wire.send_bytewise(
                build.password_message(b"md5" + hashlib.md5(inner + data).hexdigest().encode())
            )
        else:
            exchange = scram.client(b"alice-secret")
            wire.send_bytewise(build.sasl_initial_response("SCRAM-SHA-256", next(exchange)))
            kind, data = parse.authentication(wire.receive().payload)
            wire.send_bytewise(build.sasl_response(exchange.send(data)))
        wire.until("Z")
        assert wire.ask("select 1").value == "1"


def test_failed_logins_leave_no_secret_and_no_client_behind(proxy: Ambassador) -> None:
    for _ in range(25):  # more than may come
        attempt(proxy, "alice", "a-secret-that-is-wrong")
    assert attempt(proxy, "alice", PASSWORDS["alice"])[-1].kind == "R"
    output = proxy.output()
    for secret in (*PASSWORDS.values(), "a-secret-that-is-wrong", USERS["app"].password):
        assert secret not in output


def test_the_listed_user_is_the_servers_user_where_the_url_names_none(
    primary: Postgres, ambassador: Callable[..., Ambassador]
) -> None:
    names = ("app", "app_md5")
    users = {name: USERS[name].password for name in names}
    url = primary.url("app", "unused", "app").replace("app:unused@", "")
    proxy = ambassador(url, auth={"users": users})
    for name in names:
        assert psql(proxy.dsn(name, password=users[name]), "select current_user") == name
