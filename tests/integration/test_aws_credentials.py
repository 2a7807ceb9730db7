"""Finding AWS credentials: endpoints of ours that check what they are asked, moto, and botocore."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs

import boto3
import pytest
import trustme

from pgambassador.config.aws import Aws, AwsRdsIamCredentials
from pgambassador.credentials.aws import exchange, sources
from pgambassador.credentials.aws.exchange import NoAnswer
from pgambassador.credentials.aws.rds import RdsIam
from pgambassador.credentials.aws.sigv4 import Keys
from pgambassador.credentials.aws.wallet import Wallet
from pgambassador.credentials.provider import Login
from pgambassador.embedded.ports import free_port
from pgambassador.errors import AmbassadorError, ConfigError, Unreachable
from tests.harness.endpoint import Endpoint, Reply, Request, moto_server

ROLE = "arn:aws:iam::123456789012:role/app"
NO_FILES = {"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent"}
ENDS = float(int(time.time()) + 3600)
FOUND: list[Keys] = []
KEYS = Keys("ASIAEXAMPLE", "hunter2", "hunter3", ENDS)


def written(ends: float = ENDS, **more: object) -> bytes:
    stamp = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    fields = {"AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "hunter2", "Token": "hunter3"}
    return json.dumps({**fields, "Expiration": stamp, **more}).encode()


def find(environ: dict[str, str], region: str | None = "eu-west-1", **options: Any) -> Keys:
    found = asyncio.run(Wallet(Aws(**options), NO_FILES | environ).keys(region))
    FOUND.append(found)
    return found


def failure(environ: dict[str, str], kind: type[AmbassadorError], **options: Any) -> str:
    """What a user reads."""
    with pytest.raises(kind) as raised:
        find(environ, **options)
    text = raised.value.sentence()
    assert raised.value.hint
    assert raised.value.__cause__ is None
    assert "hunter" not in text
    return text


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing secret is logged, at any level, by anybody."""
    caplog.set_level(logging.DEBUG)
    yield
    logged = "\n".join(map(logging.Formatter().format, caplog.get_records("call")))
    assert "hunter" not in logged
    while FOUND:
        found = FOUND.pop()
        assert found.secret_key not in logged
        assert found.token is None or found.token not in logged


# --- one exchange -------------------------------------------------------------------------------------------


def reason(url: str, seconds: float = 5.0, **more: Any) -> str:
    with pytest.raises(NoAnswer) as raised:
        exchange.ask("GET", url, {}, seconds=seconds, **more)
    assert raised.value.__cause__ is None
    return str(raised.value)


def test_an_exchange() -> None:
    with Endpoint(lambda request: Reply(404, b"x" * 1000)) as there:
        url = f"{there.url}/a/b?c=d"
        answer = exchange.ask("POST", url, {"X-Mine": "hunter2"}, b"body", seconds=5)
    assert answer == (404, b"x" * 1000)
    assert repr(answer) == "<Answer 404>"
    (request,) = there.requests
    assert (request.method, request.path, request.body) == ("POST", "/a/b?c=d", b"body")
    assert request.headers["x-mine"] == "hunter2"
    assert request.headers["host"] == f"127.0.0.1:{there.port}"
    assert request.headers["connection"] == "close"


def test_a_redirect_is_not_followed() -> None:
    with Endpoint(lambda request: Reply(302, headers={"Location": "/elsewhere"})) as there:
        assert exchange.ask("GET", there.url, {}, seconds=5).status == 302
    assert len(there.requests) == 1


