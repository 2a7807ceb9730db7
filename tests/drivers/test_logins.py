"""Every way to log in, with every kind of client: let in as whom, or refused with which SQLSTATE."""

from __future__ import annotations

import asyncio
import getpass
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import asyncpg
import psycopg
import pytest
from cryptography.hazmat.primitives import serialization

from pgambassador.embedded import Authority, Certificate, Postgres
from pgambassador.embedded.ports import HOST
from tests.drivers.programs import JDBC, SOURCES, Program
from tests.harness import USERS, Ambassador, psql

IN, PASSWORD, SPECIFICATION = "app", "28P01", "28000"
LOGIN = Program(
    "login",
    ("java", "-XX:TieredStopAtLevel=1", "-cp", f"{{built}}:{JDBC}", "Login"),
    "javac, or no pgjdbc jar",
    ("test", "-e", str(JDBC)),
    build=("javac", "-encoding", "UTF-8", "-cp", str(JDBC), "-d", "{built}", f"{SOURCES}/Login.java"),
)


@dataclass(frozen=True)
class Way:
    """How somebody comes; `certificate` is the name in it. `local`: by Unix socket."""

    user: str
    password: str | None = None
    tls: bool = False
    certificate: str | None = None
    local: bool = False


OURSELVES = getpass.getuser()
TOKEN = USERS["app_token"].password
WAYS: dict[str, tuple[Way, str]] = {
    "trust": (Way("trusted"), IN),
    "scram": (Way("scrammed", "scram-secret"), IN),
    "scram, wrong": (Way("scrammed", "wrong"), PASSWORD),
    "scram over TLS": (Way("scrammed", "scram-secret", tls=True), IN),
    "scram over TLS, wrong": (Way("scrammed", "wrong", tls=True), PASSWORD),
    "md5": (Way("hashed", "md5-secret"), IN),
    "md5, wrong": (Way("hashed", "wrong"), PASSWORD),
    "cert": (Way("robot", tls=True, certificate="robot"), IN),
    "cert, mapped": (Way("app", tls=True, certificate="svc.example"), IN),
    "cert, somebody else's": (Way("robot", tls=True, certificate="scrammed"), SPECIFICATION),
    "cert, none": (Way("robot", tls=True), SPECIFICATION),
    "cert, without TLS": (Way("robot"), SPECIFICATION),
    "upstream": (Way("app_token", TOKEN, tls=True), "app_token"),
    "upstream, wrong": (Way("app_token", "wrong", tls=True), PASSWORD),
    "upstream, unknown": (Way("app_nobody", "wrong", tls=True), PASSWORD),
    "upstream, without TLS": (Way("app_token", TOKEN), SPECIFICATION),
    "peer": (Way(OURSELVES, local=True), IN),
    "peer, somebody else": (Way("scrammed", "scram-secret", local=True), SPECIFICATION),
    "reject": (Way("rejected", "x"), SPECIFICATION),
    "no rule": (Way("stranger", "x"), SPECIFICATION),
}


class Place:
    """Where the ambassador listens, and the certificates of its clients. `name`: how they come."""

    def __init__(self, name: str, proxy: Ambassador, ca: Authority, sockets: Path, folder: Path) -> None:
        self.name, self.proxy, self.sockets, self.built = name, proxy, sockets, folder
        self._ca = ca
        self._made: dict[str, Certificate] = {}

    def options(self, way: Way, *, der: bool = False) -> dict[str, str]:
        """libpq's; pgjdbc has the same, and wants the key in DER form."""
        if not way.tls:
            return {"sslmode": "disable"}
        options = {"sslmode": "verify-full", "sslrootcert": str(self._ca.root)}
        if way.certificate is not None:
            made = self.certificate(way.certificate)
            options |= {"sslcert": str(made.chain), "sslkey": str(made.key)}
            if der:
                options["sslkey"] = str(self._der(made))
        return options

    def certificate(self, name: str) -> Certificate:
        if name not in self._made:
            self._made[name] = self._ca.client(self.built, name)
        return self._made[name]

    def dsn(self, way: Way) -> str:
        login = quote(way.user, safe="") + (f":{quote(way.password, safe='')}" if way.password else "")
        options = self.options(way)
        if way.local:
            options = {"host": str(self.sockets), "port": str(self.proxy.port)}
        where = "" if way.local else f"{HOST}:{self.proxy.port}"
        return f"postgresql://{login}@{where}/app?{urlencode(options, quote_via=quote)}"

    def _der(self, certificate: Certificate) -> Path:
        file = certificate.key.with_suffix(".pk8")
        key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("logins")


