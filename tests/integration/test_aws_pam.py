"""A server that checks IAM tokens as RDS does: by PAM, in clear text over TLS, with the signature recomputed.

The module that PAM runs asks this process, where botocore signs the same again: nothing of ours is in it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import boto3
import psycopg
import pytest
from botocore.credentials import Credentials

from pgambassador.cluster.upstream import parse_url
from pgambassador.config.aws import AwsRdsIamCredentials
from pgambassador.credentials.aws import iam, rds
from pgambassador.credentials.provider import Login
from pgambassador.credentials.registry import keyring_of
from pgambassador.embedded import Postgres, Workspace, system
from pgambassador.embedded.ports import HOST
from pgambassador.errors import Refused, ServerRefused
from pgambassador.net import tls
from pgambassador.net.connector import connect
from pgambassador.net.tasks import spawn
from tests.harness import Ambassador, wait_until

ENDPOINT = "shop.cx1.eu-west-1.rds.amazonaws.com"
PYTHON = Path("/usr/bin/python3")
PAM = Path("/etc/pam.d")
# PAM hands on 512 bytes at most, so the session token is a short one.
KEYS = {"AWS_ACCESS_KEY_ID": "ASIA", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "short+/="}

MODULE = """
import json, os, socket, sys
token = sys.stdin.buffer.read().split(b"\\0")[0].decode()
with socket.socket(socket.AF_UNIX) as there:
    there.connect(sys.argv[1])
    there.sendall(json.dumps([os.environ["PAM_USER"], token]).encode() + b"\\n")
    sys.exit(0 if there.recv(3) == b"yes" else 1)
"""


def missing() -> str | None:
    """Why this cannot be done here."""
    if os.geteuid() != 0:
        return "only root may write into /etc/pam.d"
    if not PAM.is_dir() or not list(Path("/").glob("usr/lib/**/security/pam_exec.so")):
        return "there is no pam_exec"
    if not PYTHON.exists():
        return f"there is no {PYTHON} for PAM to run"
    installation = system()
    if installation is None:
        return "no PostgreSQL server is installed on this machine"
    pg_config = installation.folder / "pg_config"
    if not pg_config.exists():
        return f"there is no {pg_config} to ask whether this PostgreSQL knows PAM"
    asked = subprocess.run([pg_config, "--configure"], capture_output=True, text=True, check=True)
    return None if "--with-pam" in asked.stdout else "this PostgreSQL was built without PAM"


WHY = missing()
pytestmark = pytest.mark.skipif(WHY is not None, reason=WHY or "nothing is missing")


@dataclass
class Judge:
    """Decides about tokens as RDS does; `port` is what it thinks that its own is."""

    port: int
    host: str = ENDPOINT
    verdicts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._client: Any = boto3.client(
            "rds", region_name="eu-west-1", aws_access_key_id="none", aws_secret_access_key="none"
        )

    def __call__(self, user: str, token: str) -> bool:
        verdict = self._verdict(user, token)
        self.verdicts.append(verdict)
        return verdict == "good"

    def _verdict(self, user: str, token: str) -> str:
        fields = {name: value for name, (value,) in parse_qs(token.partition("?")[2]).items()}
        try:
            signed = datetime.strptime(fields["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            expires = int(fields["X-Amz-Expires"])
        except (KeyError, ValueError):
            return "no token"
        if fields.get("DBUser") != user:
            return "another user"
        if not token.startswith(f"{self.host}:{self.port}/?"):
            return "another host"
        age = time.time() - signed.timestamp()
        if expires > 900 or age > expires:
            return "expired"
        if age < -5:
            return "of the future"
        keys = Credentials("ASIA", "hunter2", fields.get("X-Amz-Security-Token"))
        self._client._request_signer._credentials = keys
        with mock.patch("botocore.auth.get_current_datetime", lambda: signed):
            again = self._client.generate_db_auth_token(self.host, self.port, user, "eu-west-1")
        return "good" if again == token else "a wrong signature"


@contextmanager
def in_session(judge: Judge, path: Path) -> Iterator[None]:
    """Answers who asks at this socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o777)
        listening.listen()

        def serve() -> None:
            while True:
                connection, _ = listening.accept()
                with connection, connection.makefile() as lines:
                    question = lines.readline()
                    if not question:
                        return
                    connection.sendall(b"yes" if judge(*json.loads(question)) else b"no")

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(path))
        thread.join()