def test_an_answer_that_never_ends_is_not_waited_for() -> None:
    """Neither nothing at all, nor an answer that stops in its headers or in its body."""
    done = threading.Event()
    for raw in (b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"):
        with Endpoint(lambda request, raw=raw: Reply(raw=raw, hold=done)) as there:  # type: ignore[misc]
            try:
                assert reason(there.url, 0.1) == "it did not answer within 0.1 s"
            finally:
                done.set()
        done.clear()


def test_an_answer_in_drops_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each drop comes in time, the whole does not: a clock that goes on a second with each look at it."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    long = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100
    with Endpoint(lambda request: Reply(raw=long)) as there:
        monkeypatch.setattr(exchange, "_CHUNK", 1)
        monkeypatch.setattr(exchange, "monotonic", clock)
        assert reason(there.url, 60.0) == "it did not answer within 60 s"


@pytest.mark.parametrize("where", ["body", "headers", "a header", "chunks"])
def test_an_answer_that_is_too_long(where: str) -> None:
    much = exchange.LIMIT + 1
    raw = {
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % much + b"x" * much,
        "headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
        "a header": b"HTTP/1.1 200 OK\r\nX: " + b"y" * much,
        "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % much + b"x" * much,
    }[where]
    with Endpoint(lambda request: Reply(raw=raw)) as there:
        said = reason(there.url)
    assert "longer than 1048576 bytes" in said or "does not speak HTTP" in said
    assert ("longer" in said) == (where in ("body", "chunks"))


@pytest.mark.parametrize("raw", [b"hunter2\r\n\r\n", b"HTTP/1.1 hunter2 OK\r\n\r\n", b"\0" * 1000])
def test_what_is_no_http(raw: bytes) -> None:
    with Endpoint(lambda request: Reply(raw=raw)) as there:
        assert reason(there.url) == "it does not speak HTTP as it should"


def test_nobody_there() -> None:
    assert reason(f"http://127.0.0.1:{free_port()}/") == "it refused the connection"
    assert reason("http://nowhere.invalid/") == "its host name was not found"
    for url in ("ftp://127.0.0.1/", "http://[", "http://127.0.0.1:99999/", "nonsense"):
        assert reason(url) == "it does not speak HTTP as it should"


def test_over_tls(tmp_path: Path) -> None:
    ca = trustme.CA()
    roots = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(roots))
    with Endpoint(lambda request: Reply(body=b"x"), ca.issue_cert("127.0.0.1")) as there:
        assert exchange.ask("GET", there.url, {}, seconds=5, roots=str(roots)) == (200, b"x")
        assert reason(there.url).startswith("its certificate was not accepted (")
        for roots_ill, why in (
            ("/nonexistent", "no such file or directory"),
            ("/dev/zero", "not a plain file"),
        ):
            with pytest.raises(ConfigError, match=f"AWS_CA_BUNDLE file {roots_ill} cannot be read: .*{why}"):
                exchange.ask("GET", there.url, {}, seconds=5, roots=roots_ill)
    with Endpoint(lambda request: Reply(body=b"x"), ca.issue_cert("db.example")) as there:
        assert reason(there.url, roots=str(roots)).startswith("its certificate was not accepted (")
    with Endpoint(lambda request: Reply(body=b"x")) as there:
        assert reason(there.url.replace("http:", "https:")) == "the TLS handshake with it failed"


# --- containers ---------------------------------------------------------------------------------------------


