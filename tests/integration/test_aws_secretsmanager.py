"""Secrets Manager: moto plays it, boto3 rotates, and a real server has the roles."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import psycopg
import pytest

from pgambassador.cluster.upstream import parse_url
from pgambassador.config.aws import AwsSecretsManagerCredentials
from pgambassador.credentials.aws import secretsmanager
from pgambassador.credentials.aws.secretsmanager import SecretsManager
from pgambassador.credentials.keyring import Attempt
from pgambassador.credentials.provider import Login, Secret
from pgambassador.credentials.registry import keyring_of
from pgambassador.embedded import Postgres, Workspace
from pgambassador.embedded.ports import free_port
from pgambassador.errors import AmbassadorError, ConfigError, ServerRefused, Unreachable
from pgambassador.net.connector import connect
from pgambassador.net.tasks import spawn
from tests.harness import Ambassador
from tests.harness.endpoint import Endpoint, Reply, moto_server

REGION = "eu-west-1"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "hunter2"}
LOGIN = Login("db.example", 5432, "app", "app")


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture(scope="module")
def manager(moto: str) -> Any:
    return boto3.client(
        "secretsmanager",
        region_name=REGION,
        endpoint_url=moto,
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )


def environ(url: str) -> dict[str, str]:
    return KEYS | {"AWS_ENDPOINT_URL_SECRETS_MANAGER": url}


def provider(url: str, secret: str, **more: Any) -> SecretsManager:
    options = AwsSecretsManagerCredentials(**{"secret": secret, "region": REGION, **more})
    return SecretsManager(options, environ(url))


def fetch(source: SecretsManager) -> Secret:
    return asyncio.run(source.fetch(LOGIN))


def user(name: str, password: str) -> str:
    return json.dumps({"engine": "postgres", "username": name, "password": password, "port": 5432})


def test_a_secret(moto: str, manager: Any) -> None:
    """By its name, and by its ARN, which tells the region."""
    arn = manager.create_secret(Name="plain", SecretString=user("app", "pä ss"))["ARN"]
    for source in (provider(moto, "plain"), provider(moto, arn, region=None)):
        found = fetch(source)
        assert (found.user, found.password) == ("app", "pä ss".encode())
        assert found.not_after is not None
        assert found.not_after > time.time()
        assert source.per_host is False
        assert source.window == 120
    manager.create_secret(Name="bare", SecretString="just this\n")
    found = fetch(provider(moto, "bare"))
    assert (found.user, found.password) == (None, b"just this")


def failure(kind: type[AmbassadorError], source: SecretsManager) -> str:
    with pytest.raises(kind) as raised:
        fetch(source)
    assert raised.value.hint
    assert raised.value.__cause__ is None
    assert "hunter" not in raised.value.sentence()
    return raised.value.sentence()


def test_secrets_that_cannot_be_had(moto: str, manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said = failure(ConfigError, provider(moto, "missing"))
    assert "refused the secret missing (ResourceNotFoundException). Correct credentials.secret" in said
    manager.create_secret(Name="binary", SecretBinary=b"hunter2")
    assert "holds no text" in failure(ConfigError, provider(moto, "binary"))
    manager.create_secret(Name="gone", SecretString="hunter2")
    manager.delete_secret(SecretId="gone")
    assert "scheduled for deletion" in failure(ConfigError, provider(moto, "gone"))
    nowhere = provider(f"http://127.0.0.1:{free_port()}", "plain")
    assert "cannot be asked: it refused the connection" in failure(Unreachable, nowhere)


@pytest.mark.parametrize(
    ("status", "code", "kind", "wanted"),
    [
        (400, "AccessDeniedException", ConfigError, "secretsmanager:GetSecretValue"),
        (400, "com.amazonaws.x#DecryptionFailure:http://x", ConfigError, "(DecryptionFailure). Allow kms"),
        (400, "InvalidSignatureException", ConfigError, "clock"),
        (400, "ExpiredTokenException", ConfigError, "Renew"),
        (400, "UnrecognizedClientException", ConfigError, "not valid"),
        (400, "hunter2 hunter3", ConfigError, "(status 400)"),
        (400, "ThrottlingException", Unreachable, "(ThrottlingException)"),
        (500, "InternalServiceError", Unreachable, "(InternalServiceError)"),
        (503, None, Unreachable, "(status 503)"),
        (429, None, Unreachable, "(status 429)"),
    ],
)
def test_what_secrets_manager_refuses(
    status: int, code: str | None, kind: type[AmbassadorError], wanted: str
) -> None:
    body = json.dumps({"__type": code, "Message": "hunter2 said x-amz-security-token:hunter3"}).encode()
    with Endpoint(lambda request: Reply(status, body if code else b"hunter2")) as there:
        assert wanted in failure(kind, provider(there.url, "shop"))
    (request,) = there.requests
    assert json.loads(request.body) == {"SecretId": "shop", "VersionStage": "AWSCURRENT"}
    assert (request.method, request.path) == ("POST", "/")
    assert request.headers["x-amz-target"] == "secretsmanager.GetSecretValue"
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    signed = "content-type;host;x-amz-date;x-amz-target"
    assert (
        f"/{REGION}/secretsmanager/aws4_request, SignedHeaders={signed}, "
        in (request.headers["authorization"])
    )
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


def test_an_answer_that_is_too_long() -> None:
    body = json.dumps({"SecretString": "x" * (1 << 20), "VersionId": "1"}).encode()
    with Endpoint(lambda request: Reply(body=body)) as there:
        assert "longer than 1048576 bytes" in failure(Unreachable, provider(there.url, "shop"))


# --- rotations ----------------------------------------------------------------------------------------------


def only(secret: Secret) -> Attempt:
    """Of a keyring that knows this one only."""
    return keyring_of("main", None, lambda user: secret.password, spawn).attempt("app", "postgres")


class Rotation:
    """A secret, the role it is for, and somebody who logs in and, when refused, asks again."""

    def __init__(self, name: str, moto: str, manager: Any, server: Postgres) -> None:
        self.name = name
        self.manager = manager
        self.server = server
        self.source = provider(moto, name)
        self.used: list[tuple[str | None, bytes | None]] = []
        server.sql(f"create role {name} login password 'one'")
        self.put(name, "one", "AWSCURRENT", create=True)

    def put(self, who: str, password: str, stage: str, *, create: bool = False) -> str:
        text = user(who, password)
        if create:
            return str(self.manager.create_secret(Name=self.name, SecretString=text)["VersionId"])
        put = self.manager.put_secret_value(SecretId=self.name, SecretString=text, VersionStages=[stage])
        return str(put["VersionId"])

    def current(self) -> str:
        stages = self.manager.describe_secret(SecretId=self.name)["VersionIdsToStages"]
        return next(version for version, labels in stages.items() if "AWSCURRENT" in labels)

    def finish(self, version: str) -> None:
        self.manager.update_secret_version_stage(
            SecretId=self.name,
            VersionStage="AWSCURRENT",
            MoveToVersionId=version,
            RemoveFromVersionId=self.current(),
        )

    def alter(self, password: str) -> None:
        self.server.sql(f"alter role {self.name} password '{password}'")

    def log_in(self, tries: int = 4) -> int:
        """How many refusals it took."""

        async def attempts() -> int:
            upstream = parse_url(self.server.url(self.name, ""))
            for refusals in range(tries):
                secret = await self.source.fetch(Login(upstream.endpoints[0].host, 5432, "app", "app"))
                assert isinstance(secret.password, bytes)
                self.used.append((secret.user, secret.password))
                try:
                    link = await connect(upstream, only(secret), database="postgres", user=secret.user or "")
                except ServerRefused as refusal:
                    assert refusal.sqlstate == "28P01"
                else:
                    link.close()
                    return refusals
            raise AssertionError(f"not let in with {self.used[-tries:]}")

        return asyncio.run(attempts())

    def later(self) -> None:
        """As if much longer than the window had passed since the last answer."""
        for tried in self.source._tried.values():
            tried.at -= 1000


@pytest.fixture(scope="module")
def server(workspace: Workspace) -> Postgres:
    return workspace.primary("rotating")


@pytest.fixture
def rotations(moto: str, manager: Any, server: Postgres) -> Callable[[str], Rotation]:
    return lambda name: Rotation(name, moto, manager, server)


def test_a_rotation_with_a_gap(rotations: Callable[[str], Rotation]) -> None:
    """The server has the new password before the label moves: createSecret, setSecret, finishSecret."""
    rotation = rotations("gap")
    assert rotation.log_in() == 0
    rotation.later()
    new = rotation.put("gap", "two", "AWSPENDING")
    assert rotation.log_in() == 0, (
        "a version that is pending is of no interest as long as the old one is good"
    )
    rotation.later()
    rotation.alter("two")
    assert rotation.log_in() == 1
    assert [password for _, password in rotation.used[-2:]] == [b"one", b"two"]
    rotation.finish(new)
    assert rotation.log_in() == 0
    assert rotation.used[-1] == ("gap", b"two")


def test_a_label_that_moves_before_the_server_knows(rotations: Callable[[str], Rotation]) -> None:
    rotation = rotations("early")
    assert rotation.log_in() == 0
    rotation.later()
    rotation.put("early", "two", "AWSCURRENT")
    assert rotation.log_in() == 1
    assert [password for _, password in rotation.used[-2:]] == [b"two", b"one"]
    rotation.later()
    rotation.alter("two")
    assert rotation.log_in() == 0


def test_a_gap_that_closes_while_it_is_asked(rotations: Callable[[str], Rotation]) -> None:
    """None of the versions is good; as soon as AWSCURRENT is another it is the next to be tried."""
    rotation = rotations("slow")
    assert rotation.log_in() == 0
    rotation.later()
    rotation.alter("three")
    with pytest.raises(AssertionError, match="not let in"):
        rotation.log_in(5)
    assert {password for _, password in rotation.used} == {b"one"}
    new = rotation.put("slow", "three", "AWSPENDING")
    rotation.finish(new)
    assert rotation.log_in() == 0


def test_alternating_users(rotations: Callable[[str], Rotation], server: Postgres) -> None:
    rotation = rotations("alternating")
    assert rotation.log_in() == 0
    rotation.later()
    server.sql("create role alternating_clone login password 'two'")
    new = rotation.put("alternating_clone", "two", "AWSPENDING")
    assert rotation.log_in() == 0
    assert rotation.used[-1] == ("alternating", b"one")
    rotation.later()
    rotation.finish(new)
    assert rotation.log_in() == 0
    assert rotation.used[-1] == ("alternating_clone", b"two")


def test_an_ambassador_goes_through_rotations(
    rotations: Callable[[str], Rotation], moto: str, ambassador: Callable[..., Ambassador]
) -> None:
    """Each new server connection finds its password by itself, the gap included."""
    rotation = rotations("through")
    url = rotation.server.url("somebody", "wrong")
    credentials = {"provider": "aws-secretsmanager", "secret": "through", "region": REGION}
    proxy = ambassador({"clusters": {"main": {"url": url, "credentials": credentials}}}, start=False)
    proxy.environment = environ(moto)
    proxy.start()

    def who() -> str:
        """By a server connection of its own."""
        rotation.server.sql(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where usename = 'through'"
        )
        with psycopg.connect(proxy.dsn(user="somebody", database="postgres")) as connection:
            row = connection.execute("select session_user").fetchone()
        assert row is not None
        return str(row[0])

    assert who() == "through"
    for number in range(2):
        new = rotation.put("through", f"new {number}", "AWSPENDING")
        assert who() == "through"
        rotation.alter(f"new {number}")
        assert who() == "through"
        rotation.finish(new)
        assert who() == "through"
    text = proxy.output() + proxy.http("/metrics")[1]
    assert "hunter" not in text
    assert "new " not in text


def test_a_policy_for_the_current_version_alone(moto: str) -> None:
    """Who may not see other versions gets the current one again."""

    def answer(request: Any) -> Reply:
        if json.loads(request.body)["VersionStage"] == "AWSCURRENT":
            return Reply(body=json.dumps({"SecretString": "x", "VersionId": "1"}).encode())
        return Reply(400, b'{"__type": "AccessDeniedException"}')

    with Endpoint(answer) as there:
        source = provider(there.url, "shop")
        assert [fetch(source).password for _ in range(3)] == [b"x"] * 3
    stages = [json.loads(request.body)["VersionStage"] for request in there.requests]
    assert stages == ["AWSCURRENT", *(["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"] * 2)]


def test_users_are_remembered_in_bounded_number(moto: str, manager: Any) -> None:
    manager.create_secret(Name="many", SecretString="x")
    source = provider(moto, "many")
    most = secretsmanager._MOST_USERS
    source._tried = {f"user {n}": secretsmanager.Tried("v", 0.0) for n in range(most)}
    fetch(source)
    assert len(source._tried) == 1