@pytest.fixture(scope="module")
def guarded(workspace: Workspace) -> Iterator[tuple[Postgres, Judge]]:
    service = f"pgambassador-test-{os.getpid()}"
    installation = system()
    assert installation is not None
    hba = ("local all all scram-sha-256", f"hostssl all all all pam pamservice={service}")
    server = workspace.primary("pam", installation=installation, hba=hba)
    server.certify(hosts=(ENDPOINT, HOST))
    server.sql("create role app login; create role other login;")
    server.reload()
    module, path = server.folder / "module.py", server.folder / "judge"
    module.write_text(MODULE)
    judge = Judge(server.port)
    file = PAM / service
    try:
        file.write_text(
            f"auth required pam_exec.so quiet expose_authtok {PYTHON} -I {module} {path}\n"
            "account required pam_permit.so\n"
        )
        with in_session(judge, path):
            yield server, judge
    finally:
        file.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def bundle(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tls.RDS_BUNDLE_VARIABLE, str(workspace.authority.root))


LogIn = Callable[..., str]


@pytest.fixture
def log_in(guarded: tuple[Postgres, Judge]) -> LogIn:
    """With a token of the provider, as a pool does it. The user that one is then."""
    server, _ = guarded

    def act(url: str = "", user: str = "app", token_of: str | None = None, **options: Any) -> str:
        upstream = parse_url(
            url
            or f"postgresql://{ENDPOINT}:{server.port}/postgres?hostaddr=localhost&sslrootcert=rds&user={user}"
        )
        provider = rds.RdsIam(AwsRdsIamCredentials(**options), KEYS)

        async def attempt() -> str:
            place = upstream.endpoints[0]
            secret = await provider.fetch(Login(place.host, place.port, token_of or user, "postgres"))
            keys = keyring_of("main", None, lambda user: secret.password, spawn).attempt(user, "postgres")
            link = await connect(upstream, keys, database="postgres", user=user)
            link.close()
            return link.parameters["session_authorization"]

        return asyncio.run(attempt())

    return act


def refusal(act: Callable[[], object], judge: Judge) -> str:
    """Why the server said no; it tells the client only that."""
    with pytest.raises(ServerRefused) as raised:
        act()
    assert raised.value.sqlstate in ("28000", "28P01")
    assert raised.value.message.startswith("PAM authentication failed")
    return judge.verdicts[-1]


def test_a_token_lets_in(log_in: LogIn, guarded: tuple[Postgres, Judge]) -> None:
    """By the endpoint's own name, at an address that hostaddr says, checked against the bundle for RDS."""
    assert log_in() == "app"
    assert log_in(user="other") == "other"
    assert guarded[1].verdicts[-2:] == ["good", "good"]