def test_an_ecs_task(monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint(lambda request: Reply(body=written())) as there:
        monkeypatch.setattr(sources, "CONTAINER", there.url)
        monkeypatch.setattr(sources, "_CONTAINER_HOSTS", frozenset())
        environ = {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/1234?a=b"}
        assert find(environ) == KEYS
    (request,) = there.requests
    assert (request.method, request.path) == ("GET", "/v2/credentials/1234?a=b")
    assert "authorization" not in request.headers


def test_an_eks_pod(tmp_path: Path) -> None:
    """Its token is read anew each time."""
    file = tmp_path / "token"
    wanted = ["first", "second"]

    def answer(request: Request) -> Reply:
        return Reply(body=written()) if request.headers["authorization"] == wanted[0] else Reply(401)

    with Endpoint(answer) as there:
        environ = {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{there.url}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(file),
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "not this one",
        }
        for each in list(wanted):
            file.write_text(each + "\n")
            assert find(environ) == KEYS
            del wanted[0]
            wanted.append("")
        assert "status 401" in failure(environ, ConfigError)
        del environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]
        wanted[0] = "not this one"
        assert find(environ) == KEYS


@pytest.mark.parametrize(
    ("reply", "kind", "wanted"),
    [
        (Reply(500, b"hunter2"), Unreachable, "answered with status 500"),
        (Reply(429), Unreachable, "answered with status 429"),
        (Reply(403, b"hunter2"), ConfigError, "answered with status 403"),
        (Reply(302, headers={"Location": "http://127.0.0.1:1/"}), ConfigError, "answered with status 302"),
        (Reply(200, b"hunter2"), Unreachable, "not understood"),
        (Reply(200, b"[]"), Unreachable, "not understood"),
        (Reply(200, b'{"AccessKeyId": "hunter2"}'), Unreachable, "not understood"),
        (Reply(200, written(Expiration="hunter2")), Unreachable, "not understood"),
        (Reply(200, written(SecretAccessKey=7)), Unreachable, "not understood"),
        (Reply(200, written(ENDS - 7200)), Unreachable, "have expired"),
        (Reply(raw=b""), Unreachable, "does not speak HTTP"),
    ],
)
def test_a_container_endpoint_that_is_of_no_use(
    reply: Reply, kind: type[AmbassadorError], wanted: str
) -> None:
    with Endpoint(lambda request: reply) as there:
        environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": there.url}
        assert wanted in failure(environ, kind)


def test_a_container_endpoint_is_not_there() -> None:
    environ = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://127.0.0.1:{free_port()}/"}
    assert "the container's endpoint for AWS credentials: it refused" in failure(environ, Unreachable)


# --- instances ----------------------------------------------------------------------------------------------


class Instance:
    """IMDSv2, as strict as that of EC2."""

    path = "/latest/meta-data/iam/security-credentials/"

    def __init__(self) -> None:
        self.role: bytes | None = b"app-role"
        self.replies: dict[str, Reply] = {}

    def __call__(self, request: Request) -> Reply:
        if (request.method, request.path) in (("PUT", "/latest/api/token"),):
            assert request.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"
            assert "x-forwarded-for" not in request.headers
            return self.replies.get("token", Reply(body=b"AQAEAtoken=="))
        if request.method != "GET" or request.headers.get("x-aws-ec2-metadata-token") != "AQAEAtoken==":
            return Reply(401)
        if request.path == self.path:
            return Reply(404) if self.role is None else self.replies.get("role", Reply(body=self.role))
        assert request.path == self.path + "app-role"
        return self.replies.get("keys", Reply(body=written(Code="Success")))


@pytest.fixture
def instance() -> Iterator[tuple[Instance, dict[str, str]]]:
    metadata = Instance()
    with Endpoint(metadata) as there:
        yield metadata, {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"{there.url}/"}


def test_an_instance(instance: tuple[Instance, dict[str, str]]) -> None:
    _, environ = instance
    assert find(environ) == KEYS
    provider = RdsIam(AwsRdsIamCredentials(), NO_FILES | environ)
    login = Login("shop.cx1.eu-west-1.rds.amazonaws.com", 5432, "app", "shop")
    secret = asyncio.run(provider.fetch(login))
    assert isinstance(secret.password, bytes)
    assert b"X-Amz-Security-Token=hunter3" in secret.password


@pytest.mark.parametrize(
    ("replies", "kind", "wanted"),
    [
        ({"token": Reply(403)}, ConfigError, "gave no token (status 403). Enable it"),
        ({"token": Reply(503)}, Unreachable, "gave no token (status 503)"),
        ({"token": Reply(200, b"hunter2\r\nX: y")}, Unreachable, "not understood"),
        ({"token": Reply(200)}, Unreachable, "not understood"),
        ({"token": Reply(200, b"hunter2")}, ConfigError, "answered with status 401"),
        ({"role": Reply(404)}, ConfigError, "has no IAM role"),
        ({"role": Reply(500)}, Unreachable, "answered with status 500"),
        ({"keys": Reply(404)}, ConfigError, "has no IAM role"),
        (
            {"keys": Reply(200, b'{"Code": "AssumeRoleUnauthorizedAccess"}')},
            ConfigError,
            "UnauthorizedAccess",
        ),
        ({"keys": Reply(200, b'{"Code": ["hunter2 x"]}')}, ConfigError, "no reason given"),
    ],
)
def test_an_instance_without_credentials(
    replies: dict[str, Reply],
    kind: type[AmbassadorError],
    wanted: str,
    instance: tuple[Instance, dict[str, str]],
) -> None:
    metadata, environ = instance
    metadata.replies = replies
    assert wanted in failure(environ, kind)


def test_no_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that never comes may mean a container that is one hop too far away."""
    said = failure({"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{free_port()}"}, Unreachable)
    assert "no AWS credentials: no variables, no container role, and no instance metadata service" in said
    done = threading.Event()
    monkeypatch.setattr(sources, "_NEAR", 0.1)
    with Endpoint(lambda request: Reply(raw=b"", hold=done)) as there:
        said = failure({"AWS_EC2_METADATA_SERVICE_ENDPOINT": there.url}, Unreachable)
        done.set()
    assert "it did not answer within 0.1 s" in said
    assert "http-put-response-hop-limit has to be 2" in said


# --- pods with a web identity -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def pod(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "token"
    file.write_text("hunter2.web.identity")
    return {"AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(file)}


def test_a_pod(moto: str, pod: dict[str, str]) -> None:
    keys = find(pod | {"AWS_ENDPOINT_URL_STS": moto})
    assert keys.access_key.startswith("ASIA")
    assert keys.secret_key
    assert keys.token
    assert keys.not_after is not None
    assert time.time() + 3000 < keys.not_after < time.time() + 3700


@pytest.mark.parametrize("region", ["eu-west-2", "us-gov-west-1", "cn-north-1"])
def test_a_pods_token_for_what_rds_has(region: str, moto: str, pod: dict[str, str]) -> None:
    """RDS says where its instances and clusters are: the names tell the region, and boto3 signs the same."""

    def client(keys: Keys, **more: Any) -> Any:
        return boto3.client(
            "rds",
            region_name=region,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            aws_session_token=keys.token,
            **more,
        )

    environ = NO_FILES | pod | {"AWS_ENDPOINT_URL_STS": moto}
    provider = RdsIam(AwsRdsIamCredentials(), environ)
    keys = asyncio.run(provider._wallet.keys(region))  # which boto3 logs, as it is used here
    admin = client(keys, endpoint_url=moto)
    master = {"MasterUsername": "root", "MasterUserPassword": "a password of moto's"}
    admin.create_db_instance(
        DBInstanceIdentifier="shop",
        DBInstanceClass="db.t3.micro",
        Engine="postgres",
        AllocatedStorage=20,
        Port=5433,
        **master,
    )
    made = admin.create_db_cluster(DBClusterIdentifier="shops", Engine="aurora-postgresql", **master)
    (instance,) = admin.describe_db_instances()["DBInstances"]
    assert instance["Endpoint"]["Port"] == 5433
    cluster = made["DBCluster"]
    places = [(instance["Endpoint"]["Address"], 5433)]
    places += [(cluster[name], cluster["Port"]) for name in ("Endpoint", "ReaderEndpoint")]
    for host, port in places:
        host += ".cn" if region.startswith("cn-") and not host.endswith(".cn") else ""
        secret = asyncio.run(provider.fetch(Login(host, port, "app", "shop")))
        assert isinstance(secret.password, bytes)
        token = secret.password.decode()
        signed = datetime.strptime(
            parse_qs(token.partition("?")[2])["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ"
        ).replace(tzinfo=UTC)
        with mock.patch("botocore.auth.get_current_datetime", lambda at=signed: at):
            assert client(keys).generate_db_auth_token(host, port, "app") == token
        assert f"%2F{region}%2Frds-db%2F" in token


def xml(code: str) -> bytes:
    return (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>hunter2 &amp; more</Message></Error></ErrorResponse>"
    ).encode()


def test_what_sts_is_asked(pod: dict[str, str]) -> None:
    with Endpoint(lambda request: Reply(400, xml("AccessDenied"))) as there:
        environ = pod | {"AWS_ENDPOINT_URL_STS": there.url, "AWS_ROLE_SESSION_NAME": "mine"}
        failure(environ, ConfigError)
    (request,) = there.requests
    assert (request.method, request.path) == ("POST", "/")
    assert "authorization" not in request.headers
    assert parse_qs(request.body.decode(), strict_parsing=True) == {
        "Action": ["AssumeRoleWithWebIdentity"],
        "Version": ["2011-06-15"],
        "RoleArn": [ROLE],
        "RoleSessionName": ["mine"],
        "WebIdentityToken": ["hunter2.web.identity"],
    }


@pytest.mark.parametrize(
    ("reply", "kind", "wanted"),
    [
        (Reply(403, xml("AccessDenied")), ConfigError, f"refused the role {ROLE} (AccessDenied). Its trust"),
        (Reply(400, xml("ExpiredTokenException")), ConfigError, "clock"),
        (Reply(400, xml("InvalidIdentityToken")), ConfigError, "OIDC provider"),
        (Reply(400, xml("IDPCommunicationError")), Unreachable, "issuer"),
        (Reply(400, xml("Odd")), ConfigError, "(Odd). Check AWS_ROLE_ARN"),
        (Reply(400, b"hunter2"), ConfigError, "(status 400)"),
        (Reply(503, b"hunter2"), Unreachable, "(status 503)"),
        (Reply(200, b"<hunter2>"), Unreachable, "not understood"),
    ],
)
def test_a_refused_role(reply: Reply, kind: type[AmbassadorError], wanted: str, pod: dict[str, str]) -> None:
    with Endpoint(lambda request: reply) as there:
        assert wanted in failure(pod | {"AWS_ENDPOINT_URL_STS": there.url}, kind)


def test_a_pod_that_lacks_something(pod: dict[str, str]) -> None:
    assert "AWS_ROLE_ARN is not" in failure(pod | {"AWS_ROLE_ARN": ""}, ConfigError)
    missing = pod | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nonexistent"}
    assert "no such file" in failure(missing, ConfigError)


def test_the_order(moto: str, pod: dict[str, str], instance: tuple[Instance, dict[str, str]]) -> None:
    """Variables, a pod's token, a container's endpoint, the instance."""
    container = Keys("ASIACONTAINER", "hunter2", "hunter3", ENDS)
    with Endpoint(lambda request: Reply(body=written(AccessKeyId="ASIACONTAINER"))) as there:
        _, environ = instance
        assert find(environ) == KEYS
        environ = {**environ, "AWS_CONTAINER_CREDENTIALS_FULL_URI": there.url}
        assert find(environ) == container
        environ |= pod | {"AWS_ENDPOINT_URL_STS": moto}
        assert find(environ).access_key not in ("ASIACONTAINER", "ASIAEXAMPLE")
        environ |= {"AWS_ACCESS_KEY_ID": "AKIDWRITTEN", "AWS_SECRET_ACCESS_KEY": "hunter2"}
        assert find(environ).access_key == "AKIDWRITTEN"


# --- botocore -----------------------------------------------------------------------------------------------


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moto: str) -> Callable[..., dict[str, str]]:
    """Sets the process's variables, since botocore looks there, and writes the two files."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)

    def write(config: str = "", shared: str = "", **variables: str) -> dict[str, str]:
        (tmp_path / "config").write_text(config)
        (tmp_path / "credentials").write_text(shared)
        environ = {
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            "AWS_ENDPOINT_URL_STS": moto,
            "AWS_EC2_METADATA_DISABLED": "true",
            **variables,
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return environ

    return write


SHARED = "[shop]\naws_access_key_id = AKIDSHOP\naws_secret_access_key = hunter2\n"
VARIABLES = {"AWS_ACCESS_KEY_ID": "AKIDWRITTEN", "AWS_SECRET_ACCESS_KEY": "hunter2"}


def test_a_profile(aws: Callable[..., dict[str, str]]) -> None:
    environ = aws(shared=SHARED)
    assert find(environ, profile="shop") == ("AKIDSHOP", "hunter2", None, None)
    environ = aws(shared=SHARED, **VARIABLES)
    assert find(environ, profile="shop").access_key == "AKIDSHOP"
    environ = aws(shared=SHARED, AWS_PROFILE="shop", **VARIABLES)
    assert find(environ).access_key == "AKIDWRITTEN"


def test_the_profile_of_a_variable_and_the_default_one(aws: Callable[..., dict[str, str]]) -> None:
    environ = aws(shared=SHARED.replace("shop", "default"))
    assert find(environ).access_key == "AKIDSHOP"
    environ = aws(shared=SHARED, AWS_PROFILE="shop")
    assert find(environ).access_key == "AKIDSHOP"


def test_a_profile_that_runs_a_process(aws: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "printed"
    file.write_bytes(written(Version=1, SessionToken="hunter3"))
    environ = aws(config=f"[profile shop]\ncredential_process = cat {file}\n")
    assert find(environ, profile="shop") == KEYS
    environ = aws(config="[profile shop]\ncredential_process = sh -c 'echo hunter2 >&2; exit 1'\n")
    assert "(CredentialRetrievalError)" in failure(environ, Unreachable, profile="shop")


def test_an_assumed_role(aws: Callable[..., dict[str, str]]) -> None:
    environ = aws(**VARIABLES)
    keys = find(environ, role_arn=ROLE)
    assert keys.access_key.startswith("ASIA")
    assert keys.not_after is not None
    assert time.time() + 3000 < keys.not_after < time.time() + 3700
    config = f"[profile shop]\nrole_arn = {ROLE}\nsource_profile = base\n"
    environ = aws(config=config, shared=SHARED.replace("shop", "base"))
    keys = find(environ, profile="shop")
    assert keys.access_key.startswith("ASIA")
    assert keys.not_after is not None
    assert time.time() + 3000 < keys.not_after < time.time() + 3700


def test_what_sts_is_asked_for_a_role(aws: Callable[..., dict[str, str]]) -> None:
    with Endpoint(lambda request: Reply(403, xml("AccessDenied"))) as there:
        environ = aws(**VARIABLES) | {"AWS_ENDPOINT_URL_STS": there.url}
        aws(**{**VARIABLES, "AWS_ENDPOINT_URL_STS": there.url})
        said = failure(environ, ConfigError, role_arn=ROLE, external_id="x1", session_name="mine")
    assert f"AWS refused the role {ROLE} (AccessDenied)" in said
    assert "trust policy" in said
    (request,) = there.requests
    form = parse_qs(request.body.decode())
    assert (form["RoleArn"], form["ExternalId"], form["RoleSessionName"]) == ([ROLE], ["x1"], ["mine"])
    assert "Credential=AKIDWRITTEN/" in request.headers["authorization"]
    assert "/eu-west-1/sts/" in request.headers["authorization"]


def test_profiles_of_no_use(aws: Callable[..., dict[str, str]]) -> None:
    assert "no such AWS profile" in failure(aws(), ConfigError, profile="shop")
    assert "No AWS credentials were found" in failure(aws("[profile shop]\n"), ConfigError, profile="shop")
    half = SHARED.partition("aws_secret")[0]
    assert "not complete" in failure(aws(shared=half), ConfigError, profile="shop")
    assert "no AWS credentials to assume" in failure(aws(), ConfigError, role_arn=ROLE)
    sso = "[profile shop]\nsso_start_url = https://x\nsso_region = eu-west-1\nsso_account_id = 1\n"
    environ = aws(sso + "sso_role_name = x\n", HOME="/nonexistent")
    assert "aws sso login" in failure(environ, ConfigError, profile="shop")
    assert "cannot be read" in failure(aws("hunter2"), ConfigError, profile="shop")
    role = f"[profile shop]\nrole_arn = {ROLE}\n"
    factor = role + "source_profile = b\nmfa_serial = x\n[profile b]\naws_access_key_id = a\n"
    said = failure(aws(factor + "aws_secret_access_key = hunter2\n"), ConfigError, profile="shop")
    assert "second factor" in said
    for odd, words in (
        ("credential_process = /no/such/program", "cannot be used (no such file or directory)"),
        ("credential_process = echo hunter2", "not understood (JSONDecodeError)"),
        (f"role_arn = {ROLE}\nweb_identity_token_file = /no/such/file", "cannot be used (no such file"),
    ):
        assert words in failure(aws(f"[profile shop]\n{odd}\n"), ConfigError, profile="shop")
    environ = aws(**VARIABLES, AWS_ENDPOINT_URL_STS=f"http://127.0.0.1:{free_port()}")
    assert "(EndpointConnectionError)" in failure(environ, Unreachable, role_arn=ROLE)