@pytest.fixture(scope="module")
def place(
    request: pytest.FixtureRequest,
    primary: Postgres,
    ca: Authority,
    ambassadors: Callable[..., Ambassador],
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """One for each way to come: whoever fails again and again is answered ever later."""
    sockets = tmp_path_factory.mktemp("s")
    ours = ca.server(folder)
    on_server = dict.fromkeys(("trusted", "scrammed", "hashed", "robot", "svc.example", OURSELVES), "app")
    proxy = ambassadors(
        primary.url("app", "unused", "app").replace("app:unused@", ""),
        start=False,
        tls={"certificate": str(ours.chain), "key": str(ours.key), "ca": str(ca.root)},
        auth={
            "users": {
                "scrammed": "scram-secret",
                "hashed": "md5-secret",
                "app": USERS["app"].password,
            },
            "map": on_server,
            "rules": [
                {"address": "local", "method": "peer"},
                {"address": "loopback", "user": "trusted", "method": "trust"},
                {"address": "loopback", "user": "scrammed", "method": "scram-sha-256"},
                {"address": "loopback", "user": "hashed", "method": "md5"},
                {"user": "rejected", "method": "reject"},
                {"user": ["robot", "app"], "tls": True, "method": "cert"},
                {"user": ["app_token", "app_nobody"], "tls": True, "method": "upstream"},
            ],
        },
    )
    proxy.config["listen"].append(f"unix:{sockets}")
    proxy.start()
    yield Place(request.param, proxy, ca, sockets, folder)
    output = proxy.output()
    for secret in ("scram-secret", "md5-secret", TOKEN, USERS["app"].password):
        assert secret not in output
    proxy.stop()


def by_psql(place: Place, way: Way) -> str:
    try:
        return psql(place.dsn(way), "select current_user")
    except AssertionError as error:
        text = str(error)
        passwords = "password authentication failed" in text
        assert (
            passwords
            or "authentication failed" in text
            or "auth.rules" in text
            or "pg_hba" in text
            or ("requires a valid client certificate" in text)
        ), text
        return PASSWORD if passwords else SPECIFICATION


def by_psycopg(place: Place, way: Way) -> str:
    try:
        with psycopg.connect(place.dsn(way), connect_timeout=20) as connection:
            (found,) = connection.execute("select current_user").fetchone() or ("",)
            return str(found)
    except psycopg.OperationalError as error:
        # psycopg does not tell the SQLSTATE of a failed login.
        return PASSWORD if "password authentication failed" in str(error) else SPECIFICATION


def by_asyncpg(place: Place, way: Way) -> str:
    async def main() -> str:
        try:
            connection = await asyncpg.connect(place.dsn(way), timeout=20)
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        try:
            return str(await connection.fetchval("select current_user"))
        finally:
            await connection.close()

    return asyncio.run(main())


def by_pgjdbc(place: Place, way: Way) -> str:
    if reason := LOGIN.missing():
        pytest.skip(reason)
    if not (place.built / "Login.class").exists():
        LOGIN.make(place.built)
    url = f"jdbc:postgresql://{HOST}:{place.proxy.port}/app?{urlencode(place.options(way, der=True))}"
    words = [word.format(built=place.built) for word in LOGIN.command]
    password = [way.password] if way.password is not None else []
    done = subprocess.run(
        [*words, url, way.user, *password], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split()[1][:2] != "08", done.stderr
    return done.stdout.split()[1]


CLIENTS = {"psql": by_psql, "psycopg": by_psycopg, "asyncpg": by_asyncpg, "pgjdbc": by_pgjdbc}


LOCAL = [way for way in WAYS if WAYS[way][0].local]


def logs_in(place: Place, client: str) -> None:
    """As it should, or not. And no secret is told, which `place` sees at its end."""
    how, outcome = WAYS[place.name]
    assert CLIENTS[client](place, how) == outcome


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("place", [way for way in WAYS if way not in LOCAL], indirect=True)
def test_a_login(place: Place, client: str) -> None:
    logs_in(place, client)


@pytest.mark.parametrize(
    "client", [each for each in CLIENTS if each != "pgjdbc"]
)  # which knows no such sockets
@pytest.mark.parametrize("place", LOCAL, indirect=True)
def test_a_login_by_unix_socket(place: Place, client: str) -> None:
    logs_in(place, client)