def test_through_a_tunnel(
    log_in: LogIn, guarded: tuple[Postgres, Judge], workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL has the tunnel's host and port, the token those of the endpoint."""
    server, judge = guarded
    url = f"postgresql://{HOST}:{server.port}/postgres?sslrootcert={workspace.authority.root}"
    monkeypatch.setattr(judge, "port", 5432)
    assert log_in(url, host=ENDPOINT, port=5432) == "app"
    assert refusal(lambda: log_in(url, host=ENDPOINT), judge) == "another host"
    assert refusal(lambda: log_in(url, host="x" + ENDPOINT, port=5432), judge) == "another host"


def test_a_token_of_another_user(log_in: LogIn, guarded: tuple[Postgres, Judge]) -> None:
    assert refusal(lambda: log_in(token_of="other"), guarded[1]) == "another user"


def test_a_token_for_another_region(log_in: LogIn, guarded: tuple[Postgres, Judge]) -> None:
    assert refusal(lambda: log_in(region="eu-west-2"), guarded[1]) == "a wrong signature"


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(-901, "expired"), (-880, "good"), (0, "good"), (60, "of the future")]
)
def test_a_token_at_another_time(
    seconds: int,
    verdict: str,
    log_in: LogIn,
    guarded: tuple[Postgres, Judge],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too old a token, and a clock that is wrong."""

    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() + seconds

    monkeypatch.setattr(iam, "time", Clock)
    if verdict == "good":
        assert log_in() == "app"
        assert guarded[1].verdicts[-1] == "good"
    else:
        assert refusal(log_in, guarded[1]) == verdict


def test_a_token_goes_through_verified_tls_only(
    log_in: LogIn, guarded: tuple[Postgres, Judge], workspace: Workspace
) -> None:
    server, judge = guarded
    known = list(judge.verdicts)
    with pytest.raises(Refused):
        log_in(f"postgresql://{ENDPOINT}:{server.port}/postgres?hostaddr={HOST}&sslmode=require")
    assert judge.verdicts == known, "it was not sent"


def test_an_ambassador_with_tokens(
    guarded: tuple[Postgres, Judge], workspace: Workspace, ambassador: Callable[..., Ambassador]
) -> None:
    """Clients come without a password and are, each, the user they say; the ambassador signs for each."""
    server, judge = guarded
    url = f"postgresql://{ENDPOINT}:{server.port}/postgres?hostaddr={HOST}&sslrootcert=rds"
    credentials = {"provider": "aws-rds-iam"}
    proxy = ambassador({"clusters": {"main": {"url": url, "credentials": credentials}}}, start=False)
    proxy.environment = {**KEYS, tls.RDS_BUNDLE_VARIABLE: str(workspace.authority.root)}
    proxy.start()
    for user in ("app", "other", "app"):
        with psycopg.connect(proxy.dsn(user=user, database="postgres")) as connection:
            assert connection.execute("select session_user").fetchone() == (user,)
    wrong = {"provider": "aws-rds-iam", "region": "eu-west-2"}
    other = ambassador({"clusters": {"main": {"url": url, "credentials": wrong}}}, start=False)
    other.environment = proxy.environment
    other.start()
    with pytest.raises(psycopg.OperationalError, match="PAM authentication failed"):
        psycopg.connect(other.dsn(user="app", database="postgres"))
    assert judge.verdicts[-1] == "a wrong signature"
    assert "GRANT rds_iam" in other.output()
    for each in (proxy, other):
        text = each.output() + each.http("/metrics")[1]
        assert "X-Amz" not in text
        assert "hunter2" not in text


def test_clients_bring_tokens_of_their_own(
    guarded: tuple[Postgres, Judge], workspace: Workspace, ambassador: Callable[..., Ambassador]
) -> None:
    """A pooler that many share: boto3 signs at the client, the server judges, and what it has judged holds
    until the token ends and not longer."""
    server, judge = guarded
    url = f"postgresql://{ENDPOINT}:{server.port}/postgres?hostaddr={HOST}&sslrootcert=rds"
    rules = [{"address": "loopback", "method": "upstream"}]
    proxy = ambassador(
        {"clusters": {"main": {"url": url}}}, start=False, auth={"rules": rules}, pool={"size": 1}
    )
    proxy.environment = {tls.RDS_BUNDLE_VARIABLE: str(workspace.authority.root)}
    proxy.start()
    client: Any = boto3.client(
        "rds",
        region_name="eu-west-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=KEYS["AWS_SESSION_TOKEN"],
    )
    tokens = []

    def sign(user: str, age: float = 0.0) -> str:
        at = datetime.fromtimestamp(time.time() - age, UTC)
        with mock.patch("botocore.auth.get_current_datetime", lambda: at):
            tokens.append(str(client.generate_db_auth_token(ENDPOINT, server.port, user, "eu-west-1")))
        return tokens[-1]

    def enter(user: str, token: str) -> str:
        with psycopg.connect(proxy.dsn(user, "postgres", token)) as connection:
            (found,) = connection.execute("select session_user").fetchone() or ("",)
            return str(found)

    def keep_out(user: str, token: str) -> None:
        with pytest.raises(psycopg.OperationalError, match="authentication failed for user"):
            enter(user, token)

    good = sign("app")
    before = len(judge.verdicts)
    assert enter("app", good) == "app"
    assert judge.verdicts[before:] == ["good"] * 2, "the client's, and that of the pool's connection"
    for _ in range(3):
        assert enter("app", good) == "app"
    assert len(judge.verdicts) == before + 2
    keep_out("app", good[:-1] + ("0" if good[-1] != "0" else "1"))
    assert judge.verdicts[-1] == "a wrong signature"
    keep_out("other", good)
    assert judge.verdicts[-1] == "another user"
    keep_out("app", sign("app", age=1000))
    assert judge.verdicts[-1] == "expired"
    ending = sign("other", age=896)
    assert enter("other", ending) == "other"
    asked = len(judge.verdicts)

    def refused() -> bool:
        try:
            return enter("other", ending) == ""
        except psycopg.OperationalError as error:
            assert "authentication failed for user" in str(error)
            return True

    wait_until(refused, "the end of the token", deadline=15)
    assert judge.verdicts[asked:][0] == "expired"
    assert enter("app", good) == "app", "who has a good one is not concerned"
    text = proxy.output() + proxy.http("/metrics")[1]
    for token in tokens:
        assert token.rpartition("=")[2] not in text
